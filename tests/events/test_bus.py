"""The bus: order, isolation of subscribers, late joiners, and queues that are never silently short."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.events.synthetic import Simulation
from workbench.events import EventBatch, EventBus, Gap, PageMap
from workbench.events import types as ev


def test_events_are_stamped_in_order_and_delivered_at_the_end_of_the_step() -> None:
    bus = EventBus()
    got: list[EventBatch] = []
    bus.subscribe(got.append)
    bus.emit(ev.RunFinished())  # before the first step: belongs to it
    bus.begin_step(7)
    bus.emit(ev.StepStarted(0, 0))
    assert got == []
    batch = bus.flush()
    assert got == [batch]
    assert batch.step == 7
    assert [(event.seq, event.step) for event in batch.events] == [(0, 7), (1, 7)]
    assert 0 < batch.events[0].t_ns <= batch.events[1].t_ns
    bus.emit(ev.RunFinished())
    assert [(event.seq, event.step) for event in bus.flush().events] == [(2, 7)]
    assert bus.page_map.next_seq == 3


def test_subscribers_see_the_state_after_their_batch() -> None:
    simulation = Simulation(2)
    seen: list[bool] = []
    simulation.bus.subscribe(lambda batch: seen.append(simulation.bus.page_map.next_seq == batch.events[-1].seq + 1))
    simulation.run(20)
    assert seen == [True] * 20


def test_a_subscriber_that_raises_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    simulation = Simulation(2)
    before, after = [], []

    def broken(batch: EventBatch) -> None:
        raise ZeroDivisionError(f"step {batch.step}")

    simulation.bus.subscribe(before.append)
    subscription = simulation.bus.subscribe(broken)
    simulation.bus.subscribe(after.append)
    with caplog.at_level(logging.CRITICAL, "workbench.events.bus"):
        simulation.run(5)
    assert len(before) == len(after) == 5
    assert subscription.errors == 5
    assert isinstance(subscription.last_error, ZeroDivisionError)
    assert str(subscription.last_error) == "step 5"
    subscription.close()
    subscription.close()
    simulation.step()
    assert subscription.errors == 5


def test_a_late_subscriber_gets_the_state_that_its_first_batch_builds_on() -> None:
    simulation = Simulation(3).run(30)
    mine: list[PageMap] = []
    simulation.bus.subscribe(lambda batch: mine[0].apply_all(batch.events), mine.append)
    assert mine[0] == simulation.bus.page_map
    simulation.run(30)
    assert mine[0] == simulation.bus.page_map
    assert mine[0] is not simulation.bus.page_map


def test_events_waiting_for_the_end_of_a_step_reach_a_late_subscriber_once() -> None:
    simulation = Simulation(3, arrivals=0).run(3)
    simulation.add_request(3, 3)  # emitted, not flushed
    mine: list[PageMap] = []
    simulation.bus.subscribe(lambda batch: mine[0].apply_all(batch.events), mine.append)
    assert mine[0].requests == {}
    simulation.step()
    assert mine[0] == simulation.bus.page_map


def test_a_queue_begins_with_a_snapshot_and_says_what_it_lost() -> None:
    simulation = Simulation(4).run(10)
    queue = simulation.bus.queue(capacity=3)
    first = queue.get(0)
    assert isinstance(first, Gap)
    assert first.count == 0
    assert first.snapshot == simulation.bus.page_map
    simulation.run(3)
    assert [item.step for item in (queue.get(0), queue.get(0), queue.get(0)) if isinstance(item, EventBatch)] == [
        11,
        12,
        13,
    ]
    assert queue.get(0) is None
    simulation.run(5)  # 14 to 16 fit, 17 makes them a gap, 18 comes after it
    gap, batch = queue.get(0), queue.get(0)
    assert isinstance(gap, Gap)
    assert isinstance(batch, EventBatch)
    assert (gap.count, gap.snapshot.step, batch.step, queue.dropped) == (4, 17, 18, 4)
    queue.close()
    simulation.step()
    assert queue.get(0) is None


def test_gaps_add_up() -> None:
    simulation = Simulation(4)
    queue = simulation.bus.queue(capacity=1)
    simulation.run(9)
    gap = queue.get(0)
    assert isinstance(gap, Gap)
    rest = queue.get(0)
    assert gap.count + (rest is not None) == 9
    assert gap.count == queue.dropped


@settings(max_examples=40, deadline=None)
@given(
    capacity=st.integers(1, 6),
    reads=st.lists(st.integers(0, 4), min_size=10, max_size=40),
    memory=st.sampled_from(["paged", "contiguous"]),
)
def test_whoever_folds_a_queue_ends_where_the_bus_is(capacity: int, reads: list[int], memory: str) -> None:
    simulation = Simulation(6, memory)
    queue = simulation.bus.queue(capacity)
    mine = PageMap()
    batches = lost = 0

    def read() -> bool:
        nonlocal mine, batches, lost
        item = queue.get(0)
        if isinstance(item, Gap):
            mine, lost = item.snapshot.copy(), lost + item.count
        elif item is not None:
            mine.apply_all(item.events)
            batches += 1
        return item is not None

    for count in reads:
        simulation.step()
        for _ in range(count):
            read()
    while read():
        pass
    assert mine == simulation.bus.page_map
    assert batches + lost == len(reads)
    assert lost == queue.dropped


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_queue_needs_room(capacity: int) -> None:
    with pytest.raises(ValueError, match=f"capacity={capacity}: must be at least 1"):
        EventBus().queue(capacity)


def test_joining_from_another_thread_leaves_no_hole() -> None:
    simulation = Simulation(8)
    done = threading.Event()
    failures: list[Exception] = []

    def join_and_leave() -> None:
        while not done.is_set():
            queue = simulation.bus.queue(1000)
            mine = PageMap()
            try:
                for _ in range(3):
                    item = queue.get(0.05)
                    if isinstance(item, Gap):
                        mine = item.snapshot
                    elif item is not None:
                        mine.apply_all(item.events)  # raises on a hole in the numbering
            except ValueError as error:
                failures.append(error)
            queue.close()

    thread = threading.Thread(target=join_and_leave)
    thread.start()
    simulation.run(3000)
    done.set()
    thread.join()
    assert failures == []


def test_many_at_once_are_stamped_like_one_by_one() -> None:
    bus = EventBus()
    bus.begin_step(3)
    bus.emit(ev.StepStarted(0, 0))
    bus.emit_many([ev.StepStarted(i, 0) for i in range(3)])
    bus.emit_many([])
    bus.emit(ev.RunFinished())
    events = bus.flush().events
    assert [(event.seq, event.step) for event in events] == [(i, 3) for i in range(5)]
    times = [event.t_ns for event in events]
    assert times == sorted(times)
    assert times[1] == times[2] == times[3]


def test_what_is_held_back_comes_before_the_next_batch_and_with_the_right_state() -> None:
    simulation = Simulation(2)
    bus = simulation.bus
    seen: list[tuple[str, int]] = []

    def note(name: str) -> Callable[[EventBatch], None]:
        def callback(batch: EventBatch) -> None:
            assert bus.page_map.next_seq == batch.events[-1].seq + 1
            seen.append((name, batch.step))

        return callback

    bus.subscribe(note("late"), deferred=True)
    bus.subscribe(note("now"))
    inner = bus.flush
    bus.flush = lambda hold=True: inner(hold)  # type: ignore[method-assign]
    simulation.step()
    assert seen == [("now", 1)]
    bus.catch_up()
    bus.catch_up()
    assert seen == [("now", 1), ("late", 1)]
    simulation.step()
    simulation.step()
    assert seen[2:] == [("now", 2), ("late", 2), ("now", 3)], "the next flush does what nobody did before"
    bus.emit(ev.StepStarted(0, 0))
    bus.flush(hold=False)
    assert seen[5:] == [("late", 3), ("late", 3), ("now", 3)]


def test_closing_delivers_what_was_held_back() -> None:
    simulation = Simulation(2)
    late: list[EventBatch] = []
    subscription = simulation.bus.subscribe(late.append, deferred=True)
    simulation.bus.emit(ev.StepStarted(0, 0))
    batch = simulation.bus.flush(hold=True)
    assert late == []
    subscription.close()
    assert late == [batch]
    simulation.bus.catch_up()
    assert late == [batch]


def test_who_joins_while_something_is_held_back_gets_no_batch_twice() -> None:
    simulation = Simulation(3).run(5)
    bus = simulation.bus
    inner = bus.flush
    bus.flush = lambda hold=True: inner(hold)  # type: ignore[method-assign]
    simulation.run(3)
    mine: list[PageMap] = []
    bus.subscribe(lambda batch: mine[0].apply_all(batch.events), mine.append, deferred=True)
    assert mine[0] == bus.page_map
    simulation.run(5)
    bus.catch_up()
    assert mine[0] == bus.page_map


def test_an_interruption_in_a_deferred_subscriber_leaves_no_hole_for_the_others() -> None:
    bus = EventBus()
    steps: list[int] = []

    def interrupted(batch: EventBatch) -> None:
        if batch.step == 2:
            raise KeyboardInterrupt

    bus.subscribe(interrupted, deferred=True)
    bus.subscribe(lambda batch: steps.append(batch.step), deferred=True)
    for step in range(1, 5):
        bus.begin_step(step)
        bus.emit(ev.StepStarted(0, 0))
        bus.flush(hold=True)
        try:
            bus.catch_up()
        except KeyboardInterrupt:
            assert step == 2
    bus.flush()
    assert steps[:4] == [1, 2, 3, 4]
