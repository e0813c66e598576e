"""Any walk through a history shows what folding from the start shows, and reads leave each other's states alone."""

from __future__ import annotations

import io
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.events import scenario
from tests.events.synthetic import Simulation
from workbench.events import EventBus, PageMap, Recorder, Recording, Timeline
from workbench.events import kvtrace as fmt
from workbench.events import types as ev
from workbench.events.history import History
from workbench.events.keyframes import copy_sharing
from workbench.events.types import Cause
from workbench.events.windows import save_window

STEPS = 300


def _run() -> tuple[bytes, Timeline, list[PageMap]]:
    simulation, file = Simulation(3, num_blocks=16), io.BytesIO()
    states = [simulation.bus.page_map.copy()]
    with Recorder(simulation.bus, file, 40), Timeline(simulation.bus, keyframe_every=40) as timeline:
        for _ in range(STEPS):
            simulation.step()
            states.append(simulation.bus.page_map.copy())
    return file.getvalue(), timeline, states


DATA, TIMELINE, STATES = _run()

HISTORIES: dict[str, Callable[[], History]] = {"file": lambda: Recording.open(DATA), "memory": lambda: TIMELINE}


@pytest.mark.parametrize("kind", HISTORIES)
@settings(max_examples=12, deadline=None)
@given(moves=st.lists(st.integers(-STEPS, STEPS) | st.sampled_from([-1, 1, -10, 10]), max_size=40))
def test_a_walk_shows_what_folding_shows(kind: str, moves: list[int]) -> None:
    history, step = HISTORIES[kind](), 150
    for move in moves:
        step = min(STEPS, max(0, step + move))
        state = history.state_at(step)
        assert state == STATES[step], step
        assert list(state.requests) == list(STATES[step].requests)
        state.pages.clear()  # it is the reader's own
        state.requests.clear()
        state.request_ids.clear()


@pytest.mark.parametrize("kind", HISTORIES)
def test_back_to_the_beginning_and_forward_again(kind: str) -> None:
    history = HISTORIES[kind]()
    for step in [*range(STEPS, -1, -1), *range(STEPS + 1), *range(STEPS, -1, -7)]:
        state = history.state_at(step)
        assert state == STATES[step], step
        for page in state.pages:
            page.filled, page.owner = -5, -5
        for number in (*state.running, *state.waiting):
            state.requests[number].outputs.clear()


def test_a_step_back_folds_less_than_a_span(monkeypatch: pytest.MonkeyPatch) -> None:
    recording, folded = Recording.open(DATA), 0
    apply = Recording.apply

    def count(self: Recording, state: PageMap, event: ev.AnyEvent) -> None:
        nonlocal folded
        folded += 1
        apply(self, state, event)

    monkeypatch.setattr(Recording, "apply", count)
    for step in range(STEPS, -1, -1):
        recording.state_at(step)
    events = sum(len(batch.events) for batch in recording.batches())
    assert folded < 12 * events
    folded = 0
    for step in range(STEPS + 1):
        recording.state_at(step)
    assert folded <= events, "forward every event is folded once at most"


def test_ended_requests_are_kept_once_and_shared() -> None:
    recording = Recording.open(DATA)
    frames = fmt.TraceReader(io.BytesIO(DATA), "test").frames
    archives = [frame for frame in frames if frame.kind == fmt.ARCHIVE]
    assert len(archives) == sum(frame.kind == fmt.KEYFRAME for frame in frames) - 1 > 4
    early, late = recording.state_at(200), recording.state_at(STEPS)
    ended = [n for n in early.requests if n not in early.running and n not in early.waiting]
    assert len(ended) > 50
    assert all(early.requests[number] is late.requests[number] for number in ended)
    last = [frame for frame in frames if frame.kind == fmt.KEYFRAME][-1]
    content = fmt.msgspec.msgpack.decode(fmt.TraceReader(io.BytesIO(DATA), "test").read(last))
    assert len(content["requests"]) < 20 < len(late.requests)
    copied = copy_sharing(late)
    assert copied == late
    late.requests[late.running[0]].preemptions += 1
    late.pages[0].since_step += 1
    assert copied != late


