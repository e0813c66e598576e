"""Recordings: what is read equals what was folded live, whatever the order, and no file can do harm."""

from __future__ import annotations

import errno
import io
import itertools
import logging
import random
import struct
from pathlib import Path

import msgspec
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.events import scenario
from tests.events.synthetic import Simulation, record
from workbench.events import EventBus, PageMap, Recorder, Recording, RecordingError, Timeline
from workbench.events import kvtrace as fmt
from workbench.events import types as ev
from workbench.events.history import History
from workbench.events.page_map import MAX_BLOCKS, encode_page_map
from workbench.events.state import BlockTable, Page
from workbench.events.types import EventBatch
from workbench.events.waste import measure_waste

FRAME = struct.Struct("<BIII")


def recorded(steps: int = 40, keyframe_every: int = 8, **settings: object) -> bytes:
    file = io.BytesIO()
    record(file, steps, keyframe_every, **settings)
    return file.getvalue()


def frames_of(data: bytes) -> list[fmt.Frame]:
    return fmt.TraceReader(io.BytesIO(data), "test").frames


def trace(*frames: tuple[int, int, bytes], header: fmt.Header | None = None) -> bytes:
    """A complete file with these frames, checksums and all."""
    file = io.BytesIO()
    writer = fmt.TraceWriter(file, header or fmt.Header(1))
    for frame in frames:
        writer.frame(*frame)
    writer.finish()
    return file.getvalue()


# --- reading what was written ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["file", "timeline"])
@pytest.mark.parametrize("memory", ["paged", "contiguous"])
@pytest.mark.parametrize("late", [0, 25])
def test_state_and_events_at_every_step_in_any_order(kind: str, memory: str, late: int) -> None:
    simulation = Simulation(11, memory).run(late)
    file = io.BytesIO()
    states = {late: simulation.bus.page_map.copy()}
    batches: dict[int, list[ev.AnyEvent]] = {}
    with Recorder(simulation.bus, file, 8), Timeline(simulation.bus, keyframe_every=8) as timeline:
        for _ in range(60):
            batch = simulation.step()
            states[batch.step] = simulation.bus.page_map.copy()
            batches[batch.step] = list(batch.events)
        simulation.close()
        states[batch.step] = simulation.bus.page_map.copy()
    batches[batch.step].append(ev.RunFinished(seq=batch.events[-1].seq + 1, step=batch.step))

    history: History = timeline if kind == "timeline" else Recording.open(file.getvalue())
    assert (history.first_step, history.last_step, history.num_steps) == (late, late + 60, 60)
    assert history.initial == states[late]
    assert len(history._keyframes) > 3
    order = list(states) * 2
    random.Random(0).shuffle(order)
    for step in [*order, *sorted(states), *sorted(states, reverse=True)]:
        assert history.state_at(step) == states[step], step
    last = batches.pop(late + 60)
    assert history.events(late) == []
    assert all(history.events(step) == events for step, events in batches.items())
    assert [(type(e), e.seq) for e in history.events(late + 60)] == [(type(e), e.seq) for e in last]
    assert [e.seq for e in history.events()] == list(range(states[late].next_seq, last[-1].seq + 1))
    *_, (event, state) = history.walk()
    assert isinstance(event, ev.RunFinished)
    assert state == states[late + 60]


def test_a_state_is_the_readers_own() -> None:
    recording = Recording.open(recorded())
    state = recording.state_at(20)
    state.pages.clear()
    state.requests.clear()
    assert recording.state_at(20).pages
    assert recording.state_at(21).requests


@pytest.mark.parametrize("step", [-1, 41, 10**30])
def test_a_step_out_of_range_is_refused_with_the_range(step: int) -> None:
    recording = Recording.open(recorded(40))
    for read in (recording.state_at, recording.events):
        with pytest.raises(IndexError, match=f"step={step}: this history goes from step 0 to step 40"):
            read(step)
    with pytest.raises(TypeError, match=r"step=1\.5: must be an integer"):
        recording.state_at(1.5)  # type: ignore[arg-type]


