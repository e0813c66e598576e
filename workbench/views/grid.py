"""Where every slot of the pool is drawn: pages in rows, the slots of a page side by side.

Paged and contiguous memory are drawn on the same grid, so that equal areas are equal bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from workbench.events import PageMap
from workbench.events.types import Cause, Tier


class Use(StrEnum):
    """What a run of slots is used for."""

    TOKENS = "tokens"  #: holds keys and values
    RESERVED = "reserved"  #: belongs to a running request, still empty
    ROUNDING = "rounding"  #: lost to the buddy allocator's powers of two
    FREE = "free"
    CACHED = "kept for reuse"  #: belongs to nobody, but its content may be wanted again


@dataclass(frozen=True)
class Span:
    """``length`` neighbouring slots from ``start`` that are used alike. ``request`` is -1 where nobody owns them.

    ``refs`` sequences use the page.
    """

    start: int
    length: int
    use: Use
    request: int
    refs: int = 1


def grid_columns(num_blocks: int) -> int:
    """Pages per row: a power of two, so that regions of a buddy allocator line up, with cells wider than high."""
    columns = 1
    while columns * columns * 2 < num_blocks:
        columns *= 2
    return columns


def spans(page_map: PageMap, tier: Tier = Tier.DEVICE) -> list[Span]:
    """A whole tier as spans, in the order of the slots. In paged memory no span crosses the edge of a page."""
    return _paged_spans(page_map, tier) if page_map.is_paged else _contiguous_spans(page_map)


def _paged_spans(page_map: PageMap, tier: Tier) -> list[Span]:
    size = page_map.block_size
    result = []
    for block, page in enumerate(page_map.pages if tier is Tier.DEVICE else page_map.host_pages):
        start = block * size
        if page.ref_count == 0:
            result.append(Span(start, size, Use.CACHED if page.is_cached else Use.FREE, -1, 0))
            continue
        request = page_map.sequences[page.owner].request
        if page.filled:
            result.append(Span(start, page.filled, Use.TOKENS, request, page.ref_count))
        if page.filled < size:
            result.append(Span(start + page.filled, size - page.filled, Use.RESERVED, request, page.ref_count))
    return result


def _contiguous_spans(page_map: PageMap) -> list[Span]:
    result = []
    position = 0
    owned = [(s.region, s.request) for s in page_map.sequences.values() if s.region is not None]
    for region, request in sorted(owned, key=lambda pair: pair[0].start):
        parts = (
            (region.start - position, Use.FREE, -1),
            (region.filled, Use.TOKENS, request),
            (region.requested - region.filled, Use.RESERVED, request),
            (region.size - region.requested, Use.ROUNDING, request),
        )
        for length, use, owner in parts:
            if length:
                result.append(Span(position, length, use, owner))
                position += length
    if position < page_map.num_slots:
        result.append(Span(position, page_map.num_slots - position, Use.FREE, -1))
    return result


def is_starved(page_map: PageMap) -> bool:
    """Whether the head of the queue waits although slots are free: none of the free pieces is large enough for it."""
    return not page_map.is_paged and page_map.blocked is not None and page_map.blocked.cause is Cause.POOL_EXHAUSTED
