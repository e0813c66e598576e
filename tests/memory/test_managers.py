"""Paged memory in one and in two tiers, whatever is asked of it in whatever order (hypothesis, stateful)."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.memory.paged_machine import CHUNK, PagedMachine
from workbench.events import Cause
from workbench.memory import PagedMemory, TieredMemory
from workbench.memory.block_pool import BlockPool, PoolExhaustedError
from workbench.memory.eviction import EVICTION_POLICIES
from workbench.memory.placement import PLACEMENT_POLICIES


class TieredMachine(PagedMachine):
    """Also moves pages between the tiers."""

    memory: TieredMemory
    num_host = 1

    def make(
        self, num_blocks: int, block_size: int, eviction: str | None, windows: tuple[int | None, ...]
    ) -> PagedMemory:
        policy = EVICTION_POLICIES[eviction]() if eviction else None
        placement = list(PLACEMENT_POLICIES.values())[num_blocks % len(PLACEMENT_POLICIES)]()
        return TieredMemory(
            *(num_blocks, block_size, 0.0, self.bus, self.num_host),
            windows=windows,
            eviction=policy,
            max_chunk=CHUNK,
            bytes_per_block=32,
            placement=placement,
        )

    def members(self, request: int) -> list[int]:
        return sorted(n for n, text in self.texts.items() if text.request == request)

    def make_room(self, number: int, total: int) -> bool:
        """A sequence that does not fit may move some of its own pages out."""
        if self.memory.try_append(number, total):
            return True
        before = self.memory.tables()
        if not self.memory.offload(self.texts[number].request, number, total):
            assert self.memory.tables() == before, "nothing has changed"
            return False
        assert self.memory.try_append(number, total), "that was what it moved pages for"
        return True

    @precondition(lambda self: self.on_device())
    @rule(data=st.data())
    def swap_out(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(sorted({self.texts[n].request for n in self.on_device()})))
        members = self.members(request)
        shortfall = self.memory.can_swap_out(members)
        if any(table.host for n in members for table in self.memory.block_tables(n)):
            assert shortfall is not None
            assert shortfall.cause is Cause.LARGER_THAN_MEMORY
            return
        if shortfall is not None:
            assert shortfall.needed > shortfall.available == len(self.memory.tables().free_host_blocks)
            return
        footprint = self.memory.footprint(members)
        moved = self.memory.swap_out(request, members, Cause.PREEMPTION_VICTIM)
        assert moved == footprint.bytes
        self.swapped.add(request)
        assert all(block < 0 for n in members for table in self.memory.block_tables(n) for block in table.blocks)

    @precondition(lambda self: self.swapped)
    @rule(data=st.data())
    def swap_in(self, data: st.DataObject) -> None:
        request = data.draw(st.sampled_from(sorted(self.swapped)))
        members = self.members(request)
        if self.memory.can_swap_in(members, alone=True) is None:
            self.memory.swap_in(request, members, Cause.RESUMPTION)
            self.swapped.remove(request)
            assert not any(table.host for n in members for table in self.memory.block_tables(n))

    @precondition(lambda self: self.texts)
    @rule(data=st.data(), mass=st.lists(st.floats(0, 1), max_size=6))
    def note_mass(self, data: st.DataObject, mass: list[float]) -> None:
        self.memory.note_mass(data.draw(st.sampled_from(sorted(self.texts))), mass)

    def teardown(self) -> None:
        super().teardown()
        if hasattr(self, "memory"):
            books = self.memory.tables()
            assert len(books.free_host_blocks) == self.num_host
            assert books.host_ref_counts == [0] * self.num_host


TestPaged = PagedMachine.TestCase
TestTiered = TieredMachine.TestCase
TestPaged.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestTiered.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_pool_counts_references() -> None:
    pool = BlockPool(2)
    block = pool.allocate()
    assert pool.share(block) == 2
    assert pool.release(block) == 1
    assert pool.num_free == 1
    assert pool.release(block) == 0
    assert pool.free_blocks() == [1, 0]
    with pytest.raises(ValueError, match="free already"):
        pool.release(block)
    with pytest.raises(ValueError, match="can't be shared"):
        pool.share(block)
    pool.allocate()
    pool.allocate()
    with pytest.raises(PoolExhaustedError, match="none of 2 blocks"):
        pool.allocate()


def test_a_kept_block_is_neither_free_nor_allocated() -> None:
    pool = BlockPool(2)
    block = pool.allocate()
    assert pool.release(block, keep=True) == 0
    assert (pool.num_free, pool.num_kept, pool.num_allocated) == (1, 1, 0)
    pool.revive(block)
    assert (pool.num_kept, pool.num_allocated, pool.ref_counts[block]) == (0, 1, 1)
    pool.release(block, keep=True)
    pool.recycle(block)
    assert (pool.num_kept, pool.free_blocks()) == (0, [1, block])


def test_alone_a_window_comes_back_with_room_made_step_by_step() -> None:
    """Between steps a sequence holds 5 pages, of which the next step gives up 2 before it takes 2 more."""
    memory = TieredMemory(5, 4, 0.0, None, 5, windows=(7,), max_chunk=8, bytes_per_block=32)
    memory.allocate(0, [1] * 47, 47, 2)
    for total in (8, 9, 17):
        stored = memory.num_stored(0)
        assert memory.try_append(0, total)
        memory.commit(0, total - stored, Cause.PREFILL)
    assert memory.swap_out(0, [0], Cause.PREEMPTION_VICTIM) == 5 * 32
    shortfall = memory.can_swap_in([0], alone=False)
    assert shortfall is not None
    assert (shortfall.needed, shortfall.available) == (5 + 2, 5), "room for the next chunk, not for all of the prompt"
    assert memory.can_swap_in([0], alone=True) is None
    memory.swap_in(0, [0], Cause.RESUMPTION)
    assert memory.try_append(0, 25)
