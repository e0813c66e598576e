"""Where pages are drawn and in which colour: slot by slot, page by page, or several pages to a cell.

The unit of length is a cell; a cell is a page, or a run of ``per_cell`` pages. Rows are counted from the top.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from workbench.views.grid import grid_columns
from workbench.views.page_map_columns import CACHED, FREE, ROUNDING, STATE_WORDS, TOKENS, Columns
from workbench.views.page_map_modes import Mode
from workbench.views.palette import RESERVED_TINT, mix

#: So much is drawn slot by slot: pages with their slots side by side.
MAX_SLOTS, MAX_SLOT_PAGES = 4096, 512
#: So many cells a picture has at most; of more pages, neighbours share one.
MAX_CELLS = 12_800
#: Rows are kept high enough for a letter.
_MAX_ROWS = 50


@dataclass(frozen=True)
class Level:
    """How closely pages are looked at.

    Attributes:
        columns: cells in a row.
        per_cell: pages in a cell.
        slots: parts of a cell that are drawn by themselves; 1: none.
        row_height: in pixels.
    """

    columns: int
    per_cell: int
    slots: int
    row_height: int


def choose_level(num_pages: int, block_size: int) -> Level:
    """The closest look at so many pages that still draws at once."""
    if num_pages * block_size <= MAX_SLOTS and num_pages <= MAX_SLOT_PAGES:
        return Level(grid_columns(num_pages), 1, block_size, 26)
    per_cell = 1
    while -(-num_pages // per_cell) > MAX_CELLS:
        per_cell *= 2
    cells = -(-num_pages // per_cell)
    columns = grid_columns(cells)
    while -(-cells // columns) > _MAX_ROWS:
        columns *= 2
    rows = -(-cells // columns)
    return Level(columns, per_cell, 1, max(12, min(22, 560 // rows)))


@dataclass(frozen=True)
class Paint:
    """Colours by code: the classes of a mode, their tints, and the states without a class."""

    classes: int
    colors: list[str]

    @property
    def free(self) -> int:
        return 2 * self.classes

    @property
    def cached(self) -> int:
        return 2 * self.classes + 1

    @property
    def rounding(self) -> int:
        return 2 * self.classes + 2

    @property
    def unknown(self) -> int:
        return 2 * self.classes + 3


def paint_of(mode: Mode, theme: dict[str, str]) -> Paint:
    """The codes of a mode's colours in a light or dark theme."""
    tints = [mix(color, theme["free"], RESERVED_TINT) for color in mode.colors]
    others = [theme["free"], theme["cached"], theme["rounding"], mix(theme["hatch"], theme["free"], 0.55)]
    return Paint(len(mode.colors), [*mode.colors, *tints, *others])


@dataclass(frozen=True)
class Cells:
    """A tier's cells, in order.

    Attributes:
        codes: colour code of each cell, or of each slot of each cell: ``[cells, level.slots]``, uint8.
        numbers: what a cell shows in the mode; NaN where nothing.
        state: of the cell; of several pages, of most of them.
        share: pages of the cell that are as it shows.
        pages: pages in the cell; fewer in the last one.
        shared: whether its page is used by several sequences; of several pages, most of them.
        filled, in_use: sums over the cell: slots with tokens in pages that are in use, and such pages.
    """

    columns: Columns
    codes: np.ndarray
    numbers: np.ndarray
    state: np.ndarray
    share: np.ndarray
    pages: np.ndarray
    shared: np.ndarray
    filled: np.ndarray
    in_use: np.ndarray

    def __len__(self) -> int:
        return len(self.state)


