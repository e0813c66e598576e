"""Block tables and what sequences share: what the figures point to is what the page map says."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.events import scenario
from tests.events.synthetic import Simulation
from tests.views import scenes
from workbench import LLM, EngineConfig, SamplingParams
from workbench.events import AnyEvent, EventBus, PageMap
from workbench.events.state import BlockTable, OutputText, Page, RequestState, SequenceState
from workbench.events.types import BlockCopied
from workbench.models import LoadedModel
from workbench.views import View, block_table_view, block_tables_view, sharing_tree_view
from workbench.views.sharing_tree_nodes import sharing_forest


def trace(view: View, name: str) -> Any:
    return next(trace for trace in view.figure.data if trace.name == name)


def step_of(number: int) -> tuple[PageMap, list[AnyEvent]]:
    bus = EventBus()
    return next((bus.page_map, batch.events) for batch in scenario.play(bus) if batch.step == number)


@pytest.mark.parametrize("step", range(1, 8))
@pytest.mark.parametrize("group", [0, 1])
def test_rows_are_the_table(step: int, group: int) -> None:
    state, events = step_of(step)
    for name, sequence in state.sequences.items():
        if group >= len(sequence.tables):
            continue
        view = block_table_view(state, name, group, events, dark=step % 2 == 0)
        table = sequence.tables[group]
        places = [
            ("device", block) if block >= 0 else ("host", table.host[i]) if i in table.host else ("gone", None)
            for i, block in enumerate(table.blocks)
        ]
        assert [tuple(row[1:3]) for row in view.table.rows] == places
        z = np.asarray(trace(view, "slots").z)
        assert [(row == 0).sum() for row in z] == [row[3] or 0 for row in view.table.rows]
        clicks = [("host_page" if tier == "host" else "page", block) for tier, block in places if tier != "gone"]
        assert [tuple(click) for click in trace(view, "pages").customdata] == clicks
        json.dumps(view.to_json())


def test_copy_on_write_is_shown_as_it_happened() -> None:
    state, events = step_of(2)
    view = block_table_view(state, 1, 0, events)
    assert "A·2 had to write to page 1, which 1 other sequence used, too, so 2 slots of it were copied" in view.caption
    assert [row[2] for row in view.table.rows] == [0, 4]
    assert [row[-1] for row in view.table.rows] == [None, 1]
    (arrow,) = view.figure.layout.annotations
    assert (arrow.showarrow, arrow.text, arrow.y) == (True, "copied from page 1 (2 slots)", 1.5)
    assert not block_table_view(state, 0, 0, events).figure.layout.annotations
    assert not block_table_view(state, 1).figure.layout.annotations


def test_captions_say_what_is_shared_swapped_and_gone() -> None:
    host = block_table_view(step_of(7)[0], 4).caption
    assert "C·1 has 9 tokens in 3 pages" in host
    assert "3 of them are shared with other sequences; 1 of them is on the host." in host
    gone = block_table_view(step_of(5)[0], 2, 1)
    assert "has 2 tokens in 1 page of layer group 1, which has a window of 8 tokens" in gone.caption
    assert "1 more page lay behind the sliding window and is gone." in gone.caption
    assert gone.table.rows[0][1] == "gone"


def test_what_cannot_be_shown_is_named() -> None:
    state = step_of(2)[0]
    with pytest.raises(ValueError, match=r"sequence=7: must be one that holds memory \(0, 1\)"):
        block_table_view(state, 7)
    with pytest.raises(ValueError, match="group=2: must be from 0 to 1"):
        block_table_view(state, 0, 2)
    with pytest.raises(ValueError, match=r"request=3: must be one that holds pages \(0\)"):
        block_tables_view(state, 3)
    with pytest.raises(ValueError, match="group=9: must be from 0 to 1"):
        block_tables_view(state, 0, 9)
    with pytest.raises(ValueError, match="request=3"):
        sharing_tree_view(state, 3)
    for view in (lambda s: block_table_view(s, 0), lambda s: block_tables_view(s, 0), sharing_tree_view):
        with pytest.raises(ValueError, match="memory: must be paged"):
            view(scenes.contiguous())


def test_a_shared_page_is_drawn_once() -> None:
    view = block_tables_view(scenes.tiers(2), 0)
    assert [tuple(click) for click in trace(view, "pages").customdata] == [("page", 0), ("page", 1), ("page", 4)]
    assert trace(view, "pages").text[0] == "<b>page 0</b> ×2 (A·1 and A·2)"
    assert "have 4 pages in their tables, but these are only 3 physical pages: 1 page saved" in view.caption
    assert [row[:4] for row in view.table.rows] == [
        ["A·1", 0, "device", 0],
        ["A·1", 1, "device", 1],
        ["A·2", 0, "device", 0],
        ["A·2", 1, "device", 4],
    ]


def branching(prefix: int, width: int, own: int, requests: int = 1) -> PageMap:
    """Requests of ``width`` sequences that share ``prefix`` pages and have ``own`` more each."""
    total = requests * (prefix + width * own)
    bus = scenes.start("paged", num_blocks=total)
    bus.flush()
    state = bus.page_map
    block = 0
    for request in range(requests):
        first = request * width
        names = range(first, first + width)
        outputs = {name: OutputText() for name in names}
        state.requests[request] = RequestState("p", 5, 5, first, width, outputs=outputs)
        shared = list(range(block, block + prefix))
        block += prefix
        for number in shared:
            state.pages[number] = Page(width, 4, first, number - shared[0], "prefill", 1)
        for name in names:
            mine = list(range(block, block + own))
            block += own
            for index, number in enumerate(mine, prefix):
                state.pages[number] = Page(1, 4, name, index, "decode", 1)
            state.request_ids[name] = request
            state.sequences[name] = SequenceState(request, [BlockTable(shared + mine)], None, 4 * (prefix + own))
    return state


def test_many_pages_are_drawn_in_runs() -> None:
    view = block_tables_view(branching(20, 20, 3), 0)
    assert len(trace(view, "pages").x) == 1 + 12
    assert trace(view, "pages").text[0] == "<b>20 pages</b>: 0, 1, 2, 3, … ×20"
    assert "8 more tables are not drawn." in view.caption
    assert "460 pages in their tables, but these are only 80 physical pages" in view.caption


def test_a_long_table_is_drawn_at_its_ends() -> None:
    view = block_table_view(branching(100, 1, 0), 0)
    assert np.asarray(trace(view, "slots").z).shape == (40, 4)
    assert "60 pages in the middle are not drawn." in view.caption
    assert len(view.table.rows) == 100


def test_the_tree_of_the_scenario() -> None:
    view = sharing_tree_view(scenes.tiers(2), dark=True)
    assert [list(row[:6]) for row in view.table.rows] == [
        [0, 1, 2, 1, "A", "A·1 and A·2"],
        [1, 1, 1, 0, "A", "A·1"],
        [1, 1, 1, 0, "A", "A·2"],
    ]
    assert "2 sequences use 3 pages instead of 4: 1 page saved (25 %)" in view.caption
    assert "This is layer group 0 of 2." in view.caption
    assert "1 page that nobody uses is kept for reuse." in sharing_tree_view(scenes.tiers(3)).caption
    assert list(trace(sharing_tree_view(scenes.tiers(3)), "kept pages").text) == ["1"]
    assert sharing_tree_view(PageMap()).caption == "No run yet."
    assert "nothing is shared" in sharing_tree_view(scenes.paged()).caption


def test_of_hundreds_of_sequences_the_biggest_trees_are_drawn() -> None:
    state = branching(5, 30, 1, requests=10)
    view = sharing_tree_view(state)
    assert len(trace(view, "sequences").text) == 30
    assert "300 sequences use 350 pages instead of 1,800: 1,450 pages saved (81 %)" in view.caption
    assert "270 more sequences are not drawn." in view.caption
    assert "252 more sequences are not drawn" in sharing_tree_view(branching(2, 300, 1)).caption
    assert len(json.dumps(view.to_json())) < 60_000


@given(st.integers(0, 1 << 20), st.integers(1, 30))
@settings(max_examples=25, deadline=None)
def test_every_page_is_in_the_tree_once(seed: int, steps: int) -> None:
    state = Simulation(seed, num_blocks=20).run(steps).bus.page_map
    forest = sharing_forest(state)
    places = [place for root in forest for node in root.walk() for place in node.places]
    assert len(places) == len(set(places)) == sum(page.ref_count > 0 for page in state.pages)
    assert sorted(name for root in forest for name in root.leaves) == sorted(state.sequences)


@pytest.fixture(scope="module")
def sampled(tiny: LoadedModel) -> list[tuple[PageMap, list[AnyEvent]]]:
    """A run of the bundled model: three samples of one prompt."""
    llm = LLM(tiny, EngineConfig(block_size=4, num_blocks=64, seed=0))
    prompt = "Once upon a time there was a fox."
    llm.add_request(prompt, SamplingParams(n=3, max_tokens=6, seed=1, temperature=1.0, ignore_eos=True))
    seen = []
    while llm.has_unfinished:
        events = list(llm.step().events)
        seen.append((llm.page_map.copy(), events))
    return seen


def test_a_real_run(sampled: list[tuple[PageMap, list[AnyEvent]]]) -> None:
    copied = 0
    for state, events in sampled:
        named, used = state.sharing()
        if not state.sequences:
            continue
        tree = sharing_tree_view(state)
        assert sum(row[3] for row in tree.table.rows) == named - used  # type: ignore[misc]
        assert sum(row[1] for row in tree.table.rows) == used  # type: ignore[misc]
        for name in state.sequences:
            view = block_table_view(state, name, 0, events)
            text = "".join(str(row[6]) for row in view.table.rows)
            request = state.requests[0]
            assert (request.prompt + request.outputs[name].text).startswith(text)
            assert len(text) >= len(request.prompt)
            mine = [e for e in events if isinstance(e, BlockCopied) and e.sequence == name]
            assert [row[-1] for row in view.table.rows if row[-1] is not None] == [event.source for event in mine]
            copied += len(mine)
    assert copied == 2


def test_narrow_pictures_say_less_and_mean_the_same(sampled: list[tuple[PageMap, list[AnyEvent]]]) -> None:
    state, events = sampled[1]
    name = next(iter(state.sequences))
    wide, narrow = (block_table_view(state, name, 0, events, narrow=value) for value in (False, True))
    assert (wide.caption, wide.table) == (narrow.caption, narrow.table)
    assert trace(narrow, "pages").customdata == trace(wide, "pages").customdata
    assert trace(wide, "pages").text[0] == f"<b>page {wide.table.rows[0][2]}</b>"
    assert trace(narrow, "pages").text[0] == f"<b>{wide.table.rows[0][2]}</b>"
    together = block_tables_view(state, 0, narrow=True)
    assert together.caption == block_tables_view(state, 0).caption
    assert max(len(text) for text in trace(together, "pages").text) < 24
