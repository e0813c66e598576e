"""The app on a free port of this process, and a real Chromium."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
import torch

from workbench.benchmarks.app_host import FLAGS
from workbench.models import LoadedModel
from workbench_app.main import build, launch_options, make_services, step_threads
from workbench_app.services import Services
from workbench_app.session import Session
from workbench_app.store import SessionStore

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


def find_chromium() -> str | None:
    """A system browser's path, if there is one."""
    named = os.environ.get("CHROMIUM")
    return named or next((path for name in _NAMES if (path := shutil.which(name))), None) or _playwrights_own()


def _playwrights_own() -> str | None:
    """The browser that `playwright install chromium` has put into its own cache, if it has."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).is_file() else None


@dataclass
class App:
    """The running app."""

    url: str
    services: Services

    @property
    def store(self) -> SessionStore:
        """The visitors' engines."""
        return self.services.sessions

    def only_session(self) -> Session:
        """The session of the one tab that is open."""
        (session,) = self.store._sessions.values()
        return session


@dataclass
class Tab:
    """A page, with everything that went wrong in it."""

    page: Any
    errors: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def frame(self) -> dict[str, Any]:
        """The frame that is shown."""
        frame: dict[str, Any] = self.page.evaluate("KVW.frame")
        return frame

    def stats(self) -> dict[str, float]:
        """Counters of the page's scripts."""
        stats: dict[str, float] = self.page.evaluate("({...KVW.stats})")
        return stats

    def cells(self, side: str) -> list[int | None]:
        """The colour codes in the Plotly heatmap of a side, slot by slot."""
        cells: list[int | None] = self.page.evaluate(
            "side => document.querySelector(`[data-side=${side}] .kvw-plot`).data[0].z.flat()", side
        )
        return cells

    def wait(self, condition: str, seconds: float = 60.0) -> None:
        """Waits for a JavaScript condition on ``KVW.frame`` as ``f``."""
        self.page.wait_for_function(f"() => {{ const f = KVW.frame; return {condition}; }}", timeout=1000 * seconds)


@contextmanager
def served(demo: gr.Blocks, services: Services) -> Iterator[str]:
    """Blocks on a free port, and their address; afterwards everything is closed."""
    threads = torch.get_num_threads()
    torch.set_num_threads(step_threads())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = launch_options(services)
    demo.launch(server_name="127.0.0.1", server_port=port, prevent_thread_lock=True, quiet=True, **options)
    yield f"http://127.0.0.1:{port}/"
    demo.close()
    services.close()
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def app(tiny: LoadedModel) -> Iterator[App]:
    services = make_services(tiny)
    with served(build(services), services) as url:
        yield App(url, services)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = find_chromium()
    if path is None:
        message = "no Chromium found: install one, or name it in the environment variable CHROMIUM"
        if os.environ.get("CI") or os.environ.get("REQUIRE_BROWSER") == "1":
            pytest.fail(message)
        pytest.skip(message)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield chromium
        chromium.close()


@pytest.fixture
def tab(app: App, browser: Any, request: pytest.FixtureRequest) -> Iterator[Tab]:
    """The app in a fresh tab. Afterwards: no errors in the console, and nothing was fetched from elsewhere."""
    context = browser.new_context(**{"viewport": {"width": 1440, "height": 900}, **getattr(request, "param", {})})
    page = context.new_page()
    opened = Tab(page)
    page.on("console", lambda m: opened.errors.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: opened.errors.append(str(error)))

    def check(sent: Any) -> None:
        if not sent.url.startswith((app.url, "data:", "blob:")):
            opened.foreign.append(sent.url)

    page.on("request", check)
    page.on("websocket", lambda socket: opened.foreign.append(socket.url))
    page.goto(app.url)
    page.wait_for_function("() => window.KVW && KVW.frame && KVW.stats.draws > 0", timeout=30_000)
    yield opened
    context.close()
    for key in list(app.store._sessions):
        app.store.drop(key)
    assert opened.errors == []
    assert opened.foreign == []
