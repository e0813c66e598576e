"""Waste after the fact, on cases small enough to work out by hand (12 to 16 slots)."""

from __future__ import annotations

import io
from dataclasses import astuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.events import scenario
from tests.events.synthetic import GEOMETRY, Simulation, record
from workbench.events import EventBus, Recording, Timeline
from workbench.events import types as ev
from workbench.events.types import Cause
from workbench.events.waste import WasteSplit, measure_waste

DONE, FIRST = Cause.REQUEST_FINISHED, Cause.ADMISSION


class Script:
    """A bus driven by hand, and the timeline of it."""

    def __init__(self, memory: str, num_blocks: int = 4, block_size: int = 4) -> None:
        self.bus = EventBus()
        self.history = Timeline(self.bus)
        self.bus.emit(
            ev.RunStarted(
                schema_version=1,
                memory=memory,
                block_size=block_size,
                num_blocks=num_blocks,
                bytes_per_block=1,
                seed=0,
                model=GEOMETRY,
                config={},
            )
        )
        self._step = 0

    def step(self, *events: ev.AnyEvent) -> None:
        self._step += 1
        self.bus.begin_step(self._step)
        for event in events:
            self.bus.emit(event)
        state = self.bus.page_map.copy()  # what the events so far make of it
        for event in self.bus._pending:
            state.apply(event)
        running, waiting = len(state.running), len(state.waiting)
        self.bus.emit(
            ev.StepFinished(
                running=running,
                waiting=waiting,
                prefill_tokens=0,
                decode_tokens=0,
                waste=state.waste(),
                schedule_ns=0,
                forward_ns=0,
                sample_ns=0,
            )
        )
        self.bus.flush()


def start(request: int, *memory: ev.AnyEvent) -> list[ev.AnyEvent]:
    return [ev.RequestQueued(request, request, "", 2, 8), *memory, ev.RequestAdmitted(request, 0)]


def page(block: int, index: int = 0, request: int = 0) -> ev.BlockAllocated:
    return ev.BlockAllocated(ev.Tier.DEVICE, block, request, index, FIRST)


def write(count: int, first: int, block: int | None = None, request: int = 0) -> ev.SlotsWritten:
    return ev.SlotsWritten(request, block, first, count, Cause.DECODE)


def give_up(*blocks: int, request: int = 0, cause: Cause = DONE) -> list[ev.AnyEvent]:
    return [e for b in blocks for e in (ev.BlockReleased(b, request, 0, cause), ev.BlockFreed(b, cause))]


def end(request: int = 0) -> ev.RequestFinished:
    return ev.RequestFinished(request, ev.FinishReason.STOP, 1)


def split(report_steps: list, step: int) -> WasteSplit:
    return report_steps[step - 1].slots


def test_contiguous() -> None:
    script = Script("contiguous")  # 16 slots
    script.step(*start(0, ev.RegionReserved(0, 0, 8, 6, FIRST)), write(2, 0))
    script.step(write(1, 2))
    script.step(write(1, 3), ev.RegionReleased(0, 0, 8, DONE), end())
    report = measure_waste(script.history)
    # 6 slots asked for, 8 given, 4 filled in the end: 2 never used, 2 lost to rounding.
    assert split(report.steps, 1) == WasteSplit(token_states=2, reservation=2, internal=2, external=2, free=8)
    assert split(report.steps, 2) == WasteSplit(token_states=3, reservation=1, internal=2, external=2, free=8)
    assert split(report.steps, 3) == WasteSplit(free=16)
    assert report.num_averaged == 3
    assert astuple(report.shares) == pytest.approx((5 / 48, 3 / 48, 4 / 48, 4 / 48, 0, 32 / 48, 0))
    assert report.shares.total == pytest.approx(1)
    assert astuple(report.shares.without_free()) == pytest.approx((5 / 16, 3 / 16, 4 / 16, 4 / 16, 0, 0, 0))
    assert (report.memory, report.num_slots) == ("contiguous", 16)


