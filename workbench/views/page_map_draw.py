"""A page map's Plotly traces: colours as heatmaps, second cues as one path each, labels, hover, and a legend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.views.page_map_cells import Cells, Level, Paint
from workbench.views.page_map_columns import CACHED, FREE, RESERVED, ROUNDING, STATE_WORDS, TOKENS, Columns
from workbench.views.page_map_modes import Mode
from workbench.views.words import CAUSE_WORDS

#: For how wide a picture labels are chosen, in pixels; on a narrower one they move together.
LABEL_WIDTH = 900
#: Columns up to which each shared page has its own frame.
_MAX_FRAMED_COLUMNS = 64
#: Strokes are drawn for so many cells at most.
MAX_STROKED = 6000


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
        return find_runs(np.where(wanted, 1, 0), self.columns, lambda value: value == 1)


def find_runs(values: np.ndarray, columns: int, keep: Any) -> tuple[np.ndarray, np.ndarray]:
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
    words = _words(cells, mode, mode.is_mean and level.per_cell > 1)
    if level.per_cell > 1:
        slots = np.maximum(1, cells.in_use * columns.size)
        percents = np.round(100 * cells.filled / slots)[part].astype(np.int64)
        stop = start + cells.pages[part] - 1
        numbers = [start, stop, cells.share[part], cells.pages[part], cells.in_use[part], percents]
        template = (
            f"{columns.noun}s %{{customdata[0]}} to %{{customdata[1]}}: %{{text}} (%{{customdata[2]}} of "
            "%{customdata[3]})<br>%{customdata[4]} in use, %{customdata[5]} % of their slots filled"
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


def _words(cells: Cells, mode: Mode, averaged: bool) -> np.ndarray:
    """A few words per cell; each different text is made once."""
    rounded = np.round(cells.numbers, 3)
    pairs = np.stack([cells.state.astype(float), np.nan_to_num(rounded, nan=-1.0)], axis=1)
    different, inverse = np.unique(pairs, axis=0, return_inverse=True)
    texts = [
        ("on average " if averaged and number >= 0 else "") + _word(int(state), number, mode)
        for state, number in different.tolist()
    ]
    return np.array(texts, dtype=object)[inverse.reshape(-1)]


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
        if level.per_cell == 1 and len(tier.cells) <= MAX_STROKED:
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
    step = min(1.0, level.row_height * level.columns / LABEL_WIDTH)
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
