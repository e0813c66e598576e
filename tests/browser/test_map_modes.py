"""The page map in the browser against the figure that Python makes of the same pages: classes, letters, legends."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.views import scenes
from workbench.events import PageMap, Recording
from workbench.events.types import PageMassSampled, Tier
from workbench.views.page_map_columns import TOKENS, tier_columns
from workbench.views.page_map_modes import COLOR_MODES, color_mode
from workbench.views.payload import map_constants, map_payload
from workbench.views.scripts import MAP_SCRIPTS, STATIC
from workbench_app.gallery import path_of

pytestmark = pytest.mark.browser

_READ = """([p, name, dark]) => {
  document.body.classList.toggle("dark", dark);
  const mode = KVW.mapModes[name];
  const shared = new Map((p.shared || []).map(([block, refs]) => [block, refs]));
  p.refs = (i) => shared.get(i) ?? 1;
  const pages = [...p.owner.keys()];
  return { codes: pages.map((i) => mode.code(p, i)), texts: pages.map((i) => mode.text(p, i)), legend: mode.legend() };
}"""


@pytest.fixture(scope="module")
def page(browser: Any) -> Iterator[Any]:
    tab = browser.new_page()
    tab.set_content("<p></p>")
    for name in MAP_SCRIPTS:
        tab.add_script_tag(path=str(STATIC / name))
    tab.evaluate("constants => KVW.setConstants(constants)", map_constants())
    yield tab
    tab.close()


def recorded(name: str, step: int) -> PageMap:
    with Recording.open(path_of(name)) as recording:
        return recording.state_at(step)


def sampled() -> PageMap:
    bus = scenes.start("paged")
    scenes.add(bus, 0)
    for index, block in enumerate((3, 5, 6)):
        scenes.page(bus, 0, block, index)
        scenes.write(bus, 0, 4 if index < 2 else 1, block)
    bus.flush()
    bus.emit(PageMassSampled(sequence=0, query=5, mass=[0.75, 0.125, 0.004]))
    bus.flush()
    return bus.page_map


STATES = {
    "swapping": (lambda: recorded("preemption-swap", 42), Tier.DEVICE),
    "host": (lambda: recorded("preemption-swap", 46), Tier.HOST),
    "prefixes": (lambda: recorded("prefixes", 100), Tier.DEVICE),
    "beams": (lambda: recorded("beams", 20), Tier.DEVICE),
    "attention": (sampled, Tier.DEVICE),
}


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("scene", list(STATES))
def test_the_screen_shows_what_the_figure_shows(page: Any, scene: str, dark: bool) -> None:
    make, tier = STATES[scene]
    state = make()
    payload = map_payload(state)
    if tier is Tier.HOST:
        payload = {"kind": "paged", "step": payload["step"], "block_size": payload["block_size"], **payload["host"]}
    columns = tier_columns(state, tier)
    told = 0
    for name in COLOR_MODES:
        seen = page.evaluate(_READ, [payload, name, dark])
        mode = color_mode(name, state, dark)
        numbers = mode.numbers(columns)
        classes, count = mode.class_of(numbers), len(mode.colors)
        tinted = np.where(columns.state == TOKENS, 0, count) if name != "request" else 0
        expected = np.where(classes < 0, -1, classes + tinted)
        assert [code if code < 2 * count else -1 for code in seen["codes"]] == expected.tolist(), name
        if name != "request":  # whose label has the number of sequences, too
            labels = ["" if np.isnan(number) else mode.label(number) for number in numbers]
            assert [text.replace("?", "") for text in seen["texts"]] == labels, name
            rows = [[color, words] for color, words in zip(mode.colors, mode.names, strict=True)]
            assert seen["legend"][:count] == rows
            assert any("paler" in words for _, words in seen["legend"]) == mode.of_idle
        told += len(set(expected.tolist()) - {-1})
    assert told > 6  # there was something to compare
