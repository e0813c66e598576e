"""What `workbench replay` prints: one step of a history as plain text. Pure functions of a state and its events."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from workbench.events.page_map import PageMap
from workbench.events.state import RequestStatus
from workbench.events.types import AnyEvent
from workbench.events.waste import WasteReport, WasteSplit
from workbench.events.words import clean, clip, describe, describe_blocked, plural

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_EIGHTHS, _EIGHTHS_ASCII = " ▁▂▃▄▅▆▇█", " 12345678"
_COLOURS = (214, 74, 36, 227, 25, 166, 175, 246)  # Okabe-Ito, as near as 256 colours come
_MAX_ROWS = 16
_MAX_LISTED = 8


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


def _fit(line: str, width: int) -> str:
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


@dataclass(frozen=True)
class _Span:
    """Adjacent slots with one use. ``symbol``: a request's letter, or ``~`` for rounding."""

    start: int
    size: int
    filled: int
    symbol: str


def _spans(state: PageMap) -> Iterator[_Span]:
    size = state.block_size
    if state.is_paged:
        owners = {sequence: letter(memory.request) for sequence, memory in state.sequences.items()}
        for block, page in enumerate(state.pages):
            if page.ref_count:
                yield _Span(block * size, size, page.filled, owners.get(page.owner, "?"))
        return
    for memory in state.sequences.values():
        region = memory.region
        if region is not None:
            yield _Span(region.start, region.requested, region.filled, letter(memory.request))
            yield _Span(region.start + region.requested, region.size - region.requested, 0, "~")


