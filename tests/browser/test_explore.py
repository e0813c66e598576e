"""The tab Explore as a visitor uses it: a file of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import Tab
from workbench_app.gallery import path_of

pytestmark = pytest.mark.browser


def explore(tab: Tab, query: str = "") -> Any:
    """The tab, opened by a link."""
    page = tab.page
    page.goto(page.url.split("?")[0] + "?tab=explore" + query)
    page.wait_for_selector("[data-recording=beams]", state="attached", timeout=60_000)
    return page


def wait_for_step(page: Any, title: str, step: int | None) -> None:
    """Waits until a run is shown, at a step if one is given."""
    page.wait_for_function(
        "([title, step]) => window.KVW?.explore?.source?.raw.title === title"
        " && KVW.viewer?.frame && (step === null || KVW.viewer.frame.step === step)",
        arg=[title, step],
        timeout=60_000,
    )


def test_a_file_of_one_s_own_opens_and_one_that_is_none_is_explained(tab: Tab, tmp_path: Path) -> None:
    page = explore(tab)
    page.set_input_files("[data-role=file]", path_of("preemption-swap"))
    wait_for_step(page, "preemption-swap.kvtrace", None)
    page.click("[data-role=close]")
    bad = tmp_path / "bad.kvtrace"
    bad.write_bytes(b"this is text and not a recording")
    transfer = page.evaluate_handle(
        "text => { const data = new DataTransfer(); data.items.add(new File([text], 'bad.kvtrace')); return data; }",
        bad.read_text(),
    )
    page.dispatch_event("[data-role=drop]", "drop", {"dataTransfer": transfer})
    page.wait_for_selector(".kvw-explore-status[data-kind=error]")
    assert "Not a .kvtrace file" in page.inner_text(".kvw-explore-status")
    assert all("422" in error for error in tab.errors)
    tab.errors.clear()
