"""A film holds just the frames of the run, whatever it is cut to."""

from __future__ import annotations

import io
import json
from pathlib import Path

import msgspec
import pytest

from tests.events import scenario
from workbench.events import EventBus, Recorder, Recording
from workbench.events import types as ev
from workbench.events.kvtrace import BATCH, KEYFRAME, RecordingError, TraceWriter
from workbench.events.page_map import PageMap, encode_page_map
from workbench.events.recording import new_header
from workbench.events.state import OutputText, RequestState, RequestStatus
from workbench.events.types import BlocksSwappedOut
from workbench.events.windows import save_window
from workbench.views import film as film_module
from workbench.views.film import make_film, read_film
from workbench.views.frames import MAX_ROWS, explore_frame
from workbench.views.replay_html import replay_and_note


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


def made_on_purpose(*events: ev.AnyEvent) -> Recording:
    """A file of a request that has ended, and then an event per step."""
    ended = RequestState("p", 1, 4, 0, status=RequestStatus.FINISHED, outputs={0: OutputText()})
    file = io.BytesIO()
    writer = TraceWriter(file, new_header())
    writer.frame(KEYFRAME, 0, encode_page_map(PageMap(requests={0: ended}, request_ids={0: 0})))
    for step, event in enumerate(events, 1):
        event.seq, event.step = step - 1, step
        writer.frame(BATCH, step, msgspec.msgpack.encode(ev.EventBatch(step, [event])))
    writer.finish()
    return Recording.open(file.getvalue())


def test_a_film_leaves_the_states_of_others_alone() -> None:
    recording = made_on_purpose(ev.TokenGenerated(0, 0, 0, 7, "a"))
    before = recording.state_at(0)
    make_film(recording)
    assert before == recording.initial
    assert recording.state_at(1).requests[0].token_ids == [7]


def test_a_contradiction_is_an_error_of_the_recording() -> None:
    recording = made_on_purpose(ev.TokenGenerated(0, 0, 0, 7, "a"), ev.TokenGenerated(0, 0, 5, 7, "a"))
    with pytest.raises(RecordingError, match=r"step 2: .*contradict"):
        make_film(recording)
    with pytest.raises(RecordingError, match=r"step 2: .*contradict"):
        save_window(recording, io.BytesIO())


def test_a_replay_of_a_run_that_goes_on_ends_where_it_began(recording: Recording) -> None:
    class Growing(Recording):
        """Longer at every look."""

        looks = 3

        @property
        def last_step(self) -> int:
            self.looks = min(self.looks + 1, super().last_step)
            return self.looks

    growing = Growing(recording._reader)
    text, note = replay_and_note(growing)
    meta = json.loads(text.split('id="kvw-film">')[1].split("</script>")[0])["meta"]
    assert meta["last"] < growing.last_step
    assert note == ""


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
