"""What the pictures show, in words: for screen readers, for captions, and for people who prefer to read."""

from __future__ import annotations

from workbench.events import Cause, LiveWaste, PageMap
from workbench.events.holdings import Holding, holdings
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
    Cause.HOST_FULL: "the host tier was full",
    Cause.RESUMPTION: "its request was swapped in again",
    Cause.FORK: "a sequence split in two, which share it",
    Cause.COPY_ON_WRITE: "copied, because the page was shared and had to be written to",
    Cause.BEAM_DROPPED: "its beam was dropped",
    Cause.PREFIX_HIT: "found in the prefix cache",
    Cause.PREFIX_EVICTION: "evicted from the prefix cache",
    Cause.OUT_OF_WINDOW: "no longer within the sliding window",
    Cause.LARGER_THAN_MEMORY: "moved to the host, because its sequence is larger than the device's pool",
    Cause.SEQUENCE_FINISHED: "its sequence finished",
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
    """The uses of the pool's slots, in one sentence."""
    total = waste.token_states + waste.reserved + waste.external + waste.free + waste.cached
    parts = [
        (waste.token_states, "hold tokens"),
        (waste.reserved, "are reserved and empty"),
        (waste.external, "are lost to external fragmentation"),
        (waste.free, "are free"),
    ]
    if waste.cached:
        parts.append((waste.cached, "are kept for reuse (cached)"))
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
            # What is kept free so that those that run can grow is part of the event's number.
            return f"{name} waits: with what is kept for the requests that already run, {needed} would do; {free} free."
        return f"{name} waits: it needs {needed}; {free} free."
    needed = f"{blocked.needed:,} slots in one piece"
    return f"{name} waits: it needs {needed}; the largest free piece has {blocked.available:,}."


def map_words(page_map: PageMap) -> str:
    """What the page map shows: the text alternative to the picture."""
    if page_map.run is None:
        return "No run yet."
    waste = page_map.waste()
    kind = "paged" if page_map.is_paged else "contiguous"
    pool = f"{plural(page_map.run.num_blocks, 'page')} of {plural(page_map.block_size, 'slot')}"
    sentences = [f"After step {page_map.step}: {kind} memory, {pool}.", waste_words(waste)]
    held = holdings(page_map)
    named = [_holding(page_map, request, held.get(request)) for request in page_map.running[:_NAMED]]
    if named:
        more = len(page_map.running) - len(named)
        listed = "; ".join(named) + (f"; and {plural(more, 'more request')}" if more else "")
        sentences.append(f"Running: {listed}.")
    sentences += [text for text in (sharing_words(page_map), host_words(page_map, held)) if text]
    if page_map.waiting:
        sentences.append(f"{plural(len(page_map.waiting), 'request')} waiting. {blocked_words(page_map)}")
    return " ".join(sentences)


def sharing_words(page_map: PageMap) -> str:
    """What sharing saves; empty if no page is shared."""
    named, used = page_map.sharing()
    if named == used:
        return ""
    shared = sum(page.ref_count > 1 for page in page_map.pages)
    verb = "is" if shared == 1 else "are"
    saved = f"{plural(named - used, 'page')} saved ({percent(named - used, named)})"
    return f"{plural(shared, 'page')} {verb} shared: {saved}."


def host_words(page_map: PageMap, held: dict[int, Holding]) -> str:
    """What lies in the host tier; empty if there is none."""
    if not page_map.host_pages:
        return ""
    used = sum(page.ref_count > 0 for page in page_map.host_pages)
    words = f"Host tier: {used:,} of {plural(len(page_map.host_pages), 'page')} in use"
    there = [(request, holding.host_pages) for request, holding in held.items() if holding.host_pages]
    listed = "; ".join(f"{request_label(request)} {plural(pages, 'page')}" for request, pages in there[:_NAMED])
    more = len(there) - _NAMED
    return (
        words + (f": {listed}" if listed else "") + (f"; and {plural(more, 'more request')}" if more > 0 else "") + "."
    )


def _holding(page_map: PageMap, request: int, holding: Holding | None) -> str:
    name = request_label(request)
    if holding is None:
        return f"{name} holds nothing yet"
    tokens = plural(holding.tokens, "token")
    if holding.region is not None:
        return f"{name} {tokens} in a region of {holding.region.size:,} slots"
    words = f"{name} {tokens} in {plural(holding.pages, 'page')}"
    if holding.host_pages:
        words += f" and {plural(holding.host_pages, 'host page')}"
    if holding.shared:
        words += f", {holding.shared:,} of them shared"
    return words + (f" ({holding.sequences} sequences)" if holding.sequences > 1 else "")
