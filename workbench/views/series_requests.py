"""What every request did in every step of a run, from events alone: intervals of states, and its preemptions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from workbench.events import PageMap, RequestStatus
from workbench.events import types as ev
from workbench.events.types import Cause, PreemptionMode


class Phase(StrEnum):
    """What a request does in a step."""

    QUEUED = "queued"
    PREFILL = "prefill"
    DECODE = "decode"
    PREEMPTED = "preempted"
    SWAPPED = "swapped"
    AGAIN = "computed again"  #: prefill once more, of what a preemption has thrown away


@dataclass
class Interval:
    """A phase from step ``first`` to step ``last``, both included; ``last`` is -1 while it goes on."""

    phase: Phase
    first: int
    last: int = -1


@dataclass
class Preemption:
    """One preemption with all that became of it. Times are since the run began, in nanoseconds.

    Attributes:
        lost: set if its pages in the host tier were given up later, to make room.
        resumed: None while it waits.
        settled: None until it is where it was before.
    """

    event: ev.RequestPreempted
    lost: ev.RequestPreempted | None = None
    resumed: ev.RequestResumed | None = None
    settled: ev.PreemptionSettled | None = None
    ended: ev.RequestFinished | None = None  #: the request ended (was cancelled) before it ran again


@dataclass
class RequestTrack:
    """One request over the run. ``intervals`` are in order, without overlaps; ``end`` is why it ended, or empty."""

    request: int
    prompt_tokens: int
    max_tokens: int
    width: int = 1
    is_beam_search: bool = False
    intervals: list[Interval] = field(default_factory=list)
    preemptions: list[Preemption] = field(default_factory=list)
    end: str = ""
    last_step: int = -1

    @property
    def first_step(self) -> int:
        return self.intervals[0].first if self.intervals else self.last_step

    def phase_at(self, step: int) -> Phase | None:
        """What it did in a step; None before it came and after it ended."""
        for interval in reversed(self.intervals):
            if interval.first <= step:
                return interval.phase if interval.last < 0 or step <= interval.last else None
        return None

    def enter(self, phase: Phase, step: int) -> None:
        """It is in ``phase`` from this step on; what it was in before ended a step earlier."""
        if self.intervals:
            before = self.intervals[-1]
            if before.phase is phase and before.last < 0:
                return
            if before.last < 0:
                before.last = step - 1
            if before.last < before.first:
                self.intervals.pop()
                if self.intervals and self.intervals[-1].phase is phase and self.intervals[-1].last == step - 1:
                    self.intervals[-1].last = -1
                    return
        self.intervals.append(Interval(phase, step))

    def leave(self, step: int, why: str) -> None:
        """It ended in this step."""
        self.end, self.last_step = why, step
        if self.intervals and self.intervals[-1].last < 0:
            self.intervals[-1].last = max(step, self.intervals[-1].first)


class RequestTracker:
    """Follows all requests of a run.

    Attributes:
        tracks: by request, in the order of their arrival.
        running, waiting, swapped: numbers of requests now; those swapped out are also waiting.
        blocked: why the head of the queue waits, if it does.
        preempted, finished, starved: requests that were preempted, that ended, and signs of too little memory, in
            this step.
    """

    def __init__(self, state: PageMap) -> None:
        self.tracks: dict[int, RequestTrack] = {}
        self._status: dict[int, RequestStatus] = {}
        self.running = self.waiting = self.swapped = 0
        self.blocked: Cause | None = None
        self._blocked_request = -1
        self.preempted = self.finished = self.starved = 0
        for request, known in state.requests.items():
            phase = _PHASES.get(known.status)
            if phase is None:
                continue
            if known.status is RequestStatus.RUNNING and not known.token_ids:
                phase = Phase.PREFILL
            track = RequestTrack(request, known.prompt_tokens, known.max_tokens, known.width, known.is_beam_search)
            track.enter(phase, state.step)
            self.tracks[request] = track
            self._set(request, known.status)
        if state.blocked is not None:
            self.blocked, self._blocked_request = state.blocked.cause, state.blocked.request
        self.handlers: dict[type, Callable[[Any], None]] = {
            ev.RequestQueued: self._queued,
            ev.RequestAdmitted: self._admitted,
            ev.RequestResumed: self._resumed,
            ev.RequestPreempted: self._preempted,
            ev.PreemptionSettled: self._settled,
            ev.AdmissionBlocked: self._blocked,
            ev.TokenGenerated: self._token,
            ev.RequestFinished: self._finished,
            ev.RequestRejected: self._rejected,
        }

    def start_row(self) -> None:
        self.preempted = self.finished = self.starved = 0

    def _set(self, request: int, status: RequestStatus | None) -> None:
        for known, sign in ((self._status.get(request), -1), (status, 1)):
            if known is RequestStatus.RUNNING:
                self.running += sign
            elif known is not None:
                self.waiting += sign
                self.swapped += sign * (known is RequestStatus.SWAPPED)
        if status is None:
            self._status.pop(request, None)
        else:
            self._status[request] = status

    def _queued(self, event: ev.RequestQueued) -> None:
        track = RequestTrack(event.request, event.prompt_tokens, event.max_tokens, event.width, event.is_beam_search)
        track.enter(Phase.QUEUED, event.step)
        self.tracks[event.request] = track
        self._set(event.request, RequestStatus.WAITING)

    def _admitted(self, event: ev.RequestAdmitted) -> None:
        self._set(event.request, RequestStatus.RUNNING)
        self.blocked = None
        self.tracks[event.request].enter(Phase.PREFILL, event.step)

    def _resumed(self, event: ev.RequestResumed) -> None:
        self._set(event.request, RequestStatus.RUNNING)
        self.blocked = None
        track = self.tracks[event.request]
        track.enter(Phase.AGAIN if event.tokens_to_recompute else Phase.DECODE, event.step)
        if track.preemptions:
            track.preemptions[-1].resumed = event

    def _preempted(self, event: ev.RequestPreempted) -> None:
        track = self.tracks[event.request]
        if event.cause is Cause.POOL_EXHAUSTED:
            self.starved += 1
        if self._status.get(event.request) is RequestStatus.SWAPPED and event.mode is PreemptionMode.RECOMPUTE:
            self._set(event.request, RequestStatus.PREEMPTED)  # what it had in the host tier made room for another
            track.enter(Phase.PREEMPTED, event.step)
            if track.preemptions:
                track.preemptions[-1].lost = event
            return
        swapped = event.mode is PreemptionMode.SWAP
        self._set(event.request, RequestStatus.SWAPPED if swapped else RequestStatus.PREEMPTED)
        self.blocked = None
        self.preempted += 1
        track.enter(Phase.SWAPPED if swapped else Phase.PREEMPTED, event.step)
        track.preemptions.append(Preemption(event))

    def _settled(self, event: ev.PreemptionSettled) -> None:
        open_ones = [p for p in self.tracks[event.request].preemptions if p.settled is None and p.resumed is not None]
        if open_ones:  # a preemption that came before the one before was settled leaves its debt to the last one
            open_ones[-1].settled = event

    def _blocked(self, event: ev.AdmissionBlocked) -> None:
        self.blocked, self._blocked_request = event.cause, event.request
        self.starved += event.cause in (Cause.POOL_EXHAUSTED, Cause.WATERMARK)

    def _token(self, event: ev.TokenGenerated) -> None:
        track = self.tracks.get(event.request)
        if track is not None and track.intervals and track.intervals[-1].last < 0:
            current = track.intervals[-1]
            if current.phase is Phase.PREFILL or current.phase is Phase.AGAIN:
                current.last = event.step  # this step still computed the prompt; the next one decodes
                track.intervals.append(Interval(Phase.DECODE, event.step + 1))

    def _finished(self, event: ev.RequestFinished) -> None:
        if self._status.get(event.request) is RequestStatus.RUNNING or self._blocked_request == event.request:
            self.blocked = None
        self._leave(event.request, event.step, event.reason.value)
        track = self.tracks[event.request]
        if track.preemptions and track.preemptions[-1].resumed is None:
            track.preemptions[-1].ended = event

    def _rejected(self, event: ev.RequestRejected) -> None:
        if self._blocked_request == event.request:
            self.blocked = None
        self._leave(event.request, event.step, "rejected")

    def _leave(self, request: int, step: int, why: str) -> None:
        self._set(request, None)
        self.finished += 1
        track = self.tracks[request]
        if len(track.intervals) > 1 and track.intervals[-1].first > step:
            track.intervals.pop()  # a decode phase that never came
        track.leave(step, why)


_PHASES = {
    RequestStatus.WAITING: Phase.QUEUED,
    RequestStatus.RUNNING: Phase.DECODE,
    RequestStatus.PREEMPTED: Phase.PREEMPTED,
    RequestStatus.SWAPPED: Phase.SWAPPED,
}
