"""Real runs with samples, beams, swapping, prefix caching, streaming and windows: waste, recordings, words, tables."""

from __future__ import annotations

import io
from collections import Counter

import pytest

from tests.events.engine_runs import RUNS, make
from workbench.events import History, PageMap, Recording
from workbench.events import types as ev
from workbench.events.holdings import holdings, requests_of_pages
from workbench.events.waste import WasteSplit, measure_waste
from workbench.events.words import describe
from workbench.models import LoadedModel
from workbench.replay_screen import Style, char_width, render


def brute_force(history: History) -> list[WasteSplit]:
    """Every slot of every page judged by comparing whole states, without a look at what kind of event came between."""
    stays: dict[int, int] = {}
    last_fill: list[int] = []
    ended: list[bool] = []
    seen: list[tuple[list[tuple[int, int]], int, int]] = []
    size = 0
    for event, state in history.walk():
        size = state.block_size
        for block, page in enumerate(state.pages):
            if page.ref_count and block not in stays:
                stays[block] = len(last_fill)
                last_fill.append(0)
                ended.append(False)
            if page.ref_count:
                last_fill[stays[block]] = page.filled
            elif block in stays:
                ended[stays.pop(block)] = True
        if isinstance(event, ev.StepFinished):
            cached = sum(page.is_cached for page in state.pages)
            free = len(state.pages) - cached - len(stays)
            seen.append(([(stay, state.pages[b].filled) for b, stay in stays.items()], cached, free))
    splits = []
    for held, cached, free in seen:
        count: Counter[str] = Counter()
        for stay, filled in held:
            for slot in range(size):
                if slot < filled:
                    count["token_states"] += 1
                elif not ended[stay]:
                    count["reserved"] += 1
                else:
                    count["reservation" if slot < last_fill[stay] else "internal"] += 1
        splits.append(WasteSplit(**count, free=free * size, cached=cached * size))
    return splits


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", RUNS)
def test_every_run(name: str, seed: int, llama: LoadedModel) -> None:
    file = io.BytesIO()
    timeline, states = make(name, llama, seed, file)
    check_waste(name, timeline, states[-1].num_slots)
    check_recording(file.getvalue(), states)
    totals = states[-1].totals
    if name in ("swap", "swap and cache"):
        assert totals.swapped_out_bytes == totals.swapped_in_bytes > 0
    if "cache" in name:
        assert totals.prefix_hit_tokens > 0
    if name == "stream":
        assert totals.streamed_bytes > 0
    check_holdings(states)
    check_words(timeline)
    assert len(timeline.to_pandas()) == states[-1].next_seq + 1


def check_waste(name: str, timeline: History, num_slots: int) -> None:
    report = measure_waste(timeline)
    assert all(step.slots.total == num_slots for step in report.steps)
    assert report.shares.reserved == 0
    held = report.shares.without_free()
    assert held.free == held.cached == 0
    assert held.total == pytest.approx(1)
    if name != "contiguous":
        assert [step.slots for step in report.steps] == brute_force(timeline)


def check_recording(data: bytes, states: list[PageMap]) -> None:
    with Recording.open(data) as recording:
        assert recording.is_complete
        assert len(recording._keyframes) > 1
        for state in reversed(states):  # so that every keyframe is used
            if state.step != recording.last_step:  # the end of the run has its number, too
                assert recording.state_at(state.step) == state


def check_holdings(states: list[PageMap]) -> None:
    """Counted again, page by page."""
    for state in states[::5]:
        held = holdings(state)
        for request, holding in held.items():
            mine = [q for q in state.sequences.values() if q.request == request]
            device = {b for q in mine for t in q.tables for b in t.blocks if b >= 0}
            assert holding.pages == len(device)
            assert holding.host_pages == len({b for q in mine for t in q.tables for b in t.host.values()})
            assert holding.shared == sum(state.pages[b].ref_count > 1 for b in device)
            assert holding.sequences == len(mine)
            if len(mine) == 1 and not holding.host_pages:
                assert holding.tokens == mine[0].num_computed_tokens
        device_users, _ = requests_of_pages(state)
        assert set(device_users) == {b for b, page in enumerate(state.pages) if page.ref_count > 1}


def check_words(timeline: History) -> None:
    for event, state in timeline.walk():
        assert "\n" not in describe(event, state)
    for step in range(timeline.first_step, timeline.last_step, 7):
        steps = (step, timeline.first_step, timeline.last_step)
        for width in (24, 80):
            text = render(timeline.state_at(step), timeline.events(step), steps, Style(width), True, False)
            assert max(sum(map(char_width, line)) for line in text.splitlines()) <= width
        plain = render(timeline.state_at(step), timeline.events(step), steps, Style(80, plain=True), True, True)
        assert plain.isascii()
