"""A run saved as one HTML file, opened from disk without a network, and worked with as a visitor does."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.axe import check
from workbench import LLM, EngineConfig, Recorder, Recording, SamplingParams
from workbench.events.jumps import JumpIndex
from workbench.models import LoadedModel
from workbench.views import map_payload
from workbench.views.replay_html import show_replay, write_replay_html

pytestmark = pytest.mark.browser

PROMPTS = [
    "</script><script>document.title = 'broken'</script><!-- & <b>bold</b>",
    "Once upon a time there was a king",
    "The old woman said to the fox",
    "In a village there lived a boy",
    "There was a poor woodcutter",
]


@pytest.fixture(scope="module")
def recording(tiny: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Recording:
    path = tmp_path_factory.mktemp("replay") / "run.kvtrace"
    config = EngineConfig(block_size=8, num_blocks=16, num_host_blocks=16, preemption="swap")
    llm = LLM(tiny, config)
    with Recorder(llm.bus, path):
        llm.generate(PROMPTS, SamplingParams(max_tokens=24, seed=0, ignore_eos=True))
    return Recording.open(path)


@pytest.fixture(scope="module")
def saved(recording: Recording, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("replay") / "run.html"
    made = write_replay_html(recording, path, title="A run <i>& more</i>")
    assert made.num_bytes == path.stat().st_size < 8_000_000
    assert (made.first, made.last, made.is_cut) == (recording.first_step, recording.last_step, False)
    return path


@pytest.fixture
def page(saved: Path, browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The file in a fresh tab. Afterwards: no errors, and nothing was asked for but the file itself."""
    options = {"viewport": {"width": 1280, "height": 800}, "offline": True, **getattr(request, "param", {})}
    context = browser.new_context(**options)
    tab = context.new_page()
    errors: list[str] = []
    asked: list[str] = []
    tab.on("console", lambda m: errors.append(m.text) if m.type == "error" else None)
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("request", lambda sent: asked.append(sent.url))
    tab.goto(saved.as_uri())
    until(tab, "() => Boolean(window.KVW && KVW.viewer && KVW.viewer.frame)")
    yield tab
    context.close()
    assert errors == []
    assert [url for url in asked if not url.startswith(("data:", "blob:"))] == [saved.as_uri()]


def until(page: Any, condition: str, argument: Any = None, seconds: float = 60) -> None:
    """Waits for a JavaScript function to give true. (The browser's own way to wait needs `eval`, which the file's
    policy forbids.)"""
    deadline = time.monotonic() + seconds
    while not page.evaluate(condition, argument):
        assert time.monotonic() < deadline, condition
        page.wait_for_timeout(30)


def at(page: Any, step: int) -> dict[str, Any]:
    """The frame that is shown, when it is that of the step."""
    until(page, "step => KVW.viewer.frame.step === step", step)
    frame: dict[str, Any] = page.evaluate("KVW.viewer.frame")
    return frame


def shows(page: Any, recording: Recording, step: int) -> None:
    """What the browser has is what the recording says, and what is drawn is that, too."""
    state = recording.state_at(step)
    frame = at(page, step)
    expected = json.loads(json.dumps(map_payload(state, orders=True)))
    assert {key: frame["map"][key] for key in expected} == expected
    cells = page.evaluate("document.querySelector('[data-role=map] .kvw-plot').data[0].z.flat()")
    tokens = sum(cell is not None and cell < 7 for cell in cells)
    assert tokens == state.waste().token_states
    tables = {number: [t.blocks for t in s.tables] for number, s in state.sequences.items()}
    assert {int(n): [t[0] for t in s["tables"]] for n, s in frame["sequences"].items()} == tables
    assert page.locator("[data-role=step]").input_value() == str(step)


def test_stepping_both_ways_by_keyboard_alone(page: Any, recording: Recording) -> None:
    press = page.keyboard.press
    assert page.title() == "A run <i>& more</i>"
    press("Home")
    at(page, recording.first_step)
    for step in (1, 2, 3):
        press("ArrowRight")
        shows(page, recording, step)
    press("Shift+ArrowRight")
    shows(page, recording, 13)
    press("ArrowLeft")
    shows(page, recording, 12)
    press("End")
    shows(page, recording, recording.last_step)
    press("Shift+ArrowLeft")
    shows(page, recording, recording.last_step - 10)
    press("?")
    assert page.locator("dialog").is_visible()
    press("Escape")
    assert not page.locator("dialog").is_visible()
    jumps = JumpIndex(recording)
    press("Home")
    at(page, 0)
    for kind, key in (("preemption", "p"), ("swap", "s"), ("finish", "f")):
        there = jumps.next(page.evaluate("KVW.viewer.state.step"), kind)
        assert there is not None
        press(key)
        shows(page, recording, there)
    back = jumps.previous(there, "preemption")
    press("Shift+P")
    at(page, back if back is not None else there)
    press("Space")
    until(page, "step => KVW.viewer.frame.step > step + 1", back)
    press("Space")
    page.locator("[data-role=step]").focus()
    press("ArrowLeft")  # a number field's own key: nothing is stepped
    assert page.locator("[data-role=play]").inner_text() == "Play"


