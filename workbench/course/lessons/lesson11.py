"""Lesson 11, observability: events, recordings, time travel, traces and metrics of a real run."""

from __future__ import annotations

import functools
import io
import random
from collections.abc import Callable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry

from workbench import LLM, EngineConfig, Recorder, Recording, SamplingParams
from workbench.course.comparing import compare
from workbench.course.exercise import Exercise, Question
from workbench.course.lessons.bundled import random_jobs, tiny
from workbench.course.verdict import Verdict
from workbench.events import PageMap
from workbench.events import types as ev
from workbench.events.types import AnyEvent
from workbench.metrics import PREFIX, attach
from workbench.metrics_counts import COUNTERS, HISTOGRAMS
from workbench.metrics_gauges import GAUGES, Gauges
from workbench.views.palette import request_label

#: Exported under the same name by vLLM, there behind ``vllm:``.
AS_IN_VLLM = (
    "kv_cache_usage_perc",
    "num_requests_running",
    "num_requests_waiting",
    "num_preemptions",
    "prompt_tokens",
    "generation_tokens",
    "prefix_cache_queries",
    "prefix_cache_hits",
    "request_success",
    "time_to_first_token_seconds",
    "request_queue_time_seconds",
    "e2e_request_latency_seconds",
)


def busy_engine(seed: int = 0, **config: Any) -> LLM:
    """An engine with six requests in its queue and a pool that is too small for all of them at once."""
    rng = random.Random(seed)
    llm = LLM(tiny(), EngineConfig(**({"block_size": 4, "num_blocks": 16, "watermark": 0.0} | config)))
    for job in random_jobs(rng, 6, (4, 18), (8, 24)):
        llm.add_request(job.prompt, SamplingParams(max_tokens=job.output, temperature=0, ignore_eos=True))
    return llm


@functools.lru_cache(maxsize=8)
def recorded(seed: int) -> bytes:
    """A whole run of `busy_engine`, as the bytes of a recording."""
    llm, file = busy_engine(seed), io.BytesIO()
    with Recorder(llm.bus, file):
        while llm.has_unfinished:
            llm.step()
    return file.getvalue()


def half_empty_engine() -> LLM:
    """Eight short prompts on 12 pages of 16 slots: many pages are held, and few slots hold a token. Not stepped yet."""
    llm = LLM(tiny(), EngineConfig(block_size=16, num_blocks=12, watermark=0.0))
    rng = random.Random(0)
    for length in (9, 9, 9, 9, 9, 9, 8, 8):
        prompt = [rng.randrange(1, tiny().geometry.vocab_size) for _ in range(length)]
        llm.add_request(prompt, SamplingParams(max_tokens=4, temperature=0, ignore_eos=True))
    return llm


def watched(llm: LLM) -> CollectorRegistry:
    """A registry of its own with the engine's metrics, so that the notebook can be run again."""
    registry = CollectorRegistry()
    attach(llm, registry=registry)
    return registry


def our_names() -> list[str]:
    """The names of all metrics that vLLM does not have."""
    return sorted(name for name in (*GAUGES, *COUNTERS, *HISTOGRAMS) if name not in AS_IN_VLLM)


# -- 11.1: the state, from events alone --------------------------------------------------------------------------------


def grade_fold(answer: Callable[[Sequence[AnyEvent]], dict[int, list[int]]], seed: int) -> Verdict:
    """``answer(events)`` -> block tables, after every few steps of a real run with preemptions."""
    recording = Recording.open(recorded(seed))
    events: list[AnyEvent] = []
    for batch in recording.batches():
        events += batch.events
        state = recording.state_at(batch.step)
        expected = {number: list(held.block_table) for number, held in state.sequences.items()}
        got = answer(list(events))
        if not isinstance(got, dict):
            return Verdict(False, "A dict is asked for: sequence to list of pages.", got, expected)
        yours = {number: list(table) for number, table in got.items() if table}
        for sequence in [*expected, *(number for number in yours if number not in expected)]:
            left, right = yours.get(sequence, []), expected.get(sequence, [])
            if left != right:
                same = (i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b)
                index = next(same, min(len(left), len(right)))
                words = f"After step {batch.step} of a run of six requests, sequence {sequence} is not right."
                place = f"step {batch.step}, logical page {index} of sequence {sequence}"
                return Verdict(False, words, left, right, place)
    return Verdict(True, f"{recording.num_steps} steps rebuilt from {len(events):,} events.")


