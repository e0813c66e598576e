"""This engine against transformers on the CPU, in one run, and what events cost.

The three contestants take turns, so that a noisy machine disturbs all of them alike; ratios are taken within a
repetition and their median is reported. All three use the same weights in float32 and the same prompts.
"""

from __future__ import annotations

import io
import random
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from datetime import date
from typing import Any

import torch
from transformers import AutoModelForCausalLM, ContinuousBatchingConfig, GenerationConfig

from workbench.commands.doctor import describe_machine, installed_versions
from workbench.engine import LLM, EngineConfig, SamplingParams
from workbench.events import Recorder
from workbench.models.loading import BUNDLED_DIR, LoadedModel, load_model

Tokens = list[list[int]]
Contestant = Callable[[], tuple[float, Tokens]]


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _our_engine(
    model: LoadedModel,
    prompts: Tokens,
    new_tokens: int,
    events: bool,
    steps: list[float] | None = None,
    flushes: list[float] | None = None,
) -> tuple[float, Tokens]:
    """Seconds and tokens of one run; ``steps`` gets the seconds of every step, ``flushes`` the share spent in the bus.

    The engine itself (books, pool) is made before the clock starts.
    """
    longest = len(prompts[0]) + new_tokens
    blocks = len(prompts) * -(-longest // 16)
    config = EngineConfig(
        num_blocks=blocks + blocks // 4,
        max_num_seqs=len(prompts),
        max_num_batched_tokens=len(prompts) * len(prompts[0]),
    )
    llm = LLM(model, config, events=events)
    params = SamplingParams(max_tokens=new_tokens, temperature=0, ignore_eos=True)
    with Recorder(llm.bus, io.BytesIO()) if events else nullcontext():
        started = last = time.perf_counter()
        requests = [llm.add_request(prompt, params) for prompt in prompts]
        while llm.has_unfinished:
            llm.step()
            if steps is not None:
                now = time.perf_counter()
                steps.append(now - last)
                last = now
        seconds = time.perf_counter() - started
    if flushes is not None and events:
        flushes.append(llm.bus.flush_ns / 1e9 / seconds)
    return seconds, [llm.output(request).outputs[0].token_ids for request in requests]


def _generate(model: Any, prompts: Tokens, new_tokens: int) -> tuple[float, Tokens]:
    """transformers' `generate`: one batch. The prompts have equal lengths, so there is no padding to pay for."""
    ids = torch.tensor(prompts)
    mask = torch.ones_like(ids)
    started = time.perf_counter()
    with torch.inference_mode():
        output = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=0,
        )
    return time.perf_counter() - started, output[:, ids.shape[1] :].tolist()


