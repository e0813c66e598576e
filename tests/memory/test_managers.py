"""Conservation in both memories, whatever is asked of them in whatever order (hypothesis, stateful)."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from workbench.events import Cause, EventBus
from workbench.events import types as ev
from workbench.memory import ContiguousMemory, MemoryManager, PagedMemory, Reservation
from workbench.memory.block_pool import BlockPool, PoolExhaustedError
from workbench.memory.buddy import BuddyAllocator

GEOMETRY = ev.ModelGeometry("m", "M", 1, 1, 1, 1, 1, "float32", 8)


class MemoryMachine(RuleBasedStateMachine):
    """Allocates, grows, writes and frees sequences; the reducer follows by events alone."""

    memory: MemoryManager
    kind = "paged"

    def __init__(self) -> None:
        super().__init__()
        self.bus = EventBus()
        self.memory = self.make(self.bus)
        self.bus.emit(ev.RunStarted(1, self.kind, self.memory.block_size, self.memory.num_blocks, 32, 0, GEOMETRY, {}))
        self.lengths: dict[int, tuple[int, int, int]] = {}
        self.stored: dict[int, int] = {}
        self.next_id = 0

    def make(self, bus: EventBus) -> MemoryManager:
        return PagedMemory(num_blocks=13, block_size=4, watermark=0.0, bus=bus)

    @rule(prompt=st.integers(1, 30), new=st.integers(1, 20))
    def allocate(self, prompt: int, new: int) -> None:
        sequence = self.next_id
        if self.memory.never_fits(prompt, new) or self.memory.can_allocate(prompt, prompt, new, alone=True):
            return
        self.next_id += 1
        self.bus.emit(ev.RequestQueued(sequence, sequence, "", prompt, new))
        self.memory.allocate(sequence, prompt, prompt, new)
        self.bus.emit(ev.RequestAdmitted(sequence, 0))
        self.lengths[sequence] = (prompt, prompt + new - 1, prompt)
        self.stored[sequence] = 0

    @precondition(lambda self: self.lengths)
    @rule(data=st.data())
    def write(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(sorted(self.lengths)))
        prompt, final, _ = self.lengths[sequence]
        room = (prompt if self.stored[sequence] < prompt else final) - self.stored[sequence]
        if room == 0:
            return
        count = data.draw(st.integers(1, room))
        total = self.stored[sequence] + count
        if not self.memory.try_append(sequence, total):
            return
        self.memory.commit(sequence, count, Cause.DECODE)
        self.stored[sequence] = total

    @precondition(lambda self: self.lengths)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(sorted(self.lengths)))
        self.memory.free(sequence, Cause.REQUEST_FINISHED)
        del self.lengths[sequence], self.stored[sequence]

    @invariant()
    def conserved(self) -> None:
        self.bus.flush()
        state = self.bus.page_map
        books = self.memory.tables()
        waste = self.memory.waste(head_waits=False)
        slots = self.memory.num_blocks * self.memory.block_size
        assert waste.token_states + waste.reserved + waste.external + waste.free == slots
        assert min(waste.token_states, waste.reserved, waste.external, waste.free) >= 0
        assert state.waste() == waste
        assert waste.token_states == sum(self.stored.values())
        assert books.num_tokens == self.stored
        # No two sequences may own the same block.
        owned = [block for sequence in self.stored for block in self.memory.block_table(sequence)]
        assert len(owned) == len(set(owned))
        assert all(0 <= block < self.memory.num_blocks for block in owned)
        if self.kind == "paged":
            assert len(books.free_blocks) + len(owned) == self.memory.num_blocks
            assert set(books.free_blocks).isdisjoint(owned)
            needed = {s: -(-max(self.lengths[s][2], n) // 4) for s, n in self.stored.items()}
            assert {s: len(t) for s, t in books.block_tables.items()} == needed, "no block too many, none too few"


class ContiguousMachine(MemoryMachine):
    kind = "contiguous"
    reservation = Reservation.MAX

    def make(self, bus: EventBus) -> MemoryManager:
        return ContiguousMemory(13, 4, self.reservation, max_model_len=32, bus=bus)


class Pow2Machine(ContiguousMachine):
    reservation = Reservation.POW2


class OracleMachine(ContiguousMachine):
    reservation = Reservation.ORACLE


_SETTINGS = settings(max_examples=30, stateful_step_count=40, deadline=None)
TestPaged = MemoryMachine.TestCase
TestMax = ContiguousMachine.TestCase
TestPow2 = Pow2Machine.TestCase
TestOracle = OracleMachine.TestCase
for _case in (TestPaged, TestMax, TestPow2, TestOracle):
    _case.settings = _SETTINGS
del _case  # a class under a second name would be collected twice


class BuddyMachine(RuleBasedStateMachine):
    """The buddy allocator against a plain map of who owns each unit."""

    def __init__(self) -> None:
        super().__init__()
        self.buddy = BuddyAllocator(27)
        self.regions: dict[int, int] = {}

    @rule(order=st.integers(0, 4))
    def allocate(self, order: int) -> None:
        possible = (1 << order) <= self.buddy.largest_free
        start = self.buddy.allocate(order)
        assert (start is not None) == possible
        if start is None:
            return
        size = 1 << order
        assert start % size == 0, "regions are aligned to their size"
        assert start + size <= 27
        assert all(start + size <= s or s + n <= start for s, n in self.regions.items())
        self.regions[start] = size

    @precondition(lambda self: self.regions)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        start = data.draw(st.sampled_from(sorted(self.regions)))
        self.buddy.free(start)
        del self.regions[start]

    @invariant()
    def conserved(self) -> None:
        assert self.buddy.num_free + sum(self.regions.values()) == 27
        if not self.regions:
            assert self.buddy.largest_free == 16, "everything has merged again"


TestBuddy = BuddyMachine.TestCase
TestBuddy.settings = _SETTINGS


def test_reservations_are_the_papers_three() -> None:
    """Kwon et al., section 6.1: a true output of 25 tokens reserves 32 under Pow2."""
    make = lambda policy: ContiguousMemory(64, 16, policy, max_model_len=512, bus=None)  # noqa: E731
    assert make(Reservation.MAX).reserved_slots(40, 25) == 512
    assert make(Reservation.POW2).reserved_slots(40, 25) == 40 + 32
    assert make(Reservation.ORACLE).reserved_slots(40, 25) == 40 + 25 - 1


def test_buddy_refuses_what_is_not_its_own() -> None:
    buddy = BuddyAllocator(8)
    with pytest.raises(ValueError, match="no region starts at unit 3"):
        buddy.free(3)
    assert buddy.allocate(4) is None


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
    with pytest.raises(PoolExhaustedError, match="all 2 blocks"):
        pool.allocate()
