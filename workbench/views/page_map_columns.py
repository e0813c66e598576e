"""A tier's pages as columns of numbers: what the page map is computed from, for eight pages or a hundred thousand."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from workbench.events import PageMap
from workbench.events.state import Page
from workbench.events.types import Tier
from workbench.views.palette import CAUSE_FAMILIES

#: States of a page, as they are numbered in `Columns.state`.
FREE, CACHED, TOKENS, RESERVED, ROUNDING = range(5)
STATE_WORDS = ("free", "kept for reuse", "in use", "in use, still empty", "lost to rounding")

_FAMILY = {cause: number for number, (*_, causes) in enumerate(CAUSE_FAMILIES) for cause in causes}

Ints = np.ndarray[tuple[int], np.dtype[np.int64]]


@dataclass(frozen=True)
class Columns:
    """Pages ``first`` to ``first + len(state) - 1`` of a tier, one entry of every column per page.

    Attributes:
        size: slots of a page.
        state: `FREE`, `CACHED`, `TOKENS` (in use, something in it), `RESERVED` (in use, empty) or `ROUNDING`.
        refs: sequences that use the page.
        filled: slots with tokens in a page that is in use or cached.
        held: slots that belong to its sequence, filled or not; fewer than ``size`` only in contiguous memory.
        request: a request that uses it, or -1.
        since: step of its last change; family: which of `CAUSE_FAMILIES` brought it about, -1 if nothing has yet.
        cause: that cause by name; not known in contiguous memory.
        mass: attention that the page got when last sampled, the largest of its sequences'; NaN where it was not.
    """

    tier: Tier
    first: int
    size: int
    state: Ints
    refs: Ints
    filled: Ints
    held: Ints
    request: Ints
    since: Ints
    family: Ints
    cause: list[str]
    mass: np.ndarray

    def __len__(self) -> int:
        return len(self.state)

    @property
    def in_use(self) -> np.ndarray:
        return (self.state == TOKENS) | (self.state == RESERVED)

    @property
    def noun(self) -> str:
        return "host page" if self.tier is Tier.HOST else "page"


def tier_columns(page_map: PageMap, tier: Tier = Tier.DEVICE, window: tuple[int, int] | None = None) -> Columns:
    """The pages of a tier, or those from ``window[0]`` to ``window[1]``.

    Raises:
        ValueError: the tier has no such pages.
    """
    count = _num_pages(page_map, tier)
    first, last = window if window is not None else (0, count - 1)
    if not (0 <= first <= last < count) and window is not None:
        raise ValueError(f"window={window}: must be two pages in order, from 0 to {count - 1}")
    if not page_map.is_paged:
        return _contiguous(page_map, first, last + 1)
    pages = (page_map.pages if tier is Tier.DEVICE else page_map.host_pages)[first : last + 1]
    return _paged(page_map, pages, tier, first)


def _num_pages(page_map: PageMap, tier: Tier) -> int:
    if tier is Tier.HOST:
        return len(page_map.host_pages)
    return page_map.run.num_blocks if page_map.run is not None else 0


def _ints(values: Iterable[int], count: int) -> Ints:
    return np.fromiter(values, np.int64, count)


def _paged(page_map: PageMap, pages: list[Page], tier: Tier, first: int) -> Columns:
    count, size = len(pages), page_map.block_size
    requests = {-1: -1} | {name: sequence.request for name, sequence in page_map.sequences.items()}
    refs = _ints((page.ref_count for page in pages), count)
    filled = _ints((page.filled for page in pages), count)
    cause = [page.cause for page in pages]
    hashed = np.fromiter((page.hash != "" for page in pages), bool, count)
    used = refs > 0
    state = np.where(used, np.where(filled > 0, TOKENS, RESERVED), np.where(hashed, CACHED, FREE))
    return Columns(
        tier,
        first,
        size,
        state,
        refs,
        filled,
        np.where(used, size, 0),
        np.where(used, _ints((requests.get(page.owner, -1) for page in pages), count), -1),
        _ints((page.since_step for page in pages), count),
        _ints((_FAMILY.get(name, -1) for name in cause), count),  # type: ignore[call-overload]
        cause,
        _mass(page_map, tier, first, count),
    )


def _mass(page_map: PageMap, tier: Tier, first: int, count: int) -> np.ndarray:
    mass = np.full(count, np.nan)
    for sequence in page_map.sequences.values():
        if not sequence.mass or not sequence.tables:
            continue
        table = sequence.tables[0]
        places = enumerate(table.blocks) if tier is Tier.DEVICE else table.host.items()
        for index, block in places:
            if first <= block < first + count and index < len(sequence.mass):
                mass[block - first] = np.fmax(mass[block - first], sequence.mass[index])
    return mass


def _contiguous(page_map: PageMap, first: int, stop: int) -> Columns:
    """The arena in pieces of the smallest region's size. No piece belongs to two regions."""
    size, count = page_map.block_size, max(0, stop - first)
    state = np.full(count, FREE)
    refs, filled, held, since = (np.zeros(count, np.int64) for _ in range(4))
    request = np.full(count, -1)
    starts = np.arange(first, stop) * size
    for sequence in page_map.sequences.values():
        region = sequence.region
        if region is None:
            continue
        # Regions begin and end at multiples of the smallest one's size; written so that others do no harm.
        low, high = region.start // size - first, -(-(region.start + region.size) // size) - first
        part = slice(max(0, low), max(0, min(count, high)))
        inside = starts[part]
        request[part], refs[part], since[part] = sequence.request, 1, region.since_step
        filled[part] = np.clip(region.start + region.filled - inside, 0, size)
        held[part] = np.clip(region.start + region.requested - inside, 0, size)
        state[part] = np.where(filled[part] > 0, TOKENS, np.where(held[part] > 0, RESERVED, ROUNDING))
    unknown = np.full(count, -1)
    nothing = np.full(count, np.nan)
    return Columns(Tier.DEVICE, first, size, state, refs, filled, held, request, since, unknown, [""] * count, nothing)
