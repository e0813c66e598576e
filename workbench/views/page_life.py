"""One page's life: who had it when, how full it was, and everything that ever happened to it, with causes."""

from __future__ import annotations

import operator

import numpy as np
import plotly.graph_objects as go

from workbench.events import History
from workbench.events.types import Tier
from workbench.views.page_life_index import LifeIndex, life_index
from workbench.views.page_life_rows import CACHED, Kind, PageRows
from workbench.views.page_life_story import count_words, page_table
from workbench.views.palette import DARK, LIGHT, request_color, request_label, text_color
from workbench.views.series_figure import Panel, empty_figure, line, stacked_figure, step_window
from workbench.views.view import Table, View
from workbench.views.words import plural

#: Most bars of the strip, and most marks of events.
MAX_BARS, MAX_MARKS = 150, 240

#: Kinds with a mark: name, symbol, colour.
_MARKS: dict[Kind, tuple[str, str, str]] = {
    Kind.ALLOCATED: ("handed out", "triangle-up", "#0072B2"),
    Kind.SHARED: ("shared", "diamond", "#CC79A7"),
    Kind.COPIED_FROM: ("copied", "square-open", "#CC79A7"),
    Kind.COPIED_TO: ("is a copy", "square", "#CC79A7"),
    Kind.HIT: ("prefix hit", "star", "#E69F00"),
    Kind.CACHED: ("kept", "hourglass", "#E69F00"),
    Kind.EVICTED: ("evicted", "x", "#D55E00"),
    Kind.SWAPPED_OUT: ("swapped out", "arrow-down", "#D55E00"),
    Kind.SWAPPED_IN: ("swapped in", "arrow-up", "#009E73"),
    Kind.FREED: ("freed", "triangle-down", "#999999"),
}
_REGION_MARKS = {Kind.ALLOCATED: "reserved", Kind.RELEASED: "released"}


def page_life_view(
    history: History,
    block: int,
    tier: Tier = Tier.DEVICE,
    step: int | None = None,
    dark: bool = False,
    steps: tuple[int, int] | None = None,
) -> View:
    """Everything that ever happened to a page.

    Contiguous memory has no pages; there ``block`` is a piece of ``block_size`` slots of the arena, the smallest that
    a region can begin or end with.

    Args:
        step: the step shown; None: the last one.
        steps: first and last step to draw; None: all.

    Raises:
        ValueError: there is no such page, or there are no such steps.
    """
    index = life_index(history)
    if index.run is None:
        return View(empty_figure("No run yet", dark), "No run yet.")
    block = _check(index, block, tier)
    rows = index.page_rows(block, tier)
    shown = history.last_step if step is None else step
    name = _name(index, block, tier)
    if not len(rows):
        words = f"{name[0].upper()}{name[1:]} has never been used."
        return View(empty_figure(words, dark), words, Table(["Step", "What happened", "Why"], []))
    window = step_window((history.first_step, history.last_step), steps)
    drawn = rows.within(*window)
    panels = [
        _strip(drawn, window, dark),
        _content(drawn, window, index.run.block_size, index.paged, dark),
        _marks(drawn, index.paged, dark),
    ]
    figure = stacked_figure(panels, window, step, dark, f"page {tier} {block} {steps or ''}")
    table = page_table(history, index, rows, block, tier, shown)
    return View(figure, page_life_words(index, rows, block, tier, shown), table)


def _check(index: LifeIndex, block: int, tier: Tier) -> int:
    assert index.run is not None
    count = index.run.num_host_blocks if tier is Tier.HOST else index.run.num_blocks
    block = operator.index(block)
    if not 0 <= block < count:
        there = f"must be from 0 to {count - 1}" if count else "this run has no host tier"
        raise ValueError(f"block={block}: {there}")
    return block


def _name(index: LifeIndex, block: int, tier: Tier) -> str:
    if not index.paged and index.run is not None:
        size = index.run.block_size
        return f"the piece of the arena from slot {block * size:,} to {(block + 1) * size - 1:,}"
    return f"host page {block}" if tier is Tier.HOST else f"page {block}"


def page_life_words(index: LifeIndex, rows: PageRows, block: int, tier: Tier, step: int) -> str:
    """How the page is after a step, and what happened to it so far."""
    assert index.run is not None
    name, upto = _name(index, block, tier), rows.until(step)
    size = index.run.block_size
    if not upto:
        return f"Step {step:,}: {name} has not been used yet."
    refs, filled, request = int(rows.refs[upto - 1]), int(rows.filled[upto - 1]), int(rows.request[upto - 1])
    if refs == CACHED:
        now = f"is cached: nobody has it, its {plural(filled, 'token')} are kept for reuse"
    elif refs == 0:
        now = "is free"
    else:
        who = f"request {request_label(request)}" if request >= 0 else "a request"
        shared = f", shared by {plural(refs, 'sequence')}" if refs > 1 else ""
        now = f"belongs to {who}{shared}, {filled} of {size} slots hold tokens"
    had = f"{plural(len(rows.requests(upto)), 'request')} had it"
    counted = count_words(rows, upto) if index.paged else ""
    return f"Step {step:,}: {name} {now}. So far {had}" + (f"; it was {counted}." if counted else ".")


# -- panels ------------------------------------------------------------------------------------------------------------


