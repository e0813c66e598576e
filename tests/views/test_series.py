"""A run's series are what folding a `PageMap` gives after every step, and its requests' intervals follow the events."""

from __future__ import annotations

import io

import msgspec
import pytest

from tests.events import scenario
from tests.events.engine_runs import RUNS, make
from tests.events.synthetic import Simulation
from workbench.events import EventBatch, EventBus, History, PageMap, Recording, RequestStatus, Timeline
from workbench.events.kvtrace import BATCH, KEYFRAME, Header, RecordingError, TraceWriter
from workbench.events.page_map import encode_page_map
from workbench.events.types import SCHEMA_VERSION, RunStarted
from workbench.events.waste import measure_waste
from workbench.models import LoadedModel
from workbench.views.page_life_index import life_index
from workbench.views.series import RunSeries
from workbench.views.series_pool import FLOWS
from workbench.views.series_requests import Phase


def synthetic(memory: str, seed: int, steps: int = 80) -> Timeline:
    bus = EventBus()
    timeline = Timeline(bus)
    simulation = Simulation(seed, memory, bus=bus, requests=40)
    for _ in range(steps):
        simulation.step()
    simulation.close()
    return timeline


def by_hand() -> Timeline:
    bus = EventBus()
    timeline = Timeline(bus)
    list(scenario.play(bus))
    return timeline


def check_states(history: History, series: RunSeries) -> None:
    """Every row is the state after its step, and the flows explain the differences."""
    before: dict[str, int] | None = None
    assert series.steps.tolist() == sorted({history.first_step, *(b.step for b in history.batches())})
    for step in series.steps.tolist():
        state, row, waste = history.state_at(step), series.at(step), history.state_at(step).waste()
        assert (row["running"], row["waiting"]) == (len(state.running), len(state.waiting)), step
        assert row["swapped"] == sum(r.status is RequestStatus.SWAPPED for r in state.requests.values())
        slots = (row["token_states"], row["reserved"], row["external"], row["free_slots"], row["cached_slots"])
        assert slots == (waste.token_states, waste.reserved, waste.external, waste.free, waste.cached), step
        assert row["used"] == sum(page.ref_count > 0 for page in state.pages)
        assert row["cached"] == sum(page.is_cached for page in state.pages)
        assert row["used"] + row["cached"] + row["free"] == len(state.pages)
        assert row["host_used"] == sum(page.ref_count > 0 for page in state.host_pages)
        assert row["regions"] == sum(s.region is not None for s in state.sequences.values())
        if before is not None and state.pages and before["used"] + before["cached"] + before["free"]:
            flow = {name: row[name] for name, *_ in FLOWS}
            given = flow["allocated"] + flow["swapped_in"] + flow["reused"]
            assert row["used"] - before["used"] == given - flow["freed"] - flow["kept"], step
            assert row["cached"] - before["cached"] == flow["kept"] - flow["reused"] - flow["evicted"], step
            gone = flow["swapped_in"] + flow["host_freed"]
            assert row["host_used"] - before["host_used"] == flow["swapped_out"] - gone, step
        before = row


def check_totals(history: History, series: RunSeries) -> None:
    totals = history.state_at(history.last_step).totals
    pairs = {
        "generated": totals.generated_tokens,
        "prefill_tokens": totals.prefill_tokens,
        "preemptions": totals.preemptions,
        "busy_ns": totals.busy_ns,
        "bytes_out": totals.swapped_out_bytes,
        "bytes_in": totals.swapped_in_bytes,
        "bytes_streamed": totals.streamed_bytes,
        "copies": totals.blocks_copied,
        "evicted": totals.evictions,
    }
    assert {name: int(series.column(name).sum()) for name in pairs} == pairs


def check_split(history: History, series: RunSeries) -> None:
    split = series.split()
    assert split is not None
    reservation, internal = split
    for step in measure_waste(history).steps:
        row = series.row_of(step.step)
        assert (reservation[row], internal[row]) == (step.slots.reservation, step.slots.internal), step.step


def check_requests(history: History, series: RunSeries) -> None:
    """Intervals follow each other without a hole, from arrival to end, and agree with what is stored of the request."""
    last = history.state_at(history.last_step)
    assert list(series.requests) == list(last.requests)
    for request, track in series.requests.items():
        state = last.requests[request]
        assert len(track.preemptions) == state.preemptions
        for before, after in zip(track.intervals, track.intervals[1:], strict=False):
            assert before.first <= before.last == after.first - 1, track
        if state.finished_step >= 0:
            assert track.last_step == state.finished_step
            assert track.end
            if track.intervals:
                assert track.intervals[-1].last == state.finished_step


