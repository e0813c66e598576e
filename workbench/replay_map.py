"""The text picture of a page map, for `workbench replay`: letters for requests, how full pages are, who shares them."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from workbench.events.page_map import PageMap
from workbench.events.state import Page
from workbench.events.words import clean, plural

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_EIGHTHS, _EIGHTHS_ASCII = " ▁▂▃▄▅▆▇█", " 12345678"
_COLOURS = (214, 74, 36, 227, 25, 166, 175, 246)  # Okabe-Ito, as near as 256 colours come
_MAX_ROWS = 16


@dataclass(frozen=True)
class Style:
    """How to draw. ``width``: columns of the terminal; ``plain``: ASCII only; ``colour``: ANSI colours."""

    width: int = 80
    plain: bool = False
    colour: bool = False


def letter(request: int) -> str:
    """The letter that stands for a request; the 53rd request gets the first one's again."""
    return _LETTERS[request % len(_LETTERS)]


# --- text of limited width ---------------------------------------------------------------------------------------


def char_width(char: str) -> int:
    """Terminal columns of a printable character."""
    if unicodedata.combining(char):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def tail(text: str, width: int) -> str:
    """The end of a text in at most ``width`` columns."""
    text = clean(text)
    if sum(map(char_width, text)) <= width:
        return text
    kept, left = len(text), width - 1
    while kept and left >= char_width(text[kept - 1]):
        kept -= 1
        left -= char_width(text[kept])
    return "…" + text[kept:]


def fit(line: str, width: int) -> str:
    if sum(map(char_width, line)) <= width:
        return line
    kept, left = 0, width - 1
    while left >= char_width(line[kept]):
        left -= char_width(line[kept])
        kept += 1
    return line[:kept] + "…"


def wrapped(line: str, width: int) -> list[str]:
    """A line as several of at most ``width`` columns."""
    return textwrap.wrap(line, width, subsequent_indent="  ")


# --- the map -----------------------------------------------------------------------------------------------------


#: What nobody uses, but is kept because its content may be wanted again.
_CACHED = "="


@dataclass(frozen=True)
class _Span:
    """Adjacent slots with one use. ``symbol``: a request's letter, ``~`` for rounding, ``=`` for what is kept."""

    start: int
    size: int
    filled: int
    symbol: str
    refs: int = 1


def _page_spans(state: PageMap, pages: Sequence[Page]) -> Iterator[_Span]:
    size = state.block_size
    owners = {sequence: letter(memory.request) for sequence, memory in state.sequences.items()}
    for block, page in enumerate(pages):
        if page.ref_count:
            yield _Span(block * size, size, page.filled, owners.get(page.owner, "?"), page.ref_count)
        elif page.is_cached:
            yield _Span(block * size, size, page.filled, _CACHED, 0)


def _region_spans(state: PageMap) -> Iterator[_Span]:
    for memory in state.sequences.values():
        region = memory.region
        if region is not None:
            yield _Span(region.start, region.requested, region.filled, letter(memory.request))
            yield _Span(region.start + region.requested, region.size - region.requested, 0, "~")


@dataclass
class _Cells:
    """Per cell: the symbol of what takes most of it, how many of its slots hold a token, and who shares it.

    ``refs`` is the largest number of sequences that use a page of it.
    """

    symbols: list[str]
    filled: list[int]
    refs: list[int]


def _cells(spans: Iterable[_Span], num_cells: int, cell: int) -> _Cells:
    """The cells of ``cell`` slots."""
    cells, most = _Cells(["."] * num_cells, [0] * num_cells, [0] * num_cells), [0] * num_cells
    for span in spans:
        stop, fill_stop = span.start + span.size, span.start + span.filled
        for index in range(span.start // cell, min(num_cells, -(-stop // cell))):
            first, last = max(span.start, index * cell), min(stop, (index + 1) * cell)
            cells.filled[index] += max(0, min(fill_stop, last) - first)
            cells.refs[index] = max(cells.refs[index], span.refs)
            if last - first > most[index]:
                most[index], cells.symbols[index] = last - first, span.symbol
    return cells


def _paint(row: Sequence[str], symbols: Sequence[str], colour: bool) -> str:
    if not colour:
        return "".join(row).rstrip()
    parts = []
    for char, symbol in zip(row, symbols, strict=True):
        index = _LETTERS.find(symbol)
        parts.append(f"\x1b[38;5;{_COLOURS[index % len(_COLOURS)]}m{char}\x1b[0m" if index >= 0 else char)
    return "".join(parts)


def page_map_lines(state: PageMap, style: Style) -> list[str]:
    """The pool as text: a line of letters, and below each a line that says how full each cell is.

    Where pages are shared, a third line says by how many sequences. The host tier follows in the same way.
    """
    if state.run is None:
        return wrapped("nothing has happened yet: the run had not begun", style.width)
    spans = list(_page_spans(state, state.pages) if state.is_paged else _region_spans(state))
    num_blocks = state.run.num_blocks
    group, lines = _tier_lines(spans, num_blocks, state.block_size, style)
    pages = "a page (block)" if group == 1 else f"{group} pages (blocks)"
    each = pages if state.is_paged else plural(group * state.block_size, "slot")
    legend = f"one character: {each}, below it how full; . free" + ("" if state.is_paged else "; ~ rounding")
    host = list(_page_spans(state, state.host_pages))
    if any(span.symbol == _CACHED for span in spans):
        legend += f"; {_CACHED} kept for reuse"
    if any(span.refs > 1 for span in (*spans, *host)):
        legend += "; digits: shared by so many"
    result = [fit(legend, style.width), *lines]
    if state.host_pages:
        group, lines = _tier_lines(host, len(state.host_pages), state.block_size, style)
        used = f"{len(host)} of {plural(len(state.host_pages), 'page')} in use"
        scale = f", one character: {group} pages" if group > 1 else ""
        result += [fit(f"host tier: {used}{scale}", style.width), *lines]
    return result


def _tier_lines(spans: list[_Span], num_blocks: int, block_size: int, style: Style) -> tuple[int, list[str]]:
    """How many pages a character stands for, and the rows of a tier."""
    label = len(str(num_blocks - 1)) + 1
    columns = 1 << min(7, max(8, style.width - label).bit_length() - 1)
    group = 1
    while -(-num_blocks // group) > columns * _MAX_ROWS:
        group *= 2
    num_cells, cell = -(-num_blocks // group), group * block_size
    cells = _cells(spans, num_cells, cell)
    eighths = _EIGHTHS_ASCII if style.plain else _EIGHTHS
    bars = [eighths[-(-8 * count // cell)] for count in cells.filled]
    shared = [" " if refs < 2 else str(refs) if refs < 10 else "+" for refs in cells.refs]
    lines = []
    for start in range(0, num_cells, columns):
        part = slice(start, start + columns)
        symbols = cells.symbols[part]
        lines.append(f"{start * group:>{label - 1}} " + _paint(symbols, symbols, style.colour))
        lines.append(" " * label + _paint(bars[part], symbols, style.colour))
        if "".join(shared[part]).strip():
            lines.append(" " * label + _paint(shared[part], symbols, style.colour))
    return group, lines