def _continuous_batching(model: Any, prompts: Tokens, new_tokens: int, tuned: bool) -> tuple[float, Tokens]:
    """transformers' continuous batching, with its defaults, or with a cache that is just large enough."""
    longest = len(prompts[0]) + new_tokens
    made_to_measure = ContinuousBatchingConfig(
        num_blocks=len(prompts) * -(-longest // 256), max_batch_tokens=len(prompts) * len(prompts[0])
    )
    config = made_to_measure if tuned else None
    generation = GenerationConfig(max_new_tokens=new_tokens, do_sample=False, eos_token_id=-1, pad_token_id=0)
    started = time.perf_counter()
    results = model.generate_batch(inputs=prompts, generation_config=generation, continuous_batching_config=config)
    seconds = time.perf_counter() - started
    ordered = sorted(results.values(), key=lambda result: int(result.request_id.rsplit("_", 1)[-1]))
    return seconds, [result.generated_tokens for result in ordered]


def _event_cost(ours: Callable[[bool, list[float]], object], repetitions: int) -> list[float]:
    """How much longer steps take with bus and recorder, as a share.

    Runs with and without take turns. For each step of the run the lower quartile of its times is taken, once with
    events and once without: a single run is far too noisy for a difference of a percent. The last value is that of
    all repetitions together; those before it, of each quarter of them, show how far it can be trusted.
    """
    times: dict[bool, list[list[float]]] = {True: [], False: []}
    for repetition in range(repetitions):
        for events in (True, False) if repetition % 2 else (False, True):
            steps: list[float] = []
            ours(events, steps)
            times[events].append(steps)
        _progress(f"event cost: pair {repetition + 1} of {repetitions}")

    def cost(part: slice) -> float:
        with_events, without = (
            sum(sorted(step)[len(step) // 4] for step in zip(*times[events][part], strict=True))
            for events in (True, False)
        )
        return with_events / without - 1

    quarters = [slice(i * repetitions // 4, (i + 1) * repetitions // 4) for i in range(4)] if repetitions >= 4 else []
    return [cost(part) for part in (*quarters, slice(None))]


def run(requests: int, prompt_tokens: int, new_tokens: int, repetitions: int, event_repetitions: int) -> str:
    """Runs everything and returns the report as Markdown."""
    _progress("loading the bundled model, once per contestant")
    loaded, unpacked = load_model("tiny", device="cpu"), load_model("tiny", device="cpu", pack=False)
    plain, batching = (AutoModelForCausalLM.from_pretrained(BUNDLED_DIR, dtype=torch.float32).eval() for _ in range(2))
    rng = random.Random(0)
    vocab_size = loaded.geometry.vocab_size
    prompts = [[rng.randrange(1, vocab_size) for _ in range(prompt_tokens)] for _ in range(requests)]
    contestants: dict[str, Contestant] = {
        "this engine, events and recorder on": lambda: _our_engine(loaded, prompts, new_tokens, events=True),
        "this engine, weights not repacked": lambda: _our_engine(unpacked, prompts, new_tokens, events=True),
        "transformers `generate`, one batch": lambda: _generate(plain, prompts, new_tokens),
        "transformers continuous batching, cache made to measure": lambda: _continuous_batching(
            batching, prompts, new_tokens, tuned=True
        ),
        "transformers continuous batching, its defaults": lambda: _continuous_batching(
            batching, prompts, new_tokens, tuned=False
        ),
    }
    for name, contestant in contestants.items():
        _progress(f"warming up: {name}")
        contestant()
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    equal: dict[str, list[int]] = {name: [] for name in contestants}
    for repetition in range(repetitions):
        reference: Tokens = []
        for name, contestant in contestants.items():
            elapsed, tokens = contestant()
            reference = reference or tokens
            seconds[name].append(elapsed)
            equal[name].append(sum(a == b for a, b in zip(tokens, reference, strict=True)))
            _progress(f"{repetition + 1} of {repetitions}: {name}: {requests * new_tokens / elapsed:,.0f} tokens/s")
    flushes: list[float] = []
    costs = _event_cost(
        lambda events, steps: _our_engine(loaded, prompts, new_tokens, events, steps, flushes), event_repetitions
    )
    return _report(requests, prompt_tokens, new_tokens, seconds, equal, costs, statistics.median(flushes))


def _report(
    requests: int,
    prompt_tokens: int,
    new_tokens: int,
    seconds: dict[str, list[float]],
    equal: dict[str, list[int]],
    costs: list[float],
    flush_share: float,
) -> str:
    versions = ", ".join(f"{package} {version}" for package, version in installed_versions().items() if version)
    ours = next(iter(seconds.values()))
    lines = [
        f"`workbench bench cpu`, {date.today().isoformat()}. {describe_machine()}, {torch.get_num_threads()} threads. "
        f"{versions}.",
        "",
        f"Bundled model in float32, {requests} requests of {prompt_tokens} + {new_tokens} tokens, greedy, "
        f"{len(ours)} repetitions in turn.",
        "",
        "| | tokens/s, median | all repetitions | this engine is faster by | outputs equal to this engine's |",
        "|---|---|---|---|---|",
    ]
    for name, times in seconds.items():
        rates = [requests * new_tokens / t for t in times]
        ratio = statistics.median(t / o for t, o in zip(times, ours, strict=True))
        lines.append(
            f"| {name} | {statistics.median(rates):,.0f} | {', '.join(f'{rate:,.0f}' for rate in rates)} | "
            f"{ratio:.2f}x | {min(equal[name])} of {requests} |"
        )
    parts = ", ".join(f"{cost:+.2%}" for cost in costs[:-1])
    lines += [
        "",
        f"Cost of events, bus with a recorder against no bus (lower quartile of each step's times): {costs[-1]:+.2%}"
        + (f" (by quarters of the repetitions: {parts})." if parts else ".")
        + f" Measured directly: {flush_share:.2%} of the time is spent delivering and recording; making the events is "
        "not in that figure.",
    ]
    return "\n".join(lines)
