"""Contiguous KV memory: one region per request, reserved when it starts (the baselines of Kwon et al., section 6.1)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

from workbench.events.bus import EventBus
from workbench.events.types import Cause, LiveWaste, RegionReleased, RegionReserved, SlotsWritten
from workbench.memory.block_table import BlockTable, Move
from workbench.memory.buddy import BuddyAllocator
from workbench.memory.protocol import Footprint, MemoryTables, SharingError, Shortfall


class Reservation(StrEnum):
    """How much a request reserves; the paper's three variants of Orca."""

    MAX = "max"  #: the longest sequence that the engine allows
    POW2 = "pow2"  #: the prompt, and the output length rounded up to a power of two
    ORACLE = "oracle"  #: exactly what it will store, as if its output length were known


@dataclass
class _Region:
    start: int
    size: int
    requested: int
    filled: int = 0


class ContiguousMemory:
    """An arena of ``num_blocks * block_size`` slots under a buddy allocator whose unit is one block.

    POW2 and ORACLE take ``max_tokens`` for the output length: exact when a request runs to its limit (``ignore_eos``),
    an upper bound when it may stop early.
    """

    def __init__(
        self, num_blocks: int, block_size: int, reservation: Reservation, max_model_len: int, bus: EventBus | None
    ) -> None:
        self.block_size = block_size
        self.num_blocks = num_blocks
        self._reservation = reservation
        self._max_model_len = max_model_len
        self._buddy = BuddyAllocator(num_blocks)
        self._bus = bus
        self.moves: list[Move] = []
        self._regions: dict[int, _Region] = {}

    def reserved_slots(self, prompt_tokens: int, max_tokens: int) -> int:
        """Slots that a request asks for under this memory's policy."""
        if self._reservation is Reservation.MAX:
            return self._max_model_len
        stored = prompt_tokens + max_tokens - 1
        if self._reservation is Reservation.ORACLE:
            return stored
        return max(stored, min(prompt_tokens + (1 << (max_tokens - 1).bit_length()), self._max_model_len))

    def _order_for(self, prompt_tokens: int, max_tokens: int) -> int:
        return BuddyAllocator.order_for(-(-self.reserved_slots(prompt_tokens, max_tokens) // self.block_size))

    num_host_blocks = 0
    streamed: Collection[int] = ()
    windows: tuple[int | None, ...] = (None,)
    why_not_share: str | None = (
        "contiguous memory can't share: a region is one run of slots that belongs to one sequence, so two sequences "
        "with the same beginning would need two copies of it; use paged memory, or send separate requests"
    )

    @property
    def largest_chunk(self) -> int | None:
        return None

    def never_fits(self, prompt_tokens: int, max_tokens: int, width: int = 1) -> Shortfall | None:
        return self._shortfall(prompt_tokens, max_tokens, 1 << self._buddy.max_order, Cause.NEVER_FITS)

    def can_allocate(
        self, token_ids: Sequence[int], prompt_tokens: int, max_tokens: int, alone: bool, more_blocks: int = 0
    ) -> Shortfall | None:
        return self._shortfall(prompt_tokens, max_tokens, self._buddy.largest_free, Cause.POOL_EXHAUSTED)

    def _shortfall(self, prompt_tokens: int, max_tokens: int, largest: int, cause: Cause) -> Shortfall | None:
        needed = 1 << self._order_for(prompt_tokens, max_tokens)
        if needed <= largest:
            return None
        return Shortfall(cause, needed * self.block_size, largest * self.block_size, "adjacent slots")

    def allocate(self, sequence: int, token_ids: Sequence[int], prompt_tokens: int, max_tokens: int) -> int:
        if sequence in self._regions:
            raise ValueError(f"sequence {sequence} already has memory")
        order = self._order_for(prompt_tokens, max_tokens)
        unit = self._buddy.allocate(order)
        if unit is None:
            raise RuntimeError(f"no free region of {self.block_size << order} slots")
        requested = self.reserved_slots(prompt_tokens, max_tokens)
        region = _Region(unit * self.block_size, self.block_size << order, requested)
        self._regions[sequence] = region
        if self._bus is not None:
            self._bus.emit(RegionReserved(sequence, region.start, region.size, requested, Cause.ADMISSION))
        return 0

    def try_append(self, sequence: int, num_tokens: int) -> bool:
        return num_tokens <= self._regions[sequence].requested

    def peek(self, count: int) -> list[int]:
        return []

    def commit(self, sequence: int, count: int, cause: Cause) -> None:
        region = self._regions[sequence]
        if region.filled + count > region.requested:
            raise ValueError(
                f"sequence {sequence}: {region.filled + count} tokens do not fit into {region.requested} slots"
            )
        first = region.start + region.filled
        region.filled += count
        if self._bus is not None:
            self._bus.emit(SlotsWritten(sequence, None, first, count, cause))

    def free(self, sequence: int, cause: Cause) -> int:
        region = self._regions.pop(sequence)
        self._buddy.free(region.start // self.block_size)
        if self._bus is not None:
            self._bus.emit(RegionReleased(sequence, region.start, region.size, cause))
        return 1

    def fork(self, parent: int, child: int, token_ids: Sequence[int], num_tokens: int | None = None) -> int:
        raise SharingError(str(self.why_not_share))

    def can_swap_out(self, sequences: Sequence[int]) -> Shortfall | None:
        return Shortfall(Cause.HOST_FULL, len(sequences), 0, "host regions")

    def swap_out(self, request: int, sequences: Sequence[int], cause: Cause) -> int:
        raise RuntimeError("contiguous memory has no host tier")

    def can_swap_in(self, sequences: Sequence[int], alone: bool) -> Shortfall | None:
        raise RuntimeError("contiguous memory has no host tier")

    def swap_in(self, request: int, sequences: Sequence[int], cause: Cause) -> int:
        raise RuntimeError("contiguous memory has no host tier")

    def offload(self, request: int, sequence: int, num_tokens: int) -> bool:
        return False

    def note_mass(self, sequence: int, mass: list[float]) -> None:
        pass

    def has(self, sequence: int) -> bool:
        return sequence in self._regions

    def num_stored(self, sequence: int) -> int:
        return self._regions[sequence].filled

    def block_tables(self, sequence: int) -> list[BlockTable]:
        return [BlockTable(self.block_table(sequence))]

    def footprint(self, sequences: Sequence[int]) -> Footprint:
        tokens = sum(self._regions[sequence].filled for sequence in sequences)
        return Footprint(len(sequences), len(sequences), 0, tokens, 0, 0)

    def block_table(self, sequence: int) -> list[int]:
        region = self._regions[sequence]
        first = region.start // self.block_size
        return list(range(first, first + region.size // self.block_size))

    def waste(self, head_waits: bool) -> LiveWaste:
        tokens = sum(region.filled for region in self._regions.values())
        requested = sum(region.requested for region in self._regions.values())
        rounding = sum(region.size for region in self._regions.values()) - requested
        free = self._buddy.num_free * self.block_size
        if head_waits:
            return LiveWaste(tokens, requested - tokens, rounding + free, 0)
        return LiveWaste(tokens, requested - tokens, rounding, free)

    def tables(self) -> MemoryTables:
        return MemoryTables(
            regions={sequence: (r.start, r.size, r.requested) for sequence, r in self._regions.items()},
            num_tokens={sequence: region.filled for sequence, region in self._regions.items()},
        )