def test_free_slots_are_external_fragmentation_while_a_request_waits_for_a_region() -> None:
    script = Script("contiguous")
    script.step(*start(0, ev.RegionReserved(0, 4, 4, 4, FIRST)), write(2, 4))
    script.step(ev.RequestQueued(1, 1, "", 2, 8), ev.AdmissionBlocked(1, Cause.POOL_EXHAUSTED, 16, 8), write(1, 6))
    script.step(write(1, 7), ev.RegionReleased(0, 4, 4, DONE), end())
    report = measure_waste(script.history)
    assert split(report.steps, 1) == WasteSplit(token_states=2, reservation=2, free=12)
    assert split(report.steps, 2) == WasteSplit(token_states=3, reservation=1, external=12)
    loaded = measure_waste(script.history, saturated_only=True)
    assert loaded.num_averaged == 2  # request 1 still waits after step 3
    assert loaded.steps == report.steps
    assert loaded.shares.token_states == pytest.approx(3 / 32)


@pytest.mark.parametrize("cause", [Cause.MAX_RUNNING, Cause.WATERMARK])
def test_waiting_for_something_else_leaves_the_free_slots_free(cause: Cause) -> None:
    script = Script("contiguous")
    script.step(ev.RequestQueued(0, 0, "", 2, 8), ev.AdmissionBlocked(0, cause, 2, 1))
    assert split(measure_waste(script.history).steps, 1) == WasteSplit(free=16)


def test_paged() -> None:
    script = Script("paged")
    script.step(*start(0, page(2)), write(3, 0, block=2))
    script.step(page(0, 1), write(1, 3, block=2), write(1, 0, block=0))
    script.step(write(1, 1, block=0), *give_up(0, 2), end())
    report = measure_waste(script.history)
    # 6 tokens in the end: the first page gets full, 2 slots of the second are never used.
    assert split(report.steps, 1) == WasteSplit(token_states=3, reservation=1, free=12)
    assert split(report.steps, 2) == WasteSplit(token_states=5, reservation=1, internal=2, free=8)
    assert split(report.steps, 3) == WasteSplit(free=16)


def test_pages_have_no_external_fragmentation_even_while_a_request_waits() -> None:
    script = Script("paged")
    script.step(
        *start(0, page(2)),
        write(4, 0, block=2),
        ev.RequestQueued(1, 1, "", 16, 1),
        ev.AdmissionBlocked(1, Cause.POOL_EXHAUSTED, 4, 3),
    )
    assert split(measure_waste(script.history).steps, 1) == WasteSplit(token_states=4, free=12)


def test_every_stay_of_a_preempted_request_is_judged_by_itself() -> None:
    script = Script("paged")
    mode = ev.PreemptionMode.RECOMPUTE
    script.step(*start(0, page(1)), write(2, 0, block=1))
    script.step(
        *give_up(1, cause=Cause.PREEMPTION_VICTIM),
        ev.RequestPreempted(0, mode, Cause.POOL_EXHAUSTED, 2, 1),
    )
    script.step(page(3), ev.RequestResumed(0, 2), write(3, 0, block=3))
    script.step(write(1, 3, block=3), *give_up(3), end())
    report = measure_waste(script.history)
    assert split(report.steps, 1) == WasteSplit(token_states=2, internal=2, free=12)  # never got further here
    assert split(report.steps, 2) == WasteSplit(free=16)
    assert split(report.steps, 3) == WasteSplit(token_states=3, reservation=1, free=12)


def test_a_stay_that_ends_and_begins_in_one_step() -> None:
    script = Script("paged")
    script.step(*start(0, page(1)), write(1, 0, block=1))
    script.step(
        *give_up(1, cause=Cause.PREEMPTION_VICTIM),
        ev.RequestPreempted(0, ev.PreemptionMode.RECOMPUTE, Cause.POOL_EXHAUSTED, 1, 1),
        page(1),
        ev.RequestResumed(0, 1),
        write(2, 0, block=1),
    )
    script.step(write(2, 2, block=1), *give_up(1), end())
    report = measure_waste(script.history)
    assert split(report.steps, 1) == WasteSplit(token_states=1, internal=3, free=12)
    assert split(report.steps, 2) == WasteSplit(token_states=2, reservation=2, free=12)


