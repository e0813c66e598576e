"""The block tables of one request's sequences, all of them pointing to the same physical pages, each drawn once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.events import PageMap
from workbench.events.types import Tier
from workbench.views.block_table_parts import (
    Entry,
    names_of,
    sequence_label,
    table_entries,
    users_of_pages,
    visible_text,
)
from workbench.views.palette import DARK, LIGHT, REQUEST_COLORS, mix, request_label, text_color
from workbench.views.view import Cell, Table, View
from workbench.views.words import plural

#: Rows of logical pages up to which each page has one; else pages that the same sequences use have one together.
_MAX_SINGLE_ROWS = 32
#: Sequences whose tables are drawn, and rows in all.
_MAX_SEQUENCES, _MAX_ROWS = 12, 60
_MAX_TABLE_ROWS = 512
_ROW_HEIGHT = 26
_LEFT, _RIGHT = (0.0, 0.42), (0.68, 1.0)


@dataclass(frozen=True)
class _Run:
    """Neighbouring logical pages of a sequence that are in the same tier and used by the same sequences."""

    sequence: int
    entries: tuple[Entry, ...]

    @property
    def key(self) -> tuple[tuple[Tier, int], ...]:
        return tuple((entry.tier, entry.block) for entry in self.entries if entry.tier is not None)


def block_tables_view(
    page_map: PageMap, request: int, group: int = 0, dark: bool = False, narrow: bool = False
) -> View:
    """The block tables of all sequences of a request. Each physical page is drawn once, and every table that has it
    points to it.

    Of many pages, neighbours that the same sequences use are drawn together; of many sequences, the first twelve.

    Args:
        narrow: for a phone: fewer words.

    Raises:
        ValueError: the request has no pages, or no such layer group.
    """
    sequences = _sequences(page_map, request, group)
    users = users_of_pages(page_map, group)
    shown = sequences[:_MAX_SEQUENCES]
    tables = {name: table_entries(page_map, name, group, users) for name in sequences}
    single = sum(len(tables[name]) for name in shown) <= _MAX_SINGLE_ROWS
    runs = [run for name in shown for run in _runs(name, tables[name], single)]
    drawn = runs[:_MAX_ROWS]
    theme = DARK if dark else LIGHT
    title = f"Block tables of request {request_label(request)}, step {page_map.step}"
    figure = _figure(page_map, drawn, users, theme, title, narrow)
    caption = _caption(page_map, request, sequences, tables, drawn, len(shown))
    return View(figure, caption, _table(page_map, request, sequences, tables))


def _sequences(page_map: PageMap, request: int, group: int) -> list[int]:
    if not page_map.is_paged:
        raise ValueError("memory: must be paged, contiguous memory has no block tables")
    groups = len(page_map.run.group_windows) if page_map.run is not None else 0
    if not 0 <= group < groups:
        raise ValueError(f"group={group}: must be from 0 to {groups - 1}")
    names = [
        name
        for name, sequence in page_map.sequences.items()
        if sequence.request == request and group < len(sequence.tables)
    ]
    if not names:
        known = sorted({sequence.request for sequence in page_map.sequences.values()})
        listed = ", ".join(map(str, known[:20])) or "none"
        raise ValueError(f"request={request}: must be one that holds pages ({listed})")
    return sorted(names)


def _runs(sequence: int, entries: Sequence[Entry], single: bool) -> list[_Run]:
    runs: list[list[Entry]] = []
    for entry in entries:
        before = runs[-1][-1] if runs else None
        together = before is not None and (before.tier, _users(before, sequence)) == (
            entry.tier,
            _users(entry, sequence),
        )
        if together and not single:
            runs[-1].append(entry)
        else:
            runs.append([entry])
    return [_Run(sequence, tuple(run)) for run in runs]


def _users(entry: Entry, sequence: int) -> frozenset[int]:
    return frozenset((*entry.others, sequence))


def _figure(
    page_map: PageMap,
    runs: Sequence[_Run],
    users: dict[tuple[Tier, int], list[int]],
    theme: dict[str, str],
    title: str,
    narrow: bool,
) -> go.Figure:
    """Tables on the left, pages on the right, and lines between them, with a colour for each table."""
    left: list[tuple[float, _Run]] = []
    headings: list[tuple[float, str]] = []
    y = 0.0
    for number, run in enumerate(runs):
        if number == 0 or run.sequence != runs[number - 1].sequence:
            headings.append((y + 0.5, sequence_label(page_map, run.sequence)))
            y += 1
        left.append((y + 0.5, run))
        y += 1
    order = list(dict.fromkeys(run.key for _, run in left if run.key))  # by their first use
    height = max(y, 1.0)
    places = {key: (number + 0.5) * height / len(order) for number, key in enumerate(order)}
    names = list(dict.fromkeys(run.sequence for run in runs))
    colors = {name: REQUEST_COLORS[number % len(REQUEST_COLORS)] for number, name in enumerate(names)}
    traces = [_links(page_map, name, left, places, colors[name], number) for number, name in enumerate(names)]
    traces += _boxes(left, places, users, colors, theme)
    traces += _labels(page_map, left, places, users, headings, colors, theme, narrow)
    return go.Figure(traces, _layout(theme, height, title))


def _links(
    page_map: PageMap,
    sequence: int,
    left: list[tuple[float, _Run]],
    places: dict[tuple[tuple[Tier, int], ...], float],
    color: str,
    number: int,
) -> go.Scatter:
    """One table's pointers. Colours repeat after seven tables: dashes tell the next seven."""
    x: list[float | None] = []
    y: list[float | None] = []
    bend = np.linspace(0, 1, 13)
    smooth = bend * bend * (3 - 2 * bend)
    for at, run in left:
        if run.sequence == sequence and run.key:
            x += [*(_LEFT[1] + (_RIGHT[0] - _LEFT[1]) * bend).round(4).tolist(), None]
            y += [*(at + (places[run.key] - at) * smooth).round(3).tolist(), None]
    dash = ("solid", "dash")[number // len(REQUEST_COLORS) % 2]
    line = {"color": color, "width": 2.5, "dash": dash}
    name = sequence_label(page_map, sequence)
    return go.Scatter(x=x, y=y, mode="lines", line=line, name=name, hoverinfo="skip", showlegend=True)


def _boxes(
    left: list[tuple[float, _Run]],
    places: dict[tuple[tuple[Tier, int], ...], float],
    users: dict[tuple[Tier, int], list[int]],
    colors: dict[int, str],
    theme: dict[str, str],
) -> list[go.Scatter]:
    """Boxes of equal look in one trace: rows of the tables, pages of one sequence, pages of several."""
    kinds: dict[tuple[str, int], tuple[list[float | None], list[float | None]]] = {}

    def box(kind: tuple[str, int], ends: tuple[float, float], y: float) -> None:
        x_of, y_of = kinds.setdefault(kind, ([], []))
        x_of += [ends[0], ends[1], ends[1], ends[0], ends[0], None]
        y_of += [y - 0.4, y - 0.4, y + 0.4, y + 0.4, y - 0.4, None]

    for at, run in left:
        color = mix(colors[run.sequence], theme["free"], 0.4) if run.key else theme["free"]
        box((color, 1), _LEFT, at)
    for key, at in places.items():
        box((theme["cached"], 3 if len(users[key[0]]) > 1 else 1), _RIGHT, at)
    return [
        go.Scatter(
            x=x,
            y=y,
            mode="lines",
            fill="toself",
            fillcolor=color,
            line={"color": theme["text"], "width": width},
            hoverinfo="skip",
            showlegend=False,
            name="boxes",
        )
        for (color, width), (x, y) in kinds.items()
    ]


def _labels(
    page_map: PageMap,
    left: list[tuple[float, _Run]],
    places: dict[tuple[tuple[Tier, int], ...], float],
    users: dict[tuple[Tier, int], list[int]],
    headings: list[tuple[float, str]],
    colors: dict[int, str],
    theme: dict[str, str],
    narrow: bool,
) -> list[go.Scatter]:
    def texts(x: float, rows: list[tuple[float, str]], color: str, **more: Any) -> go.Scatter:
        font = {"color": color, "size": 12}
        options = {"mode": "text", "textposition": "middle right", "hoverinfo": "skip", "showlegend": False, **more}
        return go.Scatter(
            x=[x] * len(rows), y=[y for y, _ in rows], text=[text for _, text in rows], textfont=font, **options
        )

    by_color: dict[str, list[tuple[float, str]]] = {}
    for at, run in left:
        color = mix(colors[run.sequence], theme["free"], 0.4) if run.key else theme["free"]
        by_color.setdefault(text_color(color), []).append((at, _row_text(run, narrow)))
    pages = [(at, _node_text(page_map, key, users[key[0]], narrow)) for key, at in places.items()]
    clicks = [["host_page" if key[0][0] is Tier.HOST else "page", key[0][1]] for key in places]
    return [
        texts(_LEFT[0], [(y, f"<b>{name}</b>") for y, name in headings], theme["text"], name="headings"),
        *(texts(_LEFT[0] + 0.005, rows, color, name="tables") for color, rows in by_color.items()),
        texts(_RIGHT[0] + 0.005, pages, text_color(theme["cached"]), customdata=clicks, name="pages", hoverinfo="text"),
    ]


def _row_text(run: _Run, narrow: bool) -> str:
    first, last = run.entries[0].index, run.entries[-1].index
    name = f"page {first}" if first == last else f"pages {first} to {last}"
    if narrow:
        name = str(first) if first == last else f"{first}–{last}"
    if not run.key:
        return f"{name}: behind the window, gone"
    text = "".join("".join(entry.tokens) for entry in run.entries)
    return f"{name}: “{visible_text(text, 15 if narrow else 36)}”" if text else name


def _node_text(page_map: PageMap, key: tuple[tuple[Tier, int], ...], users: Sequence[int], narrow: bool) -> str:
    noun = "host page" if key[0][0] is Tier.HOST else "page"
    blocks = [str(block) for _, block in key]
    if narrow and len(key) > 1:
        return f"<b>{len(key)} {noun}s</b> ×{len(users)}"
    name = f"<b>{noun} {blocks[0]}</b>" if len(key) == 1 else f"<b>{len(key)} {noun}s</b>: {', '.join(blocks[:4])}"
    name += ", …" if len(blocks) > 4 else ""
    if len(users) == 1:
        return name
    return f"{name} ×{len(users)}" + (f" ({names_of(page_map, users, 3)})" if len(key) == 1 and not narrow else "")


def _caption(
    page_map: PageMap,
    request: int,
    sequences: Sequence[int],
    tables: dict[int, list[Entry]],
    drawn: Sequence[_Run],
    num_shown: int,
) -> str:
    entries = [entry for name in sequences for entry in tables[name] if entry.tier is not None]
    different = len({(entry.tier, entry.block) for entry in entries})
    words = f"After step {page_map.step}, {plural(len(sequences), 'sequence')} of request {request_label(request)} "
    words += f"{'has' if len(sequences) == 1 else 'have'} {plural(len(entries), 'page')} in "
    words += f"{'its table' if len(sequences) == 1 else 'their tables'}"
    if different == len(entries):
        words += "; none of them is shared among them."
    else:
        saved = len(entries) - different
        words += f", but these are only {plural(different, 'physical page')}: {plural(saved, 'page')} saved by sharing."
    if len(sequences) > num_shown:
        left = len(sequences) - num_shown
        words += f" {plural(left, 'more table')} {'is' if left == 1 else 'are'} not drawn."
    total = sum(len(tables[name]) for name in sequences[:num_shown])
    left = total - sum(len(run.entries) for run in drawn)
    if left:
        words += f" {plural(left, 'row')} of those that are drawn {'is' if left == 1 else 'are'} left out."
    return words


def _table(page_map: PageMap, request: int, sequences: Sequence[int], tables: dict[int, list[Entry]]) -> Table:
    rows: list[list[Cell]] = []
    for name in sequences:
        for entry in tables[name]:
            text = "".join(entry.tokens)
            block = entry.block if entry.tier is not None else None
            refs = entry.page.ref_count if entry.page is not None else None
            tier = entry.tier.value if entry.tier is not None else "gone"
            rows.append([sequence_label(page_map, name), entry.index, tier, block, refs, text])
    title = f"Block tables of request {request_label(request)}"
    if len(rows) > _MAX_TABLE_ROWS:
        title += f" (the first {_MAX_TABLE_ROWS:,} of {plural(len(rows), 'row')})"
    columns = ("Sequence", "Logical page", "Tier", "Physical page", "Sequences that use it", "Text")
    return Table(columns, rows[:_MAX_TABLE_ROWS], title)


def _layout(theme: dict[str, str], height: float, title: str) -> dict[str, Any]:
    axis = {"visible": False, "fixedrange": True}
    legend = {"orientation": "h", "x": 0, "y": -0.01, "yanchor": "top", "itemclick": False, "itemdoubleclick": False}
    return {
        "template": "none",
        "title": {"text": f"{title}<br>tables, and physical pages (thick frame: shared)", "font": {"size": 14}},
        "height": 110 + int((height + 0.5) * _ROW_HEIGHT),
        "margin": {"l": 10, "r": 10, "t": 56, "b": 10},
        "legend": {**legend, "title": {"text": "Lines: which table"}},
        "showlegend": True,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": theme["text"]},
        "hovermode": "closest",
        "uirevision": "block_tables",
        "xaxis": {**axis, "range": [-0.002, 1.002]},
        "yaxis": {**axis, "range": [height, -0.1]},
    }