def cells_of(columns: Columns, mode: Mode, paint: Paint, level: Level) -> Cells:
    """A tier's pages as cells."""
    numbers = mode.numbers(columns)
    used = columns.in_use
    filled = np.where(used, columns.filled, 0)
    if level.per_cell > 1:
        return _grouped(columns, mode, paint, level.per_cell, numbers, filled)
    codes = _page_codes(columns.state, mode.class_of(numbers), paint)
    if level.slots > 1:
        codes = _slot_codes(columns, codes, paint)
    ones = np.ones(len(columns), np.int64)
    return Cells(
        columns,
        codes.astype(np.uint8).reshape(len(columns), -1),
        numbers,
        columns.state,
        ones,
        ones,
        columns.refs > 1,
        filled,
        used.astype(np.int64),
    )


def _page_codes(state: np.ndarray, classes: np.ndarray, paint: Paint) -> np.ndarray:
    plain = np.full(len(STATE_WORDS), paint.unknown)
    plain[[FREE, CACHED, ROUNDING]] = paint.free, paint.cached, paint.rounding
    known = (classes >= 0) & (state != ROUNDING)
    return np.where(known, classes + np.where(state == TOKENS, 0, paint.classes), plain[state])


def _slot_codes(columns: Columns, codes: np.ndarray, paint: Paint) -> np.ndarray:
    """Within a page: what is filled, then what is held and empty, then what rounding has taken."""
    slot = np.arange(columns.size)
    full = np.where(columns.state == TOKENS, codes, -1)[:, None]
    tint = np.where(codes < paint.classes, codes + paint.classes, codes)[:, None]
    inside = np.where(slot < columns.filled[:, None], full, tint)
    inside = np.where(slot < columns.held[:, None], inside, paint.rounding)
    return np.where(columns.in_use[:, None], inside, codes[:, None])


def _grouped(
    columns: Columns, mode: Mode, paint: Paint, per_cell: int, numbers: np.ndarray, filled: np.ndarray
) -> Cells:
    count = -(-len(columns) // per_cell)

    def fold(values: np.ndarray, nothing: float) -> np.ndarray:
        padded = np.full(count * per_cell, nothing, values.dtype)
        padded[: len(values)] = values
        return padded.reshape(count, per_cell)

    # One key per thing that a page can be: states as -1, -2, ...; numbers as they are. Padding is never the most.
    nothing = -99
    whole = np.where(np.isnan(numbers), -1 - columns.state, 0 if mode.is_mean else np.nan_to_num(numbers))
    keys, share = _most_frequent(fold(whole.astype(np.int64), nothing), nothing)
    state = np.where(keys < 0, -1 - keys, TOKENS)
    folded = fold(numbers, np.nan)
    if mode.is_mean:
        known = (~np.isnan(folded)).sum(axis=1)
        shown = np.where(keys == 0, np.nansum(folded, axis=1) / np.maximum(1, known), np.nan)
    else:
        shown = np.where(keys >= 0, keys, np.nan)
    if mode.of_idle:  # what has a number may be idle: told by the state of most pages
        state = _most_frequent(fold(columns.state, nothing), nothing)[0]
    used = columns.in_use
    pages = np.full(count, per_cell)
    pages[-1:] = len(columns) - (count - 1) * per_cell
    return Cells(
        columns,
        _page_codes(state, mode.class_of(shown), paint).astype(np.uint8).reshape(count, 1),
        shown,
        state,
        share,
        pages,
        2 * fold(columns.refs > 1, 0).sum(axis=1) > pages,
        fold(filled, 0).sum(axis=1),
        fold(used, 0).sum(axis=1),
    )


def _most_frequent(keys: np.ndarray, nothing: int) -> tuple[np.ndarray, np.ndarray]:
    """The most frequent key of each row but ``nothing``, the smallest of several such, and how often it is there."""
    ordered = np.sort(keys, axis=1)
    best, times = ordered[:, 0].copy(), (ordered[:, 0] != nothing).astype(np.int64)
    run = times.copy()
    for column in range(1, ordered.shape[1]):
        here = ordered[:, column]
        run = np.where(here == nothing, 0, np.where(here == ordered[:, column - 1], run + 1, 1))
        longer = run > times
        best, times = np.where(longer, here, best), np.where(longer, run, times)
    return best, times
