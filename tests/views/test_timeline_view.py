"""Figures over a whole run show the numbers of its series, and their captions are true for the step shown."""

from __future__ import annotations

import json

import numpy as np
import pytest

from tests.events.synthetic import Simulation
from tests.views.test_series import by_hand, synthetic
from workbench.events import EventBus, PageMap, Timeline
from workbench.views import RunSeries, View, flow_view, timeline_view
from workbench.views.flow import flow_totals
from workbench.views.series_figure import MAX_POINTS, changes, thin
from workbench.views.series_requests import RequestTrack
from workbench.views.timeline_lanes import MAX_LANES


def trace(view: View, name: str) -> tuple[list[int], list[float]]:
    """A line's or a layer's points."""
    (found,) = [t for t in view.figure.data if t.name is not None and t.name.startswith(name)]
    return [int(x) for x in found.x], [float(y) for y in found.y]


def expanded(steps: list[int], values: list[float], wanted: list[int]) -> list[float]:
    """The line's values at all steps: between two points of the same height it is level."""
    position = np.searchsorted(steps, wanted, side="right") - 1
    return [values[p] for p in position]


def cursors(view: View) -> list[int]:
    return [shape.x0 for shape in view.figure.layout.shapes if shape.name == "cursor"]


@pytest.fixture(scope="module")
def paged() -> RunSeries:
    return RunSeries.of(synthetic("paged", 2))


@pytest.fixture(scope="module")
def contiguous() -> RunSeries:
    return RunSeries.of(synthetic("contiguous", 2))


@pytest.mark.parametrize("dark", [False, True])
def test_lines_and_layers_are_the_series(paged: RunSeries, dark: bool) -> None:
    view = timeline_view(paged, 30, dark)
    steps = paged.steps.tolist()
    split = paged.split()
    assert split is not None
    for name, column in (
        ("device (of", paged.column("used")),
        ("token states", paged.column("token_states")),
        ("reservation", split[0]),
        ("internal", split[1]),
        ("free", paged.column("free_slots")),
        ("sequences computed", paged.column("sequences")),
        ("requests waiting", paged.column("waiting")),
    ):
        assert expanded(*trace(view, name), steps) == column.tolist(), name
    assert cursors(view) == [30]
    assert cursors(timeline_view(paged)) == []


def test_bars_of_the_lanes_are_the_requests_intervals(paged: RunSeries) -> None:
    view = timeline_view(paged, steps=(0, 40))
    drawn = {
        (bar.name[2:], data[1], int(base + 0.5), int(base + 0.5 + length - 1))
        for bar in view.figure.data
        if bar.type == "bar"
        for data, base, length in zip(bar.customdata or (), bar.base or (), bar.x or (), strict=True)
    }
    shown = sorted({request for _, request, *_ in drawn})
    expected = {
        (i.phase.value, r, i.first, min(i.last, 40))
        for r in shown
        for i in paged.requests[r].intervals
        if i.first <= 40
    }
    assert drawn == expected
    assert len(shown) <= MAX_LANES
    assert "more are not drawn" in view.caption or len(shown) == sum(
        t.first_step <= 40 for t in paged.requests.values()
    )


def test_the_caption_speaks_of_the_step_shown(paged: RunSeries, contiguous: RunSeries) -> None:
    row = paged.at(25)
    caption = timeline_view(paged, 25).caption
    assert caption.startswith(f"Step 25 of {paged.last_step}, paged memory: {row['running']} running")
    assert f"{row['used']} of 12 pages in use" in caption
    words = timeline_view(contiguous, 25).caption
    assert f"{contiguous.at(25)['regions']} region" in words
    assert "page" not in words


def test_tables_are_bounded_and_end_with_the_last_step(paged: RunSeries) -> None:
    table = timeline_view(paged).table
    assert len(table.rows) <= 61
    assert table.rows[-1][0] == paged.last_step
    column = list(table.columns).index("Pages in use")
    assert all(row[column] == paged.value("used", int(row[0] or 0)) for row in table.rows)


