"""A page map's Plotly traces: colours as heatmaps, second cues as one path each, labels, hover, and a legend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.views.page_map_cells import Cells, Level, Paint
from workbench.views.page_map_columns import CACHED, FREE, RESERVED, ROUNDING, STATE_WORDS, TOKENS, Columns
from workbench.views.page_map_modes import Mode
from workbench.views.palette import request_label, text_color
from workbench.views.words import CAUSE_WORDS

#: Cells up to which each has its label; in larger pictures, runs of like cells have one.
_MAX_LABELLED, _MAX_RUN_LABELS = 1100, 400
#: For how wide a picture labels are chosen, in pixels; on a narrower one they move together.
_WIDTH = 900
#: Columns up to which each shared page has its own frame.
_MAX_FRAMED_COLUMNS = 64
#: Strokes are drawn for so many cells at most.
_MAX_STROKED = 6000


@dataclass(frozen=True)
class Placed:
    """A tier's cells and the row of the picture in which they begin."""

    cells: Cells
    first_row: int
    columns: int

    @property
    def rows(self) -> int:
        return -(-len(self.cells) // self.columns)

    def places(self, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Left edge and top edge of cells."""
        return (cells % self.columns).astype(np.float32), (cells // self.columns + self.first_row).astype(np.float32)

    def runs(self, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """First cells and lengths of the runs of neighbours in a row that are wanted."""
        return _runs(np.where(wanted, 1, 0), self.columns, lambda value: value == 1)


def _runs(values: np.ndarray, columns: int, keep: Any) -> tuple[np.ndarray, np.ndarray]:
    if not len(values):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    begins = np.ones(len(values), bool)
    begins[1:] = values[1:] != values[:-1]
    begins[::columns] = True
    first = np.flatnonzero(begins)
    length = np.diff(np.append(first, len(values)))
    kept = keep(values[first])
    return first[kept], length[kept]


def _path(*points: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Polylines, one per entry of the arrays, as one path with gaps."""
    gap = np.full(len(points[0][0]), np.nan, np.float32)
    x = np.stack([*(px for px, _ in points), gap], axis=1).ravel()
    y = np.stack([*(py for _, py in points), gap], axis=1).ravel()
    return x.astype(np.float32), y.astype(np.float32)


def _lines(paths: list[tuple[np.ndarray, np.ndarray]], color: str, width: float, name: str) -> go.Scatter:
    x = np.concatenate([path[0] for path in paths]) if paths else np.zeros(0, np.float32)
    y = np.concatenate([path[1] for path in paths]) if paths else np.zeros(0, np.float32)
    line = {"color": color, "width": width, "simplify": False}
    return go.Scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", name=name, showlegend=False)


# -- colours -------------------------------------------------------------------------------------------------------


def heatmaps(placed: Placed, mode: Mode, paint: Paint, level: Level) -> list[go.Heatmap]:
    """A tier's colours; where a cell is drawn slot by slot, an invisible map above it explains whole pages."""
    count = len(paint.colors)
    edges = [(code + end) / count for code in range(count) for end in (0, 1)]
    scale = [[edge, paint.colors[place // 2]] for place, edge in enumerate(edges)]
    gap = 1 if level.slots == 1 and level.columns <= 128 else 0
    colored = {"zmin": -0.5, "zmax": count - 0.5, "colorscale": scale, "xgap": gap, "ygap": gap, "name": "cells"}
    by_slots = level.slots > 1
    result = []
    for first, rows, width in _bands(placed):
        codes = placed.cells.codes[first : first + rows * width].reshape(rows, width * level.slots)
        shape = {"dx": 1 / level.slots, "x0": 0.5 / level.slots}
        explained = {"hoverinfo": "skip"} if by_slots else _hover(placed, mode, level, first, rows, width)
        result.append(_heatmap(placed, codes, first, {**shape, **colored, **explained}))
    if by_slots:
        clear = {"colorscale": [[0, "rgba(0,0,0,0)"], [1, "rgba(0,0,0,0)"]], "name": "pages", "dx": 1, "x0": 0.5}
        for first, rows, width in _bands(placed):
            told = _hover(placed, mode, level, first, rows, width)
            result.append(_heatmap(placed, np.zeros((rows, width), np.uint8), first, {**clear, **told}))
    return result


def _heatmap(placed: Placed, z: np.ndarray, first: int, options: dict[str, Any]) -> go.Heatmap:
    top = placed.first_row + first // placed.columns + 0.5
    return go.Heatmap(z=z, y0=top, dy=1, showscale=False, showlegend=False, zsmooth=False, **options)


def _bands(placed: Placed) -> list[tuple[int, int, int]]:
    """First cell, rows and width of the full rows, and of the last one if it is shorter."""
    full, rest = divmod(len(placed.cells), placed.columns)
    bands = [(0, full, placed.columns)] if full else []
    return bands + ([(full * placed.columns, 1, rest)] if rest else [])


# -- hover ---------------------------------------------------------------------------------------------------------


def _hover(placed: Placed, mode: Mode, level: Level, first: int, rows: int, width: int) -> dict[str, Any]:
    """What is known of each cell: numbers in a compact array, and one of few words."""
    cells, columns = placed.cells, placed.cells.columns
    part = slice(first, first + rows * width)
    start = columns.first + np.arange(len(cells))[part] * level.per_cell
    words = _words(cells, mode)
    if level.per_cell > 1:
        slots = np.maximum(1, cells.in_use * columns.size)
        percents = np.round(100 * cells.filled / slots)[part].astype(np.int64)
        stop = start + cells.pages[part] - 1
        numbers = [start, stop, cells.share[part], cells.pages[part], cells.in_use[part], percents]
        what = "their mean: " if mode.is_mean else ""
        template = (
            f"{columns.noun}s %{{customdata[0]}} to %{{customdata[1]}}: {what}%{{text}}<br>%{{customdata[2]}} of "
            "%{customdata[3]} are so; %{customdata[4]} in use, %{customdata[5]} % of their slots filled"
        )
    else:
        numbers = [start, columns.filled[part], columns.refs[part], columns.since[part]]
        template = (
            f"{columns.noun} %{{customdata[0]}}: %{{text}}<br>%{{customdata[1]}} of {columns.size} slots filled; "
            "sequences that use it: %{customdata[2]}; since step %{customdata[3]}"
        )
        if level.slots > 1:
            words = np.array([_sentence(columns, page, word) for page, word in enumerate(words)], dtype=object)
    data = np.stack(numbers, axis=1).reshape(rows, width, -1)
    return {
        "customdata": data.astype(np.min_scalar_type(int(data.max(initial=0)))),
        "text": words[part].reshape(rows, width).tolist(),
        "hovertemplate": template + "<extra></extra>",
    }


def _words(cells: Cells, mode: Mode) -> np.ndarray:
    """A few words per cell; each different text is made once."""
    texts: list[str] = []
    places: dict[tuple[int, float], int] = {}
    rounded = np.round(cells.numbers, 3)
    pairs = np.stack([cells.state.astype(float), np.nan_to_num(rounded, nan=-1.0)], axis=1)
    different, inverse = np.unique(pairs, axis=0, return_inverse=True)
    for state, number in different.tolist():
        places[(int(state), number)] = len(texts)
        texts.append(_word(int(state), number, mode))
    return np.array(texts, dtype=object)[inverse.reshape(-1)] if texts else np.zeros(0, dtype=object)


def _word(state: int, number: float, mode: Mode) -> str:
    if number < 0:
        return mode.unknown if state in (TOKENS, RESERVED) else STATE_WORDS[state]
    if state in (FREE, CACHED):
        return f"{STATE_WORDS[state]}, {mode.words(number)}"
    return mode.words(number) + ({RESERVED: ", still empty", ROUNDING: ", lost to rounding"}.get(state, ""))


def _sentence(columns: Columns, page: int, word: str) -> str:
    cause = columns.cause[page]
    if cause:
        word += f"; {CAUSE_WORDS[cause]}"
    lost = columns.size - columns.held[page] if columns.in_use[page] or columns.state[page] == ROUNDING else 0
    return word + (f"; {lost} lost to rounding" if lost else "")


# -- second cues ---------------------------------------------------------------------------------------------------


def strokes(placed: list[Placed], level: Level, theme: dict[str, str], scattered: bool) -> list[go.Scatter]:
    """Oblique strokes over what is held and empty, crossed ones over rounding, level lines over what is kept, frames
    around what is shared, dots on free pieces that are too small."""
    oblique: list[tuple[np.ndarray, np.ndarray]] = []
    frames: list[tuple[np.ndarray, np.ndarray]] = []
    dots: list[tuple[np.ndarray, np.ndarray]] = []
    for tier in placed:
        columns = tier.cells.columns
        if level.per_cell == 1 and len(tier.cells) <= _MAX_STROKED:
            oblique += _hatches(tier, columns.filled, columns.held, level, columns.in_use, False)
            lost = columns.in_use | (columns.state == ROUNDING)
            whole = np.full(len(columns), columns.size)
            oblique += _hatches(tier, columns.held, whole, level, lost, True)
        first, length = tier.runs(tier.cells.state == CACHED)
        x, y = tier.places(first)
        for height in (0.3, 0.5, 0.7) if level.slots > 1 else (0.5,):
            oblique.append(_path((x, y + height), (x + length, y + height)))
        first, length = tier.runs(tier.cells.shared)
        if level.per_cell == 1 and level.columns <= _MAX_FRAMED_COLUMNS:
            first = np.flatnonzero(tier.cells.shared)
            length = np.ones(len(first), np.int64)
        x, y = tier.places(first)
        inset = 0.06 if level.slots > 1 else 0.14
        left, right, top, bottom = x + inset / 2, x + length - inset / 2, y + inset, y + 1 - inset
        frames.append(_path((left, top), (right, top), (right, bottom), (left, bottom), (left, top)))
        if scattered:
            first = np.flatnonzero(tier.cells.state == FREE)
            dots.append(tier.places(first))
    result = [_lines(oblique, theme["hatch"], 0.8, "hatching"), _lines(frames, theme["text"], 1.4, "shared")]
    if dots:
        x, y = (np.concatenate(part) for part in zip(*dots, strict=True))
        marker = {"color": theme["hatch"], "size": 3}
        result.append(
            go.Scatter(x=x + 0.5, y=y + 0.8, mode="markers", marker=marker, hoverinfo="skip", showlegend=False)
        )
    return result


def _hatches(
    tier: Placed, begin: np.ndarray, end: np.ndarray, level: Level, wanted: np.ndarray, crossed: bool
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Strokes from slot ``begin`` to ``end`` of the wanted pages, about as wide as high."""
    columns = tier.cells.columns
    page = np.flatnonzero(wanted & (begin < end))
    left, top = tier.places(page)
    low, high = left + begin[page] / columns.size, left + end[page] / columns.size
    step = min(1.0, level.row_height * level.columns / _WIDTH)
    result = []
    for number in range(int(np.ceil(1 / step))):
        start = low + number * step
        some = start < high - 1e-6
        stop = np.minimum(start + step, high)[some]
        start, y = start[some], top[some]
        height = 0.9 * (stop - start) / step
        result.append(_path((start, y + 0.95), (stop, y + 0.95 - height)))
        if crossed:
            result.append(_path((start, y + 0.05), (stop, y + 0.05 + height)))
    return result


def edges(placed: list[Placed], level: Level, theme: dict[str, str], paged: bool) -> go.Scatter:
    """Lines between pages that are drawn slot by slot; a region of contiguous memory stays one piece."""
    paths = []
    for tier in placed:
        count, columns = len(tier.cells), tier.cells.columns
        cut = np.arange(count)
        if not paged:
            same = np.zeros(count, bool)
            same[1:] = (columns.request[1:] == columns.request[:-1]) & (columns.request[1:] >= 0)
            cut = cut[~same]
        x, y = tier.places(cut)
        paths.append(_path((x, y), (x, y + 1)))
        last = np.array([count - 1])
        x, y = tier.places(last)
        paths.append(_path((x + 1, y), (x + 1, y + 1)))
        y = np.arange(tier.first_row, tier.first_row + tier.rows + 1, dtype=np.float32)
        paths.append(_path((np.zeros_like(y), y), (np.full_like(y, level.columns), y)))
    return _lines(paths, theme["line"], 2, "edges")


# -- labels --------------------------------------------------------------------------------------------------------


def labels(
    placed: list[Placed], mode: Mode, paint: Paint, level: Level, orders: dict[int, int], paged: bool
) -> list[go.Scatter]:
    """What cells show, in a few characters: each cell by itself, or a run of like ones together.

    ``orders``: page to its place in the free list or the order of eviction; written instead of all else.
    """
    by_color: dict[str, list[tuple[float, float, str]]] = {}
    font = 11 if level.row_height >= 16 else 9
    for number, tier in enumerate(placed):
        for cell, length, text in _label_texts(tier, mode, level, orders if number == 0 else {}, paged):
            x, y = cell % tier.columns, cell // tier.columns + tier.first_row
            wide = level.slots > 1
            code = tier.cells.codes[cell, 0]
            at = min(length / 2, 0.62 * font * len(text) * level.columns / _WIDTH / 2 + 0.06) if wide else length / 2
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
    room = _WIDTH / level.columns
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
    first, length = _runs(values, tier.columns, lambda value: value >= 0)
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
    empty = any(bool(((c.filled < c.held) & c.in_use).any()) for c in columns)
    if empty and level.per_cell == 1:
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
