"""What the pictures show, in words: for screen readers, for captions, and for people who prefer to read."""

from __future__ import annotations

from workbench.events import Cause, LiveWaste, PageMap
from workbench.views.palette import request_label

#: How many requests a description names one by one.
_NAMED = 12

#: Short answers to "why?", for hover text.
CAUSE_WORDS = {
    "": "never used",
    Cause.ADMISSION: "the request was let in",
    Cause.PREFILL: "prompt computed",
    Cause.DECODE: "token generated",
    Cause.RECOMPUTE: "computed again after preemption",
    Cause.DECODE_GROWTH: "the page before it was full",
    Cause.POOL_EXHAUSTED: "no free page was left",
    Cause.WATERMARK: "few free pages were left",
    Cause.MAX_RUNNING: "as many requests as allowed were running",
    Cause.TOKEN_BUDGET: "the step was full",
    Cause.JUST_PREEMPTED: "a request had just been preempted",
    Cause.PREEMPTION_VICTIM: "its request was preempted",
    Cause.REQUEST_FINISHED: "its request finished",
    Cause.CANCELLED: "its request was cancelled",
    Cause.NEVER_FITS: "the request can never fit",
}


def plural(count: int, noun: str) -> str:
    """ "1 page", "1,024 pages"."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def percent(part: int, whole: int) -> str:
    """A share as a whole percentage; only exactly all of it is "100 %", and only nothing is "0 %"."""
    if whole <= 0:
        return "0 %"
    if part <= 0 or part >= whole:
        return "100 %" if part >= whole else "0 %"
    return f"{min(99, max(1, round(100 * part / whole)))} %"


def token_share(waste: LiveWaste) -> float | None:
    """Share of the held slots that hold tokens; None while nothing is held."""
    held = waste.token_states + waste.reserved
    return waste.token_states / held if held else None


def waste_words(waste: LiveWaste) -> str:
    """The four uses of the pool's slots, in one sentence."""
    total = waste.token_states + waste.reserved + waste.external + waste.free
    parts = (
        (waste.token_states, "hold tokens"),
        (waste.reserved, "are reserved and empty"),
        (waste.external, "are lost to external fragmentation"),
        (waste.free, "are free"),
    )
    listed = ", ".join(f"{count:,} ({percent(count, total)}) {what}" for count, what in parts)
    return f"Of {plural(total, 'slot')}, {listed}."


def blocked_words(page_map: PageMap) -> str:
    """Why the head of the queue waits; empty if nobody has to."""
    if not page_map.waiting:
        return ""
    head = page_map.waiting[0]
    blocked = page_map.blocked
    if blocked is None or blocked.request != head:
        return f"{request_label(head)} is next: memory has just been given back."
    name = request_label(blocked.request)
    if blocked.cause is Cause.MAX_RUNNING:
        return f"{name} waits: {plural(blocked.available, 'request')} may run at once, and all of them do."
    if blocked.cause is Cause.TOKEN_BUDGET:
        return f"{name} waits: the step already computes as many tokens as it may, {blocked.available:,}."
    if blocked.cause is Cause.JUST_PREEMPTED:
        return f"{name} waits: memory ran out in this step, so nobody is let in."
    if page_map.is_paged:
        needed, free = plural(blocked.needed, "page"), plural(blocked.available, "page")
        if blocked.cause is Cause.WATERMARK:
            return f"{name} waits: it needs {needed}; {free} free, kept for the requests that already run."
        return f"{name} waits: it needs {needed}; {free} free."
    needed = f"{blocked.needed:,} slots in one piece"
    return f"{name} waits: it needs {needed}; the largest free piece has {blocked.available:,}."


def map_words(page_map: PageMap) -> str:
    """What the page map shows: the text alternative to the picture."""
    if page_map.run is None:
        return "No run yet."
    waste = page_map.waste()
    kind = "Paged" if page_map.is_paged else "Contiguous"
    pool = f"{plural(page_map.run.num_blocks, 'page')} of {plural(page_map.block_size, 'slot')}"
    sentences = [f"{kind} memory, {pool}, after step {page_map.step}.", waste_words(waste)]
    held = [_holding(page_map, request) for request in page_map.running[:_NAMED]]
    if held:
        more = len(page_map.running) - len(held)
        listed = "; ".join(held) + (f"; and {plural(more, 'more request')}" if more else "")
        sentences.append(f"Running: {listed}.")
    if page_map.waiting:
        sentences.append(f"{plural(len(page_map.waiting), 'request')} waiting. {blocked_words(page_map)}")
    return " ".join(sentences)


def _holding(page_map: PageMap, request: int) -> str:
    state = page_map.sequences.get(page_map.requests[request].sequence)
    name = request_label(request)
    if state is None:
        return f"{name} holds nothing yet"
    tokens = plural(state.num_computed_tokens, "token")
    if state.region is not None:
        return f"{name} {tokens} in a region of {state.region.size:,} slots"
    return f"{name} {tokens} in {plural(len(state.block_table), 'page')}"
