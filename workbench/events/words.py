"""Events in words: one line that a person can read, for the text view, the app and the notebooks."""

from __future__ import annotations

from workbench.events import types as ev
from workbench.events.page_map import PageMap
from workbench.events.state import Blocked
from workbench.events.types import AnyEvent, Cause

#: What each cause means. A sentence ends with "because <cause>: <this>".
CAUSES: dict[Cause, str] = {
    Cause.ADMISSION: "a waiting request was let in",
    Cause.PREFILL: "the prompt was computed",
    Cause.DECODE: "a generated token was computed",
    Cause.RECOMPUTE: "what a preemption had thrown away was computed again",
    Cause.DECODE_GROWTH: "its last page was full",
    Cause.POOL_EXHAUSTED: "too few pages are free, or no free region is large enough",
    Cause.WATERMARK: "the few free pages are kept for the running requests",
    Cause.MAX_RUNNING: "no more requests may run at once",
    Cause.TOKEN_BUDGET: "the step computes as many tokens as it may",
    Cause.JUST_PREEMPTED: "memory ran out in this step, so nobody is let in",
    Cause.PREEMPTION_VICTIM: "the request was put back so that an older one can go on",
    Cause.REQUEST_FINISHED: "the request is complete",
    Cause.CANCELLED: "the request was cancelled",
    Cause.NEVER_FITS: "it is larger than the whole pool",
}


def clean(text: str) -> str:
    """Text without anything that could move a cursor or hide itself: control characters appear as escapes."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def clip(text: str, width: int) -> str:
    """The beginning of a text in at most ``width`` characters."""
    return text if len(text) <= width else text[: max(0, width - 1)] + "…"


def ordinal(number: int) -> str:
    """1st, 2nd, 3rd, 4th, 11th, ..."""
    suffix = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{suffix}"


def plural(count: int, noun: str) -> str:
    """``1 page``, ``2 pages``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def because(cause: Cause, explain: bool = True) -> str:
    """``because decode_growth: its last page was full``; without ``explain`` only ``because decode_growth``."""
    return f"because {cause.value}" + (f": {CAUSES[cause]}" if explain else "")


def describe_blocked(blocked: Blocked | ev.AdmissionBlocked, paged: bool, explain: bool = True) -> str:
    """Why the head of the queue waits, with the numbers."""
    cause, needed, available = blocked.cause, blocked.needed, blocked.available
    if cause is Cause.MAX_RUNNING:
        numbers = f"it would be the {ordinal(needed)}, the limit is {available}"
    elif cause is Cause.TOKEN_BUDGET:
        numbers = f"has {plural(needed, 'token')} to compute, a step computes at most {available}"
    elif cause is Cause.JUST_PREEMPTED:
        numbers = "a running request has just lost its memory"
    elif paged:
        kept = " with those kept back" if cause is Cause.WATERMARK else ""
        numbers = f"needs {plural(needed, 'page')}{kept}, {available} free"
    else:
        numbers = f"needs {plural(needed, 'adjacent slot')}, the largest free region has {available}"
    return f"request {blocked.request} waits: {numbers} ({because(cause, explain)})"


def _holder(sequence: int, state: PageMap | None) -> str:
    request = state.request_of(sequence) if state is not None else None
    if request is None:
        return f"sequence {sequence}"
    return f"request {request}" if request == sequence else f"request {request} (sequence {sequence})"


