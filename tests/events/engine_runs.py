"""Histories of real engine runs on a small random model, in which everything happens: see `RUNS`."""

from __future__ import annotations

import random
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from tests.models.architectures import supported
from workbench.engine import LLM, EngineConfig, SamplingParams
from workbench.events import PageMap, Recorder, Timeline
from workbench.models import LoadedModel, prepare_model

#: Name: engine settings.
RUNS: dict[str, dict[str, Any]] = {
    "recompute": {"preemption": "recompute"},
    "swap": {"preemption": "swap", "num_host_blocks": 30, "victim": "fewest_blocks"},
    "cache": {"prefix_caching": True, "eviction": "leaf_first"},
    "swap and cache": {"preemption": "swap", "num_host_blocks": 30, "prefix_caching": True, "num_blocks": 40},
    "stream": {"preemption": "swap", "num_host_blocks": 60, "num_blocks": 12, "page_mass_every": 4},
    "windows": {"num_blocks": 40},
    "contiguous": {"memory": "contiguous", "reservation": "pow2", "num_blocks": 64},
}


def windowed_model() -> LoadedModel:
    """A random Gemma 3: one layer with a window of 7 tokens, one without."""
    torch.manual_seed(1)
    return prepare_model(AutoModelForCausalLM.from_config(supported()["gemma3"]).eval(), None, "gemma3")


def jobs(name: str, seed: int = 0) -> list[tuple[list[int], SamplingParams]]:
    """Prompts, some of which begin alike: samples, beams and single outputs in one batch."""
    rng = random.Random(seed)
    start = [rng.randrange(1, 97) for _ in range(14)]
    made = []
    for number in range(6):
        prompt = start[: rng.choice((0, 9, 14))] + [rng.randrange(1, 97) for _ in range(rng.randint(2, 20))]
        params = SamplingParams(max_tokens=rng.randint(4, 16), temperature=1.0, seed=10 * number, n=1 + number % 3)
        if number == 4:
            params = SamplingParams(max_tokens=12, temperature=0, beam_width=3, n=2)
        if name in ("contiguous", "stream"):
            params = SamplingParams(max_tokens=params.max_tokens, temperature=1.0, seed=10 * number)
        made.append((prompt, params))
    if name == "stream":
        made.insert(0, (start * 4, SamplingParams(max_tokens=20, temperature=0)))
    return made


def make(name: str, llama: LoadedModel, seed: int = 0, target: Any = None) -> tuple[Timeline, list[PageMap]]:
    """Runs to the end. Returns the history, and a copy of the state after every step.

    Args:
        target: a file to record to.
    """
    model = windowed_model() if name == "windows" else llama
    settings = {"block_size": 4, "num_blocks": 26, "max_model_len": 120, "watermark": 0.0, "max_num_batched_tokens": 40}
    llm = LLM(model, EngineConfig(**(settings | RUNS[name])))
    timeline = Timeline(llm.bus, keyframe_every=4)
    recorder = Recorder(llm.bus, target, 4).start() if target is not None else None
    states = [llm.page_map.copy()]
    for prompt, params in jobs(name, seed):
        llm.add_request(prompt, params)
    while llm.has_unfinished:
        llm.step()
        states.append(llm.page_map.copy())
    llm.close()
    if recorder is not None:
        recorder.close()
    return timeline, states
