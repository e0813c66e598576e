"""Runs engines for tests, with the reducer compared with the books after every step."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from tests.conftest import assert_page_map_matches
from tests.models.architectures import supported
from workbench.engine import LLM, EngineConfig, SamplingParams
from workbench.events import PageMap
from workbench.events import types as ev
from workbench.models import LoadedModel, prepare_model

Job = tuple[list[int], SamplingParams]
AnEvent = TypeVar("AnEvent", bound=ev.Event)

GREEDY = SamplingParams(max_tokens=20, temperature=0)


def sampled(seed: int, **how: Any) -> SamplingParams:
    return SamplingParams(**({"max_tokens": 20, "temperature": 1.0, "seed": seed} | how))


def random_prompts(seed: int, lengths: Sequence[int]) -> list[list[int]]:
    rng = random.Random(seed)
    return [[rng.randrange(1, 97) for _ in range(length)] for length in lengths]


@dataclass
class Run:
    """What came of some requests: ``tokens`` per request and output; ``state`` is the last one."""

    tokens: list[list[list[int]]]
    events: list[ev.AnyEvent]
    steps: int
    state: PageMap
    reasons: list[list[str | None]] = field(default_factory=list)

    def of(self, kind: type[AnEvent]) -> list[AnEvent]:
        return [event for event in self.events if isinstance(event, kind)]


def engine(model: LoadedModel, **config: Any) -> LLM:
    return LLM(model, EngineConfig(**({"max_model_len": 200, "block_size": 4, "num_blocks": 300} | config)))


def finish(llm: LLM, events: list[ev.AnyEvent] | None = None, most_steps: int = 3000) -> int:
    """Steps until all is done; returns the number of steps. Afterwards nothing is held."""
    steps = 0
    while llm.has_unfinished:
        batch = llm.step()
        if events is not None:
            events += batch.events
        assert_page_map_matches(llm)
        steps += 1
        assert steps <= most_steps, "it does not end"
    assert llm.page_map.sequences == {}
    books = llm.memory.tables()
    assert len(books.free_host_blocks) == llm.memory.num_host_blocks
    return steps


def run(
    model: LoadedModel,
    jobs: Sequence[Job],
    between: Callable[[LLM, int], None] | None = None,
    most_steps: int = 3000,
    **config: Any,
) -> Run:
    """Runs jobs that all arrive at once. ``between`` is called before every step, with its number from 0."""
    llm = engine(model, **config)
    events: list[ev.AnyEvent] = []
    ids = [llm.add_request(prompt, params) for prompt, params in jobs]
    steps = 0
    while llm.has_unfinished:
        if between is not None:
            between(llm, steps)
        events += llm.step().events
        assert_page_map_matches(llm)
        steps += 1
        assert steps <= most_steps, "it does not end"
    finish(llm)
    outputs = [llm.output(i).outputs for i in ids]
    result = Run(
        tokens=[[output.token_ids for output in each] for each in outputs],
        events=events,
        steps=steps,
        state=llm.page_map,
        reasons=[[output.finish_reason for output in each] for each in outputs],
    )
    llm.close()
    return result


def alone(model: LoadedModel, job: Job) -> list[list[int]]:
    """A job's outputs when it has an engine with a large pool for itself."""
    return run(model, [job]).tokens[0]


def architecture(name: str) -> tuple[Any, LoadedModel]:
    """A random model of an architecture: as transformers makes it, and prepared for the engine."""
    torch.manual_seed(1)
    original = AutoModelForCausalLM.from_config(supported()[name], attn_implementation="eager").eval()
    torch.manual_seed(1)
    twin = AutoModelForCausalLM.from_config(supported()[name], attn_implementation="eager").eval()
    return original, prepare_model(twin, None, name)


def generate(original: Any, prompt: list[int], new_tokens: int) -> list[int]:
    """transformers' own greedy tokens."""
    ids = torch.tensor([prompt])
    config = GenerationConfig(
        max_new_tokens=new_tokens, min_new_tokens=new_tokens, do_sample=False, pad_token_id=0, eos_token_id=None
    )
    return original.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)[
        0, len(prompt) :
    ].tolist()
