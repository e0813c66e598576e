"""What is written in a page map's cells, and its legend."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from workbench.views.page_map_cells import Cells, Level, Paint
from workbench.views.page_map_columns import CACHED, FREE, ROUNDING, Columns
from workbench.views.page_map_draw import LABEL_WIDTH, MAX_STROKED, Placed, find_runs
from workbench.views.page_map_modes import Mode
from workbench.views.palette import request_label, text_color

#: Cells up to which each has its label; in larger pictures, runs of like cells have one.
_MAX_LABELLED, _MAX_RUN_LABELS = 1100, 400


def labels(
    placed: list[Placed], mode: Mode, paint: Paint, level: Level, orders: dict[int, int], paged: bool
) -> list[go.Scatter]:
    """What cells show, in a few characters: each cell by itself, or a run of like ones together.

    ``orders``: page to its place in the free list or the order of eviction; written instead of all other numbers.
    """
    by_color: dict[str, list[tuple[float, float, str]]] = {}
    font = 11 if level.row_height >= 16 else 9
    for number, tier in enumerate(placed):
        for cell, length, text in _label_texts(tier, mode, level, orders if number == 0 else {}, paged):
            x, y = cell % tier.columns, cell // tier.columns + tier.first_row
            wide = level.slots > 1
            at, under = length / 2, 0
            if wide:  # at the left edge, in the colour that stands out from what lies under the text's middle
                at = min(at, 0.31 * font * len(text) * level.columns / LABEL_WIDTH + 0.06)
                under = min(level.slots - 1, int(at * level.slots))
            code = tier.cells.codes[cell, under]
            by_color.setdefault(text_color(paint.colors[code]), []).append((x + at, y + 0.5, text))
    return [
        go.Scatter(
            x=np.array([x for x, _, _ in written], np.float32),
            y=np.array([y for _, y, _ in written], np.float32),
            text=[text for *_, text in written],
            mode="text",
            textfont={"color": color, "size": font},
            hoverinfo="skip",
            showlegend=False,
            name="labels",
        )
        for color, written in by_color.items()
    ]


def _label_texts(
    tier: Placed, mode: Mode, level: Level, orders: dict[int, int], paged: bool
) -> list[tuple[int, int, str]]:
    """First cell, number of cells and text of every label."""
    cells = tier.cells
    room = LABEL_WIDTH / level.columns
    fits = 7 if level.row_height >= 16 else 5.5
    result: list[tuple[int, int, str]] = []
    if orders and level.per_cell == 1:
        wanted = [(page - cells.columns.first, str(place)) for page, place in orders.items()]
        here = [(page, 1, text) for page, text in wanted if 0 <= page < len(cells) and room >= fits * len(text)]
        result = here[:_MAX_LABELLED]
    if orders and mode.is_mean:
        return result  # other numbers beside those would be taken for places in the order
    if len(cells) <= _MAX_LABELLED and paged:
        for cell in np.flatnonzero(~np.isnan(cells.numbers)).tolist():
            if cell + cells.columns.first in orders:
                continue
            text = mode.label(cells.numbers[cell])
            refs = int(cells.columns.refs[cell]) if level.per_cell == 1 else 1
            if mode.name == "request" and refs > 1 and room >= fits * (len(text) + 1 + len(str(refs))):
                text += f"×{refs}"
            if room >= fits * len(text):
                result.append((cell, 1, text))
        return result
    values = np.nan_to_num(mode.class_of(cells.numbers) if mode.is_mean else cells.numbers, nan=-1)
    first, length = find_runs(values, tier.columns, lambda value: value >= 0)
    order = np.argsort(-length, kind="stable")[:_MAX_RUN_LABELS]
    for place in order:
        cell, count = int(first[place]), int(length[place])
        text = _run_text(mode, cells, cell, count)
        if count * room >= fits * len(text) + 2:
            result.append((cell, count, text))
    return result


def _run_text(mode: Mode, cells: Cells, first: int, length: int) -> str:
    part = cells.numbers[first : first + length]
    return mode.label(float(part.mean()) if mode.is_mean else float(part[0]))


# -- legend --------------------------------------------------------------------------------------------------------


def legend(
    placed: list[Placed], mode: Mode, paint: Paint, level: Level, theme: dict[str, str], scattered: bool
) -> list[go.Bar]:
    """Swatches for what is in the picture, with the same hatching."""
    codes = set()
    for tier in placed:
        codes |= set(np.unique(tier.cells.codes).tolist())
    state = np.concatenate([tier.cells.state for tier in placed])
    columns = [tier.cells.columns for tier in placed]
    entries: list[tuple[str, str, str]] = []
    for number, name in enumerate(mode.names or _request_names(columns, len(mode.colors))):
        if {number, number + paint.classes} & codes:
            entries.append((name, mode.colors[number], ""))
    if paint.unknown in codes:
        entries.append((mode.unknown, paint.colors[paint.unknown], ""))
    tinted = [code - paint.classes for code in sorted(codes) if paint.classes <= code < 2 * paint.classes]
    stroked = [part.cells.columns for part in placed if level.per_cell == 1 and len(part.cells) <= MAX_STROKED]
    empty = any(bool(((c.filled < c.held) & c.in_use).any()) for c in stroked)
    if empty:
        tint = paint.colors[paint.classes + tinted[0]] if tinted else theme["free"]
        entries.append(("reserved, still empty", tint, "/"))
    if any(bool(((c.held < c.size) & (c.in_use | (c.state == ROUNDING))).any()) for c in columns):
        entries.append(("lost to rounding", theme["rounding"], "x"))
    if CACHED in state:
        pale = ", paler" if mode.of_idle else ""
        entries.append((f"kept for reuse (cached{pale})", theme["cached"], "-"))
    if FREE in state and scattered:
        entries.append(("free, but in pieces that are too small", theme["free"], "."))
    elif FREE in state:
        entries.append(("free" + (" (paler; plain: never used)" if mode.of_idle else ""), theme["free"], ""))
    line = {"color": theme["hatch"], "width": 1}
    bars = [
        go.Bar(
            x=[None],
            y=[None],
            name=name,
            hoverinfo="skip",
            marker={"color": color, "line": line, "pattern": {"shape": shape, "fgcolor": theme["hatch"], "size": 5}},
        )
        for name, color, shape in entries
    ]
    if any(tier.cells.shared.any() for tier in placed):
        frame = {"color": "rgba(0,0,0,0)", "line": {"color": theme["text"], "width": 2}}
        bars.append(go.Bar(x=[None], y=[None], name="framed: shared", hoverinfo="skip", marker=frame))
    return bars


def _request_names(columns: list[Columns], count: int) -> list[str]:
    """For each of so many colours, the requests in the picture that have it."""
    by_color: list[list[str]] = [[] for _ in range(count)]
    for request in np.unique(np.concatenate([part.request for part in columns])).tolist():
        if request >= 0:
            by_color[request % count].append(request_label(request))
    return [", ".join(names[:4]) + (", …" if len(names) > 4 else "") for names in by_color]