def test_batches_with_the_same_step_belong_together() -> None:
    simulation = Simulation(arrivals=0)
    simulation.bus.flush()
    file = io.BytesIO()
    with Recorder(simulation.bus, file):
        simulation.bus.flush()  # nothing pending: leaves no trace
        request = simulation.add_request(3, 3)
        simulation.bus.flush()
        simulation.add_request(4, 4)
        simulation.bus.flush()
    recording = Recording.open(file.getvalue())
    assert (recording.first_step, recording.last_step) == (0, 0)
    assert recording.initial.requests == {}
    assert list(recording.state_at(0).requests) == [request, request + 1]
    assert [type(event) for event in recording.events(0)] == [ev.RequestQueued] * 2


def without_times(data: bytes) -> list[object]:
    reader = fmt.TraceReader(io.BytesIO(data), "test")
    out: list[object] = [reader.header]
    for frame in reader.frames:
        content = msgspec.msgpack.decode(reader.read(frame))
        for event in content.get("events", []):
            event["t_ns"] = 0
        if frame.kind == fmt.KEYFRAME and content["run"]:
            content["run"]["t_ns"] = content["last"]["t_ns"] = 0
        out.append((frame.number, frame.kind, frame.step, content))
    return out


def test_the_same_seed_gives_the_same_file_but_for_times() -> None:
    assert without_times(recorded(seed=5)) == without_times(recorded(seed=5))
    assert without_times(recorded(seed=5)) != without_times(recorded(seed=6))


def test_batches_that_come_a_step_late_give_the_same_file() -> None:
    files = []
    for hold in (False, True):
        simulation, file = Simulation(5), io.BytesIO()
        flush = simulation.bus.flush
        simulation.bus.flush = lambda hold=hold, flush=flush: flush(hold)  # type: ignore[method-assign, misc]
        recorder = Recorder(simulation.bus, file, keyframe_every=2).start()
        for step in range(80):
            simulation.step()
            if step % 3:
                simulation.bus.catch_up()
        recorder.close()
        files.append(without_times(file.getvalue()))
        assert recorder.last_step == 80
    assert files[0] == files[1]
    assert sum(frame[1] == fmt.KEYFRAME for frame in files[0][1:]) > 3  # type: ignore[index]


def test_payloads_are_maps_with_a_type() -> None:
    data = recorded(3)
    batch = next(frame for frame in frames_of(data) if frame.kind == fmt.BATCH)
    content = msgspec.msgpack.decode(data[batch.offset + FRAME.size : batch.end])
    assert content["step"] == 1
    assert content["events"][0]["type"] == "RunStarted"
    assert content["events"][0]["block_size"] == 4


def test_keyframes_come_every_so_many_steps_but_do_not_outweigh_the_events() -> None:
    def distances(data: bytes) -> list[int]:
        steps = [frame.step for frame in frames_of(data) if frame.kind == fmt.KEYFRAME]
        return [b - a for a, b in itertools.pairwise(steps)]

    assert set(distances(recorded(60, 10))) == {10}
    data = recorded(1500, 10, max_running=2, num_blocks=8)  # a queue that grows without end: ever larger snapshots
    sizes = {kind: sum(f.length for f in frames_of(data) if f.kind == kind) for kind in (fmt.KEYFRAME, fmt.BATCH)}
    assert distances(data)[-1] > distances(data)[0] == 10
    assert sizes[fmt.KEYFRAME] < 3 * sizes[fmt.BATCH]


