"""A history as a trace for Perfetto (ui.perfetto.dev) or Chrome's about:tracing: the Trace Event Format, as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, TextIO

import workbench
from workbench.events import types as ev
from workbench.events.history import History
from workbench.events.page_map import PageMap
from workbench.events.perfetto_requests import RequestThreads
from workbench.events.types import AnyEvent
from workbench.events.windows import HostPages, Progress, steps_of

Record = dict[str, Any]

ENGINE, REQUESTS = 1, 2  #: "processes" of the trace
_STEPS, _COPIES, _SWAPS, _POOL = 1, 2, 3, 4  #: "threads" of the engine


def write_perfetto(
    history: History,
    file: TextIO,
    first: int | None = None,
    last: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Writes steps ``first`` to ``last`` as one JSON object, record by record.

    Times are microseconds since the run began. Each request is a thread with slices for its phases; each step is a
    slice with its parts in it. Beside them run counters of pages, slots and requests, and instants for preemptions,
    swaps, copies and evictions.

    Raises:
        IndexError: a step is not in this history.
        ValueError: ``last`` comes before ``first``.
    """
    state, batches = steps_of(history, first, last, progress)
    trace = _Trace(state)
    # Records are written as they come; what is said about the whole comes first.
    other = {"program": f"kv-workbench {workbench.__version__}", "times": "measured, microseconds since the run began"}
    file.write('{"displayTimeUnit": "ms",\n"otherData": ' + json.dumps(other) + ',\n"traceEvents": [\n')
    separator = ""
    for records in (trace.begin(), (r for batch in batches for e in batch.events for r in trace.take(e)), trace.end()):
        for record in records:
            file.write(separator + json.dumps(record, ensure_ascii=False))
            separator = ",\n"
    file.write("\n]}\n")


def _us(t_ns: int) -> float:
    return t_ns / 1000


def named(process: int, thread: int | None, name: str) -> Record:
    """The name of a thread, or of a process (thread None)."""
    kind = "process_name" if thread is None else "thread_name"
    return {"ph": "M", "name": kind, "pid": process, "tid": thread or 0, "args": {"name": name}}


class _Trace:
    def __init__(self, state: PageMap) -> None:
        self._run = state.run
        self._requests = RequestThreads(state, REQUESTS)
        self._host = HostPages(state)
        self._step_ns = self._now = state.last.t_ns if state.last is not None else 0

    def begin(self) -> Iterator[Record]:
        yield named(ENGINE, None, "engine")
        yield named(REQUESTS, None, "requests")
        names = {_STEPS: "steps", _COPIES: "copies on the device", _SWAPS: "swaps", _POOL: "pool"}
        for thread, name in names.items():
            yield named(ENGINE, thread, name)
        yield from self._requests.begin(self._now)

    def end(self) -> Iterator[Record]:
        """What is still open ends where the window ends."""
        yield from self._requests.end(self._now)

    def take(self, event: AnyEvent) -> Iterator[Record]:
        self._now = event.t_ns
        self._host.note(event)
        if isinstance(event, ev.RunStarted):
            self._run = event
        elif isinstance(event, ev.StepStarted):
            self._step_ns = event.t_ns
        elif isinstance(event, ev.StepFinished):
            yield from self._step(event)
            yield from self._counters(event)
        elif isinstance(event, ev.BlockEvicted):
            args = {"page": event.block, "policy": event.policy, "cause": event.cause.value, "step": event.step}
            yield {
                "ph": "i",
                "s": "t",
                "name": "eviction",
                "cat": "eviction",
                "ts": _us(event.t_ns),
                "pid": ENGINE,
                "tid": _POOL,
                "args": args,
            }
        yield from self._requests.take(event)

    def _step(self, event: ev.StepFinished) -> Iterator[Record]:
        start, end = self._step_ns, event.t_ns
        args = {"prefill_tokens": event.prefill_tokens, "decode_tokens": event.decode_tokens, "step": event.step}
        yield self._slice(f"step {event.step}", "step", _STEPS, start, end, args)
        forward = min(start + event.schedule_ns, end)
        sample = min(forward + event.forward_ns, end)
        yield self._slice("schedule", "step", _STEPS, start, forward)
        yield self._slice("forward", "step", _STEPS, forward, sample)
        yield self._slice("sample", "step", _STEPS, sample, min(sample + event.sample_ns, end))
        # Their lengths are measured, not when they began: they are put where the forward pass begins.
        for name, thread, ns in (("copy", _COPIES, event.copy_ns), ("swap", _SWAPS, event.swap_ns)):
            if ns:
                yield self._slice(name, name, thread, forward, forward + ns, {"begin": "not measured"})

    def _slice(self, name: str, category: str, thread: int, start: int, end: int, args: Record | None = None) -> Record:
        place = {"ts": _us(start), "dur": _us(end - start), "pid": ENGINE, "tid": thread}
        return {"ph": "X", "name": name, "cat": category, **place, "args": args or {}}

    def _counters(self, event: ev.StepFinished) -> Iterator[Record]:
        waste = event.waste
        slots = {name: getattr(waste, name) for name in ("token_states", "reserved", "external", "free", "cached")}
        counters: dict[str, dict[str, int]] = {
            "requests": {"running": event.running, "waiting": event.waiting - event.swapped, "swapped": event.swapped},
            "slots": slots,
        }
        if self._run is not None and self._run.memory == "paged":
            size = self._run.block_size
            counters["pages in use"] = {"pages": (waste.token_states + waste.reserved) // size}
            counters["cached pages"] = {"pages": waste.cached // size}
            counters["host pages in use"] = {"pages": self._host.used}
        for name, args in counters.items():
            yield {"ph": "C", "name": name, "ts": _us(event.t_ns), "pid": ENGINE, "tid": 0, "args": args}
