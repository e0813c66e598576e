"""The page's events, without a page; and the same through the API of a running server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError

from workbench.models import LoadedModel
from workbench.views.delta import patch
from workbench_app.handlers import Handlers, RecentTabs, choose_preset
from workbench_app.main import build, launch_options, make_services
from workbench_app.services import Services

FIELDS = ["Once upon a time\nEs war einmal | 6", 10, 256, 16, "max", 128, 0.8, 0]
ALL = [*FIELDS, "one", 4, False, 0, "recompute", False]


def tab(name: str) -> Any:
    return SimpleNamespace(session_hash=name)


@pytest.fixture
def services(tiny: LoadedModel) -> Iterator[Services]:
    made = make_services(tiny)
    yield made
    made.close()


class Shown:
    """What a tab shows, from the messages that it gets."""

    def __init__(self) -> None:
        self.id, self.frame = "", {}

    def receive(self, text: str) -> dict[str, Any]:
        message = json.loads(text)
        if "patch" in message:
            assert message["base"] == self.id, "a change to a frame that did not arrive"
            self.frame = patch(self.frame, message["patch"])
        else:
            self.frame = message["frame"]
        self.id = message["id"]
        return self.frame


async def collect(handlers: Handlers, name: str, *values: Any, page: Shown | None = None) -> list[dict[str, Any]]:
    speed, unlimited, *fields = values
    page = page or Shown()
    return [page.receive(frame) async for frame, _ in handlers.run(tab(name), speed, unlimited, "class", *fields)]


def whole(shown: Any) -> dict[str, Any]:
    """The frame of a message that has all of it."""
    frame: dict[str, Any] = json.loads(shown[0])["frame"]
    return frame


def test_run_yields_frames_to_the_end(services: Services) -> None:
    frames = asyncio.run(collect(Handlers(services), "a", 60, True, *FIELDS))
    assert frames[-1]["state"] == "Finished"
    assert [f["running"] for f in frames].count(False) == 1
    assert frames[-1]["badge"]["words"] == "Outputs equal: 16 of 16 tokens compared (final)"


def test_tabs_that_say_no_goodbye_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RecentTabs, "most", 2)
    tabs = RecentTabs()
    for name in ("a", "b", "a", "c"):
        tabs[name] = tabs.get(name, 0) + 1
    assert dict(tabs) == {"a": 2, "c": 1}


def test_pause_ends_the_generator(services: Services) -> None:
    handlers = Handlers(services)

    async def scenario() -> list[dict[str, Any]]:
        task = asyncio.create_task(collect(handlers, "a", 2, False, *FIELDS))
        await asyncio.sleep(0.6)
        await asyncio.to_thread(handlers.pause, tab("a"))
        return await asyncio.wait_for(task, 10)

    frames = asyncio.run(scenario())
    assert frames[-1]["state"] == "Paused"


def test_a_newer_run_of_the_same_tab_takes_over(services: Services) -> None:
    handlers = Handlers(services)

    async def scenario() -> tuple[list[Any], list[Any]]:
        page = Shown()  # one tab gets the messages of both
        first = asyncio.create_task(collect(handlers, "a", 3, False, *FIELDS, page=page))
        await asyncio.sleep(0.5)
        second = asyncio.create_task(collect(handlers, "a", 60, True, *FIELDS, page=page))
        return await asyncio.wait_for(first, 20), await asyncio.wait_for(second, 20)

    first, second = asyncio.run(scenario())
    assert second[-1]["state"] == "Finished"
    assert first[0]["run"] == second[-1]["run"] == 1


def test_tabs_do_not_wait_for_each_other(services: Services) -> None:
    handlers = Handlers(services)

    async def scenario() -> list[dict[str, Any]]:
        slow = asyncio.create_task(collect(handlers, "slow", 1, False, *FIELDS))
        await asyncio.sleep(0.3)
        fast = await asyncio.wait_for(collect(handlers, "fast", 60, True, *FIELDS), 20)
        assert not slow.done()
        await asyncio.to_thread(handlers.drop, tab("slow"))
        await asyncio.wait_for(slow, 10)
        return fast

    assert asyncio.run(scenario())[-1]["state"] == "Finished"
    assert services.sessions.find("slow") is None


def test_step_back_scrub_and_reset(services: Services) -> None:
    handlers = Handlers(services)
    page = Shown()
    for expected in (1, 2, 3):
        assert page.receive(handlers.step(tab("a"), "", *FIELDS)[0])["step"] == expected
    assert page.receive(handlers.back(tab("a"))[0])["step"] == 2
    assert page.receive(handlers.scrub(tab("a"), gr.EventData(None, {"step": 0}))[0])["step"] == 0
    assert "no run here" in handlers.back(tab("other"))[1]
    assert whole(handlers.reset(tab("a"), *FIELDS))["state"] == "Ready: press Run"
    assert services.sessions.find("a") is None


@pytest.mark.parametrize("data", [None, {}, {"step": "1"}, {"step": 1.5}, {"step": True}])
def test_scrub_refuses_what_is_no_step(services: Services, data: Any) -> None:
    with pytest.raises(gr.Error, match="Step: "):
        Handlers(services).scrub(tab("a"), gr.EventData(None, data))


def test_changed_settings_are_announced_and_nothing_is_lost(services: Services) -> None:
    handlers = Handlers(services)
    handlers.step(tab("a"), "", *FIELDS)
    changed = [*FIELDS[:-1], 7]
    assert "Run or Step starts a new run" in handlers.changed(tab("a"), *changed)[1]
    assert handlers.changed(tab("a"), *FIELDS)[1] == ""
    assert "Prompts" in handlers.changed(tab("a"), "", *FIELDS[1:])[1]
    with pytest.raises(gr.Error, match="Prompts"):
        handlers.step(tab("a"), "", "", *FIELDS[1:])
    session = services.sessions.find("a")
    assert session is not None
    assert session.step == 1


def test_a_full_server_says_so(tiny: LoadedModel) -> None:
    services = make_services(tiny, max_sessions=1)
    handlers = Handlers(services)
    handlers.step(tab("a"), "", *FIELDS)
    with pytest.raises(gr.Error, match=r"1 visitor is running engines here, .* You are next"):
        handlers.step(tab("b"), "", *FIELDS)
    services.close()


def test_unknown_presets_are_refused() -> None:
    assert choose_preset("class")[2] == 48
    for name in ("nonsense", None, ["class"]):
        with pytest.raises(gr.Error, match="Allowed are class"):
            choose_preset(name)


def test_through_the_api(services: Services) -> None:
    demo = build(services)
    _, url, _ = demo.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, **launch_options(services))
    try:
        client = Client(url, verbose=False)
        frame = whole(client.predict("", *ALL, api_name="/step"))
        assert frame["step"] == 1
        last = whole(client.predict(60, True, "", *ALL, api_name="/run"))
        assert last["state"] == "Finished"
        for position, value, named in ((2, -5, "Pool size: -5"), (3, 17, "Block size: 17"), (4, "x", "Reservation")):
            fields: list[Any] = [*ALL]
            fields[position] = value
            with pytest.raises(AppError, match=named):
                client.predict("", *fields, api_name="/step")
        client.close()
    finally:
        demo.close()