@pytest.mark.parametrize("memory", ["paged", "contiguous"])
@pytest.mark.parametrize("seed", range(4))
def test_series_equal_the_state_after_every_step_of_random_runs(memory: str, seed: int) -> None:
    history = synthetic(memory, seed)
    series = RunSeries.of(history)
    check_states(history, series)
    check_totals(history, series)
    check_requests(history, series)


def test_series_of_the_run_by_hand_with_every_kind_of_event() -> None:
    history = by_hand()
    series = RunSeries.of(history)
    check_states(history, series)
    check_totals(history, series)
    check_requests(history, series)
    assert series.value("sequences", 2) == 2
    assert series.is_finished


@pytest.mark.parametrize("name", list(RUNS))
def test_series_of_real_runs(name: str, llama: LoadedModel) -> None:
    history, _ = make(name, llama)
    series = RunSeries.of(history)
    check_states(history, series)
    check_totals(history, series)
    check_requests(history, series)
    check_split(history, series)


def test_memory_that_somebody_still_holds_is_not_judged() -> None:
    bus = EventBus()
    timeline = Timeline(bus)
    simulation = Simulation(1, bus=bus)
    simulation.step()
    assert RunSeries.of(timeline).split() is None


def test_a_series_grows_with_the_run_and_joins_late() -> None:
    bus = EventBus()
    timeline = Timeline(bus)
    simulation = Simulation(3, bus=bus, requests=30)
    series, batches = RunSeries.of(timeline), RunSeries(PageMap())
    late: RunSeries | None = None
    late_history: Timeline | None = None
    for step in range(60):
        batch = simulation.step()
        if step % 7 == 0:
            assert series.update(timeline)
        if step == 20:
            late_history = Timeline(bus)
            late = RunSeries.of(late_history)
        assert batches.update(timeline)
        assert batches.extend(batch)  # known already: nothing happens
    simulation.close()
    assert late is not None
    assert late_history is not None
    assert series.update(timeline)
    assert batches.update(timeline)
    assert late.update(late_history)
    whole = RunSeries.of(timeline)
    for other in (series, batches):
        assert other.steps.tolist() == whole.steps.tolist()
        assert all(other.at(step) == whole.at(step) for step in whole.steps.tolist())
    check_states(late_history, late)


def test_a_batch_too_many_is_refused() -> None:
    batches = list(synthetic("paged", 0).batches())
    series = RunSeries(PageMap())
    assert series.extend(batches[0])
    assert not series.extend(batches[2])
    assert series.last_step == batches[0].step
    assert series.extend(batches[1])


def test_a_history_that_forgot_what_the_series_has_not_seen_is_told() -> None:
    bus = EventBus()
    timeline = Timeline(bus, max_steps=5, keyframe_every=2)
    simulation = Simulation(3, bus=bus)
    series = RunSeries.of(timeline)
    simulation.run(60)
    assert timeline.first_step > 1
    assert not series.update(timeline)
    check_states(timeline, RunSeries.of(timeline))


def test_phases_of_a_request_that_is_swapped_and_comes_back() -> None:
    track = RunSeries.of(by_hand()).requests[0]
    phases = [(i.phase, i.first, i.last) for i in track.intervals]
    assert phases == [
        (Phase.PREFILL, 1, 1),
        (Phase.DECODE, 2, 2),
        (Phase.SWAPPED, 3, 4),
        (Phase.DECODE, 5, 6),
    ]
    (preemption,) = track.preemptions
    assert preemption.settled is not None
    assert preemption.settled.measured_ns == 2_500_000
    lost = RunSeries.of(by_hand()).requests[2].preemptions[0]
    assert lost.lost is not None
    assert lost.resumed is None


def test_an_unknown_column_is_named() -> None:
    with pytest.raises(KeyError, match="'speed': must be one of running"):
        RunSeries(PageMap()).column("speed")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seq": 7}, "events are missing between step 0 and 0"),
        ({"num_blocks": 1 << 33}, "the run began with num_blocks=8589934592"),
    ],
)
def test_a_strangers_recording_can_neither_hang_nor_fill_memory(change: dict[str, int], words: str) -> None:
    run = next(event for event in by_hand().events() if isinstance(event, RunStarted))
    file = io.BytesIO()
    writer = TraceWriter(file, Header(SCHEMA_VERSION))
    writer.frame(KEYFRAME, 0, encode_page_map(PageMap()))
    lie = msgspec.structs.replace(run, **change)
    writer.frame(BATCH, 0, msgspec.msgpack.encode(EventBatch(0, [lie])))
    writer.finish()
    with Recording.open(file.getvalue()) as recording:
        with pytest.raises(RecordingError, match=words):
            RunSeries.of(recording)
        if "seq" in change:
            with pytest.raises(RecordingError, match=words):
                life_index(recording)