def test_to_pandas() -> None:
    recording = Recording.open(recorded(40))
    frame = recording.to_pandas()
    events = list(recording.events())
    assert list(frame.columns[:4]) == ["type", "seq", "step", "t_ns"]
    assert frame["type"].tolist() == [type(event).__name__ for event in events]
    assert frame["seq"].tolist() == list(range(len(events)))
    assert frame["seq"].dtype == "int64"
    written = frame[frame["type"] == "SlotsWritten"]
    tokens = [event.count for event in events if isinstance(event, ev.SlotsWritten)]
    assert written["count"].tolist() == tokens
    assert frame["count"].dtype == "Int64"
    assert frame.loc[frame["type"] == "RunStarted", "model.num_layers"].item() == 2
    assert frame.loc[frame["type"] == "RunStarted", "config.memory"].item() == "paged"
    done = frame[frame["type"] == "StepFinished"]
    assert (done["waste.token_states"] + done["waste.reserved"] + done["waste.free"]).unique().tolist() == [48]
    assert set(frame["cause"].dropna()) <= {cause.value for cause in ev.Cause}
    assert not any("." in name and name.split(".")[0] in frame.columns for name in frame.columns)
    empty = Recording.open(trace((fmt.KEYFRAME, 0, encode_page_map(PageMap())))).to_pandas()
    assert isinstance(empty, pd.DataFrame)
    assert list(empty.columns) == ["type", "seq", "step", "t_ns"]


# --- writing -----------------------------------------------------------------------------------------------------


def test_a_file_on_disk_can_be_read_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "run.kvtrace"
    simulation = Simulation(1)
    recorder = Recorder(simulation.bus, path).start()
    simulation.run(5)
    with Recording.open(path) as unfinished:  # what would be there if the process died now
        assert not unfinished.is_complete
        assert "without its index" in unfinished.damage
        assert unfinished.last_step == 5
        assert unfinished.state_at(5) == simulation.bus.page_map
    simulation.run(5)
    recorder.close()
    recorder.close()
    assert path.stat().st_size == recorder.bytes_written
    simulation.step()  # not recorded any more
    with Recording.open(str(path)) as recording:
        assert recording.is_complete
        assert recording.damage == ""
        assert recording.last_step == recorder.last_step == 10
        assert recording.header.versions["msgspec"] == msgspec.__version__
    with pytest.raises(RuntimeError, match="started before"):
        recorder.start()


class FullDisk(io.BytesIO):
    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def write(self, data: bytes) -> int:  # type: ignore[override]
        kept = data[: max(0, self.room - len(self.getvalue()))]
        super().write(kept)
        if len(kept) < len(data):
            raise OSError(errno.ENOSPC, "No space left on device")
        return len(data)


def test_a_full_disk_does_not_hurt_the_engine_and_is_reported_at_the_end(caplog: pytest.LogCaptureFixture) -> None:
    simulation, file = Simulation(1), FullDisk(room=9000)
    with (
        caplog.at_level(logging.CRITICAL),
        pytest.raises(RecordingError, match=r"No space left on device; it can be opened up to step \d+") as caught,
        Recorder(simulation.bus, file) as recorder,  # type: ignore[arg-type]
    ):
        simulation.run(60)
    assert simulation.step_number == 60
    assert isinstance(caught.value.__cause__, OSError)
    recording = Recording.open(file.getvalue())
    assert 0 < recording.last_step == recorder.last_step < 60
    assert not recording.is_complete


def test_a_full_disk_does_not_hide_the_error_that_ends_the_run(caplog: pytest.LogCaptureFixture) -> None:
    simulation, file = Simulation(1), FullDisk(room=9000)

    def run() -> None:
        with Recorder(simulation.bus, file):  # type: ignore[arg-type]
            simulation.run(60)
            raise KeyError("the real reason")

    with caplog.at_level(logging.ERROR, "workbench.events.recording"), pytest.raises(KeyError, match="the real reason"):
        run()
    assert "No space left on device" in caplog.text


