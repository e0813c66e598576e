"""The tab "Learn": a tour that waits for the visitor, the keyboard alone, the glossary, and help texts."""

from __future__ import annotations

from typing import Any

import pytest

from tests.browser.axe import check
from tests.browser.conftest import Tab
from workbench.glossary import GLOSSARY, find
from workbench_app.learn_tours import BACK_IN_TIME, LAB, PAGES, SHARING

pytestmark = pytest.mark.browser

PHONE = {
    "viewport": {"width": 390, "height": 844},
    "color_scheme": "dark",
    "reduced_motion": "reduce",
    "has_touch": True,
}


def learn(page: Any) -> None:
    page.evaluate("KVW.tour.pause = 200")  # the tests read faster
    page.evaluate("KVW.openTab('Learn')")
    page.locator("#kvw-glossary-search").wait_for()


def start(page: Any, tour: str) -> None:
    learn(page)
    page.locator(f"[data-tour={tour}]:not([data-from-start])").click()


def at(page: Any, title: str) -> None:
    """Waits until the card shows the step with this title."""
    page.wait_for_function(
        "title => document.querySelector('#kvw-tour-title').textContent === title", arg=title, timeout=20_000
    )


def card(page: Any) -> Any:
    return page.locator("#kvw-tour")


def ring_is_around(page: Any, selector: str) -> bool:
    around: bool = page.evaluate(
        """selector => { const box = (s) => document.querySelector(s).getBoundingClientRect();
        const [a, b] = [box(".kvw-tour-ring"), box(selector)];
        return a.left < b.left && a.top < b.top && a.right > b.right && a.bottom > b.bottom; }""",
        selector,
    )
    return around


def test_a_tour_waits_for_what_the_visitor_does(tab: Tab) -> None:
    page = tab.page
    titles = [step.title for step in PAGES.steps]
    start(page, PAGES.id)
    at(page, titles[0])
    assert page.evaluate("document.activeElement.id") == "kvw-tour"
    assert page.evaluate("KVW.tabIsOpen('Compare')")
    card(page).get_by_role("button", name="Next").click()

    at(page, titles[1])
    page.wait_for_timeout(600)  # longer than a step that is done stays: nobody pressed Run, so nothing may happen
    at(page, titles[1])
    page.wait_for_function("() => !document.querySelector('.kvw-tour-ring').hidden")
    assert ring_is_around(page, "#kvw-run")
    page.click("#kvw-run")  # a real click: neither ring nor card is in the way
    at(page, titles[2])
    page.click("#kvw-pause")
    at(page, titles[3])
    page.locator("[data-side=left] .kvw-plot").hover(position={"x": 20, "y": 8})
    at(page, titles[4])
    page.locator("[data-side=right] .kvw-plot").hover(position={"x": 20, "y": 8})
    at(page, titles[5])
    card(page).get_by_role("button", name="Next").click()
    at(page, titles[6])
    page.get_by_label("Oracle").check()
    at(page, titles[7])
    page.get_by_label("Block size").get_by_label("8", exact=True).or_(
        page.locator("fieldset", has_text="Block size").get_by_label("8", exact=True)
    ).first.check()
    at(page, titles[8])
    page.click("#kvw-run")
    at(page, titles[9])
    assert card(page).get_by_role("button", name="Finish").is_visible()
    assert check(page, "#kvw-tour") == []
    card(page).get_by_role("button", name="Finish").click()
    assert not card(page).is_visible()
    learn(page)
    button = page.locator(f"[data-tour={PAGES.id}]:not([data-from-start])")
    page.wait_for_function(
        "id => document.querySelector(`[data-tour=${id}]`).innerText.startsWith('Take it again')", arg=PAGES.id
    )
    assert button.is_visible()


