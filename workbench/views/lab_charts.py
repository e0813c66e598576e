"""Charts that compare variants of a run: one bar per variant, or one line per variant over the steps.

Each chart shows one figure, so that units don't mix, and has one bar colour and pattern per variant. When two runs lie
side by side, colour and pattern tell the runs apart instead. The numbers stand at the bars.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from workbench.views.palette import DARK, LIGHT, REQUEST_COLORS
from workbench.views.view import Cell, Table, View

#: A second cue beside the colour, in the same order.
_PATTERNS = ("", "/", "x", ".", "\\", "+", "-", "|")
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot", "6px 2px", "2px 6px")
#: Strong on light ground and on dark: the yellow comes last.
_COLORS = (*(REQUEST_COLORS[i] for i in (4, 0, 2, 6, 1, 5, 3)), "#999999")
_BAR = 26
_GROUP_GAP = 14


@dataclass(frozen=True)
class Bars:
    """The values of one run, one per variant; None where a variant has none."""

    name: str
    values: Sequence[float | None]


@dataclass(frozen=True)
class Course:
    """One variant's values over the steps of its run."""

    name: str
    steps: Sequence[int]
    values: Sequence[float]


@dataclass(frozen=True)
class Scale:
    """How a figure is written and judged.

    Attributes:
        better: "more", "fewer", or "" if neither is better.
        is_measured: by the clock of this machine, so that it varies; else counted, the same in every run.
    """

    title: str
    write: Callable[[float], str] = "{:,g}".format
    better: str = ""
    is_measured: bool = False

    @property
    def kind(self) -> str:
        return "measured" if self.is_measured else "counted"


def best_of(values: Sequence[float | None], better: str) -> list[int]:
    """Which values are the best; empty if nothing is better than something else."""
    known = [value for value in values if value is not None]
    if not better or len(known) < 2 or min(known) == max(known):
        return []
    goal = max(known) if better == "more" else min(known)
    return [index for index, value in enumerate(values) if value == goal]


def bars_view(scale: Scale, labels: Sequence[str], runs: Sequence[Bars], dark: bool = False) -> View:
    """Horizontal bars: a group for each variant, a bar for each run. Counted figures: the best of
    each run are marked in words.

    Raises:
        ValueError: a run has another number of values than there are labels.
    """
    for run in runs:
        if len(run.values) != len(labels):
            raise ValueError(f"values of {run.name!r}: {len(run.values)} given, must be {len(labels)}, one per label")
    colors = DARK if dark else LIGHT
    single = len(runs) == 1
    traces = []
    for index, run in enumerate(runs):
        # Times vary from run to run: a star would say more than is known.
        best = set() if scale.is_measured else set(best_of(run.values, scale.better))
        looks = [i if single else index for i in range(len(labels))]
        traces.append(
            go.Bar(
                y=list(range(len(labels))),
                x=list(run.values),
                orientation="h",
                name=run.name,
                marker={
                    "color": [_COLORS[i % len(_COLORS)] for i in looks],
                    "pattern": {
                        "shape": [_PATTERNS[i % len(_PATTERNS)] for i in looks],
                        "fgcolor": colors["line"],
                        "fillmode": "overlay",
                        "size": 7,
                        "solidity": 0.35,
                    },
                    "line": {"color": colors["hatch"], "width": 1},
                },
                text=[_label(scale, value, i in best) for i, value in enumerate(run.values)],
                textposition="outside",
                cliponaxis=False,
                constraintext="none",
                textfont={"color": colors["text"]},
                hovertemplate=f"%{{y}}, {run.name}: %{{text}}<extra></extra>",
            )
        )
    most = max((value for run in runs for value in run.values if value is not None), default=0.0)
    height = 46 + len(labels) * (_BAR * len(runs) + _GROUP_GAP) + (0 if single else 34)
    figure = go.Figure(traces, _layout(colors, height))
    figure.update_layout(barmode="group", bargap=_GROUP_GAP / (_BAR * len(runs) + _GROUP_GAP), showlegend=not single)
    figure.update_layout(legend={"orientation": "h", "y": 1.0, "yanchor": "bottom", "x": 0, "traceorder": "normal"})
    # Room for the number and the word "best" beside the longest bar.
    figure.update_xaxes(range=[0, most * 1.55 or 1], visible=False, fixedrange=True)
    figure.update_yaxes(
        range=[len(labels) - 0.5, -0.5],
        tickvals=list(range(len(labels))),
        ticktext=[f"{label} " for label in labels],
        automargin=True,
        fixedrange=True,
        showgrid=False,
        zeroline=False,
    )
    rows: list[list[Cell]] = [
        [label, *(None if run.values[i] is None else run.values[i] for run in runs)] for i, label in enumerate(labels)
    ]
    return View(
        figure, _caption(scale, labels, runs), Table(["variant", *(run.name for run in runs)], rows, scale.title)
    )


