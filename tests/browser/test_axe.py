"""Every tab, light and dark, wide and narrow: no serious findings of axe-core."""

from __future__ import annotations

from typing import Any

import pytest

from tests.browser.axe import check
from tests.browser.conftest import Tab

pytestmark = pytest.mark.browser

WIDE, NARROW = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
_TABS = "() => [...new Set([...document.querySelectorAll('[role=tab]')].map((one) => one.textContent.trim()))]"


def look(page: Any, dark: bool) -> None:
    """Light or dark, as Gradio's own switch does it. Transitions of colours are not waited for, but left out."""
    page.evaluate("dark => document.body.classList.toggle('dark', dark)", dark)
    page.wait_for_timeout(150)


@pytest.mark.parametrize("tab", [{"reduced_motion": "reduce"}], indirect=True)
def test_no_tab_has_serious_findings(tab: Tab) -> None:
    page = tab.page
    page.click("#kvw-step")
    tab.wait("f.step >= 1")
    found: dict[str, list[str]] = {}
    for name in page.evaluate(_TABS) or ["the page"]:
        for viewport in (WIDE, NARROW):
            page.set_viewport_size(viewport)
            page.evaluate("name => KVW.openTab && KVW.openTab(name)", name)
            look(page, dark=False)
            page.wait_for_timeout(1000)  # a tab's content comes with its first opening, and fades in
            where = f"{name}, {viewport['width']} wide"
            found[where] = [str(one) for one in check(page)]
            look(page, dark=True)  # only colours can differ
            found[where + ", dark"] = [str(one) for one in check(page, only=("color-contrast",))]
    wrong = [f"{where}: {one}" for where, all_there in found.items() for one in all_there]
    assert not wrong, "\n".join(wrong)
