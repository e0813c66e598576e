"""The tab Explore as a visitor uses it: the gallery, keys, links, a file of one's own, a live run, saving."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.browser.axe import check
from tests.browser.conftest import App, Tab
from workbench.events import Recording
from workbench.events.jumps import JumpIndex
from workbench_app.gallery import ITEMS, path_of

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(app: App, browser: Any) -> Iterator[Any]:
    """Explore, opened by a link, for all tests of this file that leave it as they found it: without a recording."""
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    opened = context.new_page()
    errors: list[str] = []
    opened.on("console", lambda m: errors.append(f"{m.text} {m.location['url']}") if m.type == "error" else None)
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(f"{app.url}?tab=explore")
    opened.wait_for_selector("[data-recording=beams]", timeout=60_000)
    yield opened
    context.close()
    # The browser reports every answer that is not 200, also where that is what was asked for: a damaged file, and a
    # run that has been closed meanwhile.
    expected = [error for error in errors if ("422" in error or "404" in error) and "/kvw/" in error]
    assert [error for error in errors if error not in expected] == []


@pytest.fixture
def recording(request: pytest.FixtureRequest) -> Iterator[Recording]:
    with Recording.open(path_of(request.param)) as opened:
        yield opened


def wait_for_step(page: Any, title: str, step: int | None) -> None:
    """Waits until a run is shown, at a step if one is given."""
    page.wait_for_function(
        "([title, step]) => window.KVW?.explore?.source?.raw.title === title"
        " && KVW.viewer?.frame && (step === null || KVW.viewer.frame.step === step)",
        arg=[title, step],
        timeout=60_000,
    )


def open_bundled(page: Any, name: str) -> str:
    """Opens a card of the gallery by keyboard, from wherever the page is. Gives its title."""
    if page.locator("[data-role=close]").is_visible():
        page.click("[data-role=close]")
    page.locator(f"[data-recording={name}]").focus()
    page.keyboard.press("Enter")
    wait_for_step(page, ITEMS[name].title, None)
    return ITEMS[name].title


def click_cell(page: Any, number: int) -> None:
    """Clicks the middle of a page of the device's map."""
    box = page.locator(".kvw-viewer [data-role=map]").bounding_box()
    place = page.evaluate(
        """number => {
          const plot = document.querySelector(".kvw-viewer [data-role=map] .kvw-plot"), trace = plot.data[0];
          const columns = KVW.viewer.frame.map.columns, rows = Math.ceil(KVW.viewer.frame.map.blocks / columns);
          const size = plot.getBoundingClientRect();
          const [x, y] = [((number % columns) + .5) / columns, (Math.floor(number / columns) + .5) / rows];
          return [x * size.width, y * size.height];
        }""",
        number,
    )
    page.mouse.click(box["x"] + place[0], box["y"] + place[1])


@pytest.mark.parametrize("recording", ["preemption-swap"], indirect=True)
def test_everything_can_be_reached_by_keys(page: Any, recording: Recording) -> None:
    press = page.keyboard.press
    assert page.locator(".kvw-record").count() == len(ITEMS)
    page.locator(".kvw-open > summary").focus()
    names = list(ITEMS)
    for _ in range(names.index("preemption-swap") + 1):
        press("Tab")
    assert page.evaluate("document.activeElement.dataset.recording") == "preemption-swap"
    press("Enter")
    title = ITEMS["preemption-swap"].title
    wait_for_step(page, title, None)
    press("End")
    wait_for_step(page, title, recording.last_step)
    for _ in range(4):  # faster than frames come: no key is lost
        press("ArrowLeft")
    wait_for_step(page, title, recording.last_step - 4)
    press("Home")
    wait_for_step(page, title, recording.first_step)
    press("Shift+ArrowRight")
    wait_for_step(page, title, recording.first_step + 10)
    jumps = JumpIndex(recording)
    for key, kind in (("p", "preemption"), ("s", "swap"), ("c", "copy"), ("e", "eviction"), ("o", "oom")):
        press("Home")
        wait_for_step(page, title, recording.first_step)
        steps = [step for step in jumps.steps(kind) if step > recording.first_step]
        press(key)
        if steps:
            wait_for_step(page, title, steps[0])
        else:
            page.wait_for_function(
                "() => /No later step/.test(document.querySelector('[data-role=caption]').innerText)"
            )
        if len(steps) > 1:
            press(key)
            wait_for_step(page, title, steps[1])
            press(f"Shift+{key.upper()}")
            wait_for_step(page, title, steps[0])
    press("?")
    page.locator(".kvw-help[open]").wait_for()
    press("Escape")
    assert page.locator(".kvw-help[open]").count() == 0