def describe(event: AnyEvent, state: PageMap | None = None, explain: bool = True) -> str:
    """An event as one line of plain text.

    Args:
        state: a state from the same step or later, to name the request of a sequence and what kind of memory it is.
        explain: say what a cause means, not only its name.
    """
    match event:
        case ev.RunStarted():
            return (
                f"run started: {event.memory} memory, {event.num_blocks} pages of {event.block_size} slots "
                f"({event.bytes_per_block} bytes each), model {clean(event.model.name)}, seed {event.seed}"
            )
        case ev.RunFinished():
            return "run finished"
        case ev.StepStarted():
            return f"step {event.step} begins: {event.running} running, {event.waiting} waiting"
        case ev.StepFinished():
            took = (event.schedule_ns + event.forward_ns + event.sample_ns) / 1e6
            tokens = f"{plural(event.prefill_tokens, 'prompt token')} and {plural(event.decode_tokens, 'decode token')}"
            return f"step {event.step} ends: computed {tokens} in {took:.1f} ms"
    if isinstance(event, ev.BlockAllocated | ev.SlotsWritten | ev.BlockReleased | ev.BlockFreed):
        return _describe_page(event, state, explain)
    if isinstance(event, ev.RegionReserved | ev.RegionReleased):
        return _describe_region(event, state, explain)
    return _describe_request(event, state, explain)


def _describe_page(
    event: ev.BlockAllocated | ev.SlotsWritten | ev.BlockReleased | ev.BlockFreed, state: PageMap | None, explain: bool
) -> str:
    why = because(event.cause, explain)
    match event:
        case ev.BlockAllocated():
            place = f"its {ordinal(event.logical_index + 1)} page"
            return f"page {event.block} -> {_holder(event.sequence, state)}, {place}, {why}"
        case ev.SlotsWritten():
            where = f"page {event.block} from offset" if event.block is not None else "the arena from slot"
            who = _holder(event.sequence, state)
            return f"{who}: {plural(event.count, 'token')} stored in {where} {event.first}, {why}"
        case ev.BlockReleased():
            left = f"{event.ref_count} still use it" if event.ref_count else "nobody uses it now"
            return f"page {event.block} given up by {_holder(event.sequence, state)}, {left}, {why}"
        case ev.BlockFreed():
            return f"page {event.block} is free, {why}"


def _describe_region(event: ev.RegionReserved | ev.RegionReleased, state: PageMap | None, explain: bool) -> str:
    slots = f"slots {event.start} to {event.start + event.size - 1}"
    who, why = _holder(event.sequence, state), because(event.cause, explain)
    if isinstance(event, ev.RegionReleased):
        return f"{slots} given up by {who}, {why}"
    rounding = event.size - event.requested
    asked = f"{event.requested} asked for" + (f" and {rounding} lost to rounding" if rounding else "")
    return f"{slots} -> {who}, {asked}, {why}"


def _describe_request(event: AnyEvent, state: PageMap | None, explain: bool) -> str:
    match event:
        case ev.RequestQueued():
            prompt = clip(clean(event.prompt), 60)
            lengths = f"{plural(event.prompt_tokens, 'prompt token')}, at most {event.max_tokens} new ones"
            return f"request {event.request} arrives: {lengths}: “{prompt}”"
        case ev.RequestAdmitted():
            waited = f"after {plural(event.waited_steps, 'step')} of waiting" if event.waited_steps else "at once"
            return f"request {event.request} begins to run, {waited}"
        case ev.AdmissionBlocked():
            return describe_blocked(event, state is None or state.is_paged, explain)
        case ev.RequestPreempted():
            lost = f"{plural(event.tokens_lost, 'stored token')} lost"
            return f"request {event.request} is preempted ({event.mode.value}): {lost}, {because(event.cause, explain)}"
        case ev.RequestResumed():
            again = plural(event.tokens_to_recompute, "token")
            return f"request {event.request} runs again; {again} must be computed a second time"
        case ev.TokenGenerated():
            shown = f"“{clean(event.text)}”" if event.text else "nothing to show yet"
            place = f"its {ordinal(event.index + 1)} token"
            return f"request {event.request} generates {place}, id {event.token_id}: {shown}"
        case ev.RequestFinished():
            tokens = plural(event.output_tokens, "token")
            return f"request {event.request} is complete after {tokens} ({event.reason.value})"
        case ev.RequestRejected():
            return f"request {event.request} is rejected: {clean(event.reason)}"
    return type(event).__name__
