"""Paged KV memory: a pool of blocks, and block tables per sequence (Kwon et al., SOSP 2023, sections 4.2 to 4.5)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from workbench.events.bus import EventBus
from workbench.events.types import (
    AnyEvent,
    BlockAllocated,
    BlockCached,
    BlockCopied,
    BlockEvicted,
    BlockFreed,
    BlockReleased,
    BlockShared,
    Cause,
    LiveWaste,
    PrefixHit,
    SlotsWritten,
    Tier,
)
from workbench.memory.block_pool import BlockPool
from workbench.memory.block_table import BlockTable, Move, MoveKind
from workbench.memory.eviction import EvictionPolicy
from workbench.memory.prefix_cache import PrefixCache, page_hash
from workbench.memory.protocol import Footprint, MemoryTables, Shortfall


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


class PagedMemory:
    """Blocks on demand: a sequence holds just the blocks that its tokens need, so it wastes less than one block.

    Args:
        watermark: share of the pool that admission leaves free, so that running sequences can grow for a while
            before one has to be preempted.
        windows: per layer group, its sliding window in tokens, or None. A group's pages behind its window are freed.
        eviction: which cached page gives way; None: prefixes are not cached.
        max_chunk: most tokens of a sequence that one step computes.

    Attributes:
        moves: contents to be copied before the next step's tokens are computed, in this order. Whoever has carried
            them out empties the list.
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        watermark: float,
        bus: EventBus | None,
        *,
        windows: Sequence[int | None] = (None,),
        eviction: EvictionPolicy | None = None,
        max_chunk: int = 512,
        bytes_per_block: int = 0,
    ) -> None:
        if num_blocks < 1:
            raise ValueError(f"num_blocks={num_blocks}: must be at least 1")
        if eviction is not None and (len(windows) > 1 or windows[0] is not None):
            raise ValueError("prefixes can't be cached where pages behind a window are freed")
        self.block_size = block_size
        self.num_blocks = num_blocks
        self.windows = tuple(windows)
        self.moves: list[Move] = []
        self._max_chunk = max_chunk
        self._bytes_per_block = bytes_per_block
        self._pool = BlockPool(num_blocks)
        self._cache = PrefixCache(eviction) if eviction is not None else None
        self._watermark_blocks = math.ceil(watermark * num_blocks)
        self._bus = bus
        self._held: dict[int, Holding] = {}
        self._filled = [0] * num_blocks
        self._num_filled = 0
        self._is_plain = len(windows) == 1 and windows[0] is None

    # -- room ------------------------------------------------------------------------------------------------------

    @property
    def num_available(self) -> int:
        """Blocks that can be had: free ones, and cached ones that nobody uses."""
        return self._pool.num_free + self._pool.num_kept

    def _blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def _windowed_blocks(self, num_tokens: int) -> int:
        """Most blocks that a sequence of ``num_tokens`` holds at a time in all groups with a window."""
        return sum(
            min(self._blocks_for(num_tokens), self._blocks_for(window - 1 + self._max_chunk) + 1)
            for window in self.windows
            if window is not None
        )

    @property
    def _num_full_groups(self) -> int:
        return sum(window is None for window in self.windows)

    def blocks_to_finish(self, prompt_tokens: int, max_tokens: int, width: int) -> int:
        """Most blocks that a request can come to hold: ``width`` sequences share the prompt's full blocks only."""
        total = prompt_tokens + max_tokens - 1
        shared = prompt_tokens // self.block_size if width > 1 else 0
        own = self._blocks_for(total) - shared
        return self._num_full_groups * (shared + width * own) + width * self._windowed_blocks(total)

    def never_fits(self, prompt_tokens: int, max_tokens: int, width: int = 1) -> Shortfall | None:
        needed = self.blocks_to_finish(prompt_tokens, max_tokens, width)
        if needed <= self.num_blocks:
            return None
        return Shortfall(Cause.NEVER_FITS, needed, self.num_blocks, "blocks")

    def can_allocate(
        self, token_ids: Sequence[int], prompt_tokens: int, max_tokens: int, alone: bool, more_blocks: int = 0
    ) -> Shortfall | None:
        hits = self._find_prefix(token_ids)
        idle = sum(self._cache.is_idle(block) for block in hits) if self._cache is not None else 0
        full = self._num_full_groups * self._blocks_for(len(token_ids))
        needed = full + self._windowed_blocks(len(token_ids)) - len(hits) + more_blocks
        return self._judge(needed, self.num_available - idle, alone)

    def _judge(self, needed: int, available: int, alone: bool) -> Shortfall | None:
        if needed > available:
            return Shortfall(Cause.POOL_EXHAUSTED, needed, available, "blocks")
        if not alone and needed > available - self._watermark_blocks:
            return Shortfall(Cause.WATERMARK, needed + self._watermark_blocks, available, "blocks")
        return None

    # -- prefixes --------------------------------------------------------------------------------------------------

    def _find_prefix(self, token_ids: Sequence[int]) -> list[int]:
        """Cached pages with the beginning of a text. Its last token is left over: somebody must compute the next."""
        found: list[int] = []
        if self._cache is None:
            return found
        name = b""
        for start in range(0, (len(token_ids) - 1) // self.block_size * self.block_size, self.block_size):
            name = page_hash(name, token_ids[start : start + self.block_size])
            block = self._cache.find(name)
            if block is None:
                break
            found.append(block)
        return found

    def _use_prefix(self, sequence: int, holding: Holding) -> None:
        assert self._cache is not None
        for block in self._find_prefix(holding.token_ids):
            name = self._cache.name_of(block)
            if self._cache.is_idle(block):
                self._pool.revive(block)
                self._num_filled += self._filled[block]
                left = 1
            else:
                left = self._pool.share(block)
            self._cache.use(block)
            holding.hashes.append(name)
            self._emit(PrefixHit(block, sequence, len(holding.tables[0].blocks), name.hex(), left))
            holding.tables[0].blocks.append(block)
        holding.num_tokens = len(holding.tables[0].blocks) * self.block_size

    def _name_pages(self, holding: Holding) -> None:
        """Gives names to the pages that have become full."""
        assert self._cache is not None
        table = holding.tables[0].blocks
        for index in range(len(holding.hashes), holding.num_tokens // self.block_size):
            parent = holding.hashes[-1] if holding.hashes else b""
            start = index * self.block_size
            name = page_hash(parent, holding.token_ids[start : start + self.block_size])
            holding.hashes.append(name)
            if table[index] >= 0:
                self._cache.add(table[index], name, parent, index)

    # -- growing ---------------------------------------------------------------------------------------------------

    def allocate(self, sequence: int, token_ids: Sequence[int], prompt_tokens: int, max_tokens: int) -> int:
        if sequence in self._held:
            raise ValueError(f"sequence {sequence} already has memory")
        holding = self._held[sequence] = Holding([BlockTable() for _ in self.windows], token_ids)
        if self._cache is not None:
            self._use_prefix(sequence, holding)
        for group, window in enumerate(self.windows):
            if window is None:
                self._grow(sequence, group, self._blocks_for(self._first_tokens(len(token_ids))), Cause.ADMISSION)
        return holding.num_tokens

    def _first_tokens(self, num_tokens: int) -> int:
        """Of so many known tokens, those that get their pages at once."""
        return num_tokens

    def try_append(self, sequence: int, num_tokens: int) -> bool:
        holding = self._held[sequence]
        stored, block_size = holding.num_tokens, self.block_size
        if self._is_plain:
            blocks = holding.tables[0].blocks
            if num_tokens <= len(blocks) * block_size and (
                not stored % block_size or self._pool.ref_counts[blocks[stored // block_size]] == 1
            ):
                return True
        else:
            self._free_behind_windows(sequence, holding)
        wanted = self._blocks_for(num_tokens)
        needed = sum(max(0, wanted - len(table.blocks)) for table in holding.tables)
        shared = self._shared_last_pages(holding)
        if needed + len(shared) > self.num_available:
            return False
        for group in shared:
            self._copy_on_write(sequence, group)
        for group in range(len(holding.tables)):
            self._grow(sequence, group, wanted, Cause.DECODE_GROWTH)
        return True

    def _shared_last_pages(self, holding: Holding) -> list[int]:
        """Groups whose next token goes to a page that others use, too."""
        index, offset = divmod(holding.num_tokens, self.block_size)
        if not offset:
            return []
        counts = self._pool.ref_counts
        return [group for group, table in enumerate(holding.tables) if counts[table.blocks[index]] > 1]

    def _copy_on_write(self, sequence: int, group: int) -> None:
        holding = self._held[sequence]
        table, index = holding.tables[group], holding.num_tokens // self.block_size
        source = table.blocks[index]
        destination = self._take_block()
        filled = self._filled[destination] = self._filled[source]
        self._num_filled += filled
        table.blocks[index] = destination
        left = self._pool.release(source)
        self.moves.append(Move(MoveKind.COPY, [(source, destination)], -1, (sequence, group, index)))
        self._emit(BlockCopied(source, destination, sequence, index, filled, left, Cause.COPY_ON_WRITE, group))

    def _grow(self, sequence: int, group: int, wanted: int, cause: Cause) -> None:
        table = self._held[sequence].tables[group].blocks
        for logical_index in range(len(table), wanted):
            block = self._take_block()
            table.append(block)
            self._emit(BlockAllocated(Tier.DEVICE, block, sequence, logical_index, cause, group))

    def _take_block(self) -> int:
        """A free block with one reference. Evicts a cached page if there is no other."""
        if not self._pool.num_free and self._cache is not None:
            page = self._cache.evict()
            self._filled[page.block] = 0
            self._pool.recycle(page.block)
            policy = self._cache.policy.name
            self._emit(BlockEvicted(page.block, page.hash.hex(), Cause.PREFIX_EVICTION, policy))
        return self._pool.allocate()

    def peek(self, count: int) -> list[int]:
        # No cached page: whoever writes to these before they are allocated must not spoil what may be used again.
        return self._pool.peek(count)

    def commit(self, sequence: int, count: int, cause: Cause) -> None:
        holding = self._held[sequence]
        start, block_size = holding.num_tokens, self.block_size
        stop = start + count
        if stop > len(holding.tables[0].blocks) * block_size:
            raise ValueError(
                f"sequence {sequence}: {stop} tokens do not fit into {len(holding.tables[0].blocks)} blocks"
            )
        holding.num_tokens = stop
        for group, table in enumerate(holding.tables):
            position = start
            while position < stop:
                logical_index, offset = divmod(position, block_size)
                written = min(stop - position, block_size - offset)
                block = table.blocks[logical_index]
                self._filled[block] = offset + written
                if self._bus is not None:
                    self._bus.emit(SlotsWritten(sequence, block, offset, written, cause, group))
                position += written
        self._num_filled += count * len(holding.tables)
        if self._cache is not None and stop // block_size > len(holding.hashes):
            self._name_pages(holding)

    # -- sharing ---------------------------------------------------------------------------------------------------

    def fork(self, parent: int, child: int, token_ids: Sequence[int], num_tokens: int | None = None) -> int:
        if child in self._held:
            raise ValueError(f"sequence {child} already has memory")
        source = self._held[parent]
        stored = source.num_tokens
        if num_tokens is None or num_tokens >= stored:
            num_tokens = stored
        else:
            num_tokens -= num_tokens % self.block_size  # a page with more tokens than the child has is no use to it
        if any(
            table.first > self._first_seen(window, num_tokens)
            for table, window in zip(source.tables, self.windows, strict=True)
        ):
            return 0
        if num_tokens == 0:
            return 0
        pages = self._blocks_for(num_tokens)
        tables = [BlockTable(first=table.first) for table in source.tables]
        for group, (table, new) in enumerate(zip(source.tables, tables, strict=True)):
            for index in range(pages):
                block, host = table.blocks[index], table.host.get(index)
                new.blocks.append(block)
                if block >= 0:
                    left = self._pool.share(block)
                    self._emit(BlockShared(block, child, index, left, Cause.FORK, Tier.DEVICE, group))
                elif host is not None:
                    new.host[index] = host
                    left = self._share_host(host)
                    self._emit(BlockShared(host, child, index, left, Cause.FORK, Tier.HOST, group))
        hashes = source.hashes[: num_tokens // self.block_size]
        self._held[child] = Holding(tables, token_ids, num_tokens, hashes)
        return num_tokens

    def _share_host(self, block: int) -> int:
        raise AssertionError("there is no host tier")

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

    def _free_behind_windows(self, sequence: int, holding: Holding) -> None:
        """Gives up pages that no token to come can see: a token sees itself and the ``window - 1`` before it."""
        for group, window in enumerate(self.windows):
            if window is None:
                continue
            table = holding.tables[group]
            needed = self._first_seen(window, holding.num_tokens)
            for index in range(table.first, min(needed, len(table.blocks) - 1)):
                self._release(sequence, group, index, table.blocks[index], Cause.OUT_OF_WINDOW)
                table.blocks[index] = -1
                table.first = index + 1

    def _first_seen(self, window: int | None, num_tokens: int) -> int:
        """The first page that tokens behind the first ``num_tokens`` see."""
        return 0 if window is None else max(0, num_tokens - window + 1) // self.block_size

    # -- without a host tier ---------------------------------------------------------------------------------------

    num_host_blocks = 0
    why_not_share: str | None = None

    @property
    def largest_chunk(self) -> int | None:
        return None

    def can_swap_out(self, sequences: Sequence[int]) -> Shortfall | None:
        return Shortfall(Cause.HOST_FULL, len(sequences), 0, "host blocks")

    def swap_out(self, request: int, sequences: Sequence[int], cause: Cause) -> int:
        raise RuntimeError("there is no host tier")

    def can_swap_in(self, sequences: Sequence[int], alone: bool) -> Shortfall | None:
        raise RuntimeError("there is no host tier")

    def swap_in(self, request: int, sequences: Sequence[int], cause: Cause) -> int:
        raise RuntimeError("there is no host tier")

    def offload(self, request: int, sequence: int, num_tokens: int) -> bool:
        return False

    def note_mass(self, sequence: int, mass: list[float]) -> None:
        pass

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

    def _emit(self, event: AnyEvent) -> None:
        if self._bus is not None:
            self._bus.emit(event)