@pytest.mark.parametrize("recording", ["samples"], indirect=True)
def test_a_page_of_the_map_shows_its_row_its_tokens_and_its_life(page: Any, recording: Recording) -> None:
    title = open_bundled(page, "samples")
    page.evaluate("KVW.viewer.go(20)")
    wait_for_step(page, title, 20)
    state = recording.state_at(20)
    memory = next(iter(state.sequences.values()))
    number = memory.tables[0].blocks[-1]
    click_cell(page, number)
    page.wait_for_function("number => KVW.viewer.state.page === number", arg=number)
    assert page.evaluate("KVW.viewer.state.sequence") in state.sequences
    row = page.locator(".kvw-block-table tr.kvw-selected")
    assert row.count() == 1
    assert row.locator("button").first.inner_text().strip().endswith(str(number))
    filled = state.pages[number].filled
    assert f"{filled}/{state.run.block_size}" in row.inner_text()  # type: ignore[union-attr]
    panel = page.locator(".kvw-panel-page")
    assert panel.locator("h4").first.inner_text() == f"Page {number}"
    assert panel.locator(".kvw-tokens .kvw-token").count() == filled
    life = page.locator("[data-role=page-life] tbody tr")
    life.first.wait_for()
    born = page.locator("[data-role=page-life] button").first
    step = int("".join(c for c in born.inner_text() if c.isdigit()))
    assert step < 20
    born.click()
    wait_for_step(page, title, step)
    assert page.evaluate("KVW.viewer.state.page") == number


@pytest.mark.parametrize("recording", ["samples"], indirect=True)
def test_a_link_shows_just_that(app: App, page: Any, browser: Any, recording: Recording) -> None:
    title = open_bundled(page, "samples")
    page.evaluate("KVW.viewer.setState({step: 17, page: 5, color: 'fill'})")
    wait_for_step(page, title, 17)
    page.wait_for_url("**recording=samples*step=17*selected_page=5*color=fill*")
    context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark")
    other = context.new_page()
    other.goto(page.url + "&__theme=dark")
    wait_for_step(other, title, 17)
    state = other.evaluate("KVW.viewer.state")
    assert (state["page"], state["color"]) == (5, "fill")
    assert other.evaluate("KVW.viewer.frame.map.filled") == [page.filled for page in recording.state_at(17).pages]
    # And on a phone, in the dark, nothing sticks out and nothing is amiss.
    assert other.evaluate("KVW.isDark()")
    other.locator(".kvw-panel-charts").scroll_into_view_if_needed()
    other.wait_for_function("document.querySelector('.kvw-chart .main-svg')")
    assert other.evaluate("document.documentElement.scrollWidth") <= 390
    assert other.evaluate("document.querySelector('.kvw-viewer').scrollWidth") <= 390
    assert [str(one) for one in check(other)] == []
    context.close()
    assert [str(one) for one in check(page)] == []
    page.click("[data-role=close]")
    page.wait_for_url("**?tab=explore")


def test_a_file_of_one_s_own_opens_and_one_that_is_none_is_explained(page: Any, tmp_path: Path) -> None:
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


def test_what_is_seen_can_be_saved(page: Any, browser: Any, tmp_path: Path) -> None:
    title = open_bundled(page, "samples")
    page.evaluate("KVW.viewer.setState({step: 20, page: 3})")
    wait_for_step(page, title, 20)
    page.locator(".kvw-panel-charts").scroll_into_view_if_needed()
    page.wait_for_selector("[data-chart=timeline][aria-selected=true]")

    def save(format_: str, ending: str) -> Path:
        page.select_option("[data-role=format]", format_)
        with page.expect_download(timeout=60_000) as download:
            page.click("#kvw-explore [data-role=save]")
        assert download.value.suggested_filename.endswith(ending)
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        return path

    with Recording.open(save("kvtrace", ".kvtrace")) as saved:
        assert saved.is_complete
    assert json.loads(save("perfetto", ".perfetto.json").read_text())["traceEvents"]
    for name, ending in (("map", "page-map-step-20"), ("chart", "timeline-step-20")):
        png = save(f"{name}-png", f"{ending}.png").read_bytes()
        assert png.startswith(b"\x89PNG")
        assert int.from_bytes(png[16:20], "big") == 2400
        assert len(png) > 20_000
        svg = ElementTree.parse(save(f"{name}-svg", f"{ending}.svg")).getroot()
        assert svg.tag.endswith("svg")
        assert svg.attrib["width"] == "1200"
        assert len(list(svg.iter())) > 50
    html = save("html", ".html")
    context = browser.new_context(offline=True)
    replay = context.new_page()
    replay.goto(html.as_uri())
    shows = "expect => KVW.viewer?.frame?.step === expect"
    for _ in range(100):  # its policy forbids what `wait_for_function` does
        if replay.evaluate("() => Boolean(window.KVW?.viewer?.frame)"):
            break
        replay.wait_for_timeout(50)
    start = replay.evaluate("KVW.viewer.frame.step")
    for key, step in (("ArrowRight", start + 1), ("ArrowRight", start + 2), ("ArrowLeft", start + 1)):
        replay.keyboard.press(key)
        for _ in range(100):
            if replay.evaluate(shows, step):
                break
            replay.wait_for_timeout(20)
        assert replay.evaluate(shows, step)
    context.close()


