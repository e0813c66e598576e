"""One page's and one request's life are what the states say at every step, and they are told in words."""

from __future__ import annotations

import json

import pytest

from tests.events.engine_runs import RUNS, make
from tests.events.synthetic import Simulation
from tests.views.test_series import by_hand, synthetic
from workbench.events import EventBus, History, Timeline
from workbench.events.holdings import Holding, holdings
from workbench.events.types import Tier
from workbench.models import LoadedModel
from workbench.views import page_life_view, preemption_view, request_life_view
from workbench.views.page_life_index import LifeIndex, life_index
from workbench.views.page_life_rows import CACHED


def check(history: History) -> None:
    """The index says of every page and request what the state says, after every step."""
    index = life_index(history)
    assert index.run is not None
    sizes = {Tier.DEVICE: index.run.num_blocks if index.paged else 0, Tier.HOST: index.run.num_host_blocks}
    pages = {(tier, block): index.page_rows(block, tier) for tier in Tier for block in range(sizes[tier])}
    requests = {request: index.request_rows(request) for request in index.tracker.tracks}
    for step in sorted({batch.step for batch in history.batches()}):
        state = history.state_at(step)
        held = holdings(state)
        for request, rows in requests.items():
            holding = held.get(request, Holding())
            here = holding.region.size if holding.region is not None else holding.pages
            assert rows.at(step) == (here, holding.host_pages, holding.tokens), (step, request)
        for (tier, block), life in pages.items():
            page = (state.pages if tier is Tier.DEVICE else state.host_pages)[block]
            refs = page.ref_count or (CACHED if page.is_cached else 0)
            upto = life.until(step)
            known = (life.refs[upto - 1], life.filled[upto - 1]) if upto else (0, 0)
            assert known == (refs, page.filled), (step, tier, block)


@pytest.mark.parametrize("memory", ["paged", "contiguous"])
def test_lives_in_random_runs(memory: str) -> None:
    check(synthetic(memory, 6))


def test_lives_in_the_run_by_hand() -> None:
    check(by_hand())


@pytest.mark.parametrize("name", list(RUNS))
def test_lives_in_real_runs(name: str, llama: LoadedModel) -> None:
    check(make(name, llama)[0])


def test_a_history_that_grows_forgets_or_is_joined_late_has_an_index() -> None:
    bus = EventBus()
    timeline = Timeline(bus)
    short = Timeline(bus, max_steps=10, keyframe_every=2)
    simulation = Simulation(8, bus=bus)
    simulation.run(20)
    late = Timeline(bus)
    first = life_index(timeline)
    life_index(short)
    for _ in range(40):
        simulation.step()
    assert life_index(timeline) is first
    for history in (timeline, late, short):
        check(history)


def test_a_pages_life_is_told_in_order_with_causes() -> None:
    view = page_life_view(by_hand(), 0)
    told = [(row[0], row[1], row[2]) for row in view.table.rows]
    assert told[0] == (
        1,
        "page 0 -> request A, sequence 0, its logical page 0 (layer group 0)",
        "a waiting request was let in",
    )
    assert told[1][1] == "request A: 4 tokens stored, 4 slots are filled now"
    assert [step for step, *_ in told] == sorted(step for step, *_ in told)
    moved = next(words for _, words, _ in told if "moved" in str(words))
    assert moved == "request A: what is in page 0 moved to host page 0, with 5 other pages"
    assert any("is kept for reuse" in str(words) for _, words, _ in told)
    assert any("its content abcdef01 is lost" in str(words) for _, words, _ in told)
    assert page_life_view(by_hand(), 0, step=3).caption.startswith("Step 3: page 0 is cached")
    assert "request B, shared by 2 sequences" in page_life_view(by_hand(), 0, step=4).caption
    host = page_life_view(by_hand(), 0, Tier.HOST, 4)
    assert host.caption.startswith("Step 4: host page 0 belongs to request A, shared by 2 sequences, 4 of 4 slots")


def test_the_strip_shows_who_had_the_page() -> None:
    figure = page_life_view(by_hand(), 0, step=4).figure
    strip = figure.data[0]
    stays = [(text, base + 0.5, length) for text, base, length in zip(strip.text, strip.base, strip.x, strict=True)]
    assert stays[:3] == [("A×2", 1, 2), ("cached", 3, 1), ("B×2", 4, 2)]
    assert [shape.x0 for shape in figure.layout.shapes] == [4]


