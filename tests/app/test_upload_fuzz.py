"""Files that were changed at random: they are refused in words, or every step and every picture can be asked for."""

from __future__ import annotations

import functools
import io
import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.testclient import TestClient

from tests.app.hostile_files import BEGIN, EMPTY, batch, recording
from tests.events import scenario
from workbench.events import EventBus, Recorder
from workbench.events import types as ev
from workbench.events.kvtrace import RecordingError, TraceReader
from workbench_app.explore import ExploreStore
from workbench_app.explore_answers import meta_answer
from workbench_app.explore_views import VIEWS
from workbench_app.exports import KINDS
from workbench_app.limits import Limits
from workbench_app.routes import make_routes

#: Replay pages and Parquet files take long to make; they read what the others read.
_EXPORTS = tuple(kind for kind in KINDS if kind not in ("html", "parquet"))
_QUERIES = ("page=1&request=0&color=age", "page=0&tier=host&sequence=1&order=free", "page=0&request=1&color=mass")
_VALUES = (
    *(0, 1, -1, -7, 2, 5, 255, 256, 1 << 16, 1 << 31, -(1 << 31), (1 << 63) - 1, -(1 << 63), (1 << 64) - 1),
    *(0.5, -1.0, 1e308, float("nan"), float("inf"), None, True, "", "x"),
    *("paged", "contiguous", "host", "device", "fork", "finished", "running", "lru", [], {}, [0], [[0, 1]], {"0": 1}),
)


@functools.cache
def good_files() -> tuple[bytes, ...]:
    """All that can happen, in a few steps, with and without stored states on the way."""
    files = []
    for every in (1, 100):
        bus, file = EventBus(), io.BytesIO()
        with Recorder(bus, file, every):
            for _ in scenario.play(bus):
                pass
        files.append(file.getvalue())
    return tuple(files)


@functools.cache
def frames_of(number: int) -> tuple[tuple[int, int, bytes], ...]:
    """Kind, step and payload of each frame."""
    reader = TraceReader(io.BytesIO(good_files()[number]), "good")
    return tuple((frame.kind, frame.step, reader.read(frame)) for frame in reader.frames)


def places_in(value: Any) -> list[tuple[Any, Any]]:
    """Every container with each of its keys."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    return [(value, key) for key in keys] + [place for key in keys for place in places_in(value[key])]


@st.composite
def changed_files(draw: st.DrawFn) -> bytes:
    """A file that is no longer what was recorded."""
    number = draw(st.integers(0, len(good_files()) - 1))
    how = draw(st.sampled_from(("bits", "cut", "frames", "fields", "fields", "fields")))
    data, frames = bytearray(good_files()[number]), list(frames_of(number))
    places = st.integers(0, len(frames) - 1)
    if how == "bits":
        for _ in range(draw(st.integers(1, 4))):
            data[draw(st.integers(0, len(data) - 1))] ^= 1 << draw(st.integers(0, 7))
        return bytes(data)
    if how == "cut":
        first = draw(st.integers(0, len(data)))
        return bytes(data[:first] + data[draw(st.integers(first, len(data))) :])
    if how == "frames":
        for _ in range(draw(st.integers(1, 3))):
            frame = frames[draw(places)]
            match draw(st.sampled_from(("drop", "first", "last"))):
                case "drop":
                    frames.remove(frame)
                case "first":
                    frames.insert(0, frame)
                case _:
                    frames.append(frame)
            frames = frames or [frame]
            places = st.integers(0, len(frames) - 1)
        is_ordered = draw(st.booleans())
        return recording(*sorted(frames, key=lambda frame: frame[1]) if is_ordered else frames)
    for _ in range(draw(st.integers(1, 3))):
        place = draw(places)
        kind, step, payload = frames[place]
        content = msgspec.msgpack.decode(payload, strict=False)
        container, key = draw(st.sampled_from(places_in(content)))
        action = draw(st.sampled_from(("set", "set", "near", "delete", "twice")))
        if action == "near" and type(container[key]) is int:
            container[key] += draw(st.sampled_from((-1, 1)))
        elif action == "delete":
            del container[key]
        elif action == "twice" and isinstance(container, list):
            container.insert(key, container[key])
        else:
            container[key] = draw(st.sampled_from(_VALUES))
        try:
            frames[place] = kind, step, msgspec.msgpack.encode(content)
        except OverflowError:
            continue
    return recording(*frames)


def look_at_everything(data: bytes) -> str:
    """Asks for all that a browser can ask for. Returns what became of the file."""
    store = ExploreStore(Limits(pages=1 << 10, memory_bytes=32 << 20))
    try:
        with TestClient(Starlette(routes=make_routes(None, store)), base_url="http://127.0.0.1:7860") as client:
            opened = client.post("/kvw/upload", params={"name": "x.kvtrace"}, content=data)
            if opened.status_code != 201:
                assert opened.status_code in (413, 422), opened.text
                assert opened.json()["allowed"]
                return "refused"
            key = opened.json()["key"]
            history = store.get(key).history
            steps = sorted({history.first_step, history.last_step, (history.first_step + history.last_step) // 2})
            few = range(history.first_step, min(history.last_step, history.first_step + 9) + 1)
            asked = ["meta", *(f"export/{kind}" for kind in _EXPORTS), *(f"frame?step={n}&sequence=1" for n in few)]
            for step, query in itertools.zip_longest(steps, _QUERIES, fillvalue=""):
                asked += [f"view/{name}?step={step or history.first_step}&{query}" for name in VIEWS]
            for path in asked:
                answer = client.get(f"/kvw/{key}/{path}")
                assert answer.status_code in (200, 400, 404, 413, 422), f"{path}: {answer.text}"
                if answer.status_code != 200:
                    error = answer.json()
                    assert error["allowed"] and error["field"], path  # noqa: PT018
            return "opened"
    finally:
        store.close()


def test_the_files_that_are_changed_are_good() -> None:
    assert {look_at_everything(data) for data in good_files()} == {"opened"}


def test_events_that_contradict_each_other_are_no_error_of_the_app() -> None:
    freed = ev.BlockFreed(seq=1, step=1, block=-1, cause=ev.Cause.REQUEST_FINISHED, tier=ev.Tier.HOST)
    store = ExploreStore()
    source = store.get(store.open_upload(io.BytesIO(recording(EMPTY, BEGIN, batch(1, freed))), "a.kvtrace", "me"))
    with pytest.raises(RecordingError, match="the recorded events contradict each other"):
        meta_answer(source)
    store.close()


@settings(max_examples=12, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(changed_files())
def test_a_changed_file_is_refused_or_can_be_looked_at(data: bytes) -> None:
    look_at_everything(data)