def courses_view(scale: Scale, courses: Sequence[Course], dark: bool = False) -> View:
    """A line for each variant over the steps, told apart by its dashes as well as by its colour."""
    colors = DARK if dark else LIGHT
    traces = []
    longest = max((course.steps[-1] for course in courses if course.steps), default=1)
    most = max((max(course.values) for course in courses if course.values), default=1.0)
    for index, course in enumerate(courses):
        color = _COLORS[index % len(_COLORS)]
        traces.append(
            go.Scatter(
                x=list(course.steps),
                y=list(course.values),
                mode="lines",
                name=course.name,
                line={"color": color, "dash": _DASHES[index % len(_DASHES)], "width": 2.5, "shape": "hv"},
                hovertemplate=f"step %{{x}}, {course.name}: %{{y}}<extra></extra>",
            )
        )
    figure = go.Figure(traces, _layout(colors, 300))
    grid = {"gridcolor": colors["rounding"], "gridwidth": 0.5, "zeroline": False, "fixedrange": True}
    figure.update_layout(
        showlegend=True,
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        margin={"l": 44, "r": 14, "t": 10, "b": 42},
        hovermode="x",
    )
    figure.update_xaxes(title="step", range=[0, longest * 1.02], **grid)
    figure.update_yaxes(range=[0, most * 1.08 or 1], **grid)
    ends = ", ".join(f"{course.name}: {course.steps[-1]:,} steps" for course in courses if course.steps)
    rows: list[list[Cell]] = [
        [course.name, step, value]
        for course in courses
        for step, value in zip(course.steps, course.values, strict=True)
    ]
    table = Table(["variant", "step", scale.title.lower()], rows, scale.title)
    return View(figure, f"{scale.title} after every step ({scale.kind}). {ends}.", table)


def thinned(steps: Sequence[int], values: Sequence[float], most: int = 160) -> tuple[list[int], list[float]]:
    """At most about ``most`` points: of every span of steps its highest value, so that no peak is lost."""
    span = max(1, -(-len(steps) // most))
    picked = [
        max(range(start, min(start + span, len(steps))), key=lambda i: values[i])
        for start in range(0, len(steps), span)
    ]
    if picked and picked[-1] != len(steps) - 1:
        picked.append(len(steps) - 1)
    return [steps[i] for i in picked], [values[i] for i in picked]


def _label(scale: Scale, value: float | None, is_best: bool) -> str:
    if value is None:
        return "none"
    return f"<b>{scale.write(value)} ★ best</b>" if is_best else scale.write(value)


def _caption(scale: Scale, labels: Sequence[str], runs: Sequence[Bars]) -> str:
    parts = []
    for run in runs:
        prefix = "" if len(runs) == 1 else f"{run.name}: "
        named = (
            f"{label} {'none' if value is None else scale.write(value)}"
            for label, value in zip(labels, run.values, strict=True)
        )
        parts.append(prefix + ", ".join(named))
    aim = {"more": "; more is better", "fewer": "; less is better"}.get(scale.better, "")
    return f"{scale.title} ({scale.kind}{aim}). {'. '.join(parts)}."


def _layout(colors: dict[str, str], height: int) -> dict[str, Any]:
    return {
        "template": "none",
        "height": height,
        "margin": {"l": 10, "r": 10, "t": 6, "b": 10},
        "showlegend": False,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": colors["text"], "size": 13},
        "dragmode": False,
        "uirevision": "lab",
    }
