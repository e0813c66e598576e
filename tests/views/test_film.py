"""A film holds just the frames of the run, whatever it is cut to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.events import scenario
from workbench.events import EventBus, Recorder, Recording
from workbench.events.types import BlocksSwappedOut
from workbench.views import film as film_module
from workbench.views.film import make_film, read_film
from workbench.views.frames import MAX_ROWS, explore_frame


@pytest.fixture
def recording(tmp_path: Path) -> Recording:
    bus = EventBus()
    with Recorder(bus, tmp_path / "run.kvtrace"):
        for _ in scenario.play(bus):
            pass
    return Recording.open(tmp_path / "run.kvtrace")


def test_every_frame_is_that_of_its_step(recording: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film_module, "CHUNK_STEPS", 3)
    seen: list[tuple[int, int]] = []
    film = make_film(recording, progress=lambda done, of: seen.append((done, of)))
    assert (film.first, film.last, film.is_cut) == (recording.first_step, recording.last_step, False)
    assert seen[-1] == (recording.num_steps + 1, recording.num_steps + 1)
    frames = list(read_film(film))
    assert len(frames) == recording.num_steps + 1
    for step, frame in enumerate(frames, film.first):
        expected = explore_frame(recording.state_at(step), recording.events(step))
        assert json.loads(json.dumps(expected)) == frame, step


def test_cutting_keeps_the_end_or_the_given_beginning(recording: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film_module, "CHUNK_STEPS", 2)
    whole = make_film(recording)
    end = make_film(recording, max_chars=whole.size // 2)
    assert end.is_cut
    assert (end.first > whole.first, end.last) == (True, whole.last)
    begin = make_film(recording, first=1, max_chars=whole.size // 2)
    assert begin.is_cut
    assert (begin.first, begin.last < whole.last) == (1, True)
    assert end.size <= whole.size // 2
    with pytest.raises(ValueError, match="first=99: must be a step of the history"):
        make_film(recording, first=99)
    with pytest.raises(ValueError, match="must not be after last=2"):
        make_film(recording, first=4, last=2)


def test_a_frame_says_what_the_step_did(recording: Recording) -> None:
    swapped = next(event for event in recording.events() if isinstance(event, BlocksSwappedOut))
    frame = explore_frame(recording.state_at(swapped.step), recording.events(swapped.step))
    row = next(row for row in frame["events"] if row[0] == "swap")
    assert row[2] == [pair[0] for pair in swapped.pairs]
    assert row[3] == [pair[1] for pair in swapped.pairs]
    assert row[4] == [swapped.request]
    assert "pages of request A swapped out" in row[1]
    state = recording.state_at(2)
    frame = explore_frame(state, recording.events(2))
    assert frame["copies"]
    for number, sequence in frame["sequences"].items():
        assert [table[0] for table in sequence["tables"]] == [t.blocks for t in state.sequences[int(number)].tables]
        assert len(sequence["texts"]) == sequence["tokens"] == state.sequences[int(number)].num_computed_tokens
    assert len(frame["requests"]) <= MAX_ROWS