# -- 11.2: who was preempted -------------------------------------------------------------------------------------------


def grade_preemptions(answer: Callable[[Recording], list[tuple[int, int, int]]], seed: int) -> Verdict:
    """``answer(recording)`` -> ``(step, request, tokens lost)`` of each preemption, in order."""
    recording = Recording.open(recorded(seed))
    expected = [
        (event.step, event.request, event.tokens_lost)
        for event in recording.events()
        if isinstance(event, ev.RequestPreempted)
    ]
    got = answer(recording)
    if not isinstance(got, list | tuple):
        return Verdict(False, "A list is asked for.", got, expected)
    verdict = compare([tuple(row) if isinstance(row, list | tuple) else row for row in got], expected, "preemption")
    if verdict.passed:
        return Verdict(True, f"All {len(expected)} preemptions of the recording.")
    return Verdict(False, "Rows are (step, request, tokens lost).", verdict.yours, expected, verdict.first_wrong)


# -- 11.3: two kinds of "used" -----------------------------------------------------------------------------------------


@functools.cache
def _states(seed: int) -> list[PageMap]:
    """States of a real run with a prefix cache, so that pages are held, shared, kept for nobody, and free."""
    rng = random.Random(seed)
    llm = LLM(tiny(), EngineConfig(block_size=4, num_blocks=40, prefix_caching=True))
    first = [rng.randrange(1, tiny().geometry.vocab_size) for _ in range(8)]
    found = []
    for count in range(3):
        for job in random_jobs(rng, 2, (2, 9), (4, 9)):
            samples = SamplingParams(n=2, max_tokens=job.output, seed=count, ignore_eos=True)
            llm.add_request(first + job.prompt, samples)
        for _ in range(5):
            if llm.has_unfinished:
                llm.step()
                found.append(llm.page_map.copy())
    return found


def truth(state: PageMap) -> tuple[float, float]:
    """Shares of the pool: pages that requests hold (vLLM's gauge), and slots with a token."""
    gauges = Gauges()
    gauges.add(state)
    slots = gauges.values("kv_slots")
    return gauges.values("kv_cache_usage_perc")[()], slots[("token_states",)] / sum(slots.values())


def grade_usage(answer: Callable[[PageMap], tuple[float, float]], seed: int) -> Verdict:
    """``answer(page_map)`` -> the two shares, on states of a real run, against the exported metrics."""
    names = ("pages held", "slots with a token")
    for state in _states(seed):
        expected = truth(state)
        got = answer(state)
        if not isinstance(got, list | tuple) or len(got) != 2:
            return Verdict(False, "Two shares are asked for.", got, expected, f"step {state.step}")
        verdict = compare(list(got), list(expected), tolerance=1e-9)
        if not verdict.passed:
            wrong = next(i for i in range(2) if not compare(got[i], expected[i], tolerance=1e-9).passed)
            held = sum(page.ref_count > 0 for page in state.pages)
            shared = sum(page.ref_count > 1 for page in state.pages)
            cached = sum(page.is_cached for page in state.pages)
            words = (
                f"Step {state.step}: of {len(state.pages)} pages {held} are held ({shared} of them by several "
                f"sequences), {cached} are cached."
            )
            pair = dict(zip(names, got, strict=True)), dict(zip(names, expected, strict=True))
            return Verdict(False, words, *pair, f"step {state.step}, {names[wrong]}")
    return Verdict(True, "The same as the exported metrics.")


