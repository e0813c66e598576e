"""The page map's cells, words and rows say what the page map says, in every colour, however many pages there are."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.events.synthetic import Simulation
from tests.views import scenes
from workbench.events import PageMap
from workbench.events.state import BlockTable, Page, RequestState, SequenceState
from workbench.events.types import PageMassSampled, Tier
from workbench.views import View, page_map_view, zoom_window
from workbench.views.page_map_cells import MAX_CELLS, choose_level
from workbench.views.page_map_columns import STATE_WORDS, tier_columns
from workbench.views.page_map_modes import COLOR_MODES, color_mode
from workbench.views.palette import CAUSE_FAMILIES, request_label


def traces(view: View, name: str) -> list[Any]:
    return [trace for trace in view.figure.data if trace.name == name]


def labels(view: View) -> Counter[str]:
    return Counter(text for trace in traces(view, "labels") for text in trace.text)


def explained(view: View) -> list[tuple[list[int], str]]:
    """The numbers and the words that hovering shows, cell by cell."""
    found = []
    for trace in traces(view, "pages") or traces(view, "cells"):
        data = np.asarray(trace.customdata)
        texts = [text for row in trace.text for text in row]
        found += list(zip(data.reshape(-1, data.shape[-1]).tolist(), texts, strict=True))
    return found


def big(pages: int, block_size: int = 4) -> PageMap:
    """Requests of 40 pages each, one behind the other; every third is followed by 20 cached and 20 free pages."""
    bus = scenes.start("paged", num_blocks=pages, block_size=block_size)
    bus.flush()
    state = bus.page_map
    block = request = 0
    while block + 80 <= pages:
        state.requests[request] = RequestState("p", 5, 5, request)
        state.request_ids[request] = request
        table = BlockTable(list(range(block, block + 40)))
        state.sequences[request] = SequenceState(request, [table], num_computed_tokens=40 * block_size)
        for index in range(40):
            state.pages[block + index] = Page(1, block_size, request, index, "admission", 1 + request % 7)
        block += 40
        if request % 3 == 0:
            for index in range(20):
                state.pages[block + index] = Page(0, block_size, -1, index, "request_finished", 3, hash=f"h{block}")
            block += 40
        request += 1
    state.step = 9
    return state


@given(seed=st.integers(0, 1 << 20), steps=st.integers(1, 40), mode=st.sampled_from(COLOR_MODES), kind=st.booleans())
@settings(max_examples=25, deadline=None)
def test_every_cell_tells_its_page(seed: int, steps: int, mode: str, kind: bool) -> None:
    memory = "paged" if kind else "contiguous"
    state = Simulation(seed, memory).run(steps).bus.page_map
    view = page_map_view(state, mode)
    waste, told = state.waste(), explained(view)
    assert [numbers[0] for numbers, _ in told] == list(range(12))
    assert sum(numbers[1] for numbers, _ in told) == waste.token_states
    column = list(view.table.columns).index("Slots filled")
    assert sum(row[column] for row in view.table.rows) == waste.token_states  # type: ignore[misc]
    if kind:
        assert [numbers[1:] for numbers, _ in told] == [[p.filled, p.ref_count, p.since_step] for p in state.pages]
        assert labels(view) == Counter(filter(None, (_expected_label(state, page, mode) for page in state.pages)))
        used = sum(page.ref_count > 0 for page in state.pages)
        assert f"of 12 pages on the device, {used or 'none'} (" in view.caption
    json.dumps(view.to_json())


def _expected_label(state: PageMap, page: Page, mode: str) -> str:
    family = [letter for _, letter, _, causes in CAUSE_FAMILIES if page.cause in causes]
    if mode == "age":
        return str(state.step - page.since_step) if page.cause else ""
    if mode == "cause" or not page.ref_count:
        return family[0] if mode == "cause" and family else ""
    if mode == "request":
        return request_label(state.sequences[page.owner].request)
    return {"refs": "1", "fill": f"{round(100 * page.filled / 4)}%", "mass": ""}[mode]


@pytest.mark.parametrize("step", range(1, 9))
@pytest.mark.parametrize("mode", COLOR_MODES)
def test_both_tiers_with_sharing(step: int, mode: str) -> None:
    state = scenes.tiers(step)
    view = page_map_view(state, mode, dark=True)
    told = explained(view)
    pages = [*state.pages, *state.host_pages]
    assert [numbers[1:3] for numbers, _ in told] == [[page.filled, page.ref_count] for page in pages]
    shared = sum(page.ref_count > 1 for page in pages)
    assert sum(str(trace.name).startswith("framed") for trace in view.figure.data) == (shared > 0)
    assert len(traces(view, "shared")[0].x) == 6 * shared
    assert [row[5] for row in view.table.rows] == [page.ref_count for page in pages]
    host = page_map_view(state, mode, tier="host")
    assert [numbers[0] for numbers, _ in explained(host)] == list(range(6))
    assert host.figure.layout.meta["tiers"][0]["kind"] == "host_page"


def test_what_is_written_in_the_cells() -> None:
    state = scenes.tiers(2)
    assert labels(page_map_view(state, "refs")) == {"1": 4, "2": 2}
    assert labels(page_map_view(state, "fill")) == {"75%": 4, "100%": 2}
    assert labels(page_map_view(state, "cause")) == {"P": 4, "S": 2}
    assert labels(page_map_view(state, "mass")) == {"50%": 1, "25%": 1}
    assert "Attention was not sampled" in page_map_view(scenes.paged(), "mass").caption
    assert "this is not known of it" in page_map_view(scenes.contiguous(), "cause").caption


def test_mass_of_a_shared_page_is_the_largest() -> None:
    state = scenes.tiers(2).copy()
    event = PageMassSampled(1, 6, [0.125, 0.75])
    event.seq, event.step = state.next_seq, state.step
    state.apply(event)
    mass = tier_columns(state).mass
    assert mass[[0, 1, 4]].tolist() == [0.5, 0.25, 0.75]
    assert np.isnan(np.delete(mass, [0, 1, 4])).all()


def test_orders() -> None:
    state = scenes.tiers(5)
    free = state.free_list()
    assert free is not None
    view = page_map_view(state, "refs", order="free")
    device = [trace for trace in traces(view, "labels") if max(trace.y) < 3]
    assert Counter(text for trace in device for text in trace.text) == {str(n + 1): 1 for n in range(len(free))}
    assert {row[1]: row[-1] for row in view.table.rows if row[-1]} == {page: n + 1 for n, page in enumerate(free)}
    assert f"page {free[0]} is next" in view.caption
    assert "The order of eviction is not known" in page_map_view(scenes.tiers(3), order="eviction").caption
    assert "There is no such order" in page_map_view(scenes.contiguous(), order="free").caption
    known = scenes.tiers(3).copy()
    assert known.run is not None
    known.run.config["eviction"] = "lru"
    assert known.eviction_order() == [0]
    assert "page 0 is next" in page_map_view(known, order="eviction").caption


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"color_by": "colour"}, "color_by='colour': must be one of request, refs"),
        ({"order": "up"}, "order='up': must be one of free, eviction"),
        ({"window": (3, 99)}, r"window=\(3, 99\): must be two pages in order, from 0 to 7"),
        ({"window": (3, 2)}, r"window=\(3, 2\)"),
        ({"tier": "disk"}, "disk"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        page_map_view(scenes.paged(), **arguments)


def test_of_nothing() -> None:
    assert page_map_view(PageMap()).caption == "No run yet."
    assert page_map_view(scenes.paged(), tier=Tier.HOST).caption == "This run has no host tier."


def test_contiguous_caption_counts_slots() -> None:
    caption = page_map_view(scenes.contiguous()).caption
    numbers = "of 32 slots, 10 (31 %) hold tokens, 8 are reserved and empty, 2 are lost to rounding, 12 are free."
    assert numbers in caption


@pytest.mark.parametrize("pages", [8, 64, 512, 513, 1024, 12_800, 12_801, 100_000])
def test_a_picture_has_few_cells_and_short_rows(pages: int) -> None:
    level = choose_level(pages, 16)
    cells = -(-pages // level.per_cell)
    assert cells <= MAX_CELLS
    assert -(-cells // level.columns) <= 50
    assert (level.slots > 1) == (pages * 16 <= 4096)


@pytest.mark.parametrize("mode", COLOR_MODES)
def test_aggregates_add_up(mode: str) -> None:
    state = big(30_001)
    view = page_map_view(state, mode)
    told = explained(view)
    per_cell = view.figure.layout.meta["pages_per_cell"]
    assert per_cell == 4
    assert [numbers[0] for numbers, _ in told] == list(range(0, 30_001, 4))
    assert sum(numbers[3] for numbers, _ in told) == 30_001
    assert sum(numbers[4] for numbers, _ in told) == sum(page.ref_count > 0 for page in state.pages)
    columns, shades = tier_columns(state), color_mode(mode, state)
    values = shades.numbers(columns)
    for numbers, text in told[:: len(told) // 97]:
        first, last, share = numbers[0], numbers[1], numbers[2]
        pairs = zip(values[first : last + 1], columns.state[first : last + 1], strict=True)
        part = [STATE_WORDS[state_of] if np.isnan(value) else value for value, state_of in pairs]
        if shades.is_mean:
            part = ["a number" if isinstance(value, float) else value for value in part]
        common = max(Counter(part).values())
        assert share == common, text
        assert text.startswith("on average ") == (shades.is_mean and Counter(part).most_common(1)[0][0] == "a number")
    rows = view.table.rows
    assert len(rows) <= 600
    assert rows[0][:5] == ["device", 0, 39, "in use", "A"]
    assert "A cell stands for 4 pages" in view.caption


def test_a_window_opens_up() -> None:
    state = big(30_000)
    whole = page_map_view(state)
    meta = whole.figure.layout.meta
    per_row = meta["columns"] * meta["pages_per_cell"]
    window = zoom_window(meta, 2.5, 3.2)
    assert window == (2 * per_row, 4 * per_row - 1)
    view = page_map_view(state, window=window)
    assert [numbers[0] for numbers, _ in explained(view)] == list(range(window[0], window[1] + 1))
    assert view.figure.layout.meta["pages_per_cell"] == 1
    assert f"of pages {window[0]:,} to {window[1]:,}" in view.caption
    closer = page_map_view(state, window=(80, 119))
    assert sum(traces(closer, "cells")[0].z.shape[1:]) == 4 * closer.figure.layout.meta["columns"]
    assert labels(closer) == {"B": 40}
    assert zoom_window(meta, 10, 11 + meta["page_rows"]) == (10 * per_row, 29_999)
    assert zoom_window(meta, -5, -1) is None
    assert zoom_window(view.figure.layout.meta, 0, 1) == (window[0], window[0] + view.figure.layout.meta["columns"] - 1)


def test_a_hundred_thousand_pages_are_built_at_once() -> None:
    state = big(100_000)
    page_map_view(state)
    took = []
    for _ in range(3):
        began = time.process_time()
        page_map_view(state)
        took.append(time.process_time() - began)
    assert min(took) < 0.3


def test_usual_runs_stay_small() -> None:
    state = Simulation(3, num_blocks=256, block_size=16, max_running=40, arrivals=1.0).run(80).bus.page_map
    for mode in COLOR_MODES:
        assert len(json.dumps(page_map_view(state, mode).to_json()["data"])) < 60_000
