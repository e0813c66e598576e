"""The timeline in memory: bounded, and readable while the run goes on. (What it reads: see test_recording.)"""

from __future__ import annotations

import threading

import pytest

from tests.events.synthetic import Simulation
from workbench.events import PageMap, Timeline


def test_it_forgets_whole_spans_and_keeps_at_least_what_was_asked_for() -> None:
    simulation = Simulation(7)
    timeline = Timeline(simulation.bus, max_steps=20, keyframe_every=8)
    states: dict[int, PageMap] = {0: PageMap()}
    for step in range(1, 121):
        simulation.step()
        states[step] = simulation.bus.page_map.copy()
        assert min(step, 20) <= timeline.num_steps < 20 + 2 * 8 + 8
        assert timeline.last_step == step
        timeline.state_at(step)  # what it remembers of the last read must not outlive the spans
        assert timeline.state_at(timeline.first_step) == states[timeline.first_step]
    first = timeline.first_step
    assert first > 80
    for step in range(first, 121):
        assert timeline.state_at(step) == states[step]
    with pytest.raises(IndexError, match=f"step={first - 1}: this history goes from step {first} to step 120"):
        timeline.state_at(first - 1)
    assert next(timeline.events()).step == first + 1
    assert timeline.to_pandas()["step"].min() == first + 1


def test_closing_ends_it_and_keeps_it() -> None:
    simulation = Simulation(7)
    with Timeline(simulation.bus) as timeline:
        simulation.run(10)
    simulation.run(10)
    assert timeline.last_step == 10
    assert timeline.state_at(10).step == 10


@pytest.mark.parametrize("value", [0, -5, 2.0])
def test_max_steps_is_checked(value: object) -> None:
    with pytest.raises(ValueError, match=f"max_steps={value}: must be an integer of at least 1, or None"):
        Timeline(Simulation().bus, max_steps=value)  # type: ignore[arg-type]


def test_it_can_be_read_from_another_thread_while_it_grows_and_forgets() -> None:
    simulation = Simulation(7)
    timeline = Timeline(simulation.bus, max_steps=10, keyframe_every=4)
    done = threading.Event()
    failures: list[BaseException] = []
    reads = 0

    def read() -> None:
        nonlocal reads
        try:
            while not done.is_set():
                step = timeline.last_step
                try:
                    assert timeline.state_at(step).step == step
                    events = [event.seq for event, _ in timeline.walk()]
                except IndexError:  # forgotten between the two lines
                    continue
                assert events == list(range(events[0], events[0] + len(events))) if events else True
                reads += 1
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=read)
    thread.start()
    while reads < 30 and not failures:
        simulation.step()
    done.set()
    thread.join()
    assert failures == []
