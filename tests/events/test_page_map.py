"""The reducer: equal to independent books after every step, and deaf to nothing that contradicts them."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.events.synthetic import GEOMETRY, Simulation
from workbench.events import InvalidEventError, PageMap, RequestStatus
from workbench.events import types as ev
from workbench.events.page_map import MAX_BLOCKS, decode_page_map, encode_page_map
from workbench.events.types import Cause


def assert_equal_to_books(state: PageMap, books: Simulation) -> None:
    assert {s: q.num_computed_tokens for s, q in state.sequences.items()} == books.tokens
    assert state.running == books.running
    assert state.waiting == books.waiting
    assert state.waste() == books.waste()
    waste = state.waste()
    assert waste.token_states + waste.reserved + waste.external + waste.free == books.num_blocks * books.block_size
    if books.paged:
        assert {s: q.block_table for s, q in state.sequences.items()} == books.tables
        held = {block: s for s, table in books.tables.items() for block in table}
        assert {block: page.owner for block, page in enumerate(state.pages) if page.ref_count} == held
        for s, table in books.tables.items():
            fills = [min(books.block_size, max(0, books.tokens[s] - i * books.block_size)) for i in range(len(table))]
            assert [state.pages[block].filled for block in table] == fills
    else:
        regions = {s: q.region for s, q in state.sequences.items()}
        assert {s: (r.start, r.size, r.requested) for s, r in regions.items() if r} == books.regions


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    memory=st.sampled_from(["paged", "contiguous"]),
    num_blocks=st.integers(8, 40),
    block_size=st.sampled_from([1, 4, 16]),
)
def test_the_state_equals_the_books_after_every_step(seed: int, memory: str, num_blocks: int, block_size: int) -> None:
    simulation = Simulation(seed, memory, num_blocks, block_size)
    for _ in range(60):
        simulation.step()
        assert_equal_to_books(simulation.bus.page_map, simulation)


def test_the_simulation_covers_what_the_tests_rely_on() -> None:
    kinds: set[type] = set()
    states: set[RequestStatus] = set()
    for memory in ("paged", "contiguous"):
        simulation = Simulation(1, memory, num_blocks=6)
        simulation.bus.subscribe(lambda batch: kinds.update(map(type, batch.events)))
        for _ in range(200):
            simulation.step()
            states |= {request.status for request in simulation.bus.page_map.requests.values()}
        simulation.close()
    assert kinds == set(ev.AnyEvent.__args__)
    assert states == set(RequestStatus)


def test_text_and_totals_are_rebuilt() -> None:
    simulation = Simulation(arrivals=0)
    request = simulation.add_request(prompt_tokens=5, max_tokens=3)
    simulation.run(4)
    state = simulation.bus.page_map.requests[request]
    assert state.status is RequestStatus.FINISHED
    assert state.text == "".join(f" t{token}" for token in state.token_ids)
    assert len(state.token_ids) == 3
    assert (state.queued_step, state.admitted_step, state.finished_step) == (1, 1, 3)
    totals = simulation.bus.page_map.totals
    assert totals.generated_tokens == 3
    assert totals.busy_ns > 3000


def test_a_copy_is_independent_and_survives_encoding() -> None:
    simulation = Simulation(5).run(40)
    copy = simulation.bus.page_map.copy()
    before = encode_page_map(copy)
    assert copy == simulation.bus.page_map
    simulation.run(10)
    assert copy != simulation.bus.page_map
    assert encode_page_map(copy) == before
    assert decode_page_map(before) == copy


def run_started(**changes: object) -> ev.RunStarted:
    fields = {
        "schema_version": 1,
        "memory": "paged",
        "block_size": 4,
        "num_blocks": 4,
        "bytes_per_block": 1024,
        "seed": 0,
        "model": GEOMETRY,
        "config": {},
    }
    return ev.RunStarted(**(fields | changes))  # type: ignore[arg-type]


def fold(*events: ev.AnyEvent) -> PageMap:
    state = PageMap()
    for seq, event in enumerate(events):
        event.seq, event.step = seq, 1
        state.apply(event)
    return state


def queued(request: int = 0) -> ev.RequestQueued:
    return ev.RequestQueued(request, request, "prompt", 3, 8)


def allocated(block: int, sequence: int = 0, index: int = 0) -> ev.BlockAllocated:
    return ev.BlockAllocated(ev.Tier.DEVICE, block, sequence, index, Cause.ADMISSION)


CONTRADICTIONS = {
    "a page is given to two": [run_started(), queued(0), queued(1), allocated(1, 0), allocated(1, 1)],
    "a page that does not exist": [run_started(), queued(), allocated(4)],
    "a negative page": [run_started(), queued(), allocated(-1)],
    "a hole in the block table": [run_started(), queued(), allocated(0, index=1)],
    "a page for nobody": [run_started(), allocated(0)],
    "a write past the page": [run_started(), queued(), allocated(0), ev.SlotsWritten(0, 0, 0, 5, Cause.PREFILL)],
    "a write that leaves a hole": [run_started(), queued(), allocated(0), ev.SlotsWritten(0, 0, 1, 1, Cause.PREFILL)],
    "a negative write": [run_started(), queued(), allocated(0), ev.SlotsWritten(0, 0, 0, -1, Cause.PREFILL)],
    "a write into a free page": [run_started(), queued(), ev.SlotsWritten(0, 0, 0, 1, Cause.PREFILL)],
    "freed while in use": [run_started(), queued(), allocated(0), ev.BlockFreed(0, Cause.CANCELLED)],
    "released by a stranger": [run_started(), queued(), allocated(0), ev.BlockReleased(0, 1, 0, Cause.CANCELLED)],
    "released twice": [run_started(), queued(), ev.BlockReleased(0, 0, 0, Cause.CANCELLED)],
    "admitted without being queued": [run_started(), ev.RequestAdmitted(0, 0)],
    "queued twice": [run_started(), queued(), queued()],
    "a token out of order": [run_started(), queued(), ev.TokenGenerated(0, 0, 1, 5, "x")],
    "finished twice": [
        run_started(),
        queued(),
        ev.RequestFinished(0, ev.FinishReason.STOP, 0),
        ev.RequestFinished(0, ev.FinishReason.STOP, 0),
    ],
    "two beginnings": [run_started(), run_started()],
    "a pool of no pages": [run_started(num_blocks=0)],
    "a pool too large to be true": [run_started(num_blocks=MAX_BLOCKS + 1)],
    "pages too large to be true": [run_started(block_size=1 << 40)],
    "a region in paged memory": [run_started(), queued(), ev.RegionReserved(0, 0, 4, 4, Cause.ADMISSION)],
    "a region past the arena": [
        run_started(memory="contiguous"),
        queued(),
        ev.RegionReserved(0, 8, 16, 16, Cause.ADMISSION),
    ],
    "a region smaller than asked for": [
        run_started(memory="contiguous"),
        queued(),
        ev.RegionReserved(0, 0, 4, 8, Cause.ADMISSION),
    ],
    "a region that was never reserved": [
        run_started(memory="contiguous"),
        queued(),
        ev.RegionReleased(0, 0, 4, Cause.CANCELLED),
    ],
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_contradiction_is_refused(name: str) -> None:
    *before, last = CONTRADICTIONS[name]
    fold(*before)  # all is well up to here
    with pytest.raises(InvalidEventError, match=type(last).__name__):
        fold(*before, last)


def test_a_missing_event_is_noticed() -> None:
    state = fold(run_started())
    late = queued()
    late.seq = 2
    with pytest.raises(InvalidEventError, match="expected event seq 1, got 2"):
        state.apply(late)
