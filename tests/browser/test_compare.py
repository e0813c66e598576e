"""The tab Compare beyond running: the film, looking back while it runs, jumps, links, the third lane, a class."""

from __future__ import annotations

from typing import Any

import pytest

from tests.browser.conftest import App, Tab

pytestmark = pytest.mark.browser


def choose(tab: Tab, preset: str, requests: int) -> None:
    tab.page.get_by_label(preset).check()
    tab.wait(f"!f.film && f.requests.length === {requests}")


def pool(side: dict[str, Any]) -> dict[str, Any]:
    """The page map's data, without what the browser adds to them."""
    return {name: value for name, value in side["map"].items() if name != "refs"}


def run_to_the_end(tab: Tab) -> None:
    tab.page.get_by_label("As fast as possible").check()
    tab.page.click("#kvw-run")
    tab.wait("f.state === 'Finished'", 90)


def test_something_moves_at_once_and_says_that_it_is_a_recording(app: App, tab: Tab) -> None:
    tab.wait("f.film && f.step > 2", 5)
    page = tab.page
    assert page.locator("[data-role=state]").first.inner_text() == "Recording"
    assert "A recording plays here" in page.locator("[data-role=note]").first.inner_text()
    assert len(app.store) == 0
    before = tab.frame()["step"]
    tab.wait(f"f.step > {before}")
    page.click("#kvw-step")
    tab.wait("!f.film && f.step === 1")
    page.wait_for_timeout(400)
    assert tab.frame()["run"] == 1


def test_looking_back_by_keys_while_it_runs(app: App, tab: Tab) -> None:
    page = tab.page
    page.get_by_label("Speed (steps per second)").first.fill("10")
    page.evaluate("document.activeElement.blur()")
    body = page.locator("body")
    body.press("Space")
    tab.wait("f.running && f.step >= 14")
    body.press("ArrowLeft")
    tab.wait("f.running && !f.live")
    here = tab.frame()
    body.press("Shift+ArrowLeft")
    tab.wait(f"f.step === {here['step'] - 10}")
    assert page.locator("[data-role=state]").first.inner_text() == "Looking back; the run goes on"
    tab.wait(f"f.last >= {here['last'] + 3}")
    shown = tab.frame()
    assert shown["step"] == here["step"] - 10
    session = app.only_session()
    assert session.running
    duel = session.duel
    assert duel is not None
    for side, lane in (("left", duel.left), ("right", duel.right)):
        waste = lane.history.state_at(shown["step"]).waste()
        assert shown[side]["map"]["waste"][:2] == [waste.token_states, waste.reserved]
    body.press("End")
    tab.wait("f.live && f.step === f.last")
    body.press("Home")
    tab.wait("f.step === 0 && f.running")
    page.get_by_role("button", name="Back to now").click()
    tab.wait("f.live")
    body.press("Space")
    tab.wait("f.state === 'Paused'")
    body.press("?")
    page.locator("dialog[data-role=keys]").first.wait_for(state="visible")
    body.press("Escape")
    page.locator("dialog[data-role=keys]").first.wait_for(state="hidden")


def test_jumps_and_a_link_that_opens_the_same(app: App, tab: Tab, browser: Any) -> None:
    page = tab.page
    choose(tab, "Four samples of one prompt", 4)
    run_to_the_end(tab)
    body = page.locator("body")
    body.press("Home")
    tab.wait("f.step === 0")
    body.press("c")
    tab.wait("f.jumps.copy.includes(f.step)")
    copied = tab.frame()
    assert copied["step"] == copied["jumps"]["copy"][0]
    page.get_by_role("button", name="Next finish").click()
    tab.wait("f.step === f.jumps.finish[0]")
    body.press("Shift+C")
    tab.wait(f"f.step < {copied['jumps']['finish'][0]} && f.jumps.copy.includes(f.step)")
    frame = tab.frame()
    assert frame["link"] == f"preset=samples&step={frame['step']}"

    other = browser.new_context(viewport={"width": 1440, "height": 900})
    opened = other.new_page()
    opened.goto(f"{app.url}?{frame['link']}")
    reached = (
        f"window.KVW && KVW.frame && KVW.frame.run === 1 && !KVW.frame.running && KVW.frame.step === {frame['step']}"
    )
    opened.wait_for_function(f"() => {reached}", timeout=60_000)
    again = opened.evaluate("KVW.frame")
    for name in ("left", "right"):
        assert pool(again[name]) == pool(frame[name])
    assert [row[2][6] for row in again["requests"]] == [row[2][6] for row in frame["requests"]]
    assert opened.get_by_label("Four samples of one prompt").is_checked()
    other.close()


