"""Causes in words, and the small tools that all sentences about events are made with."""

from __future__ import annotations

from workbench.events.page_map import PageMap
from workbench.events.types import Cause, Tier

#: What each cause means. A sentence ends with "because <this>".
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
    Cause.HOST_FULL: "the host tier has no room for more pages",
    Cause.RESUMPTION: "a preempted request goes on",
    Cause.FORK: "a sequence split in two, which share what both have in common",
    Cause.COPY_ON_WRITE: "a token had to be stored in a page that others use, too",
    Cause.BEAM_DROPPED: "the beam is not among the best any more",
    Cause.PREFIX_HIT: "the page holds just the tokens with which the sequence begins",
    Cause.PREFIX_EVICTION: "no page was free, so one that was kept for its content gave way",
    Cause.OUT_OF_WINDOW: "it lies behind the sliding window, so no token to come can see it",
    Cause.LARGER_THAN_MEMORY: "the sequence has more pages than the device's pool",
    Cause.SEQUENCE_FINISHED: "the sequence is complete; others of its request go on",
    Cause.REQUEST_FINISHED: "the request is complete",
    Cause.CANCELLED: "the request was cancelled",
    Cause.NEVER_FITS: "it is larger than the whole pool",
}

#: The same where it is known whether memory is paged.
_CAUSES_BY_PAGED: dict[bool | None, dict[Cause, str]] = {
    True: CAUSES | {Cause.POOL_EXHAUSTED: "too few pages are free"},
    False: CAUSES | {Cause.POOL_EXHAUSTED: "no free region is large enough"},
    None: CAUSES,
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


def milliseconds(ns: int) -> str:
    """A duration; what takes less than a millisecond keeps two digits, or is in microseconds."""
    if ns < 100_000:
        return f"{ns / 1e3:.1f} µs"
    return f"{ns / 1e6:.1f} ms" if ns >= 1e6 else f"{ns / 1e6:.2f} ms"


def size(num_bytes: int) -> str:
    """A number of bytes, in KiB or MiB where it is large."""
    if num_bytes < 1 << 14:
        return plural(num_bytes, "byte")
    return f"{num_bytes / 1024:,.0f} KiB" if num_bytes < 1 << 24 else f"{num_bytes / (1 << 20):,.0f} MiB"


def meaning(cause: Cause, paged: bool | None = None) -> str:
    """What a cause means in paged memory, or in contiguous memory; None: in either."""
    return _CAUSES_BY_PAGED[paged][cause]


def because(cause: Cause, explain: bool = True, state: PageMap | None = None, paged: bool | None = None) -> str:
    """``because its last page was full``; without ``explain`` its name in code, ``because decode_growth``.

    Args:
        state, paged: what kind of memory it is about, where that is known.
    """
    if paged is None and state is not None and state.run is not None:
        paged = state.is_paged
    return f"because {meaning(cause, paged) if explain else cause.value}"


def page_name(block: int, tier: Tier = Tier.DEVICE) -> str:
    """``page 7``, or ``host page 7``."""
    return f"host page {block}" if tier is Tier.HOST else f"page {block}"


def page_list(pages: list[int], most: int = 6) -> str:
    """``page 3``, ``pages 3, 4 and 7``; of many only the first ones."""
    if len(pages) == 1:
        return f"page {pages[0]}"
    if len(pages) > most:
        return f"pages {', '.join(map(str, pages[:most]))} and {len(pages) - most} more"
    return f"pages {', '.join(map(str, pages[:-1]))} and {pages[-1]}" if pages else "no page"


def page_place(logical_index: int) -> str:
    """``its logical page 2``: counted from 0, as in block tables."""
    return f"its logical page {logical_index}"


def in_group(group: int, state: PageMap | None) -> str:
    """``, layer group 1`` where there are several."""
    is_one = state is None or state.run is None or len(state.run.group_windows) < 2
    return "" if is_one and not group else f" (layer group {group})"


def sequence_name(sequence: int, state: PageMap | None) -> str:
    """``request 3``; if it has several sequences, ``request 3, sequence 7``; without a state, ``sequence 7``."""
    request = state.request_of(sequence) if state is not None else None
    if request is None:
        return f"sequence {sequence}"
    return member_name(request, sequence, state)


def member_name(request: int, sequence: int, state: PageMap | None) -> str:
    """The same where the request is known anyway."""
    known = state.requests.get(request) if state is not None else None
    is_only = known is None or (known.width < 2 and len(known.outputs) < 2)
    return f"request {request}" if is_only else f"request {request}, sequence {sequence}"
