"""A `FigureWidget` that stays, and takes over one figure after another."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import plotly.graph_objects as go

#: What belongs to the trace in the widget, not to the figure.
_KEPT = frozenset({"type", "uid"})


class FigureSlot:
    """A `FigureWidget` and the traces it has: those that a new figure has, too, change in place, in one message.

    Traces are told apart by type, name and how many such came before. One that a figure lacks becomes invisible and
    waits for its return: so the number of traces settles after a few steps, and the picture does not flicker.

    Args:
        on_click: called with x and y of a point of a heatmap.
    """

    def __init__(self, figure: go.Figure, on_click: Callable[[float, float], None] | None = None) -> None:
        self._on_click = on_click
        self._places: dict[tuple[str, str, int], int] = {}
        self.widget = go.FigureWidget(layout=figure.layout)
        self.widget._config = {"displayModeBar": False, "responsive": True}
        self.show(figure)

    def show(self, figure: go.Figure) -> None:
        """Takes over a figure."""
        wanted = _keyed(figure)
        new = [key for key in wanted if key not in self._places]
        if new:
            first = len(self.widget.data)
            self._places |= {key: first + place for place, key in enumerate(new)}
            self.widget.add_traces([_plain(wanted[key]) for key in new])
            self._listen(first)
        rank = {key: 1000 + place for place, key in enumerate(wanted)}
        layout = _plain(figure.layout)
        with self.widget.batch_update():
            for key, place in self._places.items():
                trace = self.widget.data[place]
                if key not in wanted:
                    trace.visible = False
                    continue
                _take_over(trace, _plain(wanted[key]) | {"visible": True, "legendrank": rank[key]})
            _take_over(self.widget.layout, {"shapes": [], "annotations": [], "autosize": True, **layout})

    def _listen(self, first: int) -> None:
        if self._on_click is None:
            return
        for trace in self.widget.data[first:]:
            if trace.type == "heatmap":
                trace.on_click(self._clicked)

    def _clicked(self, trace: Any, points: Any, state: Any) -> None:
        if points.xs and self._on_click is not None:
            self._on_click(float(points.xs[0]), float(points.ys[0]))


def _keyed(figure: go.Figure) -> dict[tuple[str, str, int], Any]:
    found: dict[tuple[str, str, int], Any] = {}
    for trace in figure.data:
        number = 0
        while (key := (trace.type, trace.name or "", number)) in found:
            number += 1
        found[key] = trace
    return found


def _plain(part: Any) -> dict[str, Any]:
    result: dict[str, Any] = part.to_plotly_json()
    for name in ("x", "y"):
        if name in result and len(result[name]) == 1 and result[name][0] is None:
            result[name] = np.full(1, np.nan)  # a lone None would arrive as no data at all, and without a legend entry
    return result


def _take_over(part: Any, values: dict[str, Any]) -> None:
    """Sets what is given, and clears what was set before and is not."""
    before = part.to_plotly_json()
    for name in before.keys() - values.keys() - _KEPT:
        part[name] = None
    for name, value in values.items():
        if name not in _KEPT:
            part[name] = value