def test_an_empty_run_and_a_bad_window_are_said() -> None:
    assert timeline_view(RunSeries(PageMap())).caption == "No run yet."
    assert flow_view(RunSeries(PageMap())).caption == "No run yet."
    series = RunSeries.of(by_hand())
    with pytest.raises(ValueError, match=r"steps=\(90, 99\).*from step 0 to step 8"):
        timeline_view(series, steps=(90, 99))


def test_traffic_has_a_panel_only_if_there_was_some(paged: RunSeries) -> None:
    assert not any("Traffic" in str(paged_axis) for paged_axis in [timeline_view(paged).figure.layout])
    assert "Traffic" in str(timeline_view(RunSeries.of(by_hand())).figure.layout)


def test_flows_explain_what_is_allocated() -> None:
    series = RunSeries.of(by_hand())
    for step in series.steps.tolist():
        totals, now = flow_totals(series, step), series.at(step)
        came = totals["allocated"] + totals["swapped_in"] + totals["reused"]
        assert now["used"] == came - totals["freed"] - totals["kept"]
    view = flow_view(series, 5)
    totals = flow_totals(series, 5)
    bars = [t for t in view.figure.data if t.type == "bar"]
    assert sorted(bars[0].x) == sorted(totals.values())
    assert sorted(int(row[3] or 0) for row in view.table.rows) == sorted(totals.values())
    assert f"Host tier: {series.value('host_used', 5)} of 6 pages" in view.caption
    steps = series.steps.tolist()
    pool = [trace(view, name) for name in ("allocated", "cached", "free")]
    assert {sum(expanded(*line, steps)[row] for line in pool) for row in range(1, len(steps))} == {12}


def test_contiguous_memory_has_no_flows(contiguous: RunSeries) -> None:
    view = flow_view(contiguous, 30)
    assert "has no pages" in view.caption
    assert [t.name for t in view.figure.data] == ["in regions", "external fragmentation", "free"]


def test_a_long_line_keeps_its_extremes() -> None:
    values = np.sin(np.arange(50_000) / 300) * 100
    values[[7, 33_333]] = 1e6, -1e6
    chosen = thin([values])
    assert len(chosen) <= MAX_POINTS + 2
    assert {0, 7, 33_333, 49_999} <= set(chosen.tolist())
    level = np.array([5, 5, 5, 6, 6, 6, 5])
    assert changes([level], np.arange(7)).tolist() == [0, 2, 3, 5, 6]


def test_a_long_run_with_many_requests_is_a_small_figure() -> None:
    timeline = Timeline(EventBus())
    simulation = Simulation(5, num_blocks=40, bus=timeline._bus, max_running=12, requests=100_000)
    series = RunSeries.of(timeline)
    for _ in range(1500):
        series.extend(simulation.step())
    view = timeline_view(series, 700)
    assert len(json.dumps(view.to_json())) < 60_000
    everybody = sum(bool(track.intervals) for track in series.requests.values())
    assert f"{everybody:,} requests are too many and too short for lanes" in view.caption
    assert expanded(*trace(view, "running"), [0, 1500]) == [0, series.value("running", 1500)]
    near = timeline_view(series, 700, steps=(650, 750))
    there = [t for t in series.requests.values() if is_present(t, 650, 750)]
    assert f"20 requests around step 700 have a lane; {len(there) - MAX_LANES:,} more are not drawn" in near.caption
    lanes = {data[1] for bar in near.figure.data if bar.type == "bar" for data in bar.customdata or ()}
    assert {request for request, t in series.requests.items() if t.phase_at(700) is not None} <= lanes


def is_present(track: RequestTrack, first: int, last: int) -> bool:
    return any(i.first <= last and (i.last < 0 or i.last >= first) for i in track.intervals)
