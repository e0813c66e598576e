"""Sources of the Explore tab: limits, idleness, and runs that go on."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from pathlib import Path

import plotly.graph_objects as go
import pytest

from tests.app.conftest import Clock
from workbench import LLM, EngineConfig, SamplingParams
from workbench.events import EventBus, Recorder, Recording
from workbench.events.kvtrace import ARCHIVE, BATCH, KEYFRAME, RecordingError, TraceWriter
from workbench.events.page_map import PageMap, encode_page_map
from workbench.events.recording import new_header
from workbench.events.timeline import Timeline
from workbench.events.types import ModelGeometry, RunFinished, RunStarted
from workbench.models import LoadedModel
from workbench.views.view import Table, View
from workbench_app.explore import ExploreStore
from workbench_app.explore_answers import frame_answer, meta_answer, view_answer
from workbench_app.explore_views import VIEWS, Asked
from workbench_app.exports import KINDS, export
from workbench_app.gallery import path_of
from workbench_app.limits import ExploreError, Limits
from workbench_app.sources import ByteCache, Source
from workbench_app.upload_checks import clean_name

SAMPLES = path_of("samples").read_bytes()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> Iterator[ExploreStore]:
    made = ExploreStore(Limits(per_visitor=2, sources=3, idle_seconds=100, spare_seconds=10), clock=clock)
    yield made
    made.close()


def upload(store: ExploreStore, owner: str, data: bytes = SAMPLES) -> str:
    return store.open_upload(io.BytesIO(data), "run.kvtrace", owner)


def test_a_visitor_s_oldest_makes_room_for_the_next(store: ExploreStore, clock: Clock) -> None:
    first = upload(store, "a")
    clock.now = 1
    second = upload(store, "a")
    clock.now = 2
    store.get(first)
    third = upload(store, "a")
    assert first in store
    assert second not in store
    assert third in store


def test_a_full_server_says_so_until_somebody_is_idle(store: ExploreStore, clock: Clock) -> None:
    kept = [upload(store, owner) for owner in "abc"]
    with pytest.raises(ExploreError, match="at most 3") as full:
        upload(store, "d")
    assert full.value.status == 503
    clock.now = 11
    for key in kept[1:]:
        store.get(key)
    upload(store, "d")
    assert kept[0] not in store
    assert all(key in store for key in kept[1:])


def test_bytes_of_all_uploads_are_bounded(clock: Clock) -> None:
    store = ExploreStore(Limits(total_bytes=2 * len(SAMPLES) + 10), clock=clock)
    for owner in "ab":
        upload(store, owner)
    with pytest.raises(ExploreError):
        upload(store, "c")
    store.close()
    assert len(store) == 0


def test_what_is_being_sent_counts_and_costs_its_owner_nothing_until_it_is_good(clock: Clock) -> None:
    size = len(SAMPLES)
    store = ExploreStore(Limits(total_bytes=3 * size, per_visitor=1, uploads_at_once=2), clock=clock)
    mine = upload(store, "a")
    first, second = store.reserve(size, "a"), store.reserve(size, "b")
    with pytest.raises(ExploreError, match=r"Uploads under way: 3 is not possible. At most 2") as many:
        store.reserve(1, "c")
    assert many.value.status == 503
    store.release(second)
    with pytest.raises(ExploreError, match="Open recordings"):
        store.reserve(size + 1, "c")
    with pytest.raises(ExploreError, match="Recording"):
        store.open_upload(io.BytesIO(b"nothing"), "bad.kvtrace", "a", first)
    assert mine in store
    newer = store.open_upload(io.BytesIO(SAMPLES), "run.kvtrace", "a", store.reserve(size, "a"))
    assert newer in store
    assert mine not in store
    store.reserve(2 * size, "b")  # what was refused or opened keeps no room
    store.close()


def test_idle_uploads_are_closed_and_bundled_recordings_only_forget(store: ExploreStore, clock: Clock) -> None:
    bundled, mine = store.open_bundled("samples"), upload(store, "a")
    for key in (bundled, mine):
        frame_answer(store.get(key), {"step": "3"})
    source, recording = store.get(bundled), store.get(mine).history
    assert source.frames.bytes > 0
    clock.now = 101
    assert store.reap() == 1
    assert mine not in store
    assert isinstance(recording, Recording)
    with pytest.raises(ValueError, match="closed file"):
        list(recording.batches())
    assert source.frames.bytes == 0
    assert frame_answer(store.get(bundled), {"step": "3"})


def test_a_recording_of_a_pool_that_nobody_has_is_refused_before_it_is_made(store: ExploreStore) -> None:
    bus, file = EventBus(), io.BytesIO()
    model = ModelGeometry("m", "a", 1, 1, 1, 1, 1, "float32", 8)
    config = {"memory": "paged", "block_size": 16, "num_blocks": 1 << 21, "bytes_per_block": 128}
    with Recorder(bus, file):
        bus.emit(RunStarted(schema_version=1, seed=0, model=model, config={}, **config))  # type: ignore[arg-type]
        bus.flush()
    with pytest.raises(ExploreError, match="Pages") as refused:
        upload(store, "a", file.getvalue())
    assert refused.value.status == 413
    assert len(store) == 0


@pytest.mark.parametrize("kind", [KEYFRAME, ARCHIVE])
def test_a_small_file_that_would_unfold_to_a_large_state_is_refused_unread(
    clock: Clock, kind: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = io.BytesIO()
    writer = TraceWriter(file, new_header())
    writer.frame(KEYFRAME, 0, encode_page_map(PageMap()))
    writer.frame(BATCH, 1, b"")
    writer.frame(kind, 1, b"\x91" * 2000)
    writer.finish()
    monkeypatch.setattr(Recording, "__init__", None)  # calling it would fail
    store = ExploreStore(Limits(state_bytes=1000), clock=clock)
    with pytest.raises(ExploreError, match=r"State in the recording: '2000 bytes' is not possible\. At most 1000"):
        upload(store, "a", file.getvalue())
    store.close()


def test_a_file_named_at_the_start_opens(store: ExploreStore, tmp_path: Path) -> None:
    path = tmp_path / "mine.kvtrace"
    path.write_bytes(SAMPLES)
    assert store.get(store.open_path(path)).title == "mine.kvtrace"


def test_a_live_run_grows_while_it_is_explored(store: ExploreStore, tiny: LoadedModel) -> None:
    with LLM(tiny, EngineConfig(num_blocks=16, max_model_len=64)) as llm, Timeline(llm.bus) as timeline:
        key = store.register_live(timeline, "Live run, paged", "")
        source = store.get(key)
        llm.add_request("Once upon a time", SamplingParams(max_tokens=10, ignore_eos=True))
        lasts = []
        while llm.has_unfinished:
            llm.step()
            lasts.append(timeline.last_step)
            assert f'"last":{timeline.last_step}'.encode() in frame_answer(source, {})
            assert b'"running":true' in meta_answer(source)
        assert view_answer(source, "timeline", {})
        assert lasts == sorted(set(lasts))
        llm.close()
        assert b'"running":false' in meta_answer(source)
    store.drop(key)
    with pytest.raises(ExploreError):
        store.get(key)
    assert timeline.state_at(3).step == 3  # it belongs to whoever registered it


def test_a_picture_of_a_live_run_takes_late_events_of_its_step_into_account(
    store: ExploreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def draw(source: Source, asked: Asked) -> View:
        return View(go.Figure(), f"{len(source.history.events(asked.step))} events", Table([], []))

    monkeypatch.setitem(VIEWS, "flow", draw)
    bus = EventBus()
    with Timeline(bus) as timeline:
        source = store.get(store.register_live(timeline, "Live", ""))
        for count in (1, 2):
            bus.emit(RunFinished())
            bus.flush()
            for _ in range(2):
                assert f'"{count} events"'.encode() in view_answer(source, "flow", {})


@pytest.mark.parametrize(
    ("error", "query", "words"),
    [
        (KeyError(7), {"request": "7"}, "request: 7 is not possible. The request or page of this picture is not there"),
        (IndexError(), {"page": "9"}, "page: 9 is not possible. .* at step 40"),
        (IndexError(), {}, "step: 40 is not possible"),
        (ValueError("page=3: must be 2"), {"page": "3"}, "View: 'flow' is not possible. page=3: must be 2."),
    ],
)
def test_what_a_picture_can_not_show_is_named(
    store: ExploreStore, monkeypatch: pytest.MonkeyPatch, error: Exception, query: dict[str, str], words: str
) -> None:
    def fail(source: Source, asked: Asked) -> View:
        raise error

    monkeypatch.setitem(VIEWS, "flow", fail)
    source = store.get(store.open_bundled("samples"))
    with pytest.raises(ExploreError, match=words):
        view_answer(source, "flow", {"step": "40", **query})
    error = RecordingError("frame 7 is damaged")
    with pytest.raises(RecordingError, match="frame 7"):
        view_answer(source, "flow", {"step": "40", **query})


def test_a_cache_is_bounded_by_size() -> None:
    cache = ByteCache(10)
    for name, size in (("a", 4), ("b", 4), ("c", 4), ("huge", 11)):
        cache.put(name, name, size)
    assert [cache.get(name) for name in ("a", "b", "c", "huge")] == [None, "b", "c", None]
    assert cache.bytes == 8


@pytest.mark.parametrize(
    ("name", "shown"), [("C:\\a\\b.kvtrace", "b.kvtrace"), ("../../x", "x"), ("a\nb\0", "ab"), ("", "recording")]
)
def test_names_of_files_are_only_shown(name: str, shown: str) -> None:
    assert clean_name(name) == shown


def test_making_room_waits_for_nobody_who_reads() -> None:
    store = ExploreStore(Limits(per_visitor=1))
    store.open_upload(io.BytesIO(SAMPLES), "a.kvtrace", "me")
    (source,) = store._sources.values()
    done = threading.Event()

    def make_room() -> None:
        store.open_upload(io.BytesIO(SAMPLES), "b.kvtrace", "me")
        done.set()

    with source.lock:  # somebody works out the series of a long run
        threading.Thread(target=make_room, daemon=True).start()
        assert done.wait(10)
    assert source.closed
    assert len(store) == 1
    store.close()


def test_what_is_trimmed_can_be_read_again() -> None:
    store = ExploreStore()
    source = store.get(store.open_bundled("samples"))
    before = source.history.state_at(5)
    source.trim()
    assert source.history.state_at(5) == before
    store.close()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_files_to_save_are_bounded(kind: str) -> None:
    store = ExploreStore()
    source = store.get(store.open_bundled("samples"))
    with pytest.raises(ExploreError, match=r"Size of the file: .* At most 1000 bytes are allowed"):
        export(source, kind, 1000)
    file, size = export(source, kind)
    with file:
        assert len(file.read()) == size > 1000
    store.close()
