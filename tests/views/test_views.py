"""Views are pure functions of a page map: what they say must be what the page map says."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest

import workbench.views
from tests.events import scenario
from tests.views import scenes
from workbench.events import Cause, EventBus, PageMap
from workbench.events.jumps import KINDS, kinds_of
from workbench.events.types import PageMassSampled, PrefixHit, RequestQueued, Tier
from workbench.views import (
    blocked_words,
    map_payload,
    map_words,
    page_map_figure,
    request_color,
    request_label,
    request_rows,
    waste_figure,
    waste_words,
)
from workbench.views.frames import explore_frame
from workbench.views.grid import Use, grid_columns, is_starved, spans
from workbench.views.page_map import page_map_view
from workbench.views.page_map_modes import COLOR_MODES, color_mode
from workbench.views.palette import DARK, LIGHT, REQUEST_COLORS, luminance, mix, text_color
from workbench.views.payload import CACHED_PAGE, CAUSES, FREE_PAGE, MAX_SAMPLES, map_constants
from workbench.views.words import CAUSE_WORDS, percent, token_share


@pytest.fixture(params=["paged", "contiguous"])
def scene(request: pytest.FixtureRequest) -> PageMap:
    return scenes.paged() if request.param == "paged" else scenes.contiguous()


@pytest.fixture(params=["paged", "contiguous", *range(1, 9)])
def any_scene(request: pytest.FixtureRequest) -> PageMap:
    """These two, and every step of a run with sharing, caching and swapping."""
    if isinstance(request.param, int):
        return scenes.tiers(request.param)
    return scenes.paged() if request.param == "paged" else scenes.contiguous()


def test_labels_continue_after_z() -> None:
    assert [request_label(i) for i in (0, 25, 26, 51, 52, 701, 702)] == ["A", "Z", "AA", "AZ", "BA", "ZZ", "AAA"]
    with pytest.raises(ValueError, match="request=-1"):
        request_label(-1)


def test_letters_stand_out_on_every_colour() -> None:
    for color in REQUEST_COLORS:
        lights = sorted((luminance(color), luminance(text_color(color))))
        assert (lights[1] + 0.05) / (lights[0] + 0.05) >= 4.5, color
    assert mix("#FF0000", "#0000FF", 1.0) == "#FF0000"
    assert request_color(7) == request_color(0)


def test_spans_cover_every_slot_once(any_scene: PageMap) -> None:
    for tier, slots in ((Tier.DEVICE, any_scene.num_slots), (Tier.HOST, len(any_scene.host_pages) * 4)):
        position = 0
        for span in spans(any_scene, tier) if any_scene.is_paged or tier is Tier.DEVICE else []:
            assert span.start == position
            assert span.length > 0
            position += span.length
        assert position == slots


def test_spans_agree_with_the_waste_split(any_scene: PageMap) -> None:
    waste = any_scene.waste()
    total = {use: sum(span.length for span in spans(any_scene) if span.use is use) for use in Use}
    assert total[Use.TOKENS] == waste.token_states
    assert total[Use.RESERVED] == waste.reserved
    assert total[Use.ROUNDING] + total[Use.FREE] == waste.external + waste.free
    assert total[Use.CACHED] == waste.cached


def test_columns_are_powers_of_two_and_cells_wide() -> None:
    for blocks in (1, 2, 8, 60, 64, 128, 512, 1000, 2048):
        columns = grid_columns(blocks)
        assert columns & (columns - 1) == 0
        assert blocks / 2 <= columns * columns < 4 * blocks


def test_payload_tells_every_page() -> None:
    page_map = scenes.paged()
    payload = map_payload(page_map)
    assert payload["owner"] == [0, -1, -1, 1, -1, 0, -1, -1]
    assert payload["filled"] == [4, 0, 0, 4, 0, 2, 0, 0]
    assert payload["logical"][5] == 1
    assert CAUSES[payload["cause"][5]] == Cause.ADMISSION
    assert payload["since"][5] == 1
    assert payload["waste"] == [10, 2, 0, 20, 0]
    assert payload["shared"] == []
    assert "host" not in payload


def test_payload_tells_what_is_shared_cached_and_on_the_host() -> None:
    two, three, four = (map_payload(scenes.tiers(step)) for step in (2, 3, 4))
    assert two["owner"] == [0] * 6 + [FREE_PAGE] * 6
    assert two["shared"] == [[0, 2, [0]], [2, 2, [0]]]
    assert two["host"]["owner"] == [FREE_PAGE] * 6
    assert three["owner"] == [CACHED_PAGE] + [FREE_PAGE] * 11
    assert three["waste"] == [0, 0, 0, 44, 4]
    assert three["host"]["owner"] == [0] * 6
    assert three["host"]["shared"] == [[0, 2, [0]], [2, 2, [0]]]
    assert three["host"]["filled"] == [4, 3, 4, 3, 3, 3]
    assert (three["host"]["blocks"], three["host"]["columns"]) == (6, 2)
    assert four["owner"][:9] == [1, *[FREE_PAGE] * 5, 1, 1, 1]
    assert sum(two["waste"]) == sum(three["waste"]) == 48


def test_a_page_of_several_requests_names_all() -> None:
    bus = scenes.start("paged")
    scenes.add(bus, 0)
    scenes.page(bus, 0, 3, 0)
    scenes.write(bus, 0, 4, 3)
    scenes.add(bus, 1)
    bus.emit(PrefixHit(3, 1, 0, "ab", 2))
    bus.flush()
    assert map_payload(bus.page_map)["shared"] == [[3, 2, [0, 1]]]
    assert "1 page is shared: 1 page saved (50 %)." in map_words(bus.page_map)


def test_rows_have_one_output_each_and_pages_once() -> None:
    rows = request_rows(scenes.tiers(2))
    # request, status, prompt, output, most, pages, preemptions, text, reason, sample, host pages
    assert rows == [[0, "r", 6, 2, 8, 6, 0, " t0 t1", "", sample, 0] for sample in (0, 1)]
    assert [row[1:6] + row[9:] for row in request_rows(scenes.tiers(3))] == [
        ["s", 6, 2, 8, 0, 0, 6],
        ["s", 6, 2, 8, 0, 1, 6],
    ]
    ended = request_rows(scenes.tiers(6))
    assert [(row[0], row[1], row[7]) for row in ended] == [(0, "f", " t0 t1."), (0, "f", " t0 t1"), (1, "f", " t0 t1")]
    oversize = request_rows(scenes.tiers(7))[-2:]
    assert [(row[0], row[5], row[10]) for row in oversize] == [(2, 2, 1), (2, 2, 1)]
    bus = scenes.start("paged")
    bus.emit(RequestQueued(request=0, sequence=0, prompt="x", prompt_tokens=1, max_tokens=2, width=1 << 40))
    bus.flush()
    assert len(request_rows(bus.page_map)) == MAX_SAMPLES


def test_words_tell_what_is_shared_cached_and_on_the_host() -> None:
    assert "A 10 tokens in 6 pages, 2 of them shared (2 sequences)." in map_words(scenes.tiers(2))
    assert "2 pages are shared: 2 pages saved (25 %)." in map_words(scenes.tiers(2))
    swapped = map_words(scenes.tiers(3))
    assert "4 (8 %) are kept for reuse (cached)." in swapped
    assert "Host tier: 6 of 6 pages in use: A 6 pages." in swapped
    assert "C 9 tokens in 2 pages and 1 host page, 2 of them shared (2 sequences)." in map_words(scenes.tiers(7))


@pytest.mark.parametrize("dark", [False, True])
def test_figure_shows_tiers_sharing_and_what_is_cached(dark: bool) -> None:
    shared, swapped = page_map_figure(scenes.tiers(2), dark), page_map_figure(scenes.tiers(3), dark)
    assert _letters(shared) == _letters(swapped) == ["A", "A", "A", "A", "A×2", "A×2"]
    assert min(swapped.data[-1 - _num_swatches(swapped)].y) > 3  # below the device's three rows of four pages
    assert swapped.layout.annotations[0].text == "Host tier: 6 of 6 pages in use: A 6 pages."
    cached = 2 * len(REQUEST_COLORS) + 1
    assert _codes(swapped).count(cached) == 4
    hover = [text for trace in swapped.data if trace.name == "pages" for row in trace.text for text in row]
    assert hover[0].startswith("kept for reuse")
    assert hover[12].startswith("request A; ")
    names = [bar.name for bar in waste_figure(scenes.tiers(3), dark).data]
    assert names == ["Token states", "Reserved, empty", "External fragmentation", "Kept for reuse (cached)", "Free"]
    assert "Kept for reuse (cached)" not in [bar.name for bar in waste_figure(scenes.tiers(2)).data]


def _codes(figure: go.Figure) -> list[int]:
    return [code for trace in figure.data if trace.name == "cells" for code in np.asarray(trace.z).ravel().tolist()]


def _letters(figure: go.Figure) -> list[str]:
    return sorted(text for trace in figure.data if trace.name == "labels" for text in trace.text)


def _num_swatches(figure: go.Figure) -> int:
    return sum(trace.type == "bar" for trace in figure.data)


def test_what_is_cached_is_told_from_what_is_free() -> None:
    """By lightness a little, and by the lines across it."""
    for colors in (LIGHT, DARK):
        assert colors["cached"] != colors["free"]
        lights = sorted((luminance(colors["cached"]), luminance(colors["hatch"])))
        assert (lights[1] + 0.05) / (lights[0] + 0.05) >= 3


def test_payload_tells_orders_and_attention() -> None:
    bus = scenes.start("paged")
    scenes.add(bus, 0)
    for index, block in enumerate((3, 5)):
        scenes.page(bus, 0, block, index)
    scenes.write(bus, 0, 4, 3)
    scenes.write(bus, 0, 2, 5)
    bus.flush()
    assert "mass" not in map_payload(bus.page_map)
    bus.emit(PageMassSampled(sequence=0, query=5, mass=[0.75, 0.125]))
    bus.flush()
    payload = map_payload(bus.page_map, orders=True)
    assert payload["mass"] == [-1, -1, -1, 750, -1, 125, -1, -1]
    assert payload["free"] == [0, 1, 2, 4, 6, 7]
    assert payload["eviction"] is None  # the run names no policy
    constants = map_constants()
    assert len(constants["causes"]) == len(constants["family_of"]) == len(CAUSES)
    name, letter, _ = constants["families"][constants["family_of"][CAUSES.index(Cause.ADMISSION)]]
    assert (name, letter) == ("prompt", "P")
    for order, _ in constants["orders"]:  # what the page asks for under a name is there, and a figure can show it
        assert order in payload
        assert page_map_view(bus.page_map, order=order).figure.data


def test_the_page_gets_the_classes_of_the_figures() -> None:
    modes = map_constants()["modes"]
    assert tuple(modes) == COLOR_MODES
    for name, told in modes.items():
        for dark in (False, True):
            mode = color_mode(name, scenes.paged(), dark)
            assert bool(told["of_idle"]) == mode.of_idle
            if "edges" not in told:
                continue
            assert told["names"] == mode.names
            assert told["colors"]["dark" if dark else "light"] == mode.colors
            for place, edge in enumerate(told["edges"], 1):
                assert mode.classes(np.array([edge - 1e-9, edge])).tolist() == [place - 1, place]


def test_what_a_frame_calls_an_event_is_what_jumps_lead_to() -> None:
    kinds: set[str] = set()
    bus = EventBus()
    for batch in scenario.play(bus):
        frame = explore_frame(bus.page_map, batch.events)
        shown = [kind for kind, *_ in frame["events"]]
        jumped = [kind for event in batch.events for kind in kinds_of(event) if kind != "oom"]
        assert sorted(kind for kind in shown if kind in KINDS) == sorted(jumped), batch.step
        kinds |= set(shown)
    assert {"finish", "complete", "dropped", "chosen", "copy", "swap", "preemption", "eviction"} <= kinds


def test_payload_tells_every_region() -> None:
    payload = map_payload(scenes.contiguous())
    assert payload["regions"] == [[0, 0, 16, 14, 6, 1], [1, 24, 4, 4, 4, 1]]
    assert payload["starved"] is True
    assert sum(payload["waste"]) == 32


def test_payload_is_json_and_small() -> None:
    bus = scenes.start("paged", num_blocks=256, block_size=16)
    scenes.add(bus, 0)
    for block in range(256):
        scenes.page(bus, 0, block, block)
        scenes.write(bus, 0, 16, block)
    bus.flush()
    size = len(json.dumps(map_payload(bus.page_map), separators=(",", ":")))
    assert size < 5_000


def test_rows_cut_long_texts() -> None:
    bus = scenes.start("paged")
    scenes.add(bus, 0)
    scenes.generate(bus, 0, list(range(10, 40)))
    bus.flush()
    assert request_rows(bus.page_map)[0][7].startswith("10 11 ")
    assert request_rows(bus.page_map, tail=6)[0][7] == "…38 39 "


def test_every_cause_has_words() -> None:
    assert set(CAUSE_WORDS) == {"", *Cause}


def test_words_name_the_numbers(scene: PageMap) -> None:
    words = map_words(scene)
    waste = scene.waste()
    assert f"{waste.token_states:,} (" in words
    assert "A 6 tokens in" in words
    assert "C waits" in words
    kind = "paged" if scene.is_paged else "contiguous"
    assert words.startswith(f"After step {scene.step}: {kind} memory, ")
    assert words.count("tep ") == 1


def test_words_say_why_the_head_waits() -> None:
    assert blocked_words(scenes.paged()) == "C waits: it needs 6 pages; 5 pages free."
    assert "16 slots in one piece; the largest free piece has 8" in blocked_words(scenes.contiguous())
    assert blocked_words(PageMap()) == ""


def test_percent_does_not_round_to_nothing_or_all() -> None:
    assert [percent(*pair) for pair in ((0, 10), (1, 1000), (999, 1000), (10, 10), (1, 0))] == [
        "0 %",
        "1 %",
        "99 %",
        "100 %",
        "0 %",
    ]


def test_token_share() -> None:
    assert token_share(scenes.paged().waste()) == pytest.approx(10 / 12)
    assert token_share(scenes.start("paged").page_map.waste()) is None


def test_figure_shows_what_the_map_holds(scene: PageMap) -> None:
    figure = page_map_figure(scene)
    cells = _codes(figure)
    count = len(REQUEST_COLORS)
    assert sum(code < count for code in cells) == scene.waste().token_states
    assert sum(count <= code < 2 * count for code in cells) == scene.waste().reserved
    assert {"A", "B"} <= set(_letters(figure))
    assert len(figure.to_json()) < 60_000


def test_figures_of_nothing() -> None:
    assert "No run yet" in page_map_figure(PageMap()).layout.title.text
    assert map_payload(PageMap())["kind"] == "none"
    assert waste_words(PageMap().waste()).startswith("Of 0 slots")


def test_waste_figure_adds_up(any_scene: PageMap) -> None:
    assert sum(bar.x[0] for bar in waste_figure(any_scene, dark=True).data) == any_scene.num_slots


def test_starved_only_when_free_slots_are_too_scattered() -> None:
    assert is_starved(scenes.contiguous())
    assert not is_starved(scenes.paged())


def test_views_import_nothing_but_events() -> None:
    for path in Path(workbench.views.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                if name.split(".")[0] in ("workbench", "workbench_app", "gradio", "torch"):
                    assert name.startswith(("workbench.events", "workbench.views")), f"{path.name} imports {name}"
