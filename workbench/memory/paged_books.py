"""The books of paged KV memory: who has which block, how full it is, and what becomes of it when nobody has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from workbench.events.bus import EventBus
from workbench.events.types import AnyEvent, BlockCached, BlockFreed, BlockReleased, Cause, LiveWaste, Tier
from workbench.memory.block_pool import BlockPool
from workbench.memory.block_table import BlockTable, Move
from workbench.memory.eviction import EvictionPolicy
from workbench.memory.prefix_cache import PrefixCache, page_hash
from workbench.memory.protocol import Footprint, MemoryTables


@dataclass(slots=True)
class Holding:
    """What one sequence has.

    Attributes:
        tables: one per layer group.
        token_ids: the sequence's own list of tokens, which grows; only read.
        hashes: names of its full pages so far, if prefixes are cached.
    """

    tables: list[BlockTable]
    token_ids: Sequence[int]
    num_tokens: int = 0
    hashes: list[bytes] = field(default_factory=list)


class PagedBooks:
    """Block tables, reference counts and contents of a pool. `PagedMemory` decides what changes in them.

    Attributes:
        moves: contents to be copied before the next step's tokens are computed, in this order. Whoever has carried
            them out empties the list.
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        bus: EventBus | None,
        windows: Sequence[int | None],
        eviction: EvictionPolicy | None,
        bytes_per_block: int,
    ) -> None:
        self.block_size = block_size
        self.num_blocks = num_blocks
        self.windows = tuple(windows)
        self.moves: list[Move] = []
        self._bytes_per_block = bytes_per_block
        self._pool = BlockPool(num_blocks)
        self._cache = PrefixCache(eviction) if eviction is not None else None
        self._bus = bus
        self._held: dict[int, Holding] = {}
        #: slots that hold tokens, per block and in all allocated ones
        self._filled = [0] * num_blocks
        self._num_filled = 0

    def _emit(self, event: AnyEvent) -> None:
        if self._bus is not None:
            self._bus.emit(event)

    @property
    def num_available(self) -> int:
        """Blocks that can be had: free ones, and cached ones that nobody uses."""
        return self._pool.num_free + self._pool.num_kept

    def _blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    # -- giving back -----------------------------------------------------------------------------------------------

    def free(self, sequence: int, cause: Cause) -> int:
        holding = self._held.pop(sequence)
        released = 0
        for group in reversed(range(len(holding.tables))):
            table = holding.tables[group]
            # Last page first: the pages that a shared prefix would want again stay longest, as in vLLM.
            for index in range(len(table.blocks) - 1, table.first - 1, -1):
                released += 1
                if table.blocks[index] >= 0:
                    self._release(sequence, group, index, table.blocks[index], cause)
                elif index in table.host:
                    self._release_host(sequence, group, index, table.host[index], cause)
        return released

    def _release(self, sequence: int, group: int, index: int, block: int, cause: Cause) -> None:
        left = self._drop(block, 1)
        self._emit(BlockReleased(block, sequence, left, cause, index, Tier.DEVICE, group))
        self._tell_unused(block, cause)

    def _release_host(self, sequence: int, group: int, index: int, block: int, cause: Cause) -> None:
        raise AssertionError("there is no host tier")

    def _drop(self, block: int, references: int) -> int:
        """Takes references from a block; returns how many are left."""
        has_name = self._cache is not None and self._cache.has(block)
        for _ in range(references):
            left = self._pool.release(block, keep=has_name)
        if left == 0:
            self._num_filled -= self._filled[block]
            if not has_name:
                self._filled[block] = 0
            elif self._cache is not None:
                self._cache.retire(block)
        return left

    def _tell_unused(self, block: int, cause: Cause) -> None:
        """Says what became of a block, if nobody uses it any more."""
        if self._bus is None or self._pool.ref_counts[block]:
            return
        if self._cache is not None and self._cache.has(block):
            self._bus.emit(BlockCached(block, self._cache.name_of(block).hex(), cause))
        else:
            self._bus.emit(BlockFreed(block, cause))

    # -- reading ---------------------------------------------------------------------------------------------------

    def has(self, sequence: int) -> bool:
        return sequence in self._held

    def num_stored(self, sequence: int) -> int:
        return self._held[sequence].num_tokens

    def block_table(self, sequence: int) -> list[int]:
        return self._held[sequence].tables[0].blocks

    def block_tables(self, sequence: int) -> list[BlockTable]:
        return self._held[sequence].tables

    def footprint(self, sequences: Sequence[int]) -> Footprint:
        mine: dict[int, int] = {}
        size: dict[int, int] = {}  # tokens per block of one layer group: of one that has all of them, if there is one
        counted = next((group for group, window in enumerate(self.windows) if window is None), 0)
        gone: set[bytes] = set()
        for sequence in sequences:
            holding = self._held[sequence]
            for group, table in enumerate(holding.tables):
                for index, block in enumerate(table.blocks):
                    if block >= 0:
                        mine[block] = mine.get(block, 0) + 1
                        if group == counted:
                            stored = holding.num_tokens - index * self.block_size
                            size[block] = max(size.get(block, 0), min(self.block_size, max(0, stored)))
            name = b""
            for index in range(holding.tables[counted].first):
                name = page_hash(name, holding.token_ids[index * self.block_size : (index + 1) * self.block_size])
                gone.add(name)
        counts = self._pool.ref_counts
        others = [block for block, count in mine.items() if counts[block] > count]
        kept = sum(size[b] for b in others if b in size and self._cache is not None and self._cache.has(b))
        filled = sum(self._filled[block] > 0 for block in mine)
        return Footprint(
            blocks=len(mine),
            lost=len(mine) - len(others),
            shared=len(others),
            tokens=sum(size.values()) - kept + len(gone) * self.block_size,
            tokens_kept=kept,
            bytes=filled * self._bytes_per_block,
        )

    def eviction_order(self) -> list[int]:
        """Cached pages that nobody uses, the next to give way first."""
        return self._cache.eviction_order() if self._cache is not None else []

    def waste(self, head_waits: bool) -> LiveWaste:
        held = self._pool.num_allocated * self.block_size
        cached = self._pool.num_kept * self.block_size
        return LiveWaste(self._num_filled, held - self._num_filled, 0, self._pool.num_free * self.block_size, cached)

    def tables(self) -> MemoryTables:
        return MemoryTables(
            block_tables={
                sequence: [(list(table.blocks), dict(table.host)) for table in holding.tables]
                for sequence, holding in self._held.items()
            },
            ref_counts=list(self._pool.ref_counts),
            free_blocks=self._pool.free_blocks(),
            cached_blocks=self.eviction_order(),
            num_tokens={sequence: holding.num_tokens for sequence, holding in self._held.items()},
        )