def test_a_file_that_can_not_be_made_is_refused_at_once(tmp_path: Path) -> None:
    simulation = Simulation()
    with pytest.raises(FileNotFoundError), Recorder(simulation.bus, tmp_path / "no" / "run.kvtrace"):
        raise AssertionError("not reached")
    with pytest.raises(OSError, match="No space left"):
        Recorder(simulation.bus, FullDisk(room=20)).start()  # type: ignore[arg-type]
    simulation.step()
    assert simulation.bus._subscriptions == []


@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_keyframe_every_is_checked(value: object) -> None:
    with pytest.raises(ValueError, match=f"keyframe_every={value}: must be an integer of at least 1"):
        Recorder(Simulation().bus, io.BytesIO(), value)  # type: ignore[arg-type]


# --- damage ------------------------------------------------------------------------------------------------------


def test_cut_off_at_any_byte_it_opens_up_to_the_last_whole_frame() -> None:
    data = recorded(12, 4, num_blocks=6)
    frames = frames_of(data)
    whole = Recording.open(data)
    states = [whole.state_at(step) for step in range(13)]
    before = 0
    for length in range(len(data)):
        there = [frame for frame in frames if frame.end <= length]
        if not there:
            with pytest.raises(RecordingError):
                Recording.open(data[:length])
            continue
        recording = Recording.open(data[:length])
        assert not recording.is_complete
        assert recording.damage
        assert recording.last_step == there[-1].step
        if len(there) == before:
            continue
        before = len(there)
        # The last step also holds RunFinished, in a frame of its own.
        complete_steps = recording.last_step + (there[-1].end == frames[-1].end or recording.last_step < 12)
        assert [recording.state_at(step) for step in range(complete_steps)] == states[:complete_steps]
    assert Recording.open(data).is_complete


def read_everything(data: bytes) -> int:
    """Reads all that can be read; returns how many steps are whole."""
    recording = Recording.open(data)
    for step in range(recording.first_step, min(recording.last_step, recording.first_step + 100) + 1):
        recording.state_at(step)
    for _ in recording.events():
        pass
    return recording.num_steps


SMALL = recorded(12, 4, num_blocks=6)
SMALL_STATES = [Recording.open(SMALL).state_at(step) for step in range(13)]


@settings(max_examples=400, deadline=None)
@given(position=st.integers(0, len(SMALL) * 8 - 1))
def test_a_flipped_bit_is_noticed(position: int) -> None:
    data = bytearray(SMALL)
    data[position // 8] ^= 1 << position % 8
    try:
        steps = read_everything(bytes(data))
    except RecordingError:
        return
    frames = frames_of(SMALL)
    if steps == 12 and position // 8 < frames[-1].end:  # archives say nothing that the batches do not
        assert any(f.kind == fmt.ARCHIVE and f.offset <= position // 8 < f.end for f in frames)
        assert [Recording.open(bytes(data)).state_at(step) for step in range(13)] == SMALL_STATES


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=400), start=st.integers(0, len(SMALL)))
def test_noise_is_refused(data: bytes, start: int) -> None:
    for attempt in (data, SMALL[:start] + data, SMALL[:start] + data + SMALL[start + len(data) :]):
        try:
            read_everything(attempt)
        except RecordingError:
            continue


def test_a_damaged_frame_costs_only_the_steps_that_need_it() -> None:
    data = bytearray(recorded(40, 10))
    frames = frames_of(bytes(data))
    victim = next(frame for frame in frames if frame.kind == fmt.BATCH and frame.step == 15)
    data[victim.offset + FRAME.size + 20] ^= 1
    recording = Recording.open(bytes(data))
    expected = rf"recording: frame {victim.number} \(batch of step 15, at byte {victim.offset}\) is damaged"
    for step in (15, 17, 19):
        with pytest.raises(RecordingError, match=expected):
            recording.state_at(step)
    with pytest.raises(RecordingError, match=expected):
        recording.events(15)
    whole = Recording.open(recorded(40, 10))
    for step in (0, 14, 20, 40):
        assert recording.state_at(step).requests == whole.state_at(step).requests
    without_index = Recording.open(bytes(data[:-1]))
    assert without_index.last_step == 14
    assert f"frame {victim.number} (batch of step 15" in without_index.damage


