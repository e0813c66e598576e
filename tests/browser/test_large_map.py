"""The page map of a hundred thousand pages, in a real Chromium: drawn at once, and opened up on zoom."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.views import scenes
from workbench.events import PageMap
from workbench.views.payload import map_constants, map_payload
from workbench.views.replay_html import PLOTLY_JS
from workbench.views.scripts import MAP_SCRIPTS, STATIC

pytestmark = [pytest.mark.browser, pytest.mark.alone]

PAGES = 100_000
_HOLDER = '<div class="kvw-viewer"><div id="map" class="kvw-map" style="width: 900px"></div><p id="detail"></p></div>'
_DRAW = """async ([p, modes]) => {
  const [box, detail] = ["map", "detail"].map((id) => document.getElementById(id));
  const view = window.view = new KVW.PageMapView(box, detail, "map", "Page", {
    onSelect: (page) => { window.chosen = page; },
  });
  await new Promise((done) => setTimeout(done, 100));
  const times = {};
  for (const mode of modes) {
    view.mode = mode;
    const began = performance.now();
    view.draw(p);
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)));
    times[mode] = Math.min(times[mode] || Infinity, performance.now() - began);
  }
  return times;
}"""


@pytest.fixture(scope="module")
def pool() -> PageMap:
    """40 requests with 1,800 pages each, with gaps between them."""
    bus = scenes.start("paged", num_blocks=PAGES, block_size=16)
    for request in range(40):
        scenes.add(bus, request, prompt_tokens=16)
        for index in range(1800):
            scenes.page(bus, request, request * 2400 + index, index)
            scenes.write(bus, request, 16 if index < 1799 else 5, request * 2400 + index)
    bus.flush()
    return bus.page_map


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    tab = browser.new_page(viewport={"width": 1000, "height": 900})
    errors: list[str] = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.set_content(_HOLDER)
    tab.add_style_tag(path=str(STATIC / "viewer.css"))
    for script in (PLOTLY_JS, *(STATIC / name for name in MAP_SCRIPTS)):
        tab.add_script_tag(path=str(script))
    tab.evaluate("constants => KVW.setConstants(constants)", map_constants())
    yield tab
    tab.close()
    assert errors == []


def cells(page: Any) -> list[int | None]:
    found: list[int | None] = page.evaluate("view.plot.data[0].z.flat()")
    return found


def test_a_hundred_thousand_pages(page: Any, pool: PageMap) -> None:
    modes = ["request", "refs", "fill", "age", "cause"]
    times = page.evaluate(_DRAW, [map_payload(pool), modes * 3])
    print(f"\n{PAGES:,} pages: " + ", ".join(f"{mode} {time:.0f} ms" for mode, time in times.items()))
    assert max(times.values()) < 500

    page.evaluate("() => { view.mode = 'request'; view.draw(view.payload); }")
    assert 2_000 < len(cells(page)) <= 20_000
    page.mouse.move(300, 300)
    assert "pages from" in page.locator(".kvw-tip").inner_text()
    assert "in use" in page.locator(".kvw-tip").inner_text()

    page.mouse.move(8 + 10, 8 + 4)  # drag over the corner at the top left: its pages, slot by slot
    page.mouse.down()
    page.mouse.move(8 + 60, 8 + 14, steps=4)
    page.mouse.up()
    window = page.evaluate("view.window")
    assert 0 < window["c1"] - window["c0"] < 40
    assert page.evaluate("view.geometry.bySlot")
    shown = [
        row * 256 + column for row in range(window["r0"], window["r1"]) for column in range(window["c0"], window["c1"])
    ]
    tokens = sum(pool.pages[block].filled for block in shown)
    assert sum(cell is not None and cell < 7 for cell in cells(page)) == tokens
    page.mouse.click(8 + 450, 8 + 100)
    assert page.evaluate("chosen") in shown
    page.mouse.dblclick(8 + 450, 8 + 100)
    assert page.evaluate("view.window.c1 - view.window.c0") > window["c1"] - window["c0"]
    page.evaluate("KVW.wholeMap(view)")
    assert len(cells(page)) <= 20_000
