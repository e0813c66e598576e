"""Requests as lanes over steps: one bar per interval, told apart by colour, pattern, height and letter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

from workbench.views.palette import DARK, LIGHT, request_label
from workbench.views.series_figure import Panel
from workbench.views.series_requests import Interval, Phase, RequestTrack

#: Most lanes, and most bars in them.
MAX_LANES, MAX_BARS = 20, 500
_LANE = 21

#: Phase: colour, pattern, height of the bar, letter.
STYLES: dict[Phase, tuple[str, str, float, str]] = {
    Phase.QUEUED: ("#999999", "", 0.30, "q"),
    Phase.PREFILL: ("#56B4E9", "/", 0.84, "P"),
    Phase.DECODE: ("#009E73", "", 0.84, "D"),
    Phase.PREEMPTED: ("#D55E00", "x", 0.46, "X"),
    Phase.SWAPPED: ("#CC79A7", "-", 0.46, "S"),
    Phase.AGAIN: ("#E69F00", "\\", 0.84, "R"),
}


def present(tracks: Sequence[RequestTrack], first: int, last: int) -> list[RequestTrack]:
    """Requests that do anything between two steps."""
    return [t for t in tracks if t.intervals and t.intervals[0].first <= last and not 0 <= t.intervals[-1].last < first]


def choose_lanes(tracks: Sequence[RequestTrack], window: tuple[int, int], step: int | None) -> list[RequestTrack]:
    """At most `MAX_LANES` of them, in the order of arrival: around the step shown, else from the window's beginning."""
    there = present(tracks, *window)
    if len(there) <= MAX_LANES or step is None:
        return there[:MAX_LANES]
    active = [position for position, track in enumerate(there) if track.phase_at(step) is not None]
    middle = active[len(active) // 2] if active else _nearest(there, step)
    start = min(max(0, middle - MAX_LANES // 2), len(there) - MAX_LANES)
    return there[start : start + MAX_LANES]


def _nearest(tracks: Sequence[RequestTrack], step: int) -> int:
    return min(range(len(tracks)), key=lambda position: abs(tracks[position].first_step - step))


def are_specks(lanes: Sequence[RequestTrack], window: tuple[int, int], last: int) -> bool:
    """Whether most of the lanes would be narrower than a hundredth of the picture."""
    lengths = [_end(track.intervals[-1], last) - track.first_step + 1 for track in lanes if track.intervals]
    return bool(lengths) and 100 * sorted(lengths)[len(lengths) // 2] < window[1] - window[0]


def phase_words(interval: Interval, last: int) -> str:
    """``decode, steps 3 to 40 (38 steps)``; an interval that goes on ends with the history's ``last`` step."""
    end = interval.last if interval.last >= 0 else last
    count = max(0, end - interval.first + 1)
    steps = f"step {interval.first}" if count < 2 else f"steps {interval.first} to {end} ({count} steps)"
    return f"{interval.phase.value}, {steps}" + (", goes on" if interval.last < 0 else "")


def lanes_panel(
    lanes: Sequence[RequestTrack],
    window: tuple[int, int],
    last: int,
    dark: bool,
    name: str = "Requests",
    height: int | None = None,
) -> tuple[Panel, int]:
    """The panel, and how many intervals were too short to be drawn.

    Args:
        last: the last step of the history, where open intervals end.
    """
    colors = DARK if dark else LIGHT
    bars: dict[Phase, list[tuple[int, RequestTrack, Interval, int, int]]] = {phase: [] for phase in STYLES}
    pieces = [
        (lane, track, interval, max(interval.first, window[0]), min(_end(interval, last), window[1]))
        for lane, track in enumerate(lanes)
        for interval in track.intervals
    ]
    pieces = [piece for piece in pieces if piece[3] <= piece[4]]
    hidden = max(0, len(pieces) - MAX_BARS)
    if hidden:
        pieces = sorted(pieces, key=lambda piece: piece[3] - piece[4])[:MAX_BARS]
    for piece in pieces:
        bars[piece[2].phase].append(piece)
    traces = []
    for phase, (color, pattern, thickness, letter) in STYLES.items():
        found = bars[phase]
        if not found and phase in (Phase.PREEMPTED, Phase.SWAPPED, Phase.AGAIN):
            continue
        traces.append(
            go.Bar(
                orientation="h",
                name=f"{letter} {phase.value}",
                y=[lane for lane, *_ in found],
                x=[stop - start + 1 for *_, start, stop in found],
                base=[start - 0.5 for *_, start, _ in found],
                width=thickness,
                marker={
                    "color": color,
                    "pattern": {
                        "shape": pattern,
                        "fillmode": "overlay",
                        "fgcolor": LIGHT["text"],
                        "size": 6,
                        "solidity": 0.25,
                    },
                    "line": {"color": colors["hatch"], "width": 0.5},
                },
                text=[letter] * len(found) if thickness > 0.8 else None,
                textposition="inside",
                insidetextanchor="middle",
                textangle=0,
                textfont={"color": "#000000", "size": 10},
                customdata=[["request", track.request] for _, track, *_ in found],
                hovertext=[f"{_name(track)}: {phase_words(interval, last)}" for _, track, interval, *_ in found],
                hovertemplate="%{hovertext}<extra></extra>",
            )
        )
    names = [request_label(track.request) for track in lanes]
    axis: dict[str, Any] = {
        "range": [len(lanes) - 0.4, -0.6],
        "tickvals": list(range(len(lanes))),
        "ticktext": names,
        "showgrid": False,
        "tickmode": "array",
    }
    return Panel(name, height or max(40, _LANE * len(lanes)), traces, axis), hidden


def _end(interval: Interval, last: int) -> int:
    return interval.last if interval.last >= 0 else last


def _name(track: RequestTrack) -> str:
    kind = f", {track.width} {'beams' if track.is_beam_search else 'samples'}" if track.width > 1 else ""
    return f"request {request_label(track.request)} ({track.prompt_tokens} prompt tokens{kind})"