def test_a_damaged_first_snapshot_is_refused() -> None:
    data = bytearray(SMALL)
    data[frames_of(SMALL)[0].offset + FRAME.size + 3] ^= 1
    with pytest.raises(RecordingError, match=r"frame 1 \(keyframe of step 0, at byte \d+\) is damaged"):
        Recording.open(bytes(data))
    with pytest.raises(RecordingError, match="the first snapshot is not whole"):
        Recording.open(bytes(data[:-1]))


def test_other_files_and_versions_are_refused(tmp_path: Path) -> None:
    for data, expected in (
        (b"", "0 bytes are too few"),
        (b"PK\x03\x04" * 9, "not a .kvtrace file"),
        (fmt.MAGIC + struct.pack("<I", 2) + SMALL[12:], "format 2; this version reads format 1"),
        (trace(header=fmt.Header(7)), "event schema 7; this version reads schema 1"),
        (trace(), "the first snapshot is not whole"),
        (trace((fmt.BATCH, 1, b"")), "expected the first snapshot"),
    ):
        with pytest.raises(RecordingError, match=expected):
            Recording.open(data)
    path = tmp_path / "notes.txt"
    path.write_text("these are not the events you are looking for")
    with pytest.raises(RecordingError, match=r"notes\.txt: not a \.kvtrace file"):
        Recording.open(path)
    with pytest.raises(FileNotFoundError):
        Recording.open(tmp_path / "nothing")


@pytest.mark.parametrize("length", [2**32 - 1, fmt.MAX_FRAME_BYTES + 1, fmt.MAX_FRAME_BYTES])
def test_a_length_that_lies_is_refused_without_reading(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    first = frames_of(SMALL)[1]
    data = SMALL[: first.offset] + FRAME.pack(fmt.BATCH, 1, length, 0) + b"x" * 50
    asked: list[int] = []
    real = fmt.TraceReader._read_at
    monkeypatch.setattr(
        fmt.TraceReader, "_read_at", lambda self, offset, n: (asked.append(n), real(self, offset, n))[1]
    )
    recording = Recording.open(data)
    assert recording.num_steps == 0
    assert "claims" in recording.damage or "the file ends within frame 2" in recording.damage
    assert max(asked) <= len(data)


# --- files made on purpose: whole frames, wrong content ----------------------------------------------------------

EMPTY = (fmt.KEYFRAME, 0, encode_page_map(PageMap()))


def batch_of(step: int, *events: ev.AnyEvent, first: int = 0) -> tuple[int, int, bytes]:
    for seq, event in enumerate(events, first):
        event.seq, event.step = seq, step
    return fmt.BATCH, step, msgspec.msgpack.encode(EventBatch(step, list(events)))


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([EMPTY, (fmt.BATCH, 1, b"\xc1")], "frame 2 .*step 1"),
        ([EMPTY, (fmt.BATCH, 1, msgspec.msgpack.encode({"step": 1, "events": [{"type": "os.system"}]}))], "os.system"),
        ([EMPTY, (fmt.BATCH, 1, msgspec.msgpack.encode({"step": "1", "events": []}))], "Expected `int`"),
        ([EMPTY, (fmt.BATCH, 2, batch_of(1, ev.RunFinished())[2])], "another step"),
        ([EMPTY, batch_of(5, ev.RunFinished()), batch_of(4, ev.RunFinished(), first=1)], "follows step 5"),
        ([EMPTY, batch_of(1, ev.RunFinished(), first=3)], "step 1: .*contradict.* expected event seq 0, got 3"),
        ([EMPTY, batch_of(1, ev.RequestAdmitted(0, 0))], "contradict"),
        ([EMPTY, (fmt.BATCH, 1, b"\x81\xa6events" + b"\x91" * 100_000)], "frame 2"),
        ([(fmt.KEYFRAME, 0, b"\x81\xa5pages\xdd" + struct.pack(">I", MAX_BLOCKS + 1))], "length"),
        ([(fmt.KEYFRAME, 0, msgspec.msgpack.encode({"pages": [{}] * 5}))], "5 device pages instead of 0"),
        ([(fmt.KEYFRAME, 0, msgspec.msgpack.encode({"host_pages": [{}]}))], "1 host pages instead of 0"),
        ([(fmt.KEYFRAME, 0, msgspec.msgpack.encode({"running": [3]}))], "never queued"),
        ([(fmt.KEYFRAME, 0, msgspec.msgpack.encode({"step": 4}))], "state of step 4"),
        ([(fmt.KEYFRAME, 0, msgspec.msgpack.encode({"requests": {"0": {"prompt": b"\xff"}}}))], "requests"),
    ],
)
def test_whole_frames_with_senseless_content(frames: list[tuple[int, int, bytes]], expected: str) -> None:
    with pytest.raises(RecordingError, match=expected):
        read_everything(trace(*frames))


