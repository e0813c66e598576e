"""Regions and holes of contiguous memory cover the arena, and the captions count them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.events.synthetic import Simulation
from tests.views import scenes
from workbench.events import PageMap
from workbench.views import contiguous_view


@given(st.integers(0, 1 << 20), st.integers(1, 40))
@settings(max_examples=20, deadline=None)
def test_rows_cover_the_arena(seed: int, steps: int) -> None:
    state = Simulation(seed, "contiguous", num_blocks=16).run(steps).bus.page_map
    view = contiguous_view(state, dark=bool(seed % 2))
    rows = [list(row) for row in view.table.rows]
    position = 0
    for first, last, what, request, size, used, reserved, lost in rows:
        assert first == position
        assert last == first + size - 1
        assert what == "hole" or (request and size == used + reserved + lost)
        position = last + 1
    assert position == state.num_slots
    waste = state.waste()
    assert (sum(row[5] for row in rows), sum(row[6] for row in rows)) == (waste.token_states, waste.reserved)
    holes = [row[4] for row in rows if row[2] == "hole"]
    assert sum(holes) + sum(row[7] for row in rows) == waste.external + waste.free
    if len(holes) > 1:
        assert f"{len(holes)} holes have {sum(holes)} slots together, the largest {max(holes)}." in view.caption
    json.dumps(view.to_json())


def test_what_the_head_needs() -> None:
    view = contiguous_view(scenes.contiguous())
    assert "C waits for 16 slots in one piece; the allocator has at most 8 in one." in view.caption
    names = [trace.name for trace in view.figure.data]
    assert "thick frame: largest hole, 8 slots" in names
    assert "free, but in pieces that are too small" in names
    (written,) = [trace for trace in view.figure.data if trace.name == "holes"]
    assert sorted(written.text) == ["hole of 4 slots", "hole of 8 slots"]
    (need,) = view.figure.layout.shapes
    assert need.x1 == view.figure.layout.meta["columns"]
    assert view.figure.layout.annotations[0].text == "C needs 16 slots in one piece, 2 rows"


def test_paged_memory_has_no_regions() -> None:
    with pytest.raises(ValueError, match="memory: must be contiguous"):
        contiguous_view(scenes.paged())
    assert contiguous_view(PageMap()).caption == "No run yet."
