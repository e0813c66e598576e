"""Block tables: from the pages that a sequence counts, in order, to the pages of the pool in which its tokens lie."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import plotly.graph_objects as go

from workbench.events import PageMap
from workbench.events.types import AnyEvent, BlockCopied, Tier
from workbench.views import block_table_draw as draw
from workbench.views.block_table_parts import (
    Entry,
    check_sequence,
    copies_for,
    copy_words,
    sequence_label,
    table_entries,
)
from workbench.views.palette import DARK, LIGHT, request_color
from workbench.views.view import Cell, Table, View
from workbench.views.words import plural

#: Rows that are drawn; of a longer table the first few and the last ones.
MAX_ROWS, _FIRST_ROWS = 40, 6
_ROW_HEIGHT = 30
#: Rows of the table that goes with the figure.
_MAX_TABLE_ROWS = 512


def block_table_view(
    page_map: PageMap,
    sequence: int,
    group: int = 0,
    events: Iterable[AnyEvent] | None = None,
    dark: bool = False,
    narrow: bool = False,
) -> View:
    """One sequence's block table: a row per logical page with its tokens, joined to the physical page that holds them.

    Pages that other sequences use, too, are framed and say who; pages on the host have strokes; pages that lay behind
    a sliding window are empty and say so.

    Args:
        group: the layer group whose table it is.
        events: those of the step, to show copy-on-write as it happened: from which page to which.
        narrow: for a phone: a page's text in one piece, and fewer words.

    Raises:
        ValueError: the sequence has no such table.
    """
    check_sequence(page_map, sequence, group)
    entries = table_entries(page_map, sequence, group)
    copies = copies_for(events, sequence, group)
    theme = DARK if dark else LIGHT
    color = request_color(page_map.sequences[sequence].request)
    drawn = _chosen(entries, copies)
    rows = {entry.index: row for row, entry in enumerate(drawn)}
    figure = go.Figure(
        [
            *draw.slots(page_map, drawn, color, theme),
            draw.empty_slots(page_map, drawn, theme),
            *draw.physical_pages(page_map, drawn, color, theme, narrow),
            *draw.texts(page_map, sequence, drawn, copies, theme, len(entries), narrow),
            *draw.legend(page_map, drawn, color, theme),
        ],
        _layout(
            theme, max(1, len(drawn)), f"Block table of {sequence_label(page_map, sequence)}, step {page_map.step}"
        ),
    )
    for index, event in copies.items():
        if index in rows:
            draw.draw_copy(figure, rows[index], event, theme, narrow)
    caption = " ".join(
        [_caption(page_map, sequence, group, entries, drawn), *(copy_words(page_map, e) for e in copies.values())]
    )
    return View(figure, caption, _table(page_map, sequence, entries, copies))


def _chosen(entries: Sequence[Entry], copies: dict[int, BlockCopied]) -> list[Entry]:
    """What is drawn: all, or of a long table its ends, with the pages that were just copied."""
    if len(entries) <= MAX_ROWS:
        return list(entries)
    kept = set(range(_FIRST_ROWS)) | set(copies)
    place = len(entries) - 1
    while len(kept) < MAX_ROWS:
        kept.add(place)
        place -= 1
    return [entry for entry in entries if entry.index in kept]


def _caption(page_map: PageMap, sequence: int, group: int, entries: Sequence[Entry], drawn: Sequence[Entry]) -> str:
    name = sequence_label(page_map, sequence)
    held = [entry for entry in entries if entry.tier is not None]
    tokens = sum(entry.filled for entry in held)
    words = f"After step {page_map.step}, {name} has {plural(tokens, 'token')} in {plural(len(held), 'page')}"
    of_run = page_map.run.group_windows if page_map.run is not None else [0]
    if len(of_run) > 1:
        window = f"a window of {plural(of_run[group], 'token')}" if of_run[group] else "no window"
        words += f" of layer group {group}, which has {window}"
    shared, host = sum(bool(entry.others) for entry in held), sum(entry.tier is Tier.HOST for entry in held)
    gone = len(entries) - len(held)
    parts = [words]
    if shared:
        parts.append(f"{shared:,} of them {'is' if shared == 1 else 'are'} shared with other sequences")
    if host:
        parts.append(f"{host:,} of them {'is' if host == 1 else 'are'} on the host")
    if gone:
        parts.append(
            f"{plural(gone, 'more page')} lay behind the sliding window and {'is' if gone == 1 else 'are'} gone"
        )
    left = len(entries) - len(drawn)
    more = f" {plural(left, 'page')} in the middle {'is' if left == 1 else 'are'} not drawn." if left else ""
    return "; ".join(parts) + "." + more


def _layout(theme: dict[str, str], rows: int, title: str) -> dict[str, Any]:
    axis = {"visible": False, "fixedrange": True}
    legend = {"orientation": "h", "x": 0, "y": -0.01, "yanchor": "top", "itemclick": False, "itemdoubleclick": False}
    return {
        "template": "none",
        "title": {"text": title, "font": {"size": 14}},
        "height": 110 + (rows + 1) * _ROW_HEIGHT,
        "margin": {"l": 10, "r": 10, "t": 40, "b": 10},
        "legend": legend,
        "showlegend": True,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": theme["text"]},
        "hovermode": "closest",
        "uirevision": "block_table",
        "xaxis": {**axis, "range": [0, 1]},
        "yaxis": {**axis, "range": [rows, -0.8]},
    }


def _table(page_map: PageMap, sequence: int, entries: Sequence[Entry], copies: dict[int, BlockCopied]) -> Table:
    columns = (
        "Logical page",
        "Tier",
        "Physical page",
        "Slots filled",
        "Sequences",
        "Also used by",
        "Text",
        "Copied from",
    )
    rows: list[list[Cell]] = [
        [
            entry.index,
            entry.tier.value if entry.tier is not None else "gone",
            entry.block if entry.tier is not None else None,
            entry.filled if entry.tier is not None else None,
            entry.page.ref_count if entry.page is not None else None,
            ", ".join(sequence_label(page_map, other) for other in entry.others[:20]),
            "".join(entry.tokens),
            copies[entry.index].source if entry.index in copies else None,
        ]
        for entry in entries[:_MAX_TABLE_ROWS]
    ]
    title = f"Block table of {sequence_label(page_map, sequence)}"
    if len(entries) > len(rows):
        title += f" (the first {len(rows):,} of {plural(len(entries), 'page')})"
    return Table(columns, rows, title)