def scenario_state(step: int) -> PageMap:
    bus = EventBus()
    return next(bus.page_map.copy() for batch in scenario.play(bus) if batch.step == step)


def spoil(state: PageMap, what: str) -> str:
    """Makes a snapshot impossible; returns what is to be said about it."""
    sequence = state.sequences[0]
    match what:
        case "a count":
            state.pages[0].ref_count = 7
            return "page 0 has ref_count 7"
        case "an owner":
            state.pages[0].owner = 77
            return "owner 77; block tables name it 2 times"
        case "a page":
            sequence.tables[1].blocks[0] = 12
            return "a device page outside 0 to 11"
        case "a negative page":
            sequence.tables[0].blocks[0] = -2
            return "a device page outside 0 to 11"
        case "a host page":
            sequence.tables[0].host[0] = 9
            return "a host page outside 0 to 5"
        case "a place":
            sequence.tables[0].host[40] = 0
            state.host_pages[0] = Page(1, 4, 0, 40)
            return "behind the end of its block table"
        case "a group":
            sequence.tables += [BlockTable()]
            return "3 block tables, there are 2 layer groups"
        case "a fill":
            state.pages[0].filled = 5
            return "more than 4 tokens"
        case "tokens":
            sequence.num_computed_tokens = 9
            return "9 tokens in 8 slots"
        case "mass":
            sequence.mass = [0.0] * 1000
            return "2 pages, not 1000"
        case "a cause":
            state.pages[0].cause = "because"
            return "an unknown cause"
        case "a request":
            state.request_ids[9] = 9
            return "never queued"
    raise AssertionError(what)


@pytest.mark.parametrize(
    "what",
    [
        *("a count", "an owner", "a page", "a negative page", "a host page", "a place", "a group", "a fill", "tokens"),
        *("mass", "a cause", "a request"),
    ],
)
def test_an_impossible_snapshot_is_refused(what: str) -> None:
    state = scenario_state(2)
    assert Recording.open(trace((fmt.KEYFRAME, 2, encode_page_map(state)))).initial == state
    expected = spoil(state, what)
    with pytest.raises(RecordingError, match=expected):
        Recording.open(trace((fmt.KEYFRAME, 2, encode_page_map(state))))


