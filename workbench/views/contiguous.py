"""Contiguous memory: regions, what of them is used, reserved and lost, and the holes between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import plotly.graph_objects as go

from workbench.events import Cause, PageMap
from workbench.events.state import Blocked, Region
from workbench.views.page_map import page_map_view
from workbench.views.palette import DARK, LIGHT, request_label
from workbench.views.view import Cell, Table, View
from workbench.views.words import percent, plural

_MAX_TABLE_ROWS = 512
#: Holes that have their size written in them.
_MAX_LABELS = 60
_WIDTH = 900


@dataclass(frozen=True)
class Hole:
    """Free slots between two regions. The allocator may have them in several pieces."""

    start: int
    size: int


def regions_and_holes(page_map: PageMap) -> list[tuple[int | None, Region | Hole]]:
    """Everything in the arena in the order of addresses: a request and its region, or None and a hole."""
    owned = [(s.request, s.region) for s in page_map.sequences.values() if s.region is not None]
    result: list[tuple[int | None, Region | Hole]] = []
    position = 0
    for request, region in sorted(owned, key=lambda pair: pair[1].start):
        if region.start > position:
            result.append((None, Hole(position, region.start - position)))
        result.append((request, region))
        position = region.start + region.size
    if position < page_map.num_slots:
        result.append((None, Hole(position, page_map.num_slots - position)))
    return result


def contiguous_view(page_map: PageMap, dark: bool = False) -> View:
    """The arena, slot by slot where it is small enough, with the size of every hole, and a frame around the largest.

    Raises:
        ValueError: the memory is paged.
    """
    if page_map.run is None:
        return page_map_view(page_map, dark=dark)
    if page_map.is_paged:
        raise ValueError("memory: must be contiguous, paged memory has no regions")
    pieces = regions_and_holes(page_map)
    holes = [piece for _, piece in pieces if isinstance(piece, Hole)]
    figure = page_map_view(
        page_map, dark=dark, title=f"Contiguous, step {page_map.step}: {page_map.num_slots:,} slots"
    ).figure
    theme = DARK if dark else LIGHT
    if holes:
        largest = max(holes, key=lambda hole: hole.size)
        figure.add_traces(
            [_outline(figure, page_map, largest, theme["text"]), *_sizes(figure, page_map, holes, theme["text"])]
        )
        frame = {"color": "rgba(0,0,0,0)", "line": {"color": theme["text"], "width": 3}}
        name = f"thick frame: largest hole, {plural(largest.size, 'slot')}"
        figure.add_trace(go.Bar(x=[None], y=[None], name=name, marker=frame, hoverinfo="skip"))
    if (blocked := _waiting_for_memory(page_map)) is not None:
        _draw_need(figure, page_map, blocked, theme)
    figure.update_layout(uirevision="contiguous")
    return View(figure, _caption(page_map, pieces, holes), _table(page_map, pieces))


def _segments(figure: go.Figure, page_map: PageMap, hole: Hole) -> list[tuple[float, float, int]]:
    """Left end, right end and row of each part of a hole, in cells of the figure."""
    meta = figure.layout.meta
    unit = page_map.block_size * meta["pages_per_cell"]
    position, end = hole.start / unit, (hole.start + hole.size) / unit
    result = []
    while position < end - 1e-9:
        row = int(position // meta["columns"])
        stop = min(end, (row + 1) * meta["columns"])
        result.append((position - row * meta["columns"], stop - row * meta["columns"], row))
        position = stop
    return result


def _outline(figure: go.Figure, page_map: PageMap, hole: Hole, color: str) -> go.Scatter:
    """Along its upper and lower ends where there is nothing of it above or below, and at both of its ends."""
    x: list[float | None] = []
    y: list[float | None] = []
    parts = _segments(figure, page_map, hole)

    def line(x0: float, y0: float, x1: float, y1: float) -> None:
        if (x0, y0) != (x1, y1):
            x.extend([x0, x1, None])
            y.extend([y0, y1, None])

    for number, (left, right, row) in enumerate(parts):
        line(left, row, left, row + 1)
        line(right, row, right, row + 1)
        above = parts[number - 1] if number else (right, right, 0)
        below = parts[number + 1] if number + 1 < len(parts) else (left, left, 0)
        line(left, row, min(right, max(left, above[0])), row)
        line(max(left, min(right, below[1])), row + 1, right, row + 1)
    style = {"color": color, "width": 3}
    return go.Scatter(x=x, y=y, mode="lines", line=style, hoverinfo="skip", showlegend=False, name="largest hole")


def _sizes(figure: go.Figure, page_map: PageMap, holes: Sequence[Hole], color: str) -> list[go.Scatter]:
    """The size of each hole in its longest part, where there is room."""
    room = _WIDTH / figure.layout.meta["columns"]
    places: list[tuple[float, float, str]] = []
    for hole in sorted(holes, key=lambda hole: -hole.size)[:_MAX_LABELS]:
        left, right, row = max(_segments(figure, page_map, hole), key=lambda part: part[1] - part[0])
        texts = (f"hole of {plural(hole.size, 'slot')}", f"{hole.size:,}")
        text = next((text for text in texts if 7 * len(text) < (right - left) * room), "")
        if text:
            places.append(((left + right) / 2, row + 0.5, text))
    return [
        go.Scatter(
            x=[x for x, _, _ in places],
            y=[y for _, y, _ in places],
            text=[text for *_, text in places],
            mode="text",
            textfont={"color": color, "size": 12},
            hoverinfo="skip",
            showlegend=False,
            name="holes",
        )
    ]


def _waiting_for_memory(page_map: PageMap) -> Blocked | None:
    """What the head of the queue lacks, if it is memory."""
    blocked = page_map.blocked
    if blocked is None or blocked.cause is not Cause.POOL_EXHAUSTED or page_map.waiting[:1] != [blocked.request]:
        return None
    return blocked


def _draw_need(figure: go.Figure, page_map: PageMap, blocked: Blocked, theme: dict[str, str]) -> None:
    """Below the map, as long as what is needed in one piece; at most as long as a row."""
    meta = figure.layout.meta
    width = min(meta["columns"], blocked.needed / (page_map.block_size * meta["pages_per_cell"]))
    top = meta["page_rows"] + 0.4
    figure.add_shape(
        type="rect",
        x0=0,
        x1=width,
        y0=top,
        y1=top + 0.9,
        line={"color": theme["text"], "width": 2, "dash": "dot"},
        name="needed",
    )
    text = f"{request_label(blocked.request)} needs {plural(blocked.needed, 'slot')} in one piece"
    rows = blocked.needed / (page_map.block_size * meta["pages_per_cell"] * meta["columns"])
    if rows > 1:
        text += f", {rows:.3g} rows"
    figure.add_annotation(x=0.01, xref="paper", y=top + 0.45, text=text, showarrow=False, xanchor="left")
    figure.update_yaxes(range=[top + 1.1, 0])
    figure.update_layout(height=figure.layout.height + 40)


def _caption(page_map: PageMap, pieces: Sequence[tuple[int | None, Region | Hole]], holes: Sequence[Hole]) -> str:
    regions = [piece for _, piece in pieces if isinstance(piece, Region)]
    used, asked = sum(region.filled for region in regions), sum(region.requested for region in regions)
    held, total = sum(region.size for region in regions), page_map.num_slots
    words = f"After step {page_map.step}: {plural(len(regions), 'region')} {'takes' if len(regions) == 1 else 'take'} "
    words += (
        f"{held:,} of {plural(total, 'slot')}; {used:,} ({percent(used, total)}) {'holds' if used == 1 else 'hold'} "
    )
    words += (
        f"{'a token' if used == 1 else 'tokens'}, {asked - used:,} {'is' if asked - used == 1 else 'are'} reserved and "
    )
    words += f"empty, {held - asked:,} {'is' if held - asked == 1 else 'are'} lost to rounding."
    if not holes:
        return words + " There is no hole."
    free, largest = sum(hole.size for hole in holes), max(hole.size for hole in holes)
    if len(holes) == 1:
        words += f" The only hole has {plural(free, 'slot')}."
    else:
        words += f" {len(holes):,} holes have {free:,} slots together, the largest {largest:,}."
    if (blocked := _waiting_for_memory(page_map)) is not None:
        words += f" {request_label(blocked.request)} waits for {plural(blocked.needed, 'slot')} in one piece"
        words += f"; the allocator has at most {blocked.available:,} in one."
    return words


def _table(page_map: PageMap, pieces: Sequence[tuple[int | None, Region | Hole]]) -> Table:
    columns = ("First slot", "Last slot", "What", "Request", "Slots", "Used", "Reserved, empty", "Lost to rounding")
    rows: list[list[Cell]] = []
    for request, piece in pieces[:_MAX_TABLE_ROWS]:
        last = piece.start + piece.size - 1
        if isinstance(piece, Hole) or request is None:
            rows.append([piece.start, last, "hole", "", piece.size, 0, 0, 0])
            continue
        used = [piece.filled, piece.requested - piece.filled, piece.size - piece.requested]
        rows.append([piece.start, last, "region", request_label(request), piece.size, *used])
    title = f"Regions and holes after step {page_map.step}, by address"
    if len(pieces) > len(rows):
        title += f" (the first {len(rows):,} of {plural(len(pieces), 'row')})"
    return Table(columns, rows, title)
