"""A page map in words and as rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from workbench.events import PageMap
from workbench.events.types import Tier
from workbench.views.page_map_cells import Level
from workbench.views.page_map_columns import CACHED, FREE, STATE_WORDS, Columns
from workbench.views.page_map_modes import Mode
from workbench.views.palette import request_label
from workbench.views.view import Cell, Table
from workbench.views.words import CAUSE_WORDS, percent, plural

#: Pages up to which each has a row of the table; of more, neighbours that are alike share one.
MAX_PAGE_ROWS = 512
#: Rows that a table has at most.
MAX_ROWS = 600

_MODE_WORDS = {
    "request": "Colours and letters name the requests.",
    "refs": "Colours and numbers say how many sequences use a page.",
    "fill": "Colours and numbers say how much of a page is filled.",
    "age": "Colours and numbers say how many steps ago a page was taken, moved or given back.",
    "mass": "Colours and numbers say how much of the newest token's attention a page got, where that was measured.",
    "cause": "Colours and letters say why a page was taken, moved or given back last.",
}


def _are(count: int) -> str:
    return "is" if count <= 1 else "are"


def _some(count: int) -> str:
    return f"{count:,}" if count else "none"


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]


def map_caption(
    page_map: PageMap, tiers: Sequence[Columns], mode: Mode, level: Level, window: tuple[int, int] | None
) -> list[str]:
    """Sentences that are true of exactly what is drawn."""
    sentences = [f"After step {page_map.step}: {_tier_words(tiers[0], window, page_map.is_paged)}"]
    sentences += [_sentence(_tier_words(tier, None, True)) for tier in tiers[1:]]
    if mode.name in ("cause", "mass") and not page_map.is_paged:
        sentences.append("Contiguous memory has no pages of its own, so this is not known of it.")
    elif mode.name == "mass" and all(bool(np.isnan(tier.mass).all()) for tier in tiers):
        sentences.append("Attention was not sampled, so its share is not known of any page.")
    else:
        sentences.append(_MODE_WORDS[mode.name])
    if level.per_cell > 1:
        shown = "their mean" if mode.is_mean else "what most of them are"
        sentences.append(f"A cell stands for {level.per_cell} pages and shows {shown}; zoom in to see every page.")
    elif level.slots == 1:
        sentences.append("A cell is a page.")
    return sentences


def _tier_words(columns: Columns, window: tuple[int, int] | None, paged: bool) -> str:
    place = "on the host" if columns.tier is Tier.HOST else "on the device"
    subject = f"of {plural(len(columns), 'page')} {place}"
    if window is not None:
        subject = f"of {'host pages' if columns.tier is Tier.HOST else 'pages'} {window[0]:,} to {window[1]:,}"
    if not paged:
        return _slot_words(columns, "" if window is None else f", those{subject[2:]}")
    total, used = len(columns), int(columns.in_use.sum())
    words = f"{subject}, {_some(used)} ({percent(used, total)}) {_are(used)} in use"
    if shared := int((columns.refs > 1).sum()):
        words += f", {shared:,} of them shared by several sequences"
    if cached := int((columns.state == CACHED).sum()):
        words += f", {cached:,} {_are(cached)} kept for reuse"
    free = int((columns.state == FREE).sum())
    return f"{words}, {_some(free)} {_are(free)} free."


def _slot_words(columns: Columns, place: str) -> str:
    """Contiguous memory is counted in slots: regions need not end where a page would."""
    total, tokens = len(columns) * columns.size, int(columns.filled.sum())
    reserved, owned = int((columns.held - columns.filled).sum()), int((columns.state != FREE).sum()) * columns.size
    lost, free = owned - tokens - reserved, total - owned
    parts = [
        f"{_some(tokens)} ({percent(tokens, total)}) {'holds a token' if tokens <= 1 else 'hold tokens'}",
        f"{_some(reserved)} {_are(reserved)} reserved and empty",
        f"{_some(lost)} {_are(lost)} lost to rounding",
    ]
    return f"of {plural(total, 'slot')}{place}, {', '.join(parts)}, {_some(free)} {_are(free)} free."


def map_table(
    page_map: PageMap, tiers: Sequence[Columns], mode: Mode, places: dict[int, int], order: str | None
) -> Table:
    """A row per page, or per run of neighbours that are alike in state, request and number of sequences."""
    names = ["Tier", "First page", "Last page", "State", "Request", "Sequences", "Slots filled"]
    names += ["Taken, moved or given back (step)", "Why"]
    has_mass = any(not bool(np.isnan(tier.mass).all()) for tier in tiers)
    if has_mass:
        names.append("Attention")
    if order is not None:
        names.append("Handed out" if order == "free" else "Gives way")
    single = sum(map(len, tiers)) <= MAX_PAGE_ROWS
    rows: list[list[Cell]] = []
    total = 0
    for number, columns in enumerate(tiers):
        begins = _run_begins(columns, single)
        total += len(begins)
        ends = np.append(begins[1:], len(columns))
        for first, stop in list(zip(begins.tolist(), ends.tolist(), strict=True))[: max(0, MAX_ROWS - len(rows))]:
            row = _row(columns, first, stop)
            if has_mass:
                known = columns.mass[first:stop][~np.isnan(columns.mass[first:stop])]
                row.append(round(float(known.mean()), 4) if len(known) else None)
            if order is not None:
                found = [places[page + columns.first] for page in range(first, stop) if page + columns.first in places]
                row.append(min(found) if number == 0 and found else None)
            rows.append(row)
    title = f"Pages after step {page_map.step}" + ("" if single else ", neighbours that are alike together")
    if total > len(rows):
        title += f" (the first {len(rows):,} of {plural(total, 'row')})"
    return Table(names, rows, title)


def _run_begins(columns: Columns, single: bool) -> np.ndarray:
    begins = np.ones(len(columns), bool)
    if not single:
        alike = [values[1:] == values[:-1] for values in (columns.state, columns.request, columns.refs)]
        begins[1:] = ~np.logical_and.reduce(alike)
    return np.flatnonzero(begins)


def _row(columns: Columns, first: int, stop: int) -> list[Cell]:
    request, used = int(columns.request[first]), bool(columns.in_use[first])
    causes = sorted(set(columns.cause[first:stop]))
    latest = int(columns.since[first:stop].max())
    return [
        columns.tier.value,
        columns.first + first,
        columns.first + stop - 1,
        STATE_WORDS[int(columns.state[first])],
        request_label(request) if request >= 0 else "",
        int(columns.refs[first]),
        int(columns.filled[first:stop].sum()) if used or columns.state[first] == CACHED else 0,
        latest if used or latest else None,
        (CAUSE_WORDS[causes[0]] if causes != [""] else "") if len(causes) == 1 else "several causes",
    ]