def test_everything_that_can_happen_is_read_back() -> None:
    bus, file = EventBus(), io.BytesIO()
    states = {}
    with Recorder(bus, file, 1):
        for batch in scenario.play(bus):
            states[batch.step] = bus.page_map.copy()
    recording = Recording.open(file.getvalue())
    live = Timeline(bus)
    assert live.first_step == scenario.NUM_STEPS
    for step in (3, 1, 7, 2, 6, 4, 5):
        assert recording.state_at(step) == states[step]
    kinds = {type(event) for event in recording.events()}
    assert kinds == {
        e
        for e in ev.AnyEvent.__args__
        if e not in (ev.AdmissionBlocked, ev.RequestRejected, ev.RegionReserved, ev.RegionReleased)
    }
    frame = recording.to_pandas()
    swapped = frame[frame["type"] == "BlocksSwappedIn"]
    assert swapped["pairs"].tolist() == [[(5, 1), (4, 2), (3, 3), (2, 4), (1, 5), (0, 9)]]
    assert frame.loc[frame["type"] == "PageMassSampled", "mass"].tolist() == [[0.5, 0.25]]
    assert frame.loc[frame["type"] == "OutputsChosen", "outputs"].item()[0].token_ids == [10, 11]
    preempted = frame[frame["type"] == "RequestPreempted"]
    assert preempted["estimate.swap_ns"].tolist()[0] == 2_000_000
    assert frame.loc[frame["type"] == "RunStarted", "group_windows"].item() == [0, 8]


def _as_it_was(state: PageMap) -> PageMap:
    for page in state.pages:
        page.idle_seq = -1
    for request in state.requests.values():
        for output in request.outputs.values():
            output.ends = []
    return state


@pytest.mark.parametrize("memory", ["paged", "contiguous"])
def test_a_recording_from_before_sharing_still_opens(memory: str) -> None:
    """Made by the version before: one block table per sequence, one text per request, no new fields."""
    data = (Path(__file__).parent / "data" / f"before_sharing_{memory}.kvtrace").read_bytes()
    assert b"block_table" in data
    assert b"num_host_blocks" not in data
    recording = Recording.open(data)
    assert recording.is_complete
    assert len(recording._keyframes) == 4
    folded = {}
    for event, state in recording.walk():
        if isinstance(event, ev.StepFinished):
            assert state.waste() == event.waste
            folded[event.step] = state.copy()
    for step in reversed(range(1, 12)):
        # What was not in snapshots then is not known behind them: where tokens end, and in which order pages fell free.
        assert _as_it_was(recording.state_at(step)) == _as_it_was(folded[step]), step
    last = recording.state_at(12)
    assert sum(len(request.token_ids) for request in last.requests.values()) == last.totals.generated_tokens > 0
    assert "".join(r.text for r in last.requests.values()).count(" t") == last.totals.generated_tokens
    assert measure_waste(recording).num_averaged == 12
    # And when it was joined in the middle, with an old snapshot first.
    frames = [
        frame for frame in frames_of(data) if frame.step >= 8 and not (frame.kind == fmt.BATCH and frame.step == 8)
    ]
    late = trace(*((frame.kind, frame.step, data[frame.offset + FRAME.size : frame.end]) for frame in frames))
    assert Recording.open(late).state_at(12) == last


def test_new_fields_may_be_missing() -> None:
    """Every event decodes without the fields that have defaults."""
    for events in scenario.steps():
        for event in events:
            fields = msgspec.msgpack.decode(msgspec.msgpack.encode(event))
            required = {field.name for field in msgspec.structs.fields(event) if field.required}
            short = {name: value for name, value in fields.items() if name in required or name == "type"}
            decoded = msgspec.msgpack.decode(msgspec.msgpack.encode(short), type=ev.AnyEvent)
            assert type(decoded) is type(event)


def test_an_index_that_lies_is_not_believed() -> None:
    frames = frames_of(SMALL)
    for change in ("kinds", "steps", "lengths"):
        file = io.BytesIO()
        writer = fmt.TraceWriter(file, fmt.Header(1))
        for frame in frames:
            writer.frame(frame.kind, frame.step, SMALL[frame.offset + FRAME.size : frame.end])
        if change == "kinds":
            writer._kinds[3] = fmt.INDEX
        elif change == "steps":
            writer._index.steps.pop()
        else:
            writer._index.lengths[2] += 1
        writer.finish()
        recording = Recording.open(file.getvalue())
        assert not recording.is_complete
        assert recording.last_step == 12
        assert "index" in recording.damage