def test_a_tour_by_keyboard_alone_left_and_taken_up_again(tab: Tab) -> None:
    page = tab.page
    titles = [step.title for step in BACK_IN_TIME.steps]
    learn(page)
    page.locator(f"[data-tour={BACK_IN_TIME.id}]:not([data-from-start])").focus()
    page.keyboard.press("Enter")
    at(page, titles[0])
    assert titles[0] in page.locator(".kvw-tour-live").text_content()
    page.locator(".kvw-tour-ring").wait_for()  # the tab is open, the target is there
    page.keyboard.press("Tab")  # "Back" is disabled at the first step
    assert page.evaluate("document.activeElement.dataset.tourButton") == "reach"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "kvw-run"
    page.keyboard.press("Enter")
    at(page, titles[1])
    assert page.evaluate("document.activeElement.id") == "kvw-tour"
    page.keyboard.press("Space")
    at(page, titles[2])
    step = tab.frame()["step"]
    page.keyboard.press("ArrowLeft")  # as good as the button
    tab.wait(f"f.step === {step - 1}")
    at(page, titles[3])
    page.keyboard.press("Escape")
    assert not card(page).is_visible()
    assert not page.locator(".kvw-tour-ring").is_visible()
    assert page.evaluate("KVW.tour.state()") is None

    learn(page)
    page.wait_for_function(
        "id => document.querySelector(`[data-tour=${id}]`).innerText.startsWith('Go on at step 4')", arg=BACK_IN_TIME.id
    )
    page.locator(f"[data-tour={BACK_IN_TIME.id}]:not([data-from-start])").click()
    at(page, titles[3])
    page.keyboard.press("ArrowLeft")
    at(page, titles[4])
    card(page).get_by_role("button", name="Back").click()
    at(page, titles[3])
    page.keyboard.press("Escape")


def test_the_card_stays_where_it_is_while_it_is_pointed_at(tab: Tab) -> None:
    """A button that moves away between press and release of the mouse is not clicked."""
    page = tab.page
    titles = [step.title for step in PAGES.steps]
    place = "() => { const box = document.querySelector('#kvw-tour').getBoundingClientRect(); return [box.x, box.y]; }"
    page.set_viewport_size({"width": 1024, "height": 560})  # so that there is something to scroll
    learn(page)
    page.evaluate("id => KVW.tour.start(id, 4)", PAGES.id)
    at(page, titles[4])
    page.locator(".kvw-tour-ring").wait_for()
    page.wait_for_timeout(1200)  # until the target has been brought into sight
    scroll = "by => { const before = scrollY; scrollBy({ top: by, behavior: 'instant' }); return scrollY - before; }"
    begun = page.evaluate(place)
    assert page.evaluate(scroll, -80) == -80
    page.wait_for_timeout(350)
    assert page.evaluate(place) != begun, "the card was to follow its target"

    begun = page.evaluate(place)
    button = card(page).get_by_role("button", name="Skip").bounding_box()
    page.mouse.move(button["x"] + 3, button["y"] + 3)
    page.mouse.move(button["x"] + button["width"] / 2, button["y"] + button["height"] / 2)
    page.mouse.down()
    assert page.evaluate(scroll, 80) == 80
    page.wait_for_timeout(350)
    assert page.evaluate(place) == begun
    page.mouse.up()
    at(page, titles[5])
    page.keyboard.press("Escape")


def test_the_tour_of_sharing(tab: Tab) -> None:
    page = tab.page
    titles = [step.title for step in SHARING.steps]
    start(page, SHARING.id)
    at(page, titles[0])
    page.get_by_label("Four samples of one prompt").check()
    at(page, titles[1])
    for number in range(1, 5):
        page.click("#kvw-step")
        tab.wait(f"f.step === {number}")
    at(page, titles[2])
    page.locator("[data-side=left] .kvw-plot").hover(position={"x": 20, "y": 8})
    at(page, titles[3])
    assert "pages saved" in page.locator("[data-side=left] .kvw-extra").inner_text()
    card(page).get_by_role("button", name="Next").click()
    at(page, titles[4])
    page.get_by_label("As fast as possible").check()
    page.click("#kvw-run")
    at(page, titles[5])
    page.get_by_label("When memory runs out: swapping").check()
    at(page, titles[6])
    page.click("#kvw-reset")
    tab.wait("f.requests.length === 14")
    page.click("#kvw-run")
    at(page, titles[7])
    assert ring_is_around(page, "[data-side=left] [data-role=host]")
    page.locator("#kvw-pause").dispatch_event("click")
    page.locator("[data-tour-button=next]").dispatch_event("click")
    at(page, titles[8])
    page.locator("body").press("s")
    card(page).wait_for(state="hidden")


def test_a_tour_leads_into_a_recording(tab: Tab) -> None:
    page = tab.page
    titles = [step.title for step in BACK_IN_TIME.steps]
    learn(page)
    page.evaluate("KVW.tour.start('back', 5)")
    at(page, titles[5])
    page.get_by_role("tab", name="Explore").click()
    at(page, titles[6])
    page.locator("[data-recording=preemption-swap]").click()
    at(page, titles[7])
    page.locator("[data-jump=preemption][data-direction='1']").click()
    at(page, titles[8])
    page.locator(".kvw-panel-map [data-role=map]").click(position={"x": 30, "y": 10})
    at(page, titles[9])
    assert page.locator(".kvw-block-table .kvw-selected").count() == 1
    card(page).get_by_role("button", name="Next").click()
    at(page, titles[10])
    card(page).get_by_role("button", name="Finish").click()
    page.evaluate("KVW.tour.start('lab', 0)")
    page.get_by_role("tab", name="Lab").click()
    at(page, LAB.steps[1].title)
    card(page).get_by_role("button", name="Next").click()
    at(page, LAB.steps[2].title)
    page.locator(".kvw-tour-ring").wait_for()
    assert ring_is_around(page, "#kvw-lab-run")
    page.keyboard.press("Escape")


