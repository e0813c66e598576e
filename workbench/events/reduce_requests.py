"""What events about requests do to a `PageMap`: queues, outputs, totals."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from workbench.events import types as ev
from workbench.events.state import Blocked, OutputText, RequestState, RequestStatus

if TYPE_CHECKING:
    from workbench.events.page_map import PageMap


def _queued(state: PageMap, event: ev.RequestQueued) -> None:
    if event.request in state.requests or event.sequence in state.request_ids:
        raise ValueError(f"request {event.request} or its sequence {event.sequence} was queued before")
    request = RequestState(
        event.prompt,
        event.prompt_tokens,
        event.max_tokens,
        event.sequence,
        event.width,
        event.is_beam_search,
        queued_step=event.step,
        prompt_ends=list(event.prompt_ends),
    )
    request.outputs[event.sequence] = OutputText()
    state.requests[event.request] = request
    state.request_ids[event.sequence] = event.request
    state.waiting.append(event.request)


def _start(state: PageMap, request: int, step: int) -> None:
    state.waiting.remove(request)
    bisect.insort(state.running, request)
    state.totals.max_running = max(state.totals.max_running, len(state.running))
    state.blocked = None
    known = state.requests[request]
    known.status = RequestStatus.RUNNING
    if known.admitted_step < 0:
        known.admitted_step = step


def _admitted(state: PageMap, event: ev.RequestAdmitted) -> None:
    _start(state, event.request, event.step)


def _resumed(state: PageMap, event: ev.RequestResumed) -> None:
    _start(state, event.request, event.step)
    state.totals.recomputed_tokens += event.tokens_to_recompute


def _blocked(state: PageMap, event: ev.AdmissionBlocked) -> None:
    state.blocked = Blocked(event.request, event.cause, event.needed, event.available)


def _preempted(state: PageMap, event: ev.RequestPreempted) -> None:
    request = state.requests[event.request]
    request.tokens_lost += event.tokens_lost
    if request.status is RequestStatus.SWAPPED and event.mode is ev.PreemptionMode.RECOMPUTE:
        request.status = RequestStatus.PREEMPTED  # what it had in the host tier made room for another
        return
    state.running.remove(event.request)
    bisect.insort(state.waiting, event.request)
    state.blocked = None
    request.status = RequestStatus.SWAPPED if event.mode is ev.PreemptionMode.SWAP else RequestStatus.PREEMPTED
    request.preemptions += 1
    state.totals.preemptions += 1


def _nothing(state: PageMap, event: ev.AnyEvent) -> None:
    pass


def _forked(state: PageMap, event: ev.SequenceForked) -> None:
    request = state.requests[event.request]
    if event.child in state.request_ids or event.parent not in request.outputs:
        raise ValueError(f"sequence {event.child} exists, or {event.parent} is not of request {event.request}")
    parent = request.outputs[event.parent]
    request.outputs[event.child] = OutputText(list(parent.token_ids), parent.text, event.parent, ends=list(parent.ends))
    state.request_ids[event.child] = event.request


def _token_generated(state: PageMap, event: ev.TokenGenerated) -> None:
    output = state.requests[event.request].outputs[event.sequence]
    if event.index != len(output.token_ids):
        raise ValueError(f"expected token index {len(output.token_ids)}")
    output.token_ids.append(event.token_id)
    output.text += event.text
    if len(output.ends) == event.index:  # else it began with the snapshot of an old recording, which has none
        output.ends.append(len(output.text))
    state.totals.generated_tokens += 1


def _sequence_finished(state: PageMap, event: ev.SequenceFinished) -> None:
    output = state.requests[event.request].outputs[event.sequence]
    output.text += event.text
    output.reason = event.reason or ""
    output.is_dropped = event.reason is None


def _outputs_chosen(state: PageMap, event: ev.OutputsChosen) -> None:
    state.requests[event.request].chosen = list(event.outputs)


def _leave(state: PageMap, request: int) -> RequestState:
    (state.running if request in state.running else state.waiting).remove(request)
    if state.blocked is not None and state.blocked.request == request:
        state.blocked = None
    return state.requests[request]


def _finished(state: PageMap, event: ev.RequestFinished) -> None:
    if event.request in state.running:
        state.blocked = None  # there is room now: the next step finds out whether it is enough
    request = _leave(state, event.request)
    is_cancelled = event.reason is ev.FinishReason.CANCELLED
    request.status = RequestStatus.CANCELLED if is_cancelled else RequestStatus.FINISHED
    request.reason = event.reason
    request.finished_step = event.step
    output = request.outputs[request.sequence]
    if not output.reason:
        output.text += event.text
        output.reason = event.reason


def _rejected(state: PageMap, event: ev.RequestRejected) -> None:
    request = _leave(state, event.request)
    request.status = RequestStatus.REJECTED
    request.reason = event.reason
    request.finished_step = event.step


HANDLERS: dict[type, Callable[[PageMap, Any], None]] = {
    ev.RequestQueued: _queued,
    ev.RequestAdmitted: _admitted,
    ev.RequestResumed: _resumed,
    ev.AdmissionBlocked: _blocked,
    ev.RequestPreempted: _preempted,
    ev.PreemptionSettled: _nothing,
    ev.SequenceForked: _forked,
    ev.TokenGenerated: _token_generated,
    ev.SequenceFinished: _sequence_finished,
    ev.OutputsChosen: _outputs_chosen,
    ev.RequestFinished: _finished,
    ev.RequestRejected: _rejected,
}
