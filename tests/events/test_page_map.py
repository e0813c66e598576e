"""The reducer: equal to independent books after every step, and deaf to nothing that contradicts them."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.events import scenario
from tests.events.synthetic import GEOMETRY, Simulation
from workbench.events import EventBus, InvalidEventError, PageMap, RequestStatus
from workbench.events import types as ev
from workbench.events.page_map import MAX_BLOCKS, decode_page_map, encode_page_map
from workbench.events.types import Cause, Tier


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
    assert states == set(RequestStatus) - {RequestStatus.SWAPPED}
    bus = EventBus()
    bus.subscribe(lambda batch: kinds.update(map(type, batch.events)))
    for _ in scenario.play(bus):
        states |= {request.status for request in bus.page_map.requests.values()}
    assert kinds == set(ev.AnyEvent.__args__)
    assert states == set(RequestStatus)


def test_the_scenario_step_by_step() -> None:
    bus = EventBus()
    states = {batch.step: bus.page_map.copy() for batch in scenario.play(bus)}

    def tables(step: int) -> dict[int, list[tuple[list[int], dict[int, int]]]]:
        return {s: [(t.blocks, t.host) for t in q.tables] for s, q in states[step].sequences.items()}

    def counts(step: int) -> dict[int, int]:
        return {block: page.ref_count for block, page in enumerate(states[step].pages) if page.ref_count}

    both = [([0, 1], {}), ([2, 3], {})]
    assert tables(1) == {0: both, 1: both}
    assert counts(1) == {0: 2, 1: 2, 2: 2, 3: 2}
    assert states[1].sharing() == (8, 4)
    assert tables(2) == {0: both, 1: [([0, 4], {}), ([2, 5], {})]}
    assert counts(2) == {0: 2, 1: 1, 2: 2, 3: 1, 4: 1, 5: 1}
    assert states[2].pages[4].filled == 3
    assert states[2].sequences[0].mass == [0.5, 0.25]
    assert tables(3) == {
        0: [([-1, -1], {0: 0, 1: 1}), ([-1, -1], {0: 2, 1: 3})],
        1: [([-1, -1], {0: 0, 1: 4}), ([-1, -1], {0: 2, 1: 5})],
    }
    assert [page.ref_count for page in states[3].host_pages] == [2, 1, 2, 1, 1, 1]
    assert states[3].sequences[0].is_swapped
    assert [block for block, page in enumerate(states[3].pages) if page.is_cached] == [0]
    assert states[4].totals.prefix_hit_tokens == 4
    assert states[4].requests[0].status is RequestStatus.SWAPPED
    assert tables(5) == {
        0: [([9, 5], {}), ([4, 3], {})],
        1: [([9, 2], {}), ([4, 1], {})],
        2: [([0, 6], {}), ([-1, 8], {})],
    }
    assert all((p.ref_count, p.cause, p.since_step) == (0, Cause.RESUMPTION, 5) for p in states[5].host_pages)
    assert states[5].requests[1].outputs[3].is_dropped
    assert tables(6) == {}
    first, second = states[6].requests[0].outputs.values()
    assert (first.text, first.reason, second.text, second.reason, second.parent) == (
        " t0 t1.",
        "length",
        " t0 t1",
        "stop",
        0,
    )
    assert states[6].requests[1].text == " t0 t1"
    assert tables(7) == {4: [([-1, 1, 0], {0: 0})], 5: [([-1, 1, 0], {0: 0})]}
    assert not states[7].sequences[4].is_swapped
    assert (states[7].totals.evictions, states[7].totals.streamed_bytes) == (1, 1024)
    assert tables(8) == {}
    assert all(page.ref_count == 0 for page in (*states[8].pages, *states[8].host_pages))
    last = states[8].requests[2]
    assert (last.status, last.preemptions, last.tokens_lost) == (RequestStatus.PREEMPTED, 1, 9)
    assert states[8].totals.busy_ns == 8 * 60


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
    kept = simulation.bus.page_map.copy()
    before = encode_page_map(kept)
    assert kept == simulation.bus.page_map
    simulation.run(10)
    assert kept != simulation.bus.page_map
    assert encode_page_map(kept) == before
    assert decode_page_map(before) == kept


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


#: What contradicts the state after the second step of the scenario (see there): wild numbers, first of all.
HOSTILE: dict[str, ev.AnyEvent] = {
    "a group of its own": scenario.page(6, 0, 2, 1 << 60),
    "a negative group": scenario.page(6, 0, 2, -1),
    "a write to another group": scenario.write(0, 1, 3, 1, 1),
    "a write to another's page": scenario.write(0, 4, 3, 1),
    "a write to a shared page": scenario.write(0, 0, 4, 1),
    "a page shared far behind": scenario.share(0, 0, 1 << 40, 3),
    "a page shared at a negative place": scenario.share(0, 0, -1, 3),
    "a page shared in another group": scenario.share(0, 0, 2, 3, 1),
    "a page shared by one": scenario.share(6, 0, 2, 1),
    "a negative page shared": scenario.share(-1, 0, 2, 3),
    "a host page that is free": scenario.share(0, 0, 2, 2, tier=Tier.HOST),
    "a copy to where it comes from": ev.BlockCopied(0, 0, 0, 0, 4, 1, Cause.COPY_ON_WRITE),
    "a copy from a negative page": ev.BlockCopied(-1, 6, 0, 0, 4, 1, Cause.COPY_ON_WRITE),
    "a copy to a negative page": ev.BlockCopied(0, -1, 0, 0, 4, 1, Cause.COPY_ON_WRITE),
    "a copy at a negative place": ev.BlockCopied(1, 6, 0, -1, 3, 1, Cause.COPY_ON_WRITE),
    "a copy in a negative group": ev.BlockCopied(2, 6, 0, 0, 4, 1, Cause.COPY_ON_WRITE, -1),
    "a copy of what is not shared": ev.BlockCopied(1, 6, 0, 1, 3, 0, Cause.COPY_ON_WRITE),
    "a release in a wild group": scenario.release(0, 0, 0, 1, 1 << 60),
    "a release in a negative group": scenario.release(2, 0, 0, 1, -1),
    "a release at a wild place": scenario.release(0, 0, 1 << 60, 1),
    "a release at a negative place of a group": scenario.release(3, 0, -1, 0, 1),
    "a release of a negative page": scenario.release(-1, 0, 0, 0),
    "a release on the host": scenario.release(0, 0, 0, 1, tier=Tier.HOST),
    "a release with a negative count": scenario.release(1, 0, 1, -1),
    "cached while in use": ev.BlockCached(0, "ab", Cause.CANCELLED),
    "cached without content": ev.BlockCached(7, "ab", Cause.CANCELLED),
    "a hit on a page that is not full": ev.PrefixHit(1, 1, 1, "ab", 2),
    "a hit on a negative page": ev.PrefixHit(-1, 1, 2, "ab", 2),
    "evicted while in use": ev.BlockEvicted(0, "", Cause.PREFIX_EVICTION),
    "a page swapped out twice": ev.BlocksSwappedOut(0, [(0, 0), (0, 1)], 1, Cause.PREEMPTION_VICTIM),
    "two pages swapped to one": ev.BlocksSwappedOut(0, [(0, 0), (1, 0)], 1, Cause.PREEMPTION_VICTIM),
    "a negative page swapped out": ev.BlocksSwappedOut(0, [(-1, 0)], 1, Cause.PREEMPTION_VICTIM),
    "swapped to a negative page": ev.BlocksSwappedOut(0, [(0, -1)], 1, Cause.PREEMPTION_VICTIM),
    "swapped to a wild page": ev.BlocksSwappedOut(0, [(0, 1 << 62)], 1, Cause.PREEMPTION_VICTIM),
    "a free page swapped out": ev.BlocksSwappedOut(0, [(7, 0)], 1, Cause.PREEMPTION_VICTIM),
    "another's page swapped out": ev.BlocksSwappedOut(1, [(0, 0)], 1, Cause.PREEMPTION_VICTIM),
    "a free page swapped in": ev.BlocksSwappedIn(0, [(0, 7)], 1, Cause.RESUMPTION),
    "far too many pairs": ev.BlocksSwappedOut(0, [(i, i) for i in range(1000)], 1, Cause.PREEMPTION_VICTIM),
    "mass of pages that are not there": ev.PageMassSampled(0, 1, [0.0] * 100_000),
    "mass of nobody": ev.PageMassSampled(77, 1, [0.5]),
    "a fork of nobody": ev.SequenceForked(0, 77, 9, 1, Cause.FORK),
    "a fork that exists": ev.SequenceForked(0, 0, 1, 1, Cause.FORK),
    "a fork of another request's": ev.SequenceForked(9, 0, 9, 1, Cause.FORK),
    "the end of nobody": ev.SequenceFinished(0, 77, None, 1),
    "the results of nobody": ev.OutputsChosen(9, []),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_hostile_is_refused(name: str) -> None:
    bus = EventBus()
    play = scenario.play(bus)
    next(play), next(play)
    state = bus.page_map.copy()
    event = copy.copy(HOSTILE[name])
    event.seq, event.step = state.next_seq, 2
    with pytest.raises(InvalidEventError, match=type(event).__name__):
        state.apply(event)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_host_blocks": -1},
        {"num_host_blocks": MAX_BLOCKS + 1},
        {"group_windows": [0] * 5000},
        {"group_windows": []},
    ],
)
def test_sizes_too_large_to_be_true(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidEventError, match="must be from"):
        fold(run_started(**changes))


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