@pytest.mark.parametrize("order", ["eviction", "evict"])  # older links say the other
def test_the_order_that_is_shown_can_be_saved(app: App, page: Any, order: str) -> None:
    page.goto(f"{app.url}?tab=explore&recording=prefixes&step=100&order={order}")
    wait_for_step(page, ITEMS["prefixes"].title, 100)
    assert page.locator(".kvw-viewer [data-role=order]").input_value() == "eviction"
    page.locator(".kvw-panel-charts").scroll_into_view_if_needed()
    page.wait_for_selector("[data-chart=timeline][aria-selected=true]")
    texts = {}
    for name in ("map-svg", "chart-svg"):
        page.select_option("[data-role=format]", name)
        with page.expect_download(timeout=60_000) as download:
            page.click("#kvw-explore [data-role=save]")
        texts[name] = {node.text for node in ElementTree.parse(download.value.path()).iter() if node.text}
    evicted = page.evaluate("KVW.viewer.frame.map.eviction")
    assert {str(place + 1) for place in range(len(evicted))} <= texts["map-svg"]
    page.click("[data-role=close]")


def test_the_chosen_chart_stands_out_and_only_step_axes_have_a_cursor(page: Any) -> None:
    title = open_bundled(page, "preemption-swap")
    page.evaluate("KVW.viewer.go(42)")
    wait_for_step(page, title, 42)
    page.locator(".kvw-panel-charts").scroll_into_view_if_needed()
    page.click("[data-chart=flow]")
    page.wait_for_function("document.querySelector('.kvw-chart')?.layout?.uirevision === 'flow'")
    looks = page.evaluate(
        """() => Object.fromEntries([...document.querySelectorAll('.kvw-tabs [role=tab]')].map((tab) => {
          const { fontWeight, borderTopWidth, borderTopColor } = getComputedStyle(tab);
          return [tab.dataset.chart, [fontWeight, borderTopWidth, borderTopColor].join()];
        }))"""
    )
    chosen = looks.pop("flow")
    assert len(set(looks.values())) == 1
    assert chosen.split(",")[:2] == ["650", "2px"]
    assert chosen not in looks.values()

    def box(selector: str) -> dict[str, float]:
        found: dict[str, float] = page.locator(selector).first.bounding_box()
        return found

    page.locator(".kvw-chart .barlayer .point").last.scroll_into_view_if_needed()
    line = page.locator(".kvw-cursor").bounding_box()
    bars = box(".kvw-chart .barlayer .point")
    assert line["height"] > 100
    assert line["y"] + line["height"] < bars["y"]
    page.mouse.click(bars["x"] + bars["width"] - 6, bars["y"] + bars["height"] / 2)  # a bar of 55 pages
    page.wait_for_timeout(300)
    assert page.evaluate("KVW.viewer.state.step") == 42
    step, x, y = page.evaluate(
        """() => {
          const plot = document.querySelector(".kvw-chart"), { xaxis, yaxis } = plot._fullLayout;
          const box = plot.getBoundingClientRect(), point = plot.calcdata[0].find(({ x }) => x > 60);
          return [point.x, box.x + xaxis._offset + xaxis.l2p(point.x), box.y + yaxis._offset + yaxis.l2p(point.y)];
        }"""
    )
    page.mouse.move(x, y + 3)
    page.wait_for_timeout(300)
    page.mouse.click(x, y + 3)
    wait_for_step(page, title, step)


