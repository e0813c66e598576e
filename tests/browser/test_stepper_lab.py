"""A Stepper in a real JupyterLab, driven in Chromium as a student does."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from workbench import LLM, EngineConfig, Recorder, Recording, SamplingParams
from workbench.events.jumps import JumpIndex
from workbench.models import LoadedModel

pytest.importorskip("jupyterlab")
pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
PROMPTS = ["Once upon a time there was a king", "The old woman said to the fox", "In a village there lived a boy"]
CELL = "from workbench.widgets import Stepper\nstepper = Stepper('run.kvtrace')\nstepper"
#: What the kernel shows, told by the caption's beginning.
STEP = "() => document.querySelector('.kvw-words')?.textContent.match(/^Step (\\d+) of/)?.[1]"


@pytest.fixture(scope="module")
def folder(tiny: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A notebook of one cell, beside the recording that it opens."""
    path = tmp_path_factory.mktemp("lab")
    llm = LLM(tiny, EngineConfig(block_size=4, num_blocks=20, num_host_blocks=16, preemption="swap"))
    with Recorder(llm.bus, path / "run.kvtrace"):
        llm.generate(PROMPTS, SamplingParams(max_tokens=20, seed=0, ignore_eos=True))
    llm.close()
    cell = {"cell_type": "code", "id": "one", "metadata": {}, "source": CELL, "outputs": [], "execution_count": None}
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = {"cells": [cell], "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    (path / "one.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def lab(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """JupyterLab on a free port of this machine alone; its address with its token."""
    home = tmp_path_factory.mktemp("jupyter")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    places = {f"JUPYTER_{name}_DIR": str(home / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    environment = os.environ | places | {"IPYTHONDIR": str(home / "ipython"), "PYTHONPATH": str(ROOT)}
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        "--expose-app-in-browser",
        f"--port={port}",
        "--ip=127.0.0.1",
    ]
    command += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}", "--ServerApp.port_retries=0"]
    command += ["--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    with (home / "lab.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder)
        try:
            deadline = time.monotonic() + 60
            while True:
                with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/api", timeout=2):
                    break
                assert server.poll() is None, (home / "lab.log").read_text()
                assert time.monotonic() < deadline, (home / "lab.log").read_text()
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}/lab/tree/one.ipynb?token={token}"
        finally:
            server.terminate()
            server.wait(20)


def shows(page: Any, step: int, seconds: float = 30) -> None:
    """Waits until a step is shown, in words and in the picture."""
    page.wait_for_function(f"step => ({STEP})() === String(step)", arg=step, timeout=1000 * seconds)
    title = f"step {step}:"
    page.wait_for_function(
        "title => document.querySelector('.kvw-map .gtitle')?.textContent.includes(title)", arg=title, timeout=30_000
    )


def first_shown(page: Any) -> None:
    page.keyboard.press("Home")
    page.wait_for_function(f"() => ({STEP})() === '0'", timeout=30_000)


def now(page: Any) -> int:
    return int(page.evaluate(STEP))


def test_stepper_in_jupyterlab(lab: str, folder: Path, browser: Any, request: pytest.FixtureRequest) -> None:
    recording = Recording.open(folder / "run.kvtrace")
    last = recording.last_step
    context = browser.new_context(viewport={"width": 1300, "height": 1500})
    page = context.new_page()
    foreign: list[str] = []
    base = lab.split("/lab/")[0]
    page.on("request", lambda sent: foreign.append(sent.url) if not sent.url.startswith(_own(base)) else None)
    page.goto(lab)
    page.locator(".jp-Notebook .jp-Cell").first.click(timeout=60_000)
    page.wait_for_selector(".jp-Notebook-ExecutionIndicator[data-status=idle]", timeout=60_000)
    page.keyboard.press("Shift+Enter")
    page.wait_for_selector(".kvw-stepper .kvw-map .main-svg", timeout=60_000)
    shows(page, 1, 60)  # step 0 is before the run

    page.get_by_role("button", name="Forward").click()
    shows(page, 2)
    page.get_by_role("button", name="Last").click()
    shows(page, last)
    page.get_by_role("button", name="Back", exact=True).click()
    shows(page, last - 1)

    # Keys, once the stepper has the focus; Jupyter must not take them for its own ("c" would copy the cell).
    page.locator(".kvw-words").click()
    first_shown(page)
    page.keyboard.press("ArrowRight")
    shows(page, 1)
    page.keyboard.press("Shift+ArrowRight")
    shows(page, 11)
    page.keyboard.press("ArrowLeft")
    shows(page, 10)
    page.keyboard.press("End")
    shows(page, last)
    page.keyboard.press("Shift+P")
    jumps = JumpIndex(recording)
    preempted = jumps.previous(last, "preemption")
    assert preempted is not None
    shows(page, preempted)

    # Play: in the browser, while the kernel answers.
    first_shown(page)
    page.get_by_label("Speed").select_option("2×")
    page.locator(".kvw-words").click()
    page.keyboard.press(" ")
    page.wait_for_function(f"() => Number(({STEP})()) >= 3", timeout=30_000)
    page.keyboard.press(" ")
    page.wait_for_selector(".widget-play .fa-play", timeout=30_000)
    page.wait_for_timeout(800)
    stopped = now(page)
    page.wait_for_timeout(500)
    assert 3 <= now(page) == stopped < last

    # Scrub.
    slider = page.locator(".kvw-step .noUi-handle")
    assert slider.get_attribute("aria-label") == "Step"
    box = page.locator(".kvw-step .noUi-base").bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_function(f"middle => Math.abs(Number(({STEP})()) - middle) <= 1", arg=last / 2, timeout=30_000)
    middle = now(page)
    shows(page, middle)

    # A click on page 0 selects it: its frame, its block table, its tokens and its life.
    area = page.locator(".kvw-map .nsewdrag").first.bounding_box()
    state = recording.state_at(middle)
    columns = page.evaluate("document.querySelector('.kvw-map .js-plotly-plot').layout.meta.columns")
    rows = page.evaluate("document.querySelector('.kvw-map .js-plotly-plot').layout.yaxis.range[0]")
    page.mouse.click(area["x"] + 0.5 * area["width"] / columns, area["y"] + 0.5 * area["height"] / rows)
    page.wait_for_function("() => document.querySelector('.kvw-words').textContent.includes('Page 0 is selected')")
    assert state.pages[0].ref_count
    page.get_by_text("Life of page 0").wait_for()
    assert "page 0:" in page.locator(".kvw-part").last.inner_text()

    # What is seen is a light picture on a light page, then a dark one on a dark page.
    text = "getComputedStyle(document.querySelector('.kvw-map .gtitle')).fill"
    assert page.evaluate(text) == "rgb(31, 41, 55)"
    if (folder_of := os.environ.get("SCREENSHOTS")) is not None:
        page.locator(".kvw-stepper").screenshot(path=f"{folder_of}/stepper_light.png")
    page.evaluate("jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'}).then(() => null)")
    page.wait_for_function(f"() => {text} === 'rgb(229, 231, 235)'", timeout=30_000)
    if folder_of is not None:
        page.locator(".kvw-stepper").screenshot(path=f"{folder_of}/stepper_dark.png")

    # Reopened, nothing but a figure and words is in the notebook.
    page.locator(".jp-Cell").first.locator(".jp-InputArea-editor").click()
    page.keyboard.press("Control+s")
    deadline = time.monotonic() + 20
    while not json.loads((folder / "one.ipynb").read_text())["cells"][0]["outputs"]:
        assert time.monotonic() < deadline, "the notebook was not saved"
        time.sleep(0.1)
    saved = json.loads((folder / "one.ipynb").read_text())
    assert (folder / "one.ipynb").stat().st_size < 100_000
    assert "widgets" not in saved["metadata"]
    assert foreign == []
    context.close()


def _own(base: str) -> tuple[str, ...]:
    return (base, base.replace("http", "ws"), "data:", "blob:")