def test_prompts_that_no_link_can_hold_are_told_of(tab: Tab) -> None:
    page = tab.page
    assert page.locator("[data-role=copy-link]").first.is_disabled()
    page.locator("#kvw-prompts textarea").fill("\n".join(["ü" * 60] * 6))
    tab.wait("!f.film && f.requests.length === 6")
    page.click("#kvw-step")
    tab.wait("f.step === 1")
    assert tab.frame()["link"] == ""
    page.locator("[data-role=copy-link]").first.click()
    page.get_by_text("The prompts are too long for a link.").first.wait_for()


def test_a_link_that_makes_no_sense_says_so(app: App, browser: Any) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{app.url}?preset=nonsense&step=3")
    page.get_by_text("preset in the link: 'nonsense' is not possible").first.wait_for(timeout=30_000)
    context.close()


def test_three_lanes(tab: Tab) -> None:
    choose(tab, "Three ways to keep it", 12)
    page = tab.page
    lane = page.locator("[data-role=growing]").first
    assert not lane.is_visible()
    run_to_the_end(tab)
    assert lane.is_visible()
    assert "MB" in lane.inner_text()
    assert "measured" in lane.inner_text()
    frame = tab.frame()
    assert frame["growing"]["badge"]["state"] in ("equal", "differ")
    assert "transformers" in page.locator("[data-role=ahead]").first.inner_text()
    assert page.locator(".kvw-card").first.locator("[data-side=third]").is_visible()
    assert len(frame["history"]["lines"]) == 3


def test_pages_can_be_coloured_by_other_things(tab: Tab) -> None:
    page = tab.page
    for _ in range(3):
        page.click("#kvw-step")
    tab.wait("f.step === 3")
    before = tab.cells("left")
    page.locator("[data-role=mode]").first.select_option("fill")
    page.wait_for_function(
        "n => document.querySelector('[data-side=left] .kvw-plot').data[0].z.flat().length !== n", arg=len(before)
    )


def test_a_class_watches_and_has_a_sandbox(app: App, tab: Tab, browser: Any) -> None:
    teacher = tab.page
    teacher.get_by_label("Speed (steps per second)").first.fill("10")
    teacher.click("#kvw-run")
    tab.wait("f.running && f.step >= 1")
    teacher.click("#kvw-share")
    shared = teacher.locator("[data-role=shared]").first
    shared.wait_for()  # while frames of the run come in
    assert tab.frame()["running"]
    code = shared.locator("strong").inner_text()
    assert shared.locator("span").inner_text() == "Nobody watches"
    context = browser.new_context(viewport={"width": 390, "height": 844})
    student = context.new_page()
    student.goto(f"{app.url}?tab=class&code={code}")
    student.wait_for_function("() => window.KVW && KVW.watched && KVW.watched.frame", timeout=30_000)
    assert len(app.store) == 1, "who watches holds no place"
    shared.get_by_text("1 visitor watches").wait_for()
    student.wait_for_function("() => KVW.watched.frame.step >= 5", timeout=30_000)
    teacher.click("#kvw-pause")
    tab.wait("f.state === 'Paused'")
    step = tab.frame()["step"]
    student.wait_for_function(f"() => KVW.watched.frame.step === {step} && KVW.watched.frame.state === 'Paused'")
    assert pool(student.evaluate("KVW.watched.frame.left")) == pool(tab.frame()["left"])
    assert student.get_by_role("status").filter(has_text="Watching.").first.is_visible()

    student.get_by_role("tab", name="Compare").click()
    student.click("#kvw-step")
    student.wait_for_function("() => KVW.frame.run === 1 && KVW.frame.step === 1")
    assert len(app.store) == 2
    assert tab.frame()["step"] == step
    student.evaluate("KVW.openTab('Class')")  # on a phone it is in the menu of further tabs
    assert shared.is_visible(), "it stays while the run goes on"
    teacher.click("#kvw-reset")
    shared.get_by_text("The run is not shared any more").wait_for()
    student.get_by_text("The run is not shared any more").wait_for()
    assert student.locator("#kvw-watch [data-role=state]").inner_text() == "Not shared any more"
    student.get_by_label("Code").fill("nonsense")
    student.get_by_role("button", name="Watch", exact=True).click()
    student.get_by_text("Code: 'nonsense' is not known").wait_for()
    context.close()