# -- the register ------------------------------------------------------------------------------------------------------

EXERCISES = {
    "11.1": Exercise(
        "The state, from events alone",
        grade_fold,
        (
            "Two types of event change a block table here: one adds a page, one takes a page away.",
            "`ev.BlockAllocated` has `.sequence` and `.block`: the page comes at the end of the table.",
            "`ev.BlockReleased` has them, too: `tables[event.sequence].remove(event.block)`.",
        ),
        seeds=(0, 1, 2),
    ),
    "11.2": Exercise(
        "Who had to give way?",
        grade_preemptions,
        (
            "`recording.events()` gives all events of the run, in order.",
            "Look for `ev.RequestPreempted`; its fields are `step`, `request` and `tokens_lost`.",
        ),
        seeds=(0, 1, 2),
    ),
    "11.3": Exercise(
        "Two kinds of used",
        grade_usage,
        (
            "A page is held if `page.ref_count > 0`; a page that several sequences share is one page.",
            "A cached page has `ref_count` 0 and may still be `filled`: nobody's tokens, so it counts for neither.",
            "Add up `page.filled` of the held pages, and divide by `page_map.num_slots`.",
        ),
        seeds=(0, 1, 2),
    ),
}


def make_question(seed: int) -> Question:
    """About a recording of a real run: a cause, a page's owner, what a preemption cost, or when something was."""
    rng = random.Random(seed)
    recording = Recording.open(recorded(seed))
    about = f"Recording {seed} (`lesson11.recorded({seed})`): "
    events = list(recording.events())
    preempted = [event for event in events if isinstance(event, ev.RequestPreempted)]
    kind = rng.choice(("cause", "owner", "lost", "steps") if preempted else ("cause", "owner"))
    if kind == "lost":
        event = rng.choice(preempted)
        name = request_label(event.request)
        return Question(
            f"{about}request {name} is preempted in step {event.step}. How many stored tokens does it lose?",
            event.tokens_lost,
            f"`RequestPreempted.tokens_lost`; it gave up {event.blocks_released} pages.",
        )
    if kind == "steps":
        event = rng.choice(preempted)
        name = request_label(event.request)
        back = next(
            e.step
            for e in events
            if isinstance(e, ev.RequestResumed) and e.request == event.request and e.step > event.step
        )
        return Question(
            f"{about}request {name} is preempted in step {event.step}. In which step does it run again?",
            back,
            "`RequestResumed` of the same request is the event to look for.",
        )
    allocations = [event for event in events if isinstance(event, ev.BlockAllocated)]
    given = rng.choice(allocations)
    if kind == "cause":
        causes = sorted({e.cause.value for e in allocations})
        return Question(
            f"{about}in step {given.step} page {given.block} is allocated to sequence {given.sequence}. Why?",
            given.cause.value,
            f"The event's cause is {given.cause.value}; it became logical page {given.logical_index}.",
            choices=tuple(causes) if len(causes) > 1 else (),
        )
    return Question(
        f"{about}whose is page {given.block} after step {given.step}? The number of the request; -1: nobody's.",
        _owner(recording.state_at(given.step), given.block),
        f"`recording.state_at({given.step}).pages[{given.block}]` knows: its `owner` is a sequence.",
    )


def _owner(state: PageMap, block: int) -> int:
    page = state.pages[block]
    request = state.request_of(page.owner) if page.ref_count else None
    return -1 if request is None else request


def exported(registry: CollectorRegistry) -> dict[str, float]:
    """Samples of a registry by name and labels, without the prefix and without those of histograms."""
    found = {}
    for family in registry.collect():
        if family.type == "histogram":
            continue
        for sample in family.samples:
            labels = ",".join(v for k, v in sample.labels.items() if k not in ("engine", "memory"))
            name = sample.name.removeprefix(PREFIX)
            found[f"{name}{{{labels}}}" if labels else name] = sample.value
    return found