def test_scrubbing_and_a_page_s_life(page: Any, recording: Recording) -> None:
    preempted = JumpIndex(recording).steps("preemption")[0]
    scrub = page.locator("[data-role=scrub]")
    for step in (recording.last_step, 5, preempted - 1):
        scrub.evaluate("(bar, step) => { bar.value = step; bar.dispatchEvent(new Event('input')); }", step)
    shows(page, recording, preempted - 1)
    state = recording.state_at(preempted - 1)
    block = next(block for block, owner in enumerate(state.pages) if owner.ref_count)
    columns = map_payload(state)["columns"]
    box = page.locator("[data-role=map]").bounding_box()
    plot = page.locator("[data-role=map] .kvw-plot .main-svg").first.bounding_box()
    rows = -(-16 // columns)
    position = {
        "x": (block % columns + 0.5) * box["width"] / columns,
        "y": (block // columns + 0.5) * plot["height"] / rows,
    }
    page.locator("[data-role=map]").click(position=position)
    owner = state.pages[block]
    selected = page.locator("[data-role=block-table] tr.kvw-selected")
    assert selected.locator("th").inner_text().split()[0] == str(owner.logical_index)
    assert selected.locator("td").first.inner_text() == str(block)
    assert page.evaluate("KVW.viewer.state.sequence") == owner.owner
    written = page.locator("[data-role=block-table] .kvw-token").all_inner_texts()
    assert len(written) == state.sequences[owner.owner].num_computed_tokens
    life = page.locator("[data-role=page-life] tbody tr")
    life.first.wait_for()
    named = [event for event in recording.events() if getattr(event, "block", None) == block]
    assert life.count() >= len(named) - sum(getattr(event, "tier", "device") == "host" for event in named)
    first = life.first.locator("button")
    step = int(first.inner_text())
    first.click()
    shows(page, recording, step)


def test_moving_through_the_map_with_keys(page: Any, recording: Recording) -> None:
    page.evaluate("KVW.viewer.go(6)")
    at(page, 6)
    page.locator("[data-role=map]").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "Enter"):
        page.keyboard.press(key)
    columns = map_payload(recording.state_at(6))["columns"]
    assert page.evaluate("KVW.viewer.state.page") == columns + 1
    assert page.evaluate("KVW.viewer.state.step") == 6
    for mode in ("refs", "fill", "age", "mass", "cause", "request"):
        page.locator("[data-role=color]").select_option(mode)
        assert page.evaluate("KVW.viewer.state.color") == mode
    page.locator(".kvw-panel-map").get_by_label("Zoom in").click()
    drawn = page.evaluate("document.querySelector('[data-role=map] .kvw-plot').data[0].z.flat().length")
    page.locator(".kvw-panel-map").get_by_label("Whole pool").click()
    assert drawn < page.evaluate("document.querySelector('[data-role=map] .kvw-plot').data[0].z.flat().length") == 128


@pytest.mark.parametrize(
    "page",
    [{"color_scheme": "light"}, {"color_scheme": "dark", "viewport": {"width": 390, "height": 844}}],
    indirect=True,
)
def test_narrow_dark_and_accessible(page: Any) -> None:
    page.evaluate("KVW.viewer.go(20)")
    at(page, 20)
    page.locator(".kvw-panel-charts").scroll_into_view_if_needed()
    until(page, "() => Boolean(document.querySelector('.kvw-chart').data)")
    page.locator(".kvw-requests .kvw-chip").last.click()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert [str(finding) for finding in check(page)] == []


def test_a_file_that_would_be_too_large_says_what_it_has(recording: Recording, saved: Path, tmp_path: Path) -> None:
    whole = saved.stat().st_size
    with pytest.raises(ValueError, match="max_bytes=100000: the viewer"):
        write_replay_html(recording, tmp_path / "small.html", max_bytes=100_000)
    part = write_replay_html(recording, tmp_path / "part.html", first=3, last=9)
    assert (part.first, part.last) == (3, 9)
    assert "the steps 3 to 9" in part.note
    assert part.num_bytes < whole
    text = (tmp_path / "part.html").read_text(encoding="utf-8")
    assert part.note in text
    assert text.count("</script>") == 4
    assert show_replay(recording).startswith("Replay of the steps 0 to ")
