"""The page map's figure by itself, and the waste split as a bar."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from workbench.events import PageMap
from workbench.views.page_map import page_map_view
from workbench.views.palette import DARK, LIGHT
from workbench.views.words import percent, waste_words

_MIN_HEIGHT = 120


def page_map_figure(page_map: PageMap, dark: bool = False, title: str | None = None) -> go.Figure:
    """The figure of `page_map_view`, coloured by request."""
    return page_map_view(page_map, dark=dark, title=title).figure


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