@pytest.mark.parametrize("recording", ["beams"], indirect=True)
def test_jumps_count_steps_and_a_dropped_beam_is_no_finish(page: Any, recording: Recording) -> None:
    title = open_bundled(page, "beams")
    page.evaluate("KVW.viewer.go(20)")
    wait_for_step(page, title, 20)
    jumps = JumpIndex(recording)
    shown = [" ".join(text.split()) for text in page.locator(".kvw-viewer .kvw-jump").all_inner_texts()]
    names = {"Copy-on-write": "copy", "Finish": "finish"}
    counts = {name: len(jumps.steps(kind)) for name, kind in names.items()}
    assert shown == [f"‹ {name} {n} step{'' if n == 1 else 's'} ›" for name, n in counts.items()]
    caption = page.inner_text("[data-role=caption]")
    assert 20 not in jumps.steps("finish")
    assert "dropped beam" in caption
    assert "finish" not in caption
    assert caption.count("tep 20") == 1
    compare = page.evaluate(
        """() => {
          const { transport } = KVW.stage;
          transport.draw({ ...KVW.frame, jumps: { copy: [3, 7], finish: [9] } });
          const shown = [...transport.jumps.values()].filter(({ group }) => !group.hidden);
          return shown.map(({ label }) => label.textContent);
        }"""
    )
    assert compare == ["copy (2 steps)", "finish (1 step)"]


def test_a_page_has_one_number_in_all_words_and_controls_have_help(page: Any) -> None:
    title = open_bundled(page, "preemption-swap")
    page.evaluate("KVW.viewer.setState({step: 42, page: 8})")
    wait_for_step(page, title, 42)
    page.locator("[data-role=page-life] tbody tr").first.wait_for()
    panel = page.inner_text(".kvw-panel-page")
    assert panel.count("its logical page 2") == 3  # where it is, who has it, how it came there
    assert "3rd page" not in panel
    page.locator(".kvw-panel-charts").scroll_into_view_if_needed()
    page.wait_for_timeout(1200)  # help is attached once a second
    without = page.evaluate(
        """() => [...document.querySelectorAll(
          ".kvw-explore-bar :is(select, button), .kvw-viewer :is(select, input[type=number], [role=tab])"
        )].filter((node) => KVW.visible(node) && !node.dataset.helpKey).map((node) => node.outerHTML.slice(0, 90))"""
    )
    assert without == []
    headings = page.locator(".kvw-viewer .kvw-panel > h3")
    assert headings.count() == 6
    assert page.locator(".kvw-viewer .kvw-panel > h3 .kvw-help-mark").count() == 6
    order = page.locator(".kvw-viewer [data-role=color]")
    order.hover()
    page.locator("#kvw-help-pop", has_text="What the colours of the pages mean").wait_for()
    page.keyboard.press("Escape")


def test_a_live_run_is_followed_and_keys_reach_the_tab_that_is_shown(app: App, tab: Tab) -> None:
    page = tab.page
    page.get_by_label("Speed (steps per second)").first.fill("8")
    page.click("#kvw-run")
    tab.wait("f.running && f.step >= 3")
    page.locator("[data-role=save] summary").first.click()
    page.get_by_text("Open in the tab Explore").first.click()
    wait_for_step(page, "Live run, paged", None)
    assert page.evaluate("KVW.stage.root.offsetParent") is None
    first = page.evaluate("KVW.viewer.frame.step")
    page.wait_for_function(f"KVW.viewer.frame.step >= {first + 3}")
    assert page.evaluate("KVW.frame.running"), "the run on Compare goes on"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("KVW.viewer.state.step === KVW.viewer.frame.step && !KVW.viewer.following")
    page.wait_for_timeout(300)
    here, last = page.evaluate("[KVW.viewer.frame.step, KVW.explore.source.raw.last]")
    page.wait_for_function(f"KVW.explore.source.raw.last >= {last + 4}")
    assert page.evaluate("KVW.viewer.frame.step") == here
    # Keys moved this tab only: the stage of Compare runs on, and shows the newest step.
    assert page.evaluate("KVW.frame.running && KVW.frame.live")
    page.get_by_role("button", name="Follow the run as it goes on").click()
    page.wait_for_function("KVW.viewer.frame.step === KVW.explore.source.raw.last")
    past = page.evaluate("KVW.viewer.frame.step")
    page.wait_for_function(f"KVW.viewer.frame.step > {past}")
    assert page.locator("[data-role=viewer] [data-role=live]").get_attribute("aria-pressed") == "true"

    page.keyboard.press("ArrowLeft")
    page.wait_for_timeout(300)
    kept = page.evaluate("KVW.viewer.frame.step")
    page.get_by_role("tab", name="Compare").click()
    page.evaluate("document.activeElement.blur()")
    page.keyboard.press("Home")
    tab.wait("f.step === 0 && !f.live && f.running")
    page.keyboard.press("End")
    tab.wait("f.live")
    page.keyboard.press("Space")
    tab.wait("f.state === 'Paused'")
    assert page.evaluate("KVW.viewer.frame.step") == kept
    session = app.only_session()
    assert session.duel is not None
    assert session.duel.left.history.last_step >= kept
