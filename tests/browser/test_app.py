"""What a visitor sees and does, in a real Chromium."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.browser.conftest import App, Tab
from workbench.views.palette import REQUEST_COLORS

pytestmark = pytest.mark.browser

COLORS = len(REQUEST_COLORS)
#: Counts painted frames, and those in which a page map is missing or is another element than at the beginning.
WATCH_FLICKER = """() => {
  const plots = [...document.querySelectorAll(".kvw-plot")];
  window.flicker = { looked: 0, blank: 0, replaced: 0 };
  (function look() {
    flicker.looked += 1;
    const now = [...document.querySelectorAll(".kvw-plot")];
    if (now.length !== plots.length || now.some((plot, i) => plot !== plots[i])) flicker.replaced += 1;
    const images = now.map((plot) => plot.querySelector(".hm image"));
    const drawn = (image) => image && (image.getAttribute("href") || image.getAttribute("xlink:href"));
    if (!images.every(drawn)) flicker.blank += 1;
    requestAnimationFrame(look);
  })();
}"""


def fast(tab: Tab) -> None:
    tab.page.get_by_label("As fast as possible").check()


def counts(cells: list[int | None]) -> tuple[int, int]:
    """Slots drawn as tokens, and as reserved."""
    tokens = sum(cell is not None and cell < COLORS for cell in cells)
    return tokens, sum(cell is not None and COLORS <= cell < 2 * COLORS for cell in cells)


def drawn(tab: Tab) -> dict[str, tuple[int, int]]:
    return {side: counts(tab.cells(side)) for side in ("left", "right")}


def told(frame: dict[str, Any]) -> dict[str, tuple[int, int]]:
    return {side: tuple(frame[side]["map"]["waste"][:2]) for side in ("left", "right")}  # type: ignore[misc]


def test_a_preset_runs_to_its_end(app: App, tab: Tab) -> None:
    page = tab.page
    page.get_by_label("A class of short chats").check()
    tab.wait("f.requests.length === 12")
    fast(tab)
    page.evaluate(WATCH_FLICKER)
    before = tab.stats()
    page.click("#kvw-run")
    tab.wait("f.state === 'Finished'")
    page.wait_for_timeout(200)

    after, frame = tab.stats(), tab.frame()
    assert after["mounts"] == 1
    assert after["draws"] - before["draws"] >= 20
    flicker = page.evaluate("flicker")
    assert flicker["looked"] > 20
    assert (flicker["blank"], flicker["replaced"]) == (0, 0)
    assert page.locator(".kvw-badge").inner_text() == "Outputs equal: 552 of 552 tokens compared (final)"
    assert page.locator(".kvw-badge").get_attribute("data-state") == "equal"

    cards = page.locator(".kvw-card")
    assert cards.count() == 12
    for i in range(12):
        left, right = (cards.nth(i).locator(f"[data-side={side}] p").text_content() for side in ("left", "right"))
        assert left == right
        assert len(left) > 20

    duel = app.only_session().duel
    assert duel is not None
    assert frame["last"] == duel.last_step
    for step in (frame["last"] // 8, frame["last"] // 2):
        page.evaluate(
            """step => { const bar = document.querySelector('[data-role=scrub]'); bar.value = step;
            bar.dispatchEvent(new Event('input')); bar.dispatchEvent(new Event('change')); }""",
            step,
        )
        tab.wait(f"f.step === {step}")
        for side, engine in (("left", duel.left), ("right", duel.right)):
            waste = engine.timeline.state_at(min(step, engine.last_step)).waste()
            assert drawn(tab)[side] == (waste.token_states, waste.reserved)
    assert drawn(tab)["right"][0] > 0

    here = drawn(tab)
    page.click("#kvw-back")
    tab.wait(f"f.step === {step - 1}")
    assert drawn(tab) == told(tab.frame()) != here
    assert page.locator("[data-role=step-words]").inner_text() == f"Step {step - 1} of {frame['last']}"


@pytest.mark.alone
def test_updates_per_second_while_both_engines_run(tab: Tab) -> None:
    page = tab.page
    fast(tab)
    page.evaluate(WATCH_FLICKER)
    page.click("#kvw-run")
    tab.wait("f.step > 3")
    rates = []
    for _ in range(2):  # two windows: on a shared machine one of them may be disturbed
        began, now = tab.stats(), page.evaluate("performance.now()")
        page.wait_for_timeout(1800)
        seconds = (page.evaluate("performance.now()") - now) / 1000
        ended, frame = tab.stats(), tab.frame()
        if any(frame[side]["stats"][0][1] == "0" for side in ("left", "right")):
            break  # only what was measured while both engines ran counts
        rates.append((ended["frames"] - began["frames"]) / seconds)
    page.click("#kvw-pause")
    tab.wait("f.state === 'Paused'")

    size = (ended["bytes"] - began["bytes"]) / (ended["frames"] - began["frames"])
    draw = (ended["drawMs"] - began["drawMs"]) / max(1, ended["draws"] - began["draws"])
    shown = " and ".join(f"{rate:.1f}" for rate in rates)
    print(f"\n{shown} updates/s, {size:,.0f} characters each, {draw:.1f} ms to draw a map")
    assert rates, "both engines were to run for longer"
    assert drawn(tab) == told(tab.frame())
    assert page.evaluate("[flicker.blank, flicker.replaced]") == [0, 0]
    assert max(rates) >= 8


def test_keys_hover_and_words(tab: Tab) -> None:
    page = tab.page
    page.get_by_label("Speed (steps per second)").first.fill("5")
    page.evaluate("document.activeElement.blur()")
    page.locator("body").press("Space")
    tab.wait("f.running && f.step >= 2")
    page.locator("body").press("Space")
    tab.wait("f.state === 'Paused'")
    step = tab.frame()["step"]
    page.locator("body").press("ArrowLeft")
    tab.wait(f"f.step === {step - 1}")
    page.locator("body").press("ArrowRight")
    page.locator("body").press("ArrowRight")
    tab.wait(f"f.step === {step + 1}")

    for side, words in (("left", "Page 0: request A, its logical page 0"), ("right", "one region of request A")):
        page.locator(f"[data-side={side}] .kvw-plot").hover(position={"x": 20, "y": 8})
        tip = page.locator(f"[data-side={side}] .kvw-tip")
        tip.wait_for(state="visible")
        assert words in tip.inner_text()
        label = page.locator(f"[data-side={side}] .kvw-map").get_attribute("aria-label")
        assert f"After step {step + 1}: " in label

    prompts = page.locator("#kvw-prompts textarea")
    prompts.click()
    prompts.press("ArrowLeft")
    prompts.press("Space")
    page.wait_for_timeout(300)
    assert tab.frame()["step"] == step + 1


def test_closing_the_tab_ends_its_run(app: App, tab: Tab) -> None:
    tab.page.click("#kvw-run")
    tab.wait("f.running && f.step >= 1")
    session = app.only_session()
    tab.page.close()
    deadline = time.monotonic() + 15
    while len(app.store) or session.running:
        assert time.monotonic() < deadline, "the session outlived its tab"
        time.sleep(0.05)


def test_bad_input_is_explained_and_nothing_is_lost(tab: Tab) -> None:
    page = tab.page
    page.click("#kvw-step")
    tab.wait("f.step === 1")
    prompts = page.locator("#kvw-prompts textarea")
    good = prompts.input_value()
    prompts.fill("")
    page.locator("#kvw-hint", has_text="Prompts: ''").wait_for()
    page.click("#kvw-run")
    page.get_by_text("Enter at least one, one per line").first.wait_for()
    assert tab.frame()["step"] == 1
    prompts.fill(good)
    page.wait_for_function("() => !document.querySelector('#kvw-hint').innerText.trim()")
    page.click("#kvw-step")
    tab.wait("f.step === 2 && f.run === 1")


def test_four_samples_of_one_prompt(app: App, tab: Tab) -> None:
    page = tab.page
    page.get_by_label("Four samples of one prompt").check()
    tab.wait("f.requests.length === 4")
    for step in range(1, 5):
        page.click("#kvw-step")
        tab.wait(f"f.step === {step}")
    assert drawn(tab) == told(tab.frame())
    extra = {side: page.locator(f"[data-side={side}] .kvw-extra").inner_text() for side in ("left", "right")}
    assert extra["left"].startswith("6 pages are shared: 18 pages saved")
    assert "refused: n=4: contiguous memory can't share" in extra["right"]
    assert "4 separate requests: A, B, C and D." in extra["right"]
    assert page.locator("[data-role=history-title]").inner_text() == "Texts written at once"
    page.locator("[data-side=left] .kvw-plot").hover(position={"x": 20, "y": 8})
    tip = page.locator("[data-side=left] .kvw-tip")
    tip.wait_for(state="visible")
    assert "Shared by 4 sequences." in tip.inner_text()
    cards = page.locator(".kvw-card")
    assert cards.count() == 4
    assert cards.nth(2).locator(".kvw-prompt").inner_text().startswith("(sample 3 of 4) ")
    right = cards.nth(2).locator("[data-side=right] small").inner_text()
    assert right == "Contiguous (refused; separate request C): waiting, 0/96 tokens"
    fast(tab)
    page.click("#kvw-run")
    tab.wait("f.state === 'Finished'")
    assert page.locator(".kvw-badge").inner_text() == "Outputs equal: 384 of 384 tokens compared (final)"


def test_cached_pages_and_the_host_tier_are_drawn(app: App, tab: Tab) -> None:
    """Prefix caching and swapping, switched on by presets. What is drawn is what the engine's history says."""
    page = tab.page
    legend = page.locator("[data-side=left] .kvw-legend li", has_text="Kept for reuse")
    assert not legend.is_visible()
    fast(tab)
    page.get_by_label("One beginning for all").check()
    tab.wait("f.requests.length === 8")
    page.click("#kvw-run")
    tab.wait("f.state === 'Finished'")
    here = tab.frame()["left"]["map"]
    assert here["waste"][4] > 0
    assert tab.cells("left").count(2 * COLORS + 2) == here["waste"][4]
    assert legend.is_visible()

    page.get_by_label("When memory runs out: swapping").check()
    tab.wait("f.run === 1")
    page.locator("#kvw-hint", has_text="Settings have changed").wait_for()
    page.click("#kvw-run")
    tab.wait("f.run === 2 && f.jumps.swap.length > 0")  # the whole run has a thousand steps
    page.click("#kvw-pause")
    tab.wait("f.state === 'Paused'")
    page.locator("body").press("Home")
    tab.wait("f.step === 0")
    page.locator("body").press("s")
    tab.wait("f.step > 0")
    step = tab.frame()["step"]
    assert step == tab.frame()["jumps"]["swap"][0]
    duel = app.only_session().duel
    assert duel is not None
    state = duel.left.history.state_at(step)
    used = sum(p.ref_count > 0 for p in state.host_pages)
    assert used > 0
    words = f"Host tier: {used} of {len(state.host_pages)} pages in use"
    assert page.locator("[data-side=left] .kvw-host-words").inner_text() == words
    cells = page.evaluate("document.querySelectorAll('[data-side=left] .kvw-plot')[1].data[0].z.flat()")
    assert counts(cells)[0] == sum(p.filled for p in state.host_pages if p.ref_count)
    page.locator("[data-side=left] .kvw-plot").nth(1).hover(position={"x": 20, "y": 8})
    tip = page.locator("[data-side=left] .kvw-tip").nth(1)
    tip.wait_for(state="visible")
    assert tip.inner_text().startswith("Host page 0: ")


@pytest.mark.parametrize(
    "tab",
    [{"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "reduced_motion": "reduce"}],
    indirect=True,
)
def test_a_phone_in_the_dark(tab: Tab) -> None:
    page = tab.page
    assert page.evaluate("KVW.isDark()")
    page.click("#kvw-step")
    tab.wait("f.step === 1")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    for side in ("left", "right"):
        assert page.evaluate(
            """side => { const root = document.querySelector(`[data-side=${side}]`);
            const right = (node) => node.getBoundingClientRect().right;
            return right(root.querySelector('.kvw-plot')) <= right(root); }""",
            side,
        )
    assert drawn(tab) == told(tab.frame())