def test_some_steps_of_a_pages_life_begin_with_how_it_was() -> None:
    figure = page_life_view(by_hand(), 0, step=6, steps=(5, 6)).figure
    strip = figure.data[0]
    stays = [(text, base + 0.5, length) for text, base, length in zip(strip.text, strip.base, strip.x, strict=True)]
    assert stays == [("B", 5, 1), ("cached", 6, 1)]
    assert figure.data[1].y[0] == 4
    with pytest.raises(ValueError, match=r"steps=\(20, 30\).*from step 0 to step 8"):
        page_life_view(by_hand(), 0, steps=(20, 30))


def test_contiguous_memory_has_pieces_of_the_arena() -> None:
    history = synthetic("contiguous", 1)
    view = page_life_view(history, 0, step=20)
    assert "the piece of the arena from slot 0 to 3" in view.caption
    assert any("lost to rounding" in str(row[1]) or "asked for" in str(row[1]) for row in view.table.rows)


def test_what_does_not_exist_is_named() -> None:
    history = by_hand()
    with pytest.raises(ValueError, match="block=12: must be from 0 to 11"):
        page_life_view(history, 12)
    with pytest.raises(ValueError, match="block=0: this run has no host tier"):
        page_life_view(synthetic("paged", 0, 5), 0, Tier.HOST)
    with pytest.raises(ValueError, match="request=7: must be from 0 to 2"):
        request_life_view(history, 7)
    assert "never been used" in page_life_view(history, 11).caption
    assert page_life_view(Timeline(EventBus()), 0).caption == "No run yet."


def test_why_it_was_preempted_and_what_that_cost() -> None:
    history = by_hand()
    view = preemption_view(history, 0)
    assert view.caption.startswith("Request A was preempted once. Preempted at step 3 because too few pages were free")
    (row,) = view.table.rows
    assert "its 6 pages moved to the host tier, no token was lost (swap: as configured)" in str(row[1])
    assert str(row[2]).startswith("It waited 2 steps")
    measured = "12288 bytes out and back took 2.5 ms (measured, 2.0 ms expected"
    assert row[3] == f"Moving {measured}; computing it again was expected to take 9.0 ms)."
    values = {bar.name: list(bar.x) for bar in view.figure.data}
    assert values == {
        "swapping, expected": [2.0],
        "computing again, expected": [9.0],
        "what it took, measured": [2.5],
    }


def test_nothing_is_told_that_came_after_the_step_shown() -> None:
    history = by_hand()
    words = preemption_view(history, 0, step=4).caption
    assert words.endswith("It has waited 1 step so far. What it costs is not known yet.")
    assert "not preempted up to step 2" in preemption_view(history, 0, step=2).caption
    lost = preemption_view(history, 2).caption
    assert "its pages in the host tier had to make room: 9 tokens lost" in lost


def test_a_requests_life() -> None:
    history = by_hand()
    view = request_life_view(history, 0, step=3)
    assert view.caption.startswith("Step 3: Request A is swapped out to the host tier; it holds 6 host pages with 10")
    assert "ended at step 6 (length)" in request_life_view(history, 0).caption
    told = [str(row[1]) for row in view.table.rows]
    assert told[0].startswith("request A arrives: 6 prompt tokens")
    assert "pages 0, 1, 2, 3 handed out" in told
    assert any(words.startswith("The preemption at step 3 is made good. Moving") for words in told)
    contiguous = request_life_view(synthetic("contiguous", 1), 0, step=2).caption
    assert "region" in contiguous or "queue" in contiguous


@pytest.mark.parametrize("dark", [False, True])
def test_lives_are_small_figures_however_long_the_run(dark: bool) -> None:
    bus = EventBus()
    timeline = Timeline(bus)
    Simulation(4, bus=bus, requests=100_000).run(1200)
    page = page_life_view(timeline, 3, step=600, dark=dark)
    assert len(json.dumps(page.to_json())) < 70_000
    assert len(page.table.rows) <= 120
    assert any(row[0] == 600 or abs(int(row[0] or 0) - 600) < 30 for row in page.table.rows)
    busiest = max(life_index(timeline).tracker.tracks.values(), key=lambda track: len(track.preemptions))
    view = request_life_view(timeline, busiest.request, dark=dark)
    assert len(json.dumps(view.to_json())) < 40_000


def test_an_index_refuses_a_hole() -> None:
    history = by_hand()
    batches = list(history.batches())
    index = LifeIndex(history.initial)
    assert index.extend(batches[0])
    assert not index.extend(batches[2])