def _stays(rows: PageRows, last: int) -> list[tuple[int, int, int, int]]:
    """(first step, last step, request, or -1 for cached; most references) wherever the page is not free."""
    stays: list[tuple[int, int, int, int]] = []
    ends = np.append(rows.step[1:], last + 1).tolist()
    columns = (rows.step.tolist(), ends, rows.request.tolist(), rows.refs.tolist())
    for first, end, request, refs in zip(*columns, strict=True):
        if refs == 0 or end <= first:
            continue
        if stays and stays[-1][1] + 1 == first and stays[-1][2] == request:
            stays[-1] = (stays[-1][0], end - 1, request, max(refs, stays[-1][3]))
        else:
            stays.append((first, end - 1, request, refs))
    return stays


def _strip(rows: PageRows, window: tuple[int, int], dark: bool) -> Panel:
    colors = DARK if dark else LIGHT
    stays = _stays(rows, window[1])
    name = "Who has it"
    if len(stays) > MAX_BARS:
        name = f"Who has it (the longest {MAX_BARS} of {len(stays):,} stays)"
        stays = sorted(stays, key=lambda stay: stay[0] - stay[1])[:MAX_BARS]
    fills = [request_color(request) if request >= 0 else colors["cached"] for _, _, request, _ in stays]
    labels = [_label(request, refs) for _, _, request, refs in stays]
    trace = go.Bar(
        orientation="h",
        y=[0] * len(stays),
        x=[last - first + 1 for first, last, *_ in stays],
        base=[first - 0.5 for first, *_ in stays],
        width=0.9,
        marker={
            "color": fills,
            "pattern": {
                "shape": ["-" if request < 0 else "" for _, _, request, _ in stays],
                "fillmode": "overlay",
                "fgcolor": colors["hatch"],
                "size": 6,
                "solidity": 0.3,
            },
            "line": {"color": colors["hatch"], "width": 0.6},
        },
        text=labels,
        textposition="inside",
        insidetextanchor="middle",
        textangle=0,
        textfont={"color": [text_color(fill) for fill in fills], "size": 12},
        customdata=[["request", request] if request >= 0 else ["step", first] for first, _, request, _ in stays],
        hovertext=[
            f"{'request ' + label if request >= 0 else 'kept for reuse (cached)'}: steps {first:,} to {last:,}"
            for label, (first, last, request, _) in zip(labels, stays, strict=True)
        ],
        hovertemplate="%{hovertext}<extra></extra>",
        name="letter: request, ×n: shared, lines: cached",
    )
    return Panel(name, 40, [trace], {"range": [-0.6, 0.6], "visible": False})


def _label(request: int, refs: int) -> str:
    if request < 0:
        return "cached"
    return request_label(request) + (f"×{refs}" if refs > 1 else "")


def _content(rows: PageRows, window: tuple[int, int], block_size: int, paged: bool, dark: bool) -> Panel:
    """Filled slots and references after each step in which anything changed, and at both ends."""
    last_of_step = np.append(rows.step[1:] != rows.step[:-1], True)
    steps, filled, refs = (column[last_of_step] for column in (rows.step, rows.filled, rows.refs))
    where = np.unique(np.concatenate([[window[0], window[1]], steps, np.maximum(window[0], steps - 1)]))
    position = np.searchsorted(steps, where, side="right") - 1
    blue = "#56B4E9" if dark else "#0072B2"
    held = np.where(position < 0, 0, filled[position])
    traces = [line(where, held, f"filled slots (of {block_size})", blue, "filled slots")]
    most = block_size
    if paged:
        count = np.where(position < 0, 0, np.maximum(0, refs[position]))
        traces.append(line(where, count, "sequences that have it", "#E69F00", "sequences", "dash"))
        most = max(most, int(count.max()))
    return Panel("Content", 90, traces, {"range": [0, most * 1.08]})


def _marks(rows: PageRows, paged: bool, dark: bool) -> Panel:
    names = {kind: mark[0] for kind, mark in _MARKS.items()} if paged else _REGION_MARKS
    kinds = [kind for kind in names if (rows.kind == kind).any()]
    traces = []
    for height, kind in enumerate(kinds):
        steps = np.unique(rows.step[rows.kind == kind])
        if len(steps) > MAX_MARKS // len(kinds):
            steps = steps[np.linspace(0, len(steps) - 1, MAX_MARKS // len(kinds)).astype(int)]
        _, symbol, color = _MARKS.get(kind, ("", "triangle-down", "#999999"))
        traces.append(
            go.Scatter(
                x=steps.tolist(),
                y=[height] * len(steps),
                mode="markers",
                name=names[kind],
                showlegend=False,
                marker={
                    "symbol": symbol,
                    "size": 10,
                    "color": color,
                    "line": {"width": 1, "color": (DARK if dark else LIGHT)["hatch"]},
                },
                customdata=[["step", int(step)] for step in steps],
                hovertemplate=f"step %{{x:,d}}: {names[kind]}<extra></extra>",
            )
        )
    if not traces:
        traces.append(go.Scatter(x=[], y=[], showlegend=False))
    axis = {
        "range": [len(kinds) - 0.4, -0.6],
        "tickmode": "array",
        "tickvals": list(range(len(kinds))),
        "ticktext": [names[kind] for kind in kinds],
        "automargin": True,
    }
    return Panel("What happened", max(30, 22 * len(kinds)), traces, axis)
