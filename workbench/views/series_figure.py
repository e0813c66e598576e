"""What the figures over steps have in common: panels above each other, one x axis, one cursor, thinned lines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.views.palette import DARK, LIGHT

#: Most points of a line, and of the layers of a stack together with their common steps.
MAX_POINTS = 500
_BOTTOM, _LEFT, _RIGHT = 46, 58, 16


def thin(columns: Sequence[np.ndarray], most: int = MAX_POINTS) -> np.ndarray:
    """Positions to draw so that a long line looks the same: ends, and of every stretch the smallest and largest value.

    Args:
        columns: arrays of one length that share the positions; nan is never an extreme.
        most: about how many positions; all of them if there are no more.
    """
    count = len(columns[0])
    if count <= most:
        return np.arange(count)
    buckets = max(1, most // (2 * len(columns)))
    edges = np.linspace(0, count, buckets + 1).astype(int)
    chosen = {0, count - 1}
    for column in columns:
        values = column.astype(float)
        low, high = np.where(np.isnan(values), np.inf, values), np.where(np.isnan(values), -np.inf, values)
        for start, stop in pairwise(edges):
            chosen.add(int(start + low[start:stop].argmin()))
            chosen.add(int(start + high[start:stop].argmax()))
    return np.array(sorted(chosen))


def changes(columns: Sequence[np.ndarray], positions: np.ndarray) -> np.ndarray:
    """Those positions at which a line of steps bends: where nothing changes, a straight line needs no points."""
    if len(positions) < 3:
        return positions
    keep = np.zeros(len(positions), dtype=bool)
    keep[0] = keep[-1] = True
    for column in columns:
        differs = column[positions[1:]] != column[positions[:-1]]
        keep[1:] |= differs
        keep[:-1] |= differs
    return positions[keep]


def small(values: np.ndarray) -> np.ndarray:
    """The same whole numbers in as few bytes as hold them: figures are sent to browsers."""
    if not len(values) or values.dtype.kind != "i":
        return values
    low, high = int(values.min()), int(values.max())
    for kind in (np.int8, np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return values.astype(kind)
    return values.astype(float)


def step_window(whole: tuple[int, int], steps: tuple[int, int] | None) -> tuple[int, int]:
    """First and last step to draw: those asked for, as far as they are there.

    Raises:
        ValueError: none of them is.
    """
    if steps is None:
        return whole
    first, last = max(steps[0], whole[0]), min(steps[1], whole[1])
    if first > last:
        there = f"the run goes from step {whole[0]} to step {whole[1]}"
        raise ValueError(f"steps={steps!r}: must be a first and a last step; {there}")
    return first, last


@dataclass(frozen=True)
class Panel:
    """One of the charts above each other. ``height`` is in pixels, without the line with its name and its legend."""

    name: str
    height: int
    traces: Sequence[Any]
    axis: dict[str, Any]

    @property
    def header(self) -> int:
        """Pixels above it. A long legend takes two lines where there is little room."""
        return 34 if sum(trace.showlegend is not False for trace in self.traces) < 4 else 48


def stacked_figure(
    panels: Sequence[Panel], window: tuple[int, int], step: int | None, dark: bool, revision: str, below: int = 0
) -> go.Figure:
    """Panels that share the x axis, each with its name and its legend above it, and the cursor over all of them.

    Args:
        window: first and last step to show.
        step: where the cursor is; None: there is none.
        revision: ``uirevision``: zoom is kept as long as it is the same.
        below: height, in pixels, of what the caller adds below the x axis; the y axis there is the next one.
    """
    colors = DARK if dark else LIGHT
    total = sum(panel.height + panel.header for panel in panels) + below
    layout: dict[str, Any] = {
        "template": "none",
        "height": total + _BOTTOM,
        "margin": {"l": _LEFT, "r": _RIGHT, "t": 0, "b": _BOTTOM},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": colors["text"], "size": 12},
        "barmode": "overlay",
        "hovermode": "closest",
        "hoverlabel": {"bgcolor": colors["free"], "font": {"color": colors["text"]}, "align": "left"},
        "uirevision": revision,
        "uniformtext": {"minsize": 9, "mode": "hide"},
        "shapes": [cursor(step, dark, below / total)] if step is not None else [],
        "meta": {"x": "step"},  # wherever one clicks, x is a step, also where points carry no customdata
    }
    figure = go.Figure()
    top = float(total)
    for number, panel in enumerate(panels, 1):
        suffix = "" if number == 1 else str(number)
        top -= panel.header
        bottom = top - panel.height
        domain = [max(0.0, bottom / total), min(1.0, top / total)]
        layout[f"yaxis{suffix}"] = {
            "domain": domain,
            "anchor": "x",
            "gridcolor": _faint(dark),
            "zeroline": False,
            "automargin": False,
            "rangemode": "tozero",
            "fixedrange": True,
            "nticks": 4,
            "tickfont": {"size": 11},
            "separatethousands": True,
        } | panel.axis
        legend = "legend" + suffix
        layout[legend] = {
            "orientation": "h",
            "title": {"text": f"<b>{panel.name}</b>  ", "font": {"size": 13}},
            "x": 0,
            "xanchor": "left",
            "y": domain[1],
            "yanchor": "bottom",
            "font": {"size": 11},
            "bgcolor": "rgba(0,0,0,0)",
            "itemsizing": "constant",
            "traceorder": "normal",
        }
        if not any(trace.showlegend is not False for trace in panel.traces):  # else its legend says its name
            figure.add_annotation(
                text=f"<b>{panel.name}</b>",
                x=0,
                y=domain[1],
                xref="paper",
                yref="paper",
                xanchor="left",
                yanchor="bottom",
                showarrow=False,
                font={"size": 13},
            )
        for trace in panel.traces:
            trace.update(yaxis=f"y{suffix}", legend=legend, showlegend=trace.showlegend is not False)
            figure.add_trace(trace)
        top = bottom
    first, last = window
    margin = max(0.5, (last - first) / 200)
    layout["xaxis"] = {
        "title": {"text": "Step", "standoff": 6},
        "range": [first - margin, last + margin],
        "anchor": "y" if len(panels) == 1 else f"y{len(panels)}",
        "gridcolor": _faint(dark),
        "zeroline": False,
        "tickformat": ",d",
        "nticks": 12,
        "showspikes": False,
    }
    figure.update_layout(layout)
    return figure


def cursor(step: int, dark: bool, bottom: float = 0.0) -> dict[str, Any]:
    """The step shown, as a line over all panels, down to a height in paper coordinates."""
    color = DARK["text"] if dark else LIGHT["text"]
    line = {"color": color, "width": 1.5, "dash": "dot"}
    return {
        "type": "line",
        "name": "cursor",
        "x0": step,
        "x1": step,
        "xref": "x",
        "y0": bottom,
        "y1": 1,
        "yref": "paper",
        "line": line,
    }


def empty_figure(text: str, dark: bool) -> go.Figure:
    """A figure that only says why there is nothing to see."""
    colors = DARK if dark else LIGHT
    figure = go.Figure()
    figure.update_layout(
        template="none",
        height=140,
        margin={"l": 10, "r": 10, "t": 10, "b": 10},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": colors["text"]},
        xaxis={"visible": False},
        yaxis={"visible": False},
        uirevision="empty",
        annotations=[{"text": text, "showarrow": False, "font": {"size": 14}, "x": 0.5, "y": 0.5}],
    )
    return figure


def _faint(dark: bool) -> str:
    return "rgba(229,231,235,0.14)" if dark else "rgba(31,41,55,0.10)"


def line(
    steps: np.ndarray,
    values: np.ndarray,
    name: str,
    color: str,
    unit: str,
    dash: str = "solid",
    shape: str = "hvh",
    digits: int = 0,
) -> go.Scatter:
    """A line over steps, thinned, whose points can be clicked. The dash is the cue beside the colour."""
    chosen = thin([values])
    if shape != "linear":
        chosen = changes([values], chosen)
    return go.Scatter(
        x=small(steps[chosen]),
        y=np.round(values[chosen].astype(np.float32), digits) if digits else small(values[chosen]),
        name=name,
        mode="lines",
        line={"color": color, "dash": dash, "width": 1.8, "shape": shape},
        customdata=[["step", int(step)] for step in steps[chosen]],
        hovertemplate=f"step %{{x:,d}}: %{{y:,.{digits}f}} {unit}<extra>{name}</extra>",
    )


def area(
    steps: np.ndarray, values: np.ndarray, name: str, color: str, pattern: str, unit: str, dark: bool, group: str
) -> go.Scatter:
    """One layer of a stack; thin the arrays of all layers together before. The pattern is the cue beside the colour.

    No customdata: five layers with it would be most of the figure's bytes.
    """
    ink = DARK["hatch"] if dark else LIGHT["hatch"]
    fill = {"shape": pattern, "fgcolor": ink, "bgcolor": color, "size": 7, "solidity": 0.22, "fillmode": "replace"}
    return go.Scatter(
        x=small(steps),
        y=small(values),
        name=name,
        mode="lines",
        stackgroup=group,
        fillcolor=color,
        fillpattern=fill if pattern else None,
        line={"color": ink, "width": 0.6, "shape": "hvh"},
        hovertemplate=f"step %{{x:,d}}: %{{y:,d}} {unit}<extra>{name}</extra>",
    )


def every(rows: int, most: int) -> int:
    """The distance of the rows that a table of at most ``most`` shows."""
    return max(1, -(-rows // most))
