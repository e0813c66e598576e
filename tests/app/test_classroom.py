"""Many watch one run: what they see is what its owner sees, and they cost no place."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from tests.app.conftest import Clock
from workbench.models import LoadedModel
from workbench.views.delta import patch
from workbench_app import classroom as classroom_module
from workbench_app.classroom import Classroom, _stream
from workbench_app.settings import Settings
from workbench_app.store import SessionStore
from workbench_app.worker import Turns


@pytest.fixture
def store(tiny: LoadedModel) -> Iterator[SessionStore]:
    made = SessionStore(lambda: tiny, max_sessions=1)
    yield made
    made.close()


class Watcher:
    """What somebody who watches has seen."""

    def __init__(self) -> None:
        self.id, self.frame, self.whole, self.over = "", {}, 0, False

    async def watch(self, classroom: Classroom, code: str) -> None:
        broadcast = classroom.find(code)
        assert broadcast is not None

        async def stays() -> bool:
            return False

        request: Any = SimpleNamespace(is_disconnected=stays)
        async for text in _stream(request, broadcast):
            if text.startswith("event: over"):
                self.over = True
            elif text.startswith("data: "):
                self.receive(json.loads(text[6:]))

    def receive(self, message: dict[str, Any]) -> None:
        if "frame" in message:
            self.whole += 1
            self.frame = message["frame"]
        else:
            assert message["base"] == self.id
            self.frame = patch(self.frame, message["patch"])
        self.id = message["id"]


def watching(classroom: Classroom, code: str) -> int:
    broadcast = classroom.find(code)
    return 0 if broadcast is None else broadcast.watchers


def test_thirty_watch_one_run(store: SessionStore, small: Settings) -> None:
    classroom = Classroom(store)
    session = store.get("teacher")
    session.prepare(small)
    code = classroom.share("teacher")
    assert classroom.share("teacher") == code
    assert session.frame()[1]["shared"] == code

    async def scenario() -> list[Watcher]:
        watchers = [Watcher() for _ in range(30)]
        tasks = [asyncio.create_task(watcher.watch(classroom, code.upper())) for watcher in watchers]
        while any(not watcher.frame for watcher in watchers):
            await asyncio.sleep(0.01)
        assert watching(classroom, code) == 30
        session.start(speed=40)
        while session.running:
            await asyncio.sleep(0.01)
        session.back()
        last = session.frame()[1]
        async with asyncio.timeout(20):
            while any(watcher.frame != last for watcher in watchers):
                assert not any(task.done() for task in tasks), [task.exception() for task in tasks if task.done()]
                await asyncio.sleep(0.01)
        await asyncio.to_thread(store.drop, "teacher")
        await asyncio.wait_for(asyncio.gather(*tasks), 10)
        return watchers

    watchers = asyncio.run(scenario())
    assert all(watcher.over for watcher in watchers)
    assert classroom.find(code) is None
    assert len(store) == 0


def test_what_is_shared_is_made_once(store: SessionStore, small: Settings) -> None:
    classroom = Classroom(store)
    session = store.get("teacher")
    session.prepare(small)
    broadcast = classroom.find(classroom.share("teacher"))
    assert broadcast is not None
    seen, first = broadcast.message(-1)
    assert json.loads(first)["frame"]["step"] == 0
    assert broadcast.message(seen) == (seen, "")
    session.forward()
    number, change = broadcast.message(seen)
    assert broadcast.message(seen)[1] is change
    assert "patch" in json.loads(change)
    session.forward()
    session.forward()
    assert "frame" in json.loads(broadcast.message(seen)[1])  # too far behind for a change
    assert number > seen


def test_watching_keeps_a_run_going_and_no_session_open(tiny: LoadedModel, small: Settings) -> None:
    clock = Clock()
    store = SessionStore(lambda: tiny, clock=clock, idle_seconds=100)
    session = store.get("teacher")
    session.prepare(small)
    classroom = Classroom(store)
    broadcast = classroom.find(classroom.share("teacher"))
    assert broadcast is not None
    session.start(speed=4)
    for clock.now in range(0, 40, 4):
        broadcast.newest()
        time.sleep(0.03)
    assert session.running
    clock.now = 101
    broadcast.message(-1)
    assert store.reap() == 1
    store.close()


def test_more_watchers_than_a_run_may_have_are_told_so(
    store: SessionStore, small: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classroom_module, "MAX_WATCHERS", 0)
    classroom = Classroom(store)
    store.get("teacher").prepare(small)
    with TestClient(Starlette(routes=classroom.routes())) as client:
        answer = client.get(f"/kvw/watch/{classroom.share('teacher')}")
    assert answer.status_code == 503
    assert answer.json()["error"] == "Watchers: 1 is not possible. At most 0 can watch one run."


def test_how_many_watch_is_told_while_a_run_is_shared(store: SessionStore, small: Settings) -> None:
    classroom = Classroom(store)
    store.get("teacher").prepare(small)
    code = classroom.share("teacher")
    client = TestClient(Starlette(routes=classroom.routes()))
    assert client.get(f"/kvw/watchers/{code}").json() == {"watching": 0}
    broadcast = classroom.find(code)
    assert broadcast is not None
    broadcast.watchers = 7
    assert client.get(f"/kvw/watchers/{code}").json() == {"watching": 7}
    store.drop("teacher")
    assert client.get(f"/kvw/watchers/{code}").json() == {"watching": None}


def test_nothing_to_share(store: SessionStore) -> None:
    classroom = Classroom(store)
    with pytest.raises(KeyError):
        classroom.share("nobody")
    assert classroom.find("abc") is None


def test_turns_are_fair() -> None:
    """Whoever asked first goes first, however many there are."""
    turns, counts, stop = Turns(at_once=2), [0] * 12, threading.Event()

    def work(me: int) -> None:
        while not stop.is_set():
            with turns:
                time.sleep(0.001)
                counts[me] += 1

    threads = [threading.Thread(target=work, args=(me,)) for me in range(len(counts))]
    for thread in threads:
        thread.start()
    time.sleep(0.6)
    stop.set()
    for thread in threads:
        thread.join()
    assert min(counts) > 0
    assert max(counts) <= 1.5 * min(counts) + 5
