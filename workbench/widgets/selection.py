"""What is looked at more closely: a page, or a sequence, and how a page is found under a pointer."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workbench.events import PageMap
from workbench.events.state import Page
from workbench.events.types import Tier
from workbench.views.block_table_parts import names_of, sequence_label
from workbench.views.palette import request_label
from workbench.views.words import plural

_PAGE = re.compile(r"(?:(?:page\s+)?(\d{1,9})|host(?:\s+page)?\s+(\d{1,9}))", re.IGNORECASE)
_SEQUENCE = re.compile(r"(?:request\s+)?([A-Za-z]{1,4})(?:\s*[·.]\s*(\d{1,4}))?")


@dataclass(frozen=True)
class Selection:
    """A page, a sequence, or both: the page decides which sequences can be meant, the sequence which of them is.

    Attributes:
        page: number of the page within its tier; in contiguous memory, of a piece of ``block_size`` slots.
        sequence: whose block table and tokens are shown; None: the page's owner, or the first one that has memory.
    """

    page: int | None = None
    tier: Tier = Tier.DEVICE
    sequence: int | None = None

    @property
    def name(self) -> str:
        """ "page 3", "host page 3" or "" without a page."""
        if self.page is None:
            return ""
        return f"{'host page' if self.tier is Tier.HOST else 'page'} {self.page}"


def check_selection(page_map: PageMap, selection: Selection) -> None:
    """Makes sure that there is such a page.

    Raises:
        ValueError: names the page and what is allowed.
    """
    if selection.page is None or page_map.run is None:
        return
    count = page_map.run.num_host_blocks if selection.tier is Tier.HOST else page_map.run.num_blocks
    if not 0 <= selection.page < count:
        allowed = f"must be from 0 to {count - 1}" if count else "this run has no host tier"
        raise ValueError(f"page={selection.page}: {allowed}")


def parse_selection(text: str, page_map: PageMap) -> Selection | None:
    """What somebody typed: "5", "host 2", "B", "A·2" (or "A.2"); nothing: None.

    Raises:
        ValueError: it is none of those, or there is no such page, or that request has no memory.
    """
    text = text.strip()
    if not text:
        return None
    if (found := _PAGE.fullmatch(text)) is not None:
        selection = Selection(int(found[1])) if found[1] is not None else Selection(int(found[2]), Tier.HOST)
        check_selection(page_map, selection)
        return selection
    if (found := _SEQUENCE.fullmatch(text)) is not None:
        wanted = found[1].upper() + (f"·{found[2]}" if found[2] else "")
        for number, sequence in page_map.sequences.items():
            if wanted in (request_label(sequence.request), sequence_label(page_map, number)):
                return Selection(sequence=number)
        known = ", ".join(sequence_label(page_map, number) for number in list(page_map.sequences)[:12]) or "none"
        raise ValueError(f"{text!r}: has no memory in this step; those that do: {known}")
    raise ValueError(f"{text!r}: must be a page (5), a page of the host tier (host 2) or a request (B, A·2)")


def users_of(page_map: PageMap, selection: Selection) -> list[int]:
    """The sequences that use the selected page, its owner first."""
    page, tier = selection.page, selection.tier
    found = []
    for number, sequence in page_map.sequences.items():
        if sequence.region is not None and page is not None and tier is Tier.DEVICE:
            first = page * page_map.block_size
            if (
                sequence.region.start < first + page_map.block_size
                and first < sequence.region.start + sequence.region.size
            ):
                found.append(number)
        for table in sequence.tables:
            if page in (table.blocks if tier is Tier.DEVICE else table.host.values()):
                found.append(number)
                break
    held = page_of(page_map, selection)
    return sorted(found, key=lambda number: held is None or number != held.owner)


def page_of(page_map: PageMap, selection: Selection) -> Page | None:
    """The selected page; None in contiguous memory, which has none, and without one."""
    pages = page_map.host_pages if selection.tier is Tier.HOST else page_map.pages
    return pages[selection.page] if selection.page is not None and selection.page < len(pages) else None


def sequence_of(page_map: PageMap, selection: Selection | None) -> tuple[int | None, int]:
    """The sequence to show, and the layer group of its table; None: nobody has memory, or not the selected page."""
    selection = selection or Selection()
    page = page_of(page_map, selection)
    group = page.group if page is not None and page.ref_count else 0
    if selection.page is not None:
        users = users_of(page_map, selection)
        if selection.sequence in users:
            return selection.sequence, group
        return (users[0] if users else None), group
    if selection.sequence is not None:
        return (selection.sequence if selection.sequence in page_map.sequences else None), 0
    return next(iter(page_map.sequences), None), 0


def selection_words(page_map: PageMap, selection: Selection | None) -> str:
    """How the selected page is, in a sentence; "" without one."""
    if selection is None or selection.page is None:
        return ""
    name, users = selection.name.capitalize(), users_of(page_map, selection)
    page = page_of(page_map, selection)
    if page is None:
        size = page_map.block_size
        where = f"Slots {selection.page * size:,} to {(selection.page + 1) * size - 1:,} are selected"
        return f"{where}: they lie in the memory of {names_of(page_map, users)}." if users else f"{where}: free."
    if page.is_cached:
        return f"{name} is selected: nobody has it, its {plural(page.filled, 'token')} are kept for reuse."
    if not page.ref_count:
        return f"{name} is selected: it is free."
    filled = f"{page.filled} of {page_map.block_size} slots filled"
    shared = f", used by {plural(page.ref_count, 'sequence')} ({names_of(page_map, users)})"
    owner = names_of(page_map, users[:1]) if users else "somebody"
    who = f"logical page {page.logical_index} of {owner}"
    return f"{name} is selected: {who}{shared if page.ref_count > 1 else ''}, {filled}."


def page_under(meta: Mapping[str, Any] | None, x: float, y: float) -> Selection | None:
    """The page at a point of a page map; of a cell that stands for several pages, the first one.

    Args:
        meta: the figure's ``layout.meta``; None where there is no run yet.
        x, y: in cells.
    """
    column, row = int(x), int(y)
    if meta is None:
        return None
    for tier in meta["tiers"]:
        if not (0 <= column < meta["columns"] and 0 <= row - tier["first_row"] < tier["rows"]):
            continue
        cell = (row - tier["first_row"]) * meta["columns"] + column
        offset = cell * meta["pages_per_cell"]
        if offset < tier["pages"]:
            kind = Tier.HOST if tier["kind"] == "host_page" else Tier.DEVICE
            return Selection(tier["first_page"] + offset, kind)
    return None


def place_of(meta: Mapping[str, Any] | None, selection: Selection) -> tuple[int, int] | None:
    """Column and row of a page's cell; None: it is not in the picture. The inverse of `page_under`."""
    kind = "host_page" if selection.tier is Tier.HOST else "page"
    if meta is None:
        return None
    for tier in meta["tiers"]:
        if selection.page is not None and tier["kind"] == kind:
            offset = selection.page - tier["first_page"]
            if 0 <= offset < tier["pages"]:
                row, column = divmod(offset // meta["pages_per_cell"], meta["columns"])
                return column, row + tier["first_row"]
    return None
