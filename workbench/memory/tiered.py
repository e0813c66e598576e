"""Paged KV memory in two tiers: pages of preempted requests, and of sequences larger than the pool, live on the host.

Swapping is Kwon et al., SOSP 2023, section 4.5: all pages of a victim's sequences go out together and come back
together. A sequence that is larger than the pool runs with a part of its pages on the host, which its steps read
through a staging window (`workbench.engine.reading.streams`).
"""

from __future__ import annotations

from collections.abc import Sequence

from workbench.events.bus import EventBus
from workbench.events.types import BlockFreed, BlockReleased, BlocksSwappedIn, BlocksSwappedOut, Cause, Tier
from workbench.memory.block_pool import BlockPool
from workbench.memory.block_table import Move, MoveKind
from workbench.memory.eviction import EvictionPolicy
from workbench.memory.paged import PagedMemory
from workbench.memory.placement import OldestFirst, PlacedPage, PlacementPolicy
from workbench.memory.protocol import MemoryTables, Shortfall


class TieredMemory(PagedMemory):
    """`PagedMemory` with a second pool, on the host.

    Args:
        num_host_blocks: pages in it, each of ``bytes_per_block`` bytes, as on the device.
        placement: which pages of a sequence that is larger than the device's pool move to the host.
        streams: whether such a sequence can run at all; if not, it is rejected.
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        watermark: float,
        bus: EventBus | None,
        num_host_blocks: int,
        *,
        windows: Sequence[int | None] = (None,),
        eviction: EvictionPolicy | None = None,
        max_chunk: int = 512,
        bytes_per_block: int = 0,
        placement: PlacementPolicy | None = None,
        streams: bool = True,
    ) -> None:
        super().__init__(
            num_blocks,
            block_size,
            watermark,
            bus,
            windows=windows,
            eviction=eviction,
            max_chunk=max_chunk,
            bytes_per_block=bytes_per_block,
        )
        self.num_host_blocks = num_host_blocks
        self._host = BlockPool(num_host_blocks)
        self._placement = placement or OldestFirst()
        self._streams = streams
        self._mass: dict[int, list[float]] = {}
        self.streamed: set[int] = set()
        #: sequences whose pages were ordered back; they can be found by their content when they have arrived
        self._on_their_way: set[int] = set()

    # -- larger than the device ------------------------------------------------------------------------------------

    @property
    def largest_chunk(self) -> int | None:
        full = self._num_full_groups
        if not self._streams or not full:
            return None
        room = (self.num_blocks - self._windowed_blocks(1 << 30)) // full
        return max(1, room - 1) * self.block_size

    def never_fits(self, prompt_tokens: int, max_tokens: int, width: int = 1) -> Shortfall | None:
        shortfall = super().never_fits(prompt_tokens, max_tokens, width)
        full = self._num_full_groups
        windowed = self._windowed_blocks(prompt_tokens + max_tokens - 1)
        if shortfall is None or width > 1 or not self._streams or not full:
            return shortfall
        if self.num_blocks < windowed + 2 * full:  # a page to fill, and one more to write to
            return shortfall
        # Every full group has as many pages in either tier.
        room = windowed + (self.num_blocks - windowed) // full * full + self.num_host_blocks // full * full
        return None if shortfall.needed <= room else Shortfall(Cause.NEVER_FITS, shortfall.needed, room, "blocks")

    def _is_oversize(self, num_tokens: int) -> bool:
        full = self._num_full_groups * self._blocks_for(num_tokens)
        return full + self._windowed_blocks(num_tokens) > self.num_blocks

    def _first_tokens(self, num_tokens: int) -> int:
        return min(num_tokens, self.largest_chunk or num_tokens) if self._is_oversize(num_tokens) else num_tokens

    def can_allocate(
        self, token_ids: Sequence[int], prompt_tokens: int, max_tokens: int, alone: bool, more_blocks: int = 0
    ) -> Shortfall | None:
        if not self._is_oversize(len(token_ids)):
            return super().can_allocate(token_ids, prompt_tokens, max_tokens, alone, more_blocks)
        # It needs the whole device for itself.
        return self._judge(self.num_blocks, self.num_available if alone else 0, True)

    def offload(self, request: int, sequence: int, num_tokens: int) -> bool:
        """Moves as many of a sequence's full pages to the host as it takes to hold ``num_tokens`` tokens.

        False, and nothing has changed, if that is not possible.
        """
        holding = self._held[sequence]
        full = holding.num_tokens // self.block_size
        wanted = self._blocks_for(num_tokens)
        needed = sum(max(0, wanted - len(table.blocks)) for table in holding.tables) - self.num_available
        groups = [group for group, window in enumerate(self.windows) if window is None]
        each = -(-needed // len(groups)) if groups else 0
        mass = self._mass.get(sequence, [])
        chosen: list[tuple[int, int]] = []
        for group in groups:
            blocks = holding.tables[group].blocks
            movable = [i for i in range(full) if blocks[i] >= 0 and self._pool.ref_counts[blocks[i]] == 1]
            pages = {i: PlacedPage(i, len(blocks), mass[i] if i < len(mass) else None) for i in movable}
            movable.sort(key=lambda i: (self._placement.key(pages[i]), i))
            if len(movable) < each:
                return False
            chosen += [(group, index) for index in movable[:each]]
        if needed <= 0 or not chosen or len(chosen) > self._host.num_free:
            return False
        self._move_out(request, [(sequence, group, index) for group, index in chosen], Cause.LARGER_THAN_MEMORY)
        self.streamed.add(sequence)
        return True

    def note_mass(self, sequence: int, mass: list[float]) -> None:
        """Takes note of how much attention each page got, for the placement policy."""
        self._mass[sequence] = mass

    # -- swapping --------------------------------------------------------------------------------------------------

    def can_swap_out(self, sequences: Sequence[int]) -> Shortfall | None:
        places = self._device_places(sequences)
        if any(table.host for s in sequences for table in self._held[s].tables):
            # It is larger than the device: what is out there could not all come back.
            return Shortfall(Cause.LARGER_THAN_MEMORY, 0, 0, "blocks")
        needed = len({self._held[s].tables[g].blocks[i] for s, g, i in places})
        return self._judge_host(needed)

    def _judge_host(self, needed: int) -> Shortfall | None:
        free = self._host.num_free
        return Shortfall(Cause.HOST_FULL, needed, free, "host blocks") if needed > free else None

    def _device_places(self, sequences: Sequence[int]) -> list[tuple[int, int, int]]:
        """Sequence, group and index of all pages on the device that hold tokens."""
        return [
            (sequence, group, index)
            for sequence in sequences
            for group, table in enumerate(self._held[sequence].tables)
            for index, block in enumerate(table.blocks[: self._blocks_for(self._held[sequence].num_tokens)])
            if block >= 0
        ]

    def swap_out(self, request: int, sequences: Sequence[int], cause: Cause) -> int:
        for sequence in sequences:
            self._on_their_way.discard(sequence)
            self._give_up_empty_pages(sequence, cause)
        return self._move_out(request, self._device_places(sequences), cause)

    def _give_up_empty_pages(self, sequence: int, cause: Cause) -> None:
        holding = self._held[sequence]
        used = self._blocks_for(holding.num_tokens)
        for group, table in enumerate(holding.tables):
            for index in range(len(table.blocks) - 1, used - 1, -1):
                self._release(sequence, group, index, table.blocks.pop(), cause)

    def _move_out(self, request: int, places: list[tuple[int, int, int]], cause: Cause) -> int:
        """Moves pages out, wherever they are named; returns how many bytes that are."""
        pairs: dict[int, int] = {}
        references: dict[int, int] = {}
        for sequence, group, index in places:
            table = self._held[sequence].tables[group]
            block = table.blocks[index]
            if block in pairs:
                self._host.share(pairs[block])
            else:
                pairs[block] = self._host.allocate()
            references[block] = references.get(block, 0) + 1
            table.blocks[index] = -1
            table.host[index] = pairs[block]
        moved = list(pairs.items())
        size = len(moved) * self._bytes_per_block
        if moved:
            self.moves.append(Move(MoveKind.OUT, moved, request))
            self._emit(BlocksSwappedOut(request, moved, size, cause))
        for block, count in references.items():
            self._drop(block, count)
            self._tell_unused(block, cause)
        return size

    def can_swap_in(self, sequences: Sequence[int], alone: bool) -> Shortfall | None:
        pages = len({host for s in sequences for table in self._held[s].tables for host in table.host.values()})
        # Alone, room to go on is made step by step.
        more = 0 if alone else self._blocks_to_grow(sequences)
        return self._judge(pages + more, self.num_available, alone)

    def _blocks_to_grow(self, sequences: Sequence[int]) -> int:
        """Blocks that it takes for each to go on: for the rest of its known tokens."""
        needed = 0
        for sequence in sequences:
            holding = self._held[sequence]
            known = self._blocks_for(len(holding.token_ids))
            soon = self._blocks_for(min(len(holding.token_ids), holding.num_tokens + self._max_chunk))
            for table, window in zip(holding.tables, self.windows, strict=True):
                needed += max(0, (known if window is None else soon) - len(table.blocks))
        return needed

    def swap_in(self, request: int, sequences: Sequence[int], cause: Cause) -> int:
        pairs: dict[int, int] = {}
        for sequence in sequences:
            for table in self._held[sequence].tables:
                for index, host in sorted(table.host.items()):
                    if host in pairs:
                        self._pool.share(pairs[host])
                    else:
                        pairs[host] = self._take_block()
                    table.blocks[index] = pairs[host]
                    self._host.release(host)
                table.host.clear()
        for sequence in sequences:
            holding = self._held[sequence]
            for table in holding.tables:
                for index in range(table.first, len(table.blocks)):
                    block = table.blocks[index]
                    if not self._filled[block]:
                        filled = min(self.block_size, holding.num_tokens - index * self.block_size)
                        self._filled[block] = filled
                        self._num_filled += filled
            self._on_their_way.add(sequence)
        moved = list(pairs.items())
        if moved:
            self.moves.append(Move(MoveKind.IN, moved, request))
            self._emit(BlocksSwappedIn(request, moved, len(moved) * self._bytes_per_block, cause))
        return len(moved) * self._bytes_per_block

    def try_append(self, sequence: int, num_tokens: int) -> bool:
        if sequence in self._on_their_way:  # a step later than they were ordered: they are there
            self._on_their_way.discard(sequence)
            self._name_again(sequence)
        return super().try_append(sequence, num_tokens)

    def _name_again(self, sequence: int) -> None:
        """Full pages that came back can be found by their content again."""
        if self._cache is None:
            return
        holding = self._held[sequence]
        for index, name in enumerate(holding.hashes):
            self._cache.add(holding.tables[0].blocks[index], name, holding.hashes[index - 1] if index else b"", index)

    # -- giving back -----------------------------------------------------------------------------------------------

    def free(self, sequence: int, cause: Cause) -> int:
        self._mass.pop(sequence, None)
        self._on_their_way.discard(sequence)
        self.streamed.discard(sequence)
        return super().free(sequence, cause)

    def fork(self, parent: int, child: int, token_ids: Sequence[int], num_tokens: int | None = None) -> int:
        stored = super().fork(parent, child, token_ids, num_tokens)
        if stored and parent in self.streamed:
            self.streamed.add(child)
        return stored

    def _share_host(self, block: int) -> int:
        return self._host.share(block)

    def _release_host(self, sequence: int, group: int, index: int, block: int, cause: Cause) -> None:
        left = self._host.release(block)
        self._emit(BlockReleased(block, sequence, left, cause, index, Tier.HOST, group))
        if left == 0:
            self._emit(BlockFreed(block, cause, Tier.HOST))

    def tables(self) -> MemoryTables:
        books = super().tables()
        books.host_ref_counts, books.free_host_blocks = list(self._host.ref_counts), self._host.free_blocks()
        return books
