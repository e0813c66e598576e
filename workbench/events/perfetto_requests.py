"""Requests as threads of a Perfetto trace: a slice for every phase, instants for what happened to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from workbench.events import types as ev
from workbench.events.page_map import PageMap
from workbench.events.state import RequestState, RequestStatus
from workbench.events.types import AnyEvent, Cause, PreemptionMode

_OUT_OF_MEMORY = (Cause.POOL_EXHAUSTED, Cause.WATERMARK)


@dataclass
class _Open:
    """A phase that has begun. ``produced``: whether the request has generated a token."""

    phase: str
    since_ns: int
    produced: bool
    sequences: list[int]


def _phase_of(request: RequestState) -> str:
    produced = any(output.token_ids for output in request.outputs.values())
    if request.status is RequestStatus.RUNNING:
        return "decode" if produced else "prefill"
    names = {RequestStatus.PREEMPTED: "preempted", RequestStatus.SWAPPED: "swapped"}
    return names.get(request.status, "queued")


class RequestThreads:
    """Keeps the phases of live requests, and nothing of those that have ended.

    Phases: queued, prefill (until its first token), decode, preempted, swapped, and recompute (after a preemption,
    until its next token).
    """

    def __init__(self, state: PageMap, process: int) -> None:
        self._process = process
        self._open: dict[int, _Open] = {}
        self._request_of: dict[int, int] = {}
        self._state: PageMap | None = state

    def begin(self, t_ns: int) -> Iterator[dict[str, Any]]:
        """The requests that are there already, in the phases that they are in."""
        state, self._state = self._state, None
        assert state is not None
        for number in sorted((*state.running, *state.waiting)):
            request = state.requests[number]
            sequences = list(request.outputs)
            produced = any(output.token_ids for output in request.outputs.values())
            self._open[number] = _Open(_phase_of(request), t_ns, produced, sequences)
            self._request_of.update(dict.fromkeys(sequences, number))
            yield self._name(number)

    def end(self, t_ns: int) -> Iterator[dict[str, Any]]:
        """Ends all phases."""
        for number in sorted(self._open):
            yield self._slice(number, self._open[number], t_ns)
        self._open.clear()

    def _thread(self, number: int) -> int:
        return number + 1  # thread 0 is the process itself

    def _name(self, number: int) -> dict[str, Any]:
        args = {"name": f"request {number}"}
        return {"ph": "M", "name": "thread_name", "pid": self._process, "tid": self._thread(number), "args": args}

    def _slice(self, number: int, phase: _Open, t_ns: int) -> dict[str, Any]:
        return {
            "ph": "X",
            "name": phase.phase,
            "cat": "request",
            "ts": phase.since_ns / 1000,
            "dur": (t_ns - phase.since_ns) / 1000,
            "pid": self._process,
            "tid": self._thread(number),
            "args": {"request": number},
        }

    def _instant(self, name: str, number: int, event: AnyEvent, **args: Any) -> dict[str, Any]:
        return {
            "ph": "i",
            "s": "t",
            "name": name,
            "cat": name,
            "ts": event.t_ns / 1000,
            "pid": self._process,
            "tid": self._thread(number),
            "args": args | {"step": event.step},
        }

    def _enter(self, number: int, phase: str, t_ns: int) -> Iterator[dict[str, Any]]:
        known = self._open.get(number)
        if known is not None:
            yield self._slice(number, known, t_ns)
            known.phase, known.since_ns = phase, t_ns

    def take(self, event: AnyEvent) -> Iterator[dict[str, Any]]:
        """The records that an event gives rise to."""
        match event:
            case ev.TokenGenerated():
                known = self._open.get(event.request)
                if known is not None:
                    known.produced = True
                    if known.phase in ("prefill", "recompute"):
                        yield from self._enter(event.request, "decode", event.t_ns)
            case ev.RequestQueued():
                self._open[event.request] = _Open("queued", event.t_ns, False, [event.sequence])
                self._request_of[event.sequence] = event.request
                yield self._name(event.request)
            case ev.SequenceForked():
                self._request_of[event.child] = event.request
                if event.request in self._open:
                    self._open[event.request].sequences.append(event.child)
            case ev.RequestAdmitted():
                yield from self._enter(event.request, "prefill", event.t_ns)
            case ev.RequestResumed():
                yield from self._enter(event.request, self._after(event), event.t_ns)
            case ev.RequestPreempted():
                args: dict[str, Any] = {"mode": event.mode.value, "cause": event.cause.value}
                args |= {"tokens_lost": event.tokens_lost, "pages_released": event.blocks_released}
                yield self._instant("preemption", event.request, event, **args, policy=event.policy, why=event.why)
                phase = "swapped" if event.mode is PreemptionMode.SWAP else "preempted"
                yield from self._enter(event.request, phase, event.t_ns)
            case ev.AdmissionBlocked() if event.cause in _OUT_OF_MEMORY:
                args = {"cause": event.cause.value, "needed": event.needed, "available": event.available}
                yield self._instant("out of memory", event.request, event, **args)
            case ev.BlocksSwappedOut() | ev.BlocksSwappedIn():
                name = "swap out" if isinstance(event, ev.BlocksSwappedOut) else "swap in"
                args = {"pages": len(event.pairs), "bytes": event.bytes, "cause": event.cause.value}
                yield self._instant(name, event.request, event, **args)
            case ev.BlockCopied() if event.sequence in self._request_of:
                args = {"source": event.source, "destination": event.destination, "sequence": event.sequence}
                yield self._instant("copy", self._request_of[event.sequence], event, **args, filled=event.filled)
            case ev.RequestFinished() | ev.RequestRejected():
                known = self._open.pop(event.request, None)
                if known is not None:
                    for sequence in known.sequences:
                        self._request_of.pop(sequence, None)
                    yield self._slice(event.request, known, event.t_ns)
                    reason = getattr(event.reason, "value", event.reason)
                    yield self._instant("end", event.request, event, reason=reason)
            case _:
                pass

    def _after(self, event: ev.RequestResumed) -> str:
        known = self._open.get(event.request)
        if known is None or not known.produced:
            return "prefill"
        return "recompute" if event.mode is PreemptionMode.RECOMPUTE else "decode"
