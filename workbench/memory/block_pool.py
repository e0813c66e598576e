"""A fixed number of physical blocks with reference counts and a free list."""

from __future__ import annotations

import itertools
from collections import deque


class PoolExhaustedError(RuntimeError):
    """No block is free. The scheduler asks before it takes, so this is a bug in the caller."""


class BlockPool:
    """Blocks 0 to ``num_blocks - 1``. The free list is first in, first out, so that freed content stays longest.

    A block is free (on the free list), allocated (one reference or more), or *kept*: without references, but not on the
    free list either, because somebody (the prefix cache) holds on to its content.

    Attributes:
        ref_counts: references per block; 0 means free or kept.
    """

    def __init__(self, num_blocks: int) -> None:
        if num_blocks < 0:
            raise ValueError(f"num_blocks={num_blocks}: must be at least 0")
        self.ref_counts = [0] * num_blocks
        self._free = deque(range(num_blocks))
        self.num_kept = 0

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_allocated(self) -> int:
        return len(self.ref_counts) - len(self._free) - self.num_kept

    def free_blocks(self) -> list[int]:
        """The free list, next to be allocated first."""
        return list(self._free)

    def peek(self, count: int) -> list[int]:
        """The blocks that the next ``count`` calls of `allocate` will take; fewer if fewer are free."""
        return list(itertools.islice(self._free, count))

    def allocate(self) -> int:
        """Takes a free block with a reference count of 1.

        Raises:
            PoolExhaustedError: there is none.
        """
        if not self._free:
            raise PoolExhaustedError(f"none of {len(self.ref_counts)} blocks is free")
        block = self._free.popleft()
        self.ref_counts[block] = 1
        return block

    def share(self, block: int) -> int:
        """Adds a reference to an allocated block; returns the new count."""
        if self.ref_counts[block] == 0:
            raise ValueError(f"block {block} is free and can't be shared")
        self.ref_counts[block] += 1
        return self.ref_counts[block]

    def release(self, block: int, keep: bool = False) -> int:
        """Drops a reference; returns how many are left. At 0 the block is free, or kept if asked.

        Raises:
            ValueError: the block has no reference.
        """
        if self.ref_counts[block] == 0:
            raise ValueError(f"block {block} is free already")
        self.ref_counts[block] -= 1
        left = self.ref_counts[block]
        if left == 0:
            if keep:
                self.num_kept += 1
            else:
                self._free.append(block)
        return left

    def revive(self, block: int) -> None:
        """Gives a kept block a reference."""
        self.ref_counts[block] = 1
        self.num_kept -= 1

    def recycle(self, block: int) -> None:
        """Puts a kept block on the free list."""
        self.num_kept -= 1
        self._free.append(block)
