"""The rendered course: exercises with folded solutions, one viewer per page, links that lead somewhere, no network."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.conftest import FLAGS, find_chromium
from workbench.course import registry
from workbench.course.build import build
from workbench.course.edition import render_course

DATA = Path(__file__).parent / "data"
MORE = """
# %%
import io

from tests.events.synthetic import record
from workbench.events import Recording
from workbench.views import page_map_view, show_replay

target = io.BytesIO()
record(target, 12)
run = Recording.open(target.getvalue())

# %%
show_replay(run)

# %%
show_replay(run, height=500)

# %%
page_map_view(run.state_at(5)).figure

# %% [markdown]
# See [the same again](90_pages.ipynb) and [this file](../pyproject.toml).
"""

pytestmark = [pytest.mark.course, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def edition(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("course")
    registry.register(90, "tests.course.data.lesson90")
    (folder / "source").mkdir()
    text = (DATA / "source" / "90_pages.py").read_text(encoding="utf-8")
    (folder / "source" / "90_pages.py").write_text(text + MORE, encoding="utf-8")
    assert not build(folder).errors
    render_course(folder, folder / "html")
    yield folder / "html"
    registry._ELSEWHERE.clear()


def test_a_page_has_all_that_it_needs(edition: Path) -> None:
    page = (edition / "90_pages.html").read_text(encoding="utf-8")
    assert len(page) < 4_000_000
    assert page.count('id="kvw-plotly"') == 1
    assert page.count('id="kvw-shell"') == 1
    assert len(re.findall(r"<iframe class=.replay. data-film", page)) == 2
    assert re.findall(r'<(?:script|link|img|iframe)[^>]*(?:src|href)="(?!data:)[^"]*"', page) == []
    assert "raise" in page[: page.index("<summary>Solution")]
    assert "<summary>Decide on your prediction, then look</summary>" in page
    assert 'href="90_pages.html">the same again' in page
    for link in re.findall(r'href="([^"#]+)', page + (edition / "index.html").read_text(encoding="utf-8")):
        assert link.startswith("../") or (edition / link).is_file(), link
    source = re.search(r'href="(source/[^"#]+)#(L-\d+)"', page)
    assert source is not None
    assert f'id="{source[2]}"' in (edition / source[1]).read_text(encoding="utf-8")


@pytest.mark.browser
def test_a_page_steps_both_ways_offline(edition: Path) -> None:
    from playwright.sync_api import sync_playwright

    executable = find_chromium()
    if executable is None:
        pytest.skip("no Chromium")
    asked: list[str] = []
    errors: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        page = browser.new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto((edition / "90_pages.html").as_uri())
        steps = [_step_through(page, number) for number in (0, 1)]
        page.locator("[data-figure]").scroll_into_view_if_needed()
        page.locator("[data-figure] .main-svg").first.wait_for()
        browser.close()
    assert steps == [["3", "2"]] * 2
    assert errors == []
    assert all(url.startswith(("file:", "data:", "blob:", "about:")) for url in asked), asked


def _step_through(page: Any, number: int) -> list[str]:
    """Two steps on and one back, by keys; what the replay says each time."""
    place = page.locator(f'iframe[data-film="{number}"]')
    place.scroll_into_view_if_needed()
    frame = page.frame_locator(f'iframe[data-film="{number}"]')
    frame.get_by_text("After step 1:", exact=False).first.wait_for()
    frame.locator("#kvw-root").click(position={"x": 300, "y": 12})
    seen = []
    for keys in (["ArrowRight", "ArrowRight"], ["ArrowLeft"]):
        for key in keys:
            page.keyboard.press(key)
        step = "3" if len(keys) == 2 else "2"
        frame.get_by_text(f"After step {step}:", exact=False).first.wait_for()
        seen.append(step)
    return seen
