"""The bundled model, loaded once for all lessons, and runs of the engine on it."""

from __future__ import annotations

import functools
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from workbench import LLM, EngineConfig, SamplingParams
from workbench.events import Timeline
from workbench.models import LoadedModel, load_model


@functools.cache
def tiny() -> LoadedModel:
    """The bundled model on the CPU; every call returns the same one.

    Half of the cores compute: with all of them busy, whatever else runs makes every step wait for every thread.
    """
    torch.set_num_threads(max(1, min(torch.get_num_threads(), (os.cpu_count() or 2) // 2)))
    return load_model("tiny", device="cpu")


@dataclass(frozen=True)
class Job:
    """A request of a lesson: token ids, and how many tokens to write."""

    prompt: list[int]
    output: int


def random_jobs(rng: random.Random, count: int, prompt: tuple[int, int], output: tuple[int, int]) -> list[Job]:
    """Requests of random tokens; ranges include both ends."""
    vocab = tiny().geometry.vocab_size
    return [
        Job([rng.randrange(1, vocab) for _ in range(rng.randint(*prompt))], rng.randint(*output)) for _ in range(count)
    ]


def run(jobs: Sequence[Job], steps: int | None = None, **config: Any) -> tuple[LLM, Timeline]:
    """Runs requests that all come at once, to their end or for so many steps; greedy, ``output`` tokens each.

    Returns:
        The engine, and the history of its run.
    """
    llm = LLM(tiny(), EngineConfig(**config))
    timeline = Timeline(llm.bus)
    for job in jobs:
        llm.add_request(job.prompt, SamplingParams(max_tokens=job.output, temperature=0, ignore_eos=True))
    while llm.has_unfinished and (steps is None or llm.step_number < steps):
        llm.step()
    return llm, timeline
