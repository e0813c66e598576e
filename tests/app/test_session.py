"""Sessions: run, pause, look back, live side by side, and end when nobody looks."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from tests.app.conftest import Clock
from workbench.models import LoadedModel
from workbench_app.session import Session, SessionClosedError
from workbench_app.settings import Limits, SettingError, Settings
from workbench_app.store import ServerFullError, SessionStore
from workbench_app.updates import Updates

Wait = Callable[..., None]


def shown(session: Session) -> dict[str, Any]:
    return session.frame()[1]


def finish(session: Session, wait: Wait) -> dict[str, Any]:
    session.start()
    wait(lambda: bool(session.frame()) and not session.running)
    return shown(session)


def test_runs_to_the_end(session: Session, small: Settings, wait: Wait) -> None:
    assert session.prepare(small)
    assert shown(session)["state"] == "Paused"
    frame = finish(session, wait)
    assert (frame["state"], frame["running"], session.at_end) == ("Finished", False, True)
    assert frame["badge"]["words"].endswith("(final)")
    assert all(row[2][0] == row[3][0] == "f" for row in frame["requests"])
    assert all(row[2][6] == row[3][6] != "" for row in frame["requests"])


def test_steps_and_steps_back(session: Session, small: Settings) -> None:
    session.prepare(small)
    frames = [shown(session)]
    for _ in range(6):
        session.forward()
        frames.append(shown(session))
    assert [f["step"] for f in frames] == list(range(7))
    for step in reversed(range(6)):
        session.back()
        assert (shown(session)["step"], shown(session)["last"]) == (step, 6)
        for side in ("left", "right"):
            assert shown(session)[side]["map"] == frames[step][side]["map"]
    session.back()
    assert shown(session)["step"] == 0
    session.go_to(4)
    assert shown(session)["state"] == "Looking back"
    session.go_to(10_000)
    assert shown(session)["step"] == 6


def test_forward_through_the_past_computes_nothing(session: Session, small: Settings) -> None:
    session.prepare(small)
    for _ in range(5):
        session.forward()
    session.go_to(2)
    session.forward()
    assert (session.step, shown(session)["last"]) == (3, 5)


def test_pauses_and_goes_on(session: Session, small: Settings, wait: Wait) -> None:
    session.prepare(small)
    session.start(speed=20)
    wait(lambda: shown(session)["step"] >= 2)
    session.pause()
    assert not session.running
    step = shown(session)["step"]
    assert not session.prepare(small)  # the same settings: the run stays
    frame = finish(session, wait)
    assert frame["step"] > step
    assert frame["run"] == 1


def test_running_again_at_the_end_replays_from_the_start(session: Session, small: Settings, wait: Wait) -> None:
    session.prepare(small)
    last = finish(session, wait)["last"]
    session.start(speed=1)
    assert session.step < last
    assert session.running
    session.pause()


def test_the_speed_is_kept_and_can_be_turned_up(session: Session, small: Settings, wait: Wait) -> None:
    session.prepare(small)
    session.start(speed=1)
    wait(lambda: session.step == 1)
    session.set_speed(1000)
    wait(lambda: not session.running, 20)
    assert session.at_end


def test_new_settings_make_a_new_run(session: Session, small: Settings, wait: Wait) -> None:
    session.prepare(small)
    first = finish(session, wait)
    assert session.prepare(replace(small, seed=5))
    second = finish(session, wait)
    assert second["run"] == 2
    assert second["requests"] != first["requests"]


def test_bad_settings_leave_the_run_as_it_was(session: Session, small: Settings, impossible: Settings) -> None:
    session.prepare(small)
    session.forward()
    before = shown(session)
    with pytest.raises(SettingError):
        session.prepare(impossible)
    session.forward()
    assert shown(session)["step"] == before["step"] + 1


def test_two_sessions_do_not_disturb_each_other(tiny: LoadedModel, small: Settings, wait: Wait) -> None:
    settings = [small, replace(small, seed=9, block_size=8, policy="oracle")]

    def texts(frame: dict[str, Any]) -> list[str]:
        return [row[2][6] for row in frame["requests"]]

    alone = []
    for one in settings:
        session = Session(tiny)
        session.prepare(one)
        alone.append(texts(finish(session, wait)))
        session.close()
    together = [Session(tiny) for _ in settings]
    for session, one in zip(together, settings, strict=True):
        session.prepare(one)
        session.start()
    for session in together:
        wait(lambda session=session: bool(session.frame()) and not session.running)
    assert [texts(shown(session)) for session in together] == alone
    assert alone[0] != alone[1]
    for session in together:
        session.close()


def test_a_run_that_nobody_watches_pauses(tiny: LoadedModel, small: Settings, wait: Wait) -> None:
    clock = Clock()
    session = Session(tiny, clock)
    session.prepare(small)
    session.start(speed=5)
    clock.now = 7.0
    wait(lambda: not session.running)
    assert not session.at_end
    session.close()


def test_of_two_messages_the_later_has_the_newer_frame() -> None:
    """Though the first thread was held up in between."""
    updates, reads, release = Updates(), threading.Event(), threading.Event()
    frames = iter([("1", {"step": 1}), ("2", {"step": 2})])

    def slow() -> tuple[str, dict[str, Any]]:
        frame = next(frames)
        reads.set()
        assert release.wait(10)
        return frame

    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(updates.message, slow)
        assert reads.wait(10)
        second = threads.submit(updates.message, lambda: next(frames))
        assert not second.done()
        release.set()
        assert json.loads(first.result(10))["id"] == "1"
        assert json.loads(second.result(10))["base"] == "1"


def test_the_run_goes_on_while_somebody_looks_back(session: Session, small: Settings, wait: Wait) -> None:
    session.prepare(small)
    session.start(speed=30)
    wait(lambda: shown(session)["step"] >= 4)
    session.back()
    session.back()
    here = shown(session)
    assert (here["running"], here["live"], here["state"]) == (True, False, "Looking back; the run goes on")
    wait(lambda: shown(session)["last"] >= here["last"] + 4)
    assert shown(session)["step"] == here["step"]
    assert shown(session)["left"] == here["left"]
    session.forward()
    assert shown(session)["step"] == here["step"] + 1
    session.live()
    frame = shown(session)
    assert (frame["step"], frame["live"]) == (frame["last"], True)
    wait(lambda: shown(session)["step"] > frame["step"])
    session.set_speed(1000)
    session.go_to(1)
    wait(lambda: not session.running)
    assert shown(session)["step"] == 1  # the run has ended, and the visitor is still where they were
    assert session.duel is not None
    assert session.duel.done


def test_run_while_looking_back_shows_the_newest_step(session: Session, small: Settings, wait: Wait) -> None:
    session.prepare(small)
    session.start(speed=30)
    wait(lambda: shown(session)["step"] >= 3)
    session.go_to(1)
    session.start(speed=30)
    assert shown(session)["live"]
    session.pause()


def test_a_run_stops_at_a_step(session: Session, small: Settings, wait: Wait) -> None:
    session.prepare(small)
    session.start(stop_at=5)
    wait(lambda: not session.running)
    assert (shown(session)["step"], shown(session)["last"], shown(session)["state"]) == (5, 5, "Paused")


def test_jumps(session: Session, small: Settings, wait: Wait) -> None:
    session.prepare(small)
    finish(session, wait)
    steps = shown(session)["jumps"]
    assert session.duel is not None
    ends = {request.finished_step for side in session.duel.sides for request in side.llm.page_map.requests.values()}
    assert steps["finish"] == sorted(ends)
    assert steps["oom"]  # Max lets two of four run at once
    session.go_to(0)
    for expected in steps["finish"]:
        assert session.jump("finish", 1)
        assert session.step == expected
    assert not session.jump("finish", 1)
    assert session.jump("oom", -1)
    assert session.step == max(step for step in steps["oom"] if step < steps["finish"][-1])
    with pytest.raises(ValueError, match="must be one of preemption, swap"):
        session.jump("nonsense", 1)


def test_a_run_that_has_used_its_time_ends_and_can_be_looked_at(tiny: LoadedModel, small: Settings, wait: Wait) -> None:
    session = Session(tiny, limits=Limits(seconds=1e-6))
    session.prepare(small)
    session.start()
    wait(lambda: not session.running)
    frame = shown(session)
    assert "Allowed are 0 in one run" in frame["note"]
    assert frame["step"] == frame["last"]
    assert "ahead" in frame["ahead"] or "Level: " in frame["ahead"]  # nobody has finished
    assert "inished" not in frame["ahead"]
    assert session.duel is not None
    assert session.duel.done
    assert {row[2][0] for row in frame["requests"]} <= {"c", "f"}
    session.back()
    assert shown(session)["step"] < frame["last"]
    session.close()


def test_a_run_is_over_when_its_last_frame_is_there(
    session: Session, small: Settings, wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = session._build

    def slowly() -> None:
        time.sleep(0.05)
        build()

    monkeypatch.setattr(session, "_build", slowly)
    session.prepare(small)
    session.start(stop_at=2)
    wait(lambda: not session.running)
    assert not shown(session)["running"]


def test_stepping_by_hand_has_the_same_limit(tiny: LoadedModel, small: Settings) -> None:
    session = Session(tiny, limits=Limits(seconds=1e-6))
    session.prepare(small)
    session.forward()
    session.forward()
    assert session.duel is not None
    assert session.duel.done
    assert "Seconds of computing" in session.frame()[1]["note"]
    session.close()


def test_a_failing_step_ends_the_run_with_its_reason(
    session: Session, small: Settings, wait: Wait, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.prepare(small)
    session.forward()
    assert session.duel is not None

    def fail() -> None:
        raise RuntimeError("the disk is on fire")

    monkeypatch.setattr(session.duel, "advance", fail)
    session.start()
    wait(lambda: not session.running)
    assert shown(session)["note"] == "The run stopped at step 1: the disk is on fire"


def test_closing_ends_the_thread(tiny: LoadedModel, small: Settings) -> None:
    session = Session(tiny)
    session.prepare(small)
    session.start(speed=2)
    session.close()
    assert not session.running
    assert not [t for t in threading.enumerate() if t.name == "kv-workbench-run" and t.is_alive()]
    with pytest.raises(SessionClosedError):
        session.forward()
    session.close()


def test_the_store_keeps_sessions_apart_and_limits_them(tiny: LoadedModel) -> None:
    loads = 0

    def load() -> LoadedModel:
        nonlocal loads
        loads += 1
        return tiny

    store = SessionStore(load, max_sessions=2, idle_seconds=25)
    a, b = store.get("a"), store.get("b")
    assert a is not b
    assert store.get("a") is a
    with pytest.raises(ServerFullError, match=r"2 visitors .* has been idle for 25 seconds"):
        store.get("c")
    store.drop("a")
    assert store.get("c") is not b
    assert (len(store), loads) == (2, 1)
    store.close()
    assert len(store) == 0


def test_who_comes_too_late_waits_in_line(tiny: LoadedModel) -> None:
    clock = Clock()
    store = SessionStore(lambda: tiny, max_sessions=1, clock=clock)
    store.get("a")

    def before(name: str) -> int:
        with pytest.raises(ServerFullError) as caught:
            store.get(name)
        return caught.value.before

    assert [before(name) for name in ("b", "c", "d", "b", "d")] == [0, 1, 2, 0, 2]
    assert store.waiting == 3
    store.drop("a")
    assert before("c") == 1  # the place is b's
    store.drop("b")  # who leaves the line makes it shorter
    assert store.get("c") is store.find("c")
    clock.now = 4.0
    assert before("e") == 1
    clock.now = 8.0
    assert before("e") == 0  # d has not asked for eight seconds
    store.close()


def test_a_place_in_line_is_kept_while_its_owner_asks(tiny: LoadedModel) -> None:
    """The threads may all be busy for long."""
    clock = Clock()
    store = SessionStore(lambda: tiny, max_sessions=1, clock=clock)
    store.get("a")
    for name in ("b", "c"):
        with pytest.raises(ServerFullError):
            store.get(name)
    with store.asking("b"):
        clock.now = 30.0
        assert store.waiting == 1
        with pytest.raises(ServerFullError, match="You are next"):
            store.get("b")
        clock.now = 34.0
    clock.now = 38.0
    assert store.waiting == 1
    clock.now = 40.0
    assert store.waiting == 0
    with store.asking("d"):  # who has no place gets none by this
        assert store.waiting == 0
    store.close()


def test_idle_sessions_are_reaped(tiny: LoadedModel, small: Settings) -> None:
    clock = Clock()
    store = SessionStore(lambda: tiny, idle_seconds=600, clock=clock)
    idle, busy = store.get("idle"), store.get("busy")
    idle.prepare(small)
    clock.now = 500.0
    busy.frame()
    assert store.reap() == 0
    clock.now = 700.0
    assert store.reap() == 1
    assert store.find("idle") is None
    assert idle.duel is None
    assert store.find("busy") is busy
    store.close()


def test_the_reaper_works_by_itself(tiny: LoadedModel, wait: Wait) -> None:
    store = SessionStore(lambda: tiny, idle_seconds=0.1)
    store.get("a")
    wait(lambda: len(store) == 0, 10)
    store.close()
