"""Contiguous memory: conservation whatever is asked of it, and the buddy allocator (hypothesis, stateful)."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.memory.paged_machine import GEOMETRY
from workbench.events import Cause, EventBus
from workbench.events import types as ev
from workbench.memory import ContiguousMemory, Reservation, SharingError
from workbench.memory.buddy import BuddyAllocator

_SETTINGS = settings(max_examples=30, stateful_step_count=40, deadline=None)


class ContiguousMachine(RuleBasedStateMachine):
    """Allocates, grows, writes and frees sequences; the reducer follows by events alone."""

    reservation = Reservation.MAX

    def __init__(self) -> None:
        super().__init__()
        self.bus = EventBus()
        self.memory = ContiguousMemory(13, 4, self.reservation, max_model_len=32, bus=self.bus)
        self.bus.emit(ev.RunStarted(1, "contiguous", 4, 13, 32, 0, GEOMETRY, {}))
        self.lengths: dict[int, tuple[int, int]] = {}
        self.stored: dict[int, int] = {}
        self.next_id = 0

    @rule(prompt=st.integers(1, 30), new=st.integers(1, 20))
    def allocate(self, prompt: int, new: int) -> None:
        sequence, tokens = self.next_id, [1] * prompt
        if self.memory.never_fits(prompt, new) or self.memory.can_allocate(tokens, prompt, new, alone=True):
            return
        self.next_id += 1
        self.bus.emit(ev.RequestQueued(sequence, sequence, "", prompt, new))
        assert self.memory.allocate(sequence, tokens, prompt, new) == 0, "nothing is there before it is computed"
        self.bus.emit(ev.RequestAdmitted(sequence, 0))
        self.lengths[sequence] = (prompt, prompt + new - 1)
        self.stored[sequence] = 0

    @precondition(lambda self: self.lengths)
    @rule(data=st.data())
    def write(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(sorted(self.lengths)))
        prompt, final = self.lengths[sequence]
        room = (prompt if self.stored[sequence] < prompt else final) - self.stored[sequence]
        if room == 0:
            return
        count = data.draw(st.integers(1, room))
        total = self.stored[sequence] + count
        if not self.memory.try_append(sequence, total):
            assert self.reservation is Reservation.MAX
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
        state, waste = self.bus.page_map, self.memory.waste(head_waits=False)
        assert waste.token_states + waste.reserved + waste.external + waste.free == 13 * 4
        assert min(waste.token_states, waste.reserved, waste.external, waste.free) >= 0
        assert state.waste() == waste
        assert waste.token_states == sum(self.stored.values())
        assert self.memory.tables().num_tokens == self.stored
        # No two sequences may own the same block.
        owned = [block for sequence in self.stored for block in self.memory.block_table(sequence)]
        assert len(owned) == len(set(owned))
        assert all(0 <= block < 13 for block in owned)


class Pow2Machine(ContiguousMachine):
    reservation = Reservation.POW2


class OracleMachine(ContiguousMachine):
    reservation = Reservation.ORACLE


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


TestMax = ContiguousMachine.TestCase
TestPow2 = Pow2Machine.TestCase
TestOracle = OracleMachine.TestCase
TestBuddy = BuddyMachine.TestCase
TestMax.settings = TestPow2.settings = TestOracle.settings = TestBuddy.settings = _SETTINGS


def test_reservations_are_the_papers_three() -> None:
    """Kwon et al., section 6.1: a true output of 25 tokens reserves 32 under Pow2."""
    make = lambda policy: ContiguousMemory(64, 16, policy, max_model_len=512, bus=None)  # noqa: E731
    assert make(Reservation.MAX).reserved_slots(40, 25) == 512
    assert make(Reservation.POW2).reserved_slots(40, 25) == 40 + 32
    assert make(Reservation.ORACLE).reserved_slots(40, 25) == 40 + 25 - 1


def test_it_refuses_to_share_and_to_swap_and_says_why() -> None:
    memory = ContiguousMemory(8, 4, Reservation.ORACLE, max_model_len=32, bus=None)
    memory.allocate(0, [1, 2, 3], 3, 4)
    assert memory.why_not_share is not None
    with pytest.raises(SharingError, match="a region is one run of slots that belongs to one sequence"):
        memory.fork(0, 1, [1, 2, 3])
    assert memory.can_swap_out([0]) is not None
    assert not memory.offload(0, 0, 100)
    for move in (memory.swap_out, memory.swap_in):
        with pytest.raises(RuntimeError, match="no host tier"):
            move(0, [0], Cause.PREEMPTION_VICTIM)
    assert memory.tables().num_tokens == {0: 0}, "nothing has changed"


def test_buddy_refuses_what_is_not_its_own() -> None:
    buddy = BuddyAllocator(8)
    with pytest.raises(ValueError, match="no region starts at unit 3"):
        buddy.free(3)
    assert buddy.allocate(4) is None
