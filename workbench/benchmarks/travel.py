"""Time travel: how long it takes to read the state at a step of a long recording, and of the run in memory."""

from __future__ import annotations

import gc
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from datetime import date
from pathlib import Path
from typing import NamedTuple

import msgspec

from workbench.benchmarks.long_run import drive, make_engine
from workbench.commands.doctor import describe_machine
from workbench.events import History, PageMap, Recorder, Recording, Timeline
from workbench.events.words import size

_TIMELINE_STEPS = 5000
_OPENINGS = 5


class _Read(NamedTuple):
    """Milliseconds of a read: those that passed, those of the processor; and whether Python collected all garbage."""

    passed: float
    worked: float
    collected: bool


def _times(read: Callable[[int], object], steps: Iterable[int]) -> list[_Read]:
    times = []
    for step in steps:
        collections = gc.get_stats()[-1]["collections"]
        started, worked = time.perf_counter_ns(), time.thread_time_ns()
        read(step)
        worked = time.thread_time_ns() - worked
        passed = time.perf_counter_ns() - started
        times.append(_Read(passed / 1e6, worked / 1e6, gc.get_stats()[-1]["collections"] > collections))
    return times


def _row(what: str, times: list[_Read]) -> str:
    cells = [what, f"{len(times)}"]
    for values in ([read.passed for read in times], [read.worked for read in times]):
        ordered = sorted(values)
        high = ordered[min(len(ordered) - 1, len(ordered) * 95 // 100)]
        over = sum(value >= 50 for value in ordered)
        cells += [f"{ordered[len(ordered) // 2]:.1f}", f"{high:.1f}", f"{ordered[-1]:.1f}", f"{over}"]
    cells.append(f"{sum(read.collected and read.passed >= 50 for read in times)}")
    return f"| {' | '.join(cells)} |"


def _walks(history: History, name: str, reads: int) -> list[str]:
    """A row each for random jumps, and for steps forwards and backwards over the same part of the history."""
    rng = random.Random(0)
    first, last = history.first_step, history.last_step
    span = min(reads, last - first)
    start = first + (last - first - span) * 3 // 4
    history.state_at(start)
    forward = _times(history.state_at, range(start + 1, start + span + 1))
    back = _times(history.state_at, range(start + span - 1, start - 1, -1))
    return [
        _row(f"{name}: forward, step by step", forward),
        _row(f"{name}: back, step by step", back),
        _row(f"{name}: random jumps", _times(history.state_at, [rng.randint(first, last) for _ in range(reads)])),
    ]


class _Meter:
    """Progress on stderr, every few seconds."""

    def __init__(self, steps: int) -> None:
        self._steps, self._next = steps, time.monotonic() + 5

    def __call__(self, step: int) -> None:
        if time.monotonic() >= self._next:
            self._next += 5
            print(f"recording: step {step:,} of {self._steps:,}", file=sys.stderr, flush=True)


def _describe(state: PageMap) -> str:
    totals = state.totals
    return (
        f"{len(state.requests):,} requests so far, at most {totals.max_running} at once, {totals.preemptions} "
        f"preemptions, {totals.blocks_copied} pages copied, {totals.evictions:,} evicted"
    )


def run(steps: int, num_blocks: int, max_num_seqs: int, mean_tokens: int, reads: int) -> str:
    """Makes the recording, reads it, and returns the report as Markdown."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "long.kvtrace"
        llm = make_engine(num_blocks, max_num_seqs)
        timeline: Timeline | None = None

        def progress(step: int) -> None:
            nonlocal timeline
            meter(step)
            if timeline is None and step >= steps - _TIMELINE_STEPS:
                timeline = Timeline(llm.bus)  # joins late: it keeps every event as an object

        meter = _Meter(steps)
        with Recorder(llm.bus, path) as recorder:
            drive(llm, steps, mean_tokens, progress)
        state = llm.page_map
        assert timeline is not None
        print("reading", file=sys.stderr, flush=True)
        openings = _times(lambda _: Recording.open(path).close(), range(_OPENINGS))
        with Recording.open(path) as recording:
            end = _times(recording.state_at, [recording.last_step])
            rows = [
                _row("opening the file", openings),
                _row("the file: first read, of the last step", end),
                *_walks(recording, "the file", reads),
                *_walks(timeline, "in memory", reads),
            ]
            same = all(
                recording.state_at(step) == timeline.state_at(step)
                for step in range(timeline.first_step, timeline.last_step + 1, 499)
            )
        events = state.next_seq / max(1, steps)
        busy_load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
        return "\n".join(
            [
                f"`workbench bench travel`, {date.today().isoformat()}. {describe_machine()}; msgspec "
                f"{msgspec.__version__}. Load of the machine: {load:.1f} at the start, {busy_load:.1f} at the end.",
                "",
                f"{steps:,} steps on {num_blocks:,} pages and {num_blocks // 2:,} host pages, {events:.0f} events a "
                f"step; {_describe(state)}. Tokens are drawn, not computed; all else is the engine's. File: "
                f"{size(recorder.bytes_written)}. In memory: the last {timeline.num_steps:,} steps of the same run. "
                "Processor time is what a read takes on a machine that does nothing else.",
                "",
                "| milliseconds | reads | median | 95 % | max | 50 or more "
                "| processor: median | 95 % | max | 50 or more | 50 or more, with a full garbage collection |",
                "|---|---|---|---|---|---|---|---|---|---|---|",
                *rows,
                "",
                f"File and memory say the same: {'yes' if same else 'NO'}.",
            ]
        )