def test_what_has_not_ended_stays_reserved() -> None:
    script = Script("contiguous")
    script.step(*start(0, ev.RegionReserved(0, 0, 8, 7, FIRST)), write(2, 0))
    report = measure_waste(script.history)
    assert split(report.steps, 1) == WasteSplit(token_states=2, reserved=5, external=1, free=8)


def test_a_history_that_begins_in_the_middle() -> None:
    script = Script("contiguous")
    script.step(*start(0, ev.RegionReserved(0, 0, 8, 8, FIRST)), write(2, 0))
    late = Timeline(script.bus)
    script.step(write(1, 2))
    script.step(ev.RegionReleased(0, 0, 8, DONE), end())
    report = measure_waste(late)
    assert [step.step for step in report.steps] == [2, 3]
    assert report.steps[0].slots == WasteSplit(token_states=3, internal=5, free=8)


def test_no_step_to_average() -> None:
    nothing = measure_waste(Timeline(EventBus()))
    assert (nothing.memory, nothing.num_slots, nothing.num_averaged, nothing.steps) == ("", 0, 0, [])
    assert nothing.shares == nothing.shares.without_free() == WasteSplit()
    script = Script("paged")
    script.step()
    idle = measure_waste(script.history, saturated_only=True)
    assert (idle.num_averaged, len(idle.steps), idle.shares) == (0, 1, WasteSplit())


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), memory=st.sampled_from(["paged", "contiguous"]))
def test_it_adds_up_and_agrees_with_what_was_said_live(seed: int, memory: str) -> None:
    file = io.BytesIO()
    simulation = record(file, 60, seed=seed, memory=memory)
    recording = Recording.open(file.getvalue())
    report = measure_waste(recording)
    said = [event.waste for event in recording.events() if isinstance(event, ev.StepFinished)]
    assert len(report.steps) == len(said) == 60
    for step, live in zip(report.steps, said, strict=True):
        slots = step.slots
        assert slots.total == simulation.num_blocks * simulation.block_size
        assert min(slots.reservation, slots.internal, slots.reserved) >= 0
        assert slots.reservation + slots.internal + slots.reserved == live.reserved
        assert (slots.token_states, slots.external, slots.free) == (live.token_states, live.external, live.free)
    assert report.shares.total == pytest.approx(1)


def test_nothing_is_left_unjudged_when_all_requests_have_ended() -> None:
    simulation = Simulation(3, requests=20)
    timeline = Timeline(simulation.bus)
    while simulation.running or simulation.waiting or simulation.step_number < 30:
        simulation.step()
    report = measure_waste(timeline)
    assert report.shares.reserved == 0
    assert report.shares.internal > 0
    assert report.shares.reservation > 0


def test_shared_copied_cached_and_swapped_pages() -> None:
    bus = EventBus()
    history = Timeline(bus)
    for _ in scenario.play(bus):
        pass
    steps = measure_waste(history).steps
    # Four shared pages, each once. Pages 1 and 3 get 3 tokens each, of their stay; 2 slots are filled now.
    assert split(steps, 1) == WasteSplit(token_states=12, reservation=2, internal=2, free=32)
    assert split(steps, 2) == WasteSplit(token_states=20, internal=4, free=24)
    assert split(steps, 3) == WasteSplit(free=44, cached=4)
    assert split(steps, 4) == WasteSplit(token_states=12, internal=4, free=32)
    # A's pages are back: 3 of 4 slots in four of them. B's pages 6 and 8 hold 2 tokens each.
    assert split(steps, 5) == WasteSplit(token_states=28, internal=8, free=12)
    assert split(steps, 6) == WasteSplit(free=44, cached=4)
    assert split(steps, 7) == WasteSplit(token_states=5, internal=3, free=40)
    assert all(step.slots.total == 48 for step in steps)