def _cells(spans: Iterable[_Span], num_cells: int, cell: int) -> tuple[list[str], list[int]]:
    """Per cell of ``cell`` slots: the symbol of what takes most of it, and how many of its slots hold a token."""
    symbols, most, filled = ["."] * num_cells, [0] * num_cells, [0] * num_cells
    for span in spans:
        stop, fill_stop = span.start + span.size, span.start + span.filled
        for index in range(span.start // cell, min(num_cells, -(-stop // cell))):
            first, last = max(span.start, index * cell), min(stop, (index + 1) * cell)
            filled[index] += max(0, min(fill_stop, last) - first)
            if last - first > most[index]:
                most[index], symbols[index] = last - first, span.symbol
    return symbols, filled


def _paint(row: Sequence[str], symbols: Sequence[str], colour: bool) -> str:
    if not colour:
        return "".join(row).rstrip()
    parts = []
    for char, symbol in zip(row, symbols, strict=True):
        index = _LETTERS.find(symbol)
        parts.append(f"\x1b[38;5;{_COLOURS[index % len(_COLOURS)]}m{char}\x1b[0m" if index >= 0 else char)
    return "".join(parts)


def page_map_lines(state: PageMap, style: Style) -> list[str]:
    """The pool as text: a line of letters, and below each a line that says how full each cell is."""
    if state.run is None:
        return wrapped("nothing has happened yet: the run had not begun", style.width)
    num_blocks = state.run.num_blocks
    label = len(str(num_blocks - 1)) + 1
    columns = 1 << min(7, max(8, style.width - label).bit_length() - 1)
    group = 1
    while -(-num_blocks // group) > columns * _MAX_ROWS:
        group *= 2
    num_cells, cell = -(-num_blocks // group), group * state.block_size
    symbols, filled = _cells(_spans(state), num_cells, cell)
    eighths = _EIGHTHS_ASCII if style.plain else _EIGHTHS
    bars = [eighths[-(-8 * count // cell)] for count in filled]
    pages = "a page (block)" if group == 1 else f"{group} pages (blocks)"
    each = pages if state.is_paged else plural(cell, "slot")
    lines = [f"one character: {each}, below it how full; . free" + ("" if state.is_paged else "; ~ rounding")]
    for start in range(0, num_cells, columns):
        part = slice(start, start + columns)
        lines.append(f"{start * group:>{label - 1}} " + _paint(symbols[part], symbols[part], style.colour))
        lines.append(" " * label + _paint(bars[part], symbols[part], style.colour))
    return [_fit(lines[0], style.width), *lines[1:]]


# --- the rest ----------------------------------------------------------------------------------------------------


def waste_line(state: PageMap) -> str:
    """The use of all slots in words, as far as it can be known at this step."""
    waste, total = state.waste(), max(1, state.num_slots)
    parts = [("token states", waste.token_states), ("reserved, still empty", waste.reserved)]
    if not state.is_paged:
        parts.append(("external fragmentation", waste.external))
    parts.append(("free", waste.free))
    return f"of {total} slots: " + ", ".join(f"{name} {count} ({count / total:.0%})" for name, count in parts)


def waste_report_lines(report: WasteReport) -> list[str]:
    """The split of the whole run in the paper's categories."""
    if not report.num_averaged:
        return ["no step to average over"]

    def shares(split: WasteSplit) -> str:
        named = [
            ("token states", split.token_states),
            ("reservation", split.reservation),
            ("internal fragmentation", split.internal),
            ("external fragmentation", split.external),
            ("reserved by unfinished requests", split.reserved),
            ("free", split.free),
        ]
        return ", ".join(f"{name} {share:.1%}" for name, share in named if share or name == "token states")

    steps = plural(report.num_averaged, "step")
    return [f"average over {steps}: {shares(report.shares)}", f"without free: {shares(report.shares.without_free())}"]


def _request_line(request: int, state: PageMap, style: Style) -> str:
    info = state.requests[request]
    memory = state.sequences.get(info.sequence)
    parts = [info.status.value if info.reason == "" else f"{info.status.value} ({clip(clean(info.reason), 40)})"]
    parts.append(f"{info.prompt_tokens} + {len(info.token_ids)}/{info.max_tokens} tokens")
    if memory is not None and memory.region is not None:
        parts.append(f"{memory.num_computed_tokens} stored in {memory.region.size} slots")
    elif memory is not None:
        parts.append(f"{memory.num_computed_tokens} stored in {plural(len(memory.block_table), 'page')}")
    if info.preemptions:
        parts.append(f"preempted {plural(info.preemptions, 'time')}")
    head = f"  {letter(request)} request {request}: " + ", ".join(parts)
    shown = _fit(head, style.width)
    room = style.width - sum(map(char_width, shown)) - 4
    if room >= 8 and info.text:
        shown += f"  “{tail(info.text, room)}”"
    elif room >= 16 and info.prompt:
        shown += f"  prompt “{tail(info.prompt, room - 7)}”"
    return shown


def _listed(ids: Sequence[int], line: Callable[[int], str], everything: bool, width: int) -> list[str]:
    most = len(ids) if everything else _MAX_LISTED
    lines = [line(request) for request in ids[:most]]
    return lines + ([_fit(f"  … and {len(ids) - most} more (r lists all)", width)] if len(ids) > most else [])


def request_lines(state: PageMap, style: Style, everything: bool = False) -> list[str]:
    """Who runs, who waits and why, and with ``everything`` who has ended."""

    def line(request: int) -> str:
        return _request_line(request, state, style)

    lines = [f"running ({len(state.running)}):", *_listed(state.running, line, everything, style.width)]
    lines += [f"waiting ({len(state.waiting)}):", *_listed(state.waiting, line, everything, style.width)]
    if state.blocked is not None:
        lines += wrapped("  " + describe_blocked(state.blocked, state.is_paged), style.width)
    gone: dict[RequestStatus, list[int]] = {}
    for request, info in state.requests.items():
        gone.setdefault(info.status, []).append(request)
    ended = (RequestStatus.FINISHED, RequestStatus.CANCELLED, RequestStatus.REJECTED)
    if any(gone.get(status) for status in ended):
        counts = ", ".join(f"{len(gone[status])} {status.value}" for status in ended if status in gone)
        lines += wrapped(f"ended: {counts}", style.width)
        if everything:
            lines += [line(request) for status in ended for request in gone.get(status, [])]
    return lines


def event_lines(events: Sequence[AnyEvent], state: PageMap | None, width: int, everything: bool = True) -> list[str]:
    """A step's events in words: all of them in full, or the first ones in a line each."""
    if everything:
        return [f"  {describe(event, state)}" for event in events]
    lines = [_fit(f"  {describe(event, state, explain=False)}", width) for event in events[:_MAX_LISTED]]
    more = len(events) - _MAX_LISTED
    return lines + ([_fit(f"  … and {more} more (e lists all)", width)] if more > 0 else [])


def render(
    state: PageMap,
    events: Sequence[AnyEvent],
    steps: tuple[int, int, int],
    style: Style,
    all_requests: bool = False,
    all_events: bool = False,
) -> str:
    """One step on one screen.

    Args:
        events: those of the step.
        steps: the step, the first and the last of the history.
    """
    step, first, last = steps
    head = f"step {step} of {first} to {last}"
    if state.run is not None:
        run = state.run
        what = f"{run.num_blocks} pages of {run.block_size} slots"
        if not state.is_paged:
            what = f"an arena of {state.num_slots} slots"
        head += f" · {run.memory} memory, {what} · model {clean(run.model.name)}"
    lines = [_fit(head, style.width), *page_map_lines(state, style)]
    if state.run is not None:
        lines += [*wrapped(waste_line(state), style.width), *request_lines(state, style, all_requests)]
    lines += [
        _fit(f"events of this step ({len(events)}):", style.width),
        *event_lines(events, state, style.width, all_events),
    ]
    text = "\n".join(lines)
    if style.plain:
        text = text.translate(_TO_ASCII).encode("ascii", "backslashreplace").decode()
    return text


_TO_ASCII = str.maketrans({"…": "~", "“": '"', "”": '"', "·": "|"})