def test_a_damaged_archive_is_made_again_from_the_batches() -> None:
    frames = fmt.TraceReader(io.BytesIO(DATA), "test").frames
    victim = [frame for frame in frames if frame.kind == fmt.ARCHIVE][2]
    data = bytearray(DATA)
    data[victim.end - 3] ^= 4
    assert Recording.open(bytes(data)).state_at(STEPS) == STATES[STEPS]
    batch = max(frame for frame in frames if frame.kind == fmt.BATCH and frame.step < victim.step)
    data[batch.end - 3] ^= 4
    recording = Recording.open(bytes(data))
    assert recording.state_at(batch.step - 1) == STATES[batch.step - 1]
    with pytest.raises(fmt.RecordingError, match=rf"frame {victim.number} \(archive of step {victim.step}"):
        recording.state_at(STEPS)


def test_events_about_an_ended_request_leave_other_states_alone() -> None:
    bus = EventBus()
    timeline = Timeline(bus, keyframe_every=1)
    simulation = Simulation(arrivals=0, bus=bus)
    request = simulation.add_request(3, 2)
    while bus.page_map.requests.get(request) is None or bus.page_map.requests[request].status != "finished":
        simulation.step()
    step = simulation.step().step
    before = timeline.state_at(step)
    bus.begin_step(step + 1)
    bus.emit(ev.TokenGenerated(request, request, 2, 7, " late"))
    bus.emit(ev.RequestQueued(9, 9, "x", 1, 1))
    bus.emit(ev.RequestRejected(9, "no", Cause.NEVER_FITS, 1, 0))
    bus.flush()
    after = timeline.state_at(step + 1)
    assert after == bus.page_map
    assert len(after.requests[request].token_ids) == 3
    assert len(before.requests[request].token_ids) == 2
    assert timeline.state_at(step) == before


def test_everything_that_can_happen_is_travelled() -> None:
    bus, file = EventBus(), io.BytesIO()
    states = {}
    with Recorder(bus, file, 1):
        for batch in scenario.play(bus):
            states[batch.step] = bus.page_map.copy()
    recording = Recording.open(file.getvalue())
    states[max(states)] = bus.page_map  # RunFinished came after the last step
    assert states[6].requests[0].reason == "length"
    for step in [*reversed(states), *states]:
        assert recording.state_at(step) == states[step]


# --- windows -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", HISTORIES)
@settings(max_examples=6, deadline=None)
@given(first=st.integers(0, STEPS), length=st.integers(0, 120))
def test_a_window_equals_the_history_at_each_of_its_steps(kind: str, first: int, length: int) -> None:
    history, file = HISTORIES[kind](), io.BytesIO()
    last = min(STEPS, first + length)
    save_window(history, file, first, last, keyframe_every=16)
    window = Recording.open(file.getvalue())
    assert window.is_complete
    assert (window.first_step, window.last_step) == (first, last)
    for step in [first, last, *range(last, first, -7)]:
        assert window.state_at(step) == STATES[step]
        assert step == first or window.events(step) == history.events(step)


def test_a_live_run_is_saved_while_it_goes_on() -> None:
    simulation = Simulation(7)
    timeline = Timeline(simulation.bus, max_steps=20, keyframe_every=8)
    simulation.run(60)
    file, steps = io.BytesIO(), 60

    def go_on(_: int) -> None:
        nonlocal steps
        simulation.step()  # also forgets what is being saved
        steps += 1

    first, before = timeline.first_step, {step: timeline.state_at(step) for step in range(timeline.first_step, 61)}
    save_window(timeline, file, progress=go_on)
    assert steps == 60 + 60 - first
    assert timeline.first_step > first
    saved = Recording.open(file.getvalue())
    assert (saved.first_step, saved.last_step) == (first, 60)
    assert all(saved.state_at(step) == state for step, state in before.items())


def test_a_window_that_is_not_there_is_refused() -> None:
    recording = Recording.open(DATA)
    with pytest.raises(IndexError, match="step=301: this history goes from step 0 to step 300"):
        save_window(recording, io.BytesIO(), 5, 301)
    with pytest.raises(ValueError, match="last=4: must not be before first=5"):
        save_window(recording, io.BytesIO(), 5, 4)
