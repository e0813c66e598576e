"""The Lab in a real Chromium: choose, run, read, compare, save, cancel."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from tests.browser.conftest import served
from workbench.models import LoadedModel
from workbench_app.lab import lab_tab
from workbench_app.main import make_services

pytestmark = pytest.mark.browser

DRAWN = "count => document.querySelectorAll('.kvw-lab-plot .cartesianlayer').length >= count"


@pytest.fixture(scope="module")
def lab_url(tiny: LoadedModel) -> Iterator[str]:
    """A page with nothing but the Lab in its second tab."""
    services = make_services(tiny)
    with gr.Blocks(title="Lab", analytics_enabled=False) as demo, gr.Tabs():
        with gr.Tab("Other"):
            gr.Markdown("Another tab.")
        with gr.Tab("Lab"):
            lab_tab(services.sessions)
    with served(demo, services) as url:
        yield url


@pytest.fixture
def page(lab_url: str, browser: Any) -> Iterator[Any]:
    """The Lab in a fresh tab. Afterwards: no errors in the console, and nothing was fetched from elsewhere."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    opened = context.new_page()
    wrong: list[str] = []
    opened.on("console", lambda m: wrong.append(m.text) if m.type == "error" else None)
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.on("request", lambda r: None if r.url.startswith((lab_url, "data:", "blob:")) else wrong.append(r.url))
    opened.goto(lab_url)
    opened.get_by_role("tab", name="Lab").click()
    yield opened
    context.close()
    assert wrong == []


def small(page: Any) -> None:
    """Two variants of four short requests."""
    page.get_by_label("Pool size", exact=True).check()
    page.get_by_text("What does more memory buy?").first.wait_for()
    page.get_by_label("2,048 slots", exact=True).uncheck()
    page.get_by_label("4,096 slots", exact=True).uncheck()
    page.get_by_label("Short: prompts").check()
    page.get_by_label("number input for Requests").fill("4")
    page.get_by_label("number input for Requests").press("Tab")


def run(page: Any, number: int) -> None:
    page.get_by_role("button", name="Run the experiment").click()
    title = f"Run {number}: "
    page.wait_for_function(
        "title => document.querySelector('.kvw-lab h3')?.textContent.startsWith(title)", arg=title, timeout=60_000
    )


def test_choose_run_read_compare_and_save(page: Any) -> None:
    small(page)
    run(page, 1)
    page.wait_for_function(DRAWN, arg=8, timeout=20_000)
    assert page.get_by_role("status").first.inner_text().strip() == "Done: 2 of 2 variants. The charts are below."
    assert page.locator(".kvw-lab-equal").get_attribute("data-state") == "equal"
    first = page.locator(".kvw-lab li").first.inner_text()
    assert first.startswith("Steps until all were done: ")
    bars = page.evaluate("document.querySelector('.kvw-lab-plot').data[0].x")
    cells = page.locator(".kvw-lab tbody tr td:nth-child(3)").all_inner_texts()
    assert [f"{value:,}" for value in bars] == cells
    assert page.locator(".kvw-lab-kind[data-kind=measured]").count() >= 1

    light = page.evaluate("document.querySelector('.kvw-lab-plot').layout.font.color")
    page.evaluate("document.body.classList.add('dark')")
    page.wait_for_function(
        "light => document.querySelector('.kvw-lab-plot').layout.font.color !== light", arg=light, timeout=5_000
    )
    page.set_viewport_size({"width": 390, "height": 844})
    page.wait_for_function("[...document.querySelectorAll('.kvw-lab-plot')].every(p => p.layout.width < 390)")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.set_viewport_size({"width": 1440, "height": 900})

    with page.expect_download() as saved:
        page.get_by_role("button", name="Download CSV").click()
    rows = list(csv.DictReader(io.StringIO(Path(saved.value.path()).read_text(encoding="utf-8"))))
    assert [row["variant"] for row in rows] == ["512 slots", "1,024 slots"]

    run(page, 2)
    again = page.evaluate("document.querySelector('.kvw-lab-plot').data[0].x")
    assert again == bars  # the same seed
    page.get_by_label("Beside it").click()
    page.get_by_role("option", name="Run 1").click()
    page.wait_for_function("document.querySelector('.kvw-lab-plot').data.length === 2", timeout=20_000)
    assert page.locator(".kvw-lab h3").all_inner_texts()[1].startswith("Run 1: Pool size")


def test_a_run_is_cancelled_with_the_keyboard(page: Any) -> None:
    page.get_by_role("button", name="Run the experiment").focus()
    page.keyboard.press("Enter")
    page.get_by_text("Running 1 of 4: Paged.").first.wait_for(timeout=20_000)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent.trim()") == "Cancel"
    page.keyboard.press("Enter")
    page.locator(".kvw-lab-progress[data-state=cancelled]").wait_for(timeout=20_000)
    assert "Cancelled." in page.locator(".kvw-lab-progress").inner_text()


def test_what_is_not_possible_is_said(page: Any) -> None:
    small(page)
    page.get_by_label("512 slots", exact=True).uncheck()
    page.get_by_label("1,024 slots", exact=True).uncheck()
    page.get_by_role("button", name="Run the experiment").click()
    page.get_by_text("Tick at least one of 512, 768").wait_for(timeout=10_000)
