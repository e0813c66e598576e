"""Paged KV memory: a pool of blocks, and a block table per sequence (Kwon et al., SOSP 2023, section 4.2-4.3)."""

from __future__ import annotations

import math

from workbench.events.bus import EventBus
from workbench.events.types import BlockAllocated, BlockFreed, BlockReleased, Cause, LiveWaste, SlotsWritten, Tier
from workbench.memory.block_pool import BlockPool
from workbench.memory.protocol import MemoryTables, Shortfall


class PagedMemory:
    """Blocks on demand: a sequence holds just the blocks that its tokens need, so it wastes less than one block.

    Args:
        watermark: share of the pool that admission leaves free, so that running sequences can grow for a while
            before one has to be preempted.
    """

    def __init__(self, num_blocks: int, block_size: int, watermark: float, bus: EventBus | None) -> None:
        self.block_size = block_size
        self.num_blocks = num_blocks
        self._pool = BlockPool(num_blocks)
        self._watermark_blocks = math.ceil(watermark * num_blocks)
        self._bus = bus
        self._tables: dict[int, list[int]] = {}
        self._num_tokens: dict[int, int] = {}

    def _blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def never_fits(self, prompt_tokens: int, max_tokens: int) -> Shortfall | None:
        needed = self._blocks_for(prompt_tokens + max_tokens - 1)
        if needed <= self.num_blocks:
            return None
        return Shortfall(Cause.NEVER_FITS, needed, self.num_blocks, "blocks")

    def can_allocate(self, num_tokens: int, prompt_tokens: int, max_tokens: int, alone: bool) -> Shortfall | None:
        needed = self._blocks_for(num_tokens)
        available = self._pool.num_free
        if needed > available:
            return Shortfall(Cause.POOL_EXHAUSTED, needed, available, "blocks")
        if not alone and needed > available - self._watermark_blocks:
            return Shortfall(Cause.WATERMARK, needed + self._watermark_blocks, available, "blocks")
        return None

    def allocate(self, sequence: int, num_tokens: int, prompt_tokens: int, max_tokens: int) -> None:
        if sequence in self._tables:
            raise ValueError(f"sequence {sequence} already has memory")
        self._tables[sequence] = []
        self._num_tokens[sequence] = 0
        self._grow(sequence, num_tokens, Cause.ADMISSION)

    def try_append(self, sequence: int, num_tokens: int) -> bool:
        held = len(self._tables[sequence])
        if num_tokens <= held * self.block_size:
            return True
        if self._blocks_for(num_tokens) - held > self._pool.num_free:
            return False
        self._grow(sequence, num_tokens, Cause.DECODE_GROWTH)
        return True

    def peek(self, count: int) -> list[int]:
        return self._pool.peek(count)

    def _grow(self, sequence: int, num_tokens: int, cause: Cause) -> None:
        table = self._tables[sequence]
        for logical_index in range(len(table), self._blocks_for(num_tokens)):
            block = self._pool.allocate()
            table.append(block)
            if self._bus is not None:
                self._bus.emit(BlockAllocated(Tier.DEVICE, block, sequence, logical_index, cause))

    def commit(self, sequence: int, count: int, cause: Cause) -> None:
        table, start = self._tables[sequence], self._num_tokens[sequence]
        stop = start + count
        if stop > len(table) * self.block_size:
            raise ValueError(f"sequence {sequence}: {stop} tokens do not fit into {len(table)} blocks")
        self._num_tokens[sequence] = stop
        if self._bus is None:
            return
        if count == 1:
            logical_index, offset = divmod(start, self.block_size)
            self._bus.emit(SlotsWritten(sequence, table[logical_index], offset, 1, cause))
            return
        while start < stop:
            logical_index, offset = divmod(start, self.block_size)
            written = min(stop - start, self.block_size - offset)
            self._bus.emit(SlotsWritten(sequence, table[logical_index], offset, written, cause))
            start += written

    def free(self, sequence: int, cause: Cause) -> int:
        table = self._tables.pop(sequence)
        del self._num_tokens[sequence]
        # Last page first: the pages that a shared prefix would want again stay longest, as in vLLM.
        for block in reversed(table):
            left = self._pool.release(block)
            if self._bus is not None:
                self._bus.emit(BlockReleased(block, sequence, left, cause))
                if left == 0:
                    self._bus.emit(BlockFreed(block, cause))
        return len(table)

    def block_table(self, sequence: int) -> list[int]:
        return self._tables[sequence]

    def waste(self, head_waits: bool) -> LiveWaste:
        held = (self.num_blocks - self._pool.num_free) * self.block_size
        tokens = sum(self._num_tokens.values())
        return LiveWaste(tokens, held - tokens, 0, self._pool.num_free * self.block_size)

    def tables(self) -> MemoryTables:
        return MemoryTables(
            block_tables={sequence: list(table) for sequence, table in self._tables.items()},
            ref_counts=list(self._pool.ref_counts),
            free_blocks=self._pool.free_blocks(),
            num_tokens=dict(self._num_tokens),
        )