@pytest.mark.parametrize("tab", [PHONE], indirect=True)
def test_a_tour_and_help_on_a_phone(tab: Tab) -> None:
    page = tab.page
    start(page, PAGES.id)
    for number in range(len(PAGES.steps)):
        at(page, PAGES.steps[number].title)
        page.wait_for_timeout(350)
        box, ring = (page.locator(s).bounding_box() for s in ("#kvw-tour", ".kvw-tour-ring"))
        assert box["y"] + box["height"] <= 844.5
        assert box["height"] <= 0.5 * 844
        assert ring is not None
        assert ring["y"] < box["y"] - 20, PAGES.steps[number].title  # what the step is about can be seen above the card
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        page.evaluate("document.querySelector('[data-tour-button=next]').click()")
    assert not card(page).is_visible()

    # Help by a tap stays on the screen, and survives new frames.
    page.wait_for_function("() => document.querySelectorAll('.kvw-help-mark').length >= 4")
    mark = page.get_by_role("button", name="Help: the page map of paged memory")
    before = page.locator("[data-side=left] .kvw-map").bounding_box()["y"]
    mark.tap()
    pop = page.locator("#kvw-help-pop")
    box = pop.bounding_box()
    assert page.locator("[data-side=left] .kvw-map").bounding_box()["y"] == before  # nothing moves
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    count = page.locator("[data-help-key]").count()
    page.locator("#kvw-step").tap()
    tab.wait("f.step === 1")
    assert not pop.is_visible(), pop.inner_text()
    assert page.locator("[data-help-key]").count() >= count


def test_glossary_and_help(tab: Tab) -> None:
    page = tab.page
    learn(page)
    terms = page.locator(".kvw-term:visible")
    assert terms.count() == len(GLOSSARY)
    page.locator("#kvw-glossary-search").fill("ref_count")
    assert [terms.nth(i).get_attribute("id") for i in range(terms.count())] == [find("ref_count").anchor]
    assert page.locator("#kvw-glossary-count").inner_text() == "1 term"
    terms.first.locator("summary").click()
    terms.first.get_by_role("link", name="Copy-on-write").click()  # hidden by the search: it is shown again
    entry = page.locator("#" + find("Copy-on-write").anchor)
    page.wait_for_function("id => document.activeElement.parentElement.id === id", arg=find("Copy-on-write").anchor)
    assert entry.get_attribute("open") is not None
    assert find("Copy-on-write").explanation in entry.inner_text()
    page.locator("#kvw-glossary-search").fill("no such word")
    assert terms.count() == 0
    assert page.locator("#kvw-glossary-count").inner_text() == "0 terms"

    # Help on hover, on focus, and with keys; it leads back here.
    page.evaluate("KVW.openTab('Compare')")
    stat = page.locator("[data-side=left] .kvw-stats dt", has_text="Held memory in use")
    pop = page.locator("#kvw-help-pop")
    page.wait_for_function("() => document.querySelector('.kvw-stats dt[data-help-key]')")
    for side in ("left", "right"):  # every number has one
        assert page.locator(f"[data-side={side}] .kvw-stats dt:not([data-help-key])").count() == 0
        assert (
            page.locator(f"[data-side={side}] .kvw-legend li > span:not(.kvw-swatch):not([data-help-key])").count() == 0
        )
    stat.hover()
    pop.wait_for()
    assert "the share that holds a token" in pop.inner_text()
    pop.hover()  # it stays while it is read
    page.wait_for_timeout(400)
    assert pop.is_visible()
    page.keyboard.press("Escape")
    assert not pop.is_visible()

    page.locator("#kvw-reset").focus()
    for _ in range(30):
        page.keyboard.press("Tab")
        if stat.evaluate("node => node === document.activeElement"):
            break
    assert pop.is_visible()
    described = stat.get_attribute("aria-describedby")
    assert "the share that holds a token" in page.locator(f"#{described}").text_content()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    page.wait_for_function("id => document.activeElement.parentElement.id === id", arg=find("Token states").anchor)
    assert page.evaluate("KVW.tabIsOpen('Learn')")
