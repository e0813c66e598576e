"""Plotly figures for notebooks and reports, from the same spans that the app draws."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import plotly.graph_objects as go

from workbench.events import PageMap
from workbench.events.holdings import holdings
from workbench.events.types import Tier
from workbench.views.grid import Span, Use, grid_columns, spans
from workbench.views.palette import (
    DARK,
    LIGHT,
    REQUEST_COLORS,
    RESERVED_TINT,
    mix,
    request_color,
    request_label,
    shared_label,
    text_color,
)
from workbench.views.words import host_words, percent, plural, waste_words

_CELL_HEIGHT = 26
_MIN_HEIGHT = 120
#: Slots between two strokes of the hatching.
_HATCH_STEP = 2.0


def page_map_figure(page_map: PageMap, dark: bool = False, title: str | None = None) -> go.Figure:
    """The page map: every slot of the pool, in rows of pages, coloured by request; below it the host tier's.

    Full colour holds tokens; a hatched tint is reserved and still empty; crossed grey is lost to rounding; grey with
    level lines is kept for reuse; plain grey is free. Letters name the requests, with the number of sequences where
    several share a page: A×3.
    """
    colors = DARK if dark else LIGHT
    if page_map.run is None:
        return go.Figure(layout=_layout(colors, _MIN_HEIGHT, title or "No run yet"))
    columns = grid_columns(page_map.run.num_blocks)
    width = columns * page_map.block_size
    device = _Tier(0, page_map.run.num_blocks, columns, "page", spans(page_map))
    tiers = [device]
    if page_map.host_pages:
        above = device.rows + 1  # with an empty row for the heading
        tiers.append(_Tier(above, len(page_map.host_pages), columns, "host page", spans(page_map, Tier.HOST)))
    pieces = [piece for tier in tiers for piece in _by_row(tier, width)]
    rows = tiers[-1].first_row + tiers[-1].rows
    figure = go.Figure(
        data=[
            _heatmap(page_map, tiers, rows, width, colors),
            _hatching(pieces, width, colors),
            _edges(page_map, tiers, width, colors),
            _letters(pieces, width, page_map.is_paged),
        ]
    )
    kind = "Paged" if page_map.is_paged else "Contiguous"
    default = f"{kind}, step {page_map.step}: {plural(page_map.run.num_blocks, 'page')} of {page_map.block_size} slots"
    figure.update_layout(_layout(colors, max(_MIN_HEIGHT, 60 + rows * _CELL_HEIGHT), title or default))
    figure.update_xaxes(range=[0, width], visible=False, fixedrange=True)
    figure.update_yaxes(range=[rows, 0], visible=False, fixedrange=True)
    if len(tiers) > 1:
        words = host_words(page_map, holdings(page_map))
        place = {"x": 0, "y": device.rows + 0.5, "xanchor": "left", "yanchor": "middle"}
        figure.add_annotation(text=words, showarrow=False, font={"size": 12}, **place)
    return figure


@dataclass(frozen=True)
class _Tier:
    """Where a tier's pages are drawn."""

    first_row: int
    blocks: int
    columns: int
    noun: str
    used: list[Span]

    @property
    def rows(self) -> int:
        return -(-self.blocks // self.columns)


def waste_figure(page_map: PageMap, dark: bool = False) -> go.Figure:
    """The uses of the pool's slots as one bar, told apart by hatching as well as by colour."""
    colors = DARK if dark else LIGHT
    waste = page_map.waste()
    total = max(1, page_map.num_slots)
    parts = [
        ("Token states", waste.token_states, "#0072B2", ""),
        ("Reserved, empty", waste.reserved, "#E69F00", "/"),
        ("External fragmentation", waste.external, "#999999", "x"),
    ]
    if waste.cached:
        parts.append(("Kept for reuse (cached)", waste.cached, colors["cached"], "-"))
    parts.append(("Free", waste.free, colors["free"], ""))
    bars = [
        go.Bar(
            x=[count],
            y=[""],
            orientation="h",
            name=name,
            marker={"color": color, "pattern": {"shape": shape}, "line": {"color": colors["hatch"], "width": 1}},
            text=percent(count, total),
            hovertemplate=f"{name}: {count:,} of {total:,} slots<extra></extra>",
        )
        for name, count, color, shape in parts
    ]
    figure = go.Figure(bars, _layout(colors, _MIN_HEIGHT + 40, waste_words(waste)))
    figure.update_layout(barmode="stack", showlegend=True, legend={"orientation": "h", "y": -0.2}, title_font_size=12)
    figure.update_xaxes(range=[0, total], visible=False)
    figure.update_yaxes(visible=False)
    return figure


def _layout(colors: dict[str, str], height: int, title: str) -> dict[str, Any]:
    return {
        "template": "none",
        "title": {"text": title, "font": {"size": 14}},
        "height": height,
        "margin": {"l": 10, "r": 10, "t": 40, "b": 10},
        "showlegend": False,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": colors["text"]},
    }


def _by_row(tier: _Tier, width: int) -> list[Span]:
    """A tier's spans, cut at the ends of the rows, and counted in slots of the whole picture."""
    result = []
    for span in tier.used:
        start = span.start + tier.first_row * width
        end = start + span.length
        while start < end:
            stop = min(end, (start // width + 1) * width)
            result.append(replace(span, start=start, length=stop - start))
            start = stop
    return result


def _heatmap(page_map: PageMap, tiers: list[_Tier], rows: int, width: int, colors: dict[str, str]) -> go.Heatmap:
    count = len(REQUEST_COLORS)
    scale = [
        *REQUEST_COLORS,
        *(mix(color, colors["free"], RESERVED_TINT) for color in REQUEST_COLORS),
        colors["rounding"],
        colors["free"],
        colors["cached"],
    ]
    codes: list[int | None] = [None] * (rows * width)
    hover = [""] * (rows * width)
    size = page_map.block_size
    plain = {Use.ROUNDING: 2 * count, Use.FREE: 2 * count + 1, Use.CACHED: 2 * count + 2}
    for tier in tiers:
        for span in tier.used:
            code = plain.get(span.use, span.request % count + (0 if span.use is Use.TOKENS else count))
            owner = f"request {request_label(span.request)}, " if span.request >= 0 else ""
            shared = f", shared by {span.refs} sequences" if span.refs > 1 else ""
            for slot in range(span.start, span.start + span.length):
                place = slot + tier.first_row * width
                codes[place] = code
                page = f"{tier.noun} {slot // size}, slot {slot % size} of {size}"
                hover[place] = f"{page}: {owner}{span.use}{shared}"
    edges = [(code + end) / len(scale) for code in range(len(scale)) for end in (0, 1)]
    return go.Heatmap(
        z=[codes[row * width : (row + 1) * width] for row in range(rows)],
        x0=0.5,
        dx=1,
        y0=0.5,
        dy=1,
        zmin=-0.5,
        zmax=len(scale) - 0.5,
        colorscale=[[edge, scale[position // 2]] for position, edge in enumerate(edges)],
        showscale=False,
        text=[hover[row * width : (row + 1) * width] for row in range(rows)],
        hovertemplate="%{text}<extra></extra>",
    )


def _hatching(pieces: list[Span], width: int, colors: dict[str, str]) -> go.Scatter:
    """Strokes over memory that is held and empty, crossed over what rounding has lost, level over what is kept."""
    x: list[float | None] = []
    y: list[float | None] = []
    for piece in pieces:
        if piece.use not in (Use.RESERVED, Use.ROUNDING, Use.CACHED):
            continue
        row, left = divmod(piece.start, width)
        if piece.use is Use.CACHED:
            for height in (0.3, 0.5, 0.7):
                x += [left, left + piece.length, None]
                y += [row + height, row + height, None]
            continue
        position = 0.0
        while position < piece.length:
            right = min(position + _HATCH_STEP, piece.length)
            height = 0.9 * (right - position) / _HATCH_STEP
            x += [left + position, left + right, None]
            y += [row + 0.95, row + 0.95 - height, None]
            if piece.use is Use.ROUNDING:
                x += [left + position, left + right, None]
                y += [row + 0.05, row + 0.05 + height, None]
            position += _HATCH_STEP
    line = {"color": colors["hatch"], "width": 0.7}
    return go.Scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", name="reserved")


def _edges(page_map: PageMap, tiers: list[_Tier], width: int, colors: dict[str, str]) -> go.Scatter:
    """Lines between rows and pages; a region of contiguous memory is one piece."""
    size = page_map.block_size
    x: list[float | None] = []
    y: list[float | None] = []
    for tier in tiers:
        total = tier.blocks * size
        if page_map.is_paged:
            cuts = set(range(0, total + 1, size))
        else:
            cuts = {span.start for span in tier.used if span.use in (Use.TOKENS, Use.FREE)} | {total}
            free = [span for span in tier.used if span.use is Use.FREE]
            cuts |= {slot for span in free for slot in range(span.start, span.start + span.length, size)}
        for cut in sorted(cuts):
            row, column = divmod(cut, width)
            x += [column, column, None]
            y += [tier.first_row + row, tier.first_row + row + 1, None]
        for row in range(tier.first_row, tier.first_row + tier.rows + 1):
            x += [0, width, None]
            y += [row, row, None]
    return go.Scatter(
        x=x, y=y, mode="lines", line={"color": colors["line"], "width": 2}, hoverinfo="skip", name="edges"
    )


def _letters(pieces: list[Span], width: int, paged: bool) -> go.Scatter:
    """One letter per page, or per row of a region, at its left edge."""
    x, y, text, font = [], [], [], []
    for piece in pieces:
        starts_page = paged and piece.use is Use.TOKENS
        if piece.request < 0 or not (starts_page or (not paged and piece.use in (Use.TOKENS, Use.RESERVED))):
            continue
        row, column = divmod(piece.start, width)
        x.append(column + min(piece.length, 1.5) / 2 + (0.3 if piece.refs < 2 else 0.6))
        y.append(row + 0.5)
        text.append(shared_label(piece.request, piece.refs))
        on_color = piece.use is Use.TOKENS and piece.length > 1
        font.append(text_color(request_color(piece.request)) if on_color else "#666666")
    return go.Scatter(
        x=x, y=y, text=text, mode="text", textfont={"color": font, "size": 11}, hoverinfo="skip", name="requests"
    )
