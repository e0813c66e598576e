"""Paged KV memory: a pool of blocks, and block tables per sequence (Kwon et al., SOSP 2023, sections 4.2 to 4.5)."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

from workbench.events.bus import EventBus
from workbench.events.types import (
    BlockAllocated,
    BlockCopied,
    BlockEvicted,
    BlockShared,
    Cause,
    PrefixHit,
    SlotsWritten,
    Tier,
)
from workbench.memory.block_table import BlockTable, Move, MoveKind
from workbench.memory.eviction import EvictionPolicy
from workbench.memory.paged_books import Holding, PagedBooks
from workbench.memory.prefix_cache import page_hash
from workbench.memory.protocol import Shortfall


class PagedMemory(PagedBooks):
    """Blocks on demand: a sequence holds just the blocks that its tokens need, so it wastes less than one block.

    Args:
        watermark: share of the pool that admission leaves free, so that running sequences can grow for a while
            before one has to be preempted.
        windows: per layer group, its sliding window in tokens, or None. A group's pages behind its window are freed.
        eviction: which cached page gives way; None: prefixes are not cached.
        max_chunk: most tokens of a sequence that one step computes.
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
        super().__init__(num_blocks, block_size, bus, windows, eviction, bytes_per_block)
        #: the text whose beginning was last looked for, and the names of its full pages so far
        self._asked: tuple[Sequence[int], list[bytes]] = [], []
        self._max_chunk = max_chunk
        self._watermark_blocks = math.ceil(watermark * num_blocks)
        self._is_plain = len(windows) == 1 and windows[0] is None

    # -- room ------------------------------------------------------------------------------------------------------

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
        # The head of the queue asks in every step: its names are kept.
        asked, names = self._asked
        if asked is not token_ids:
            names = []
            self._asked = token_ids, names
        for index in range((len(token_ids) - 1) // self.block_size):
            if index == len(names):
                start = index * self.block_size
                parent = names[-1] if names else b""
                names.append(page_hash(parent, token_ids[start : start + self.block_size]))
            block = self._cache.find(names[index])
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

    # -- without a host tier ---------------------------------------------------------------------------------------

    num_host_blocks = 0
    streamed: Collection[int] = ()
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
