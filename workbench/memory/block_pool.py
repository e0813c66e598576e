"""A fixed number of physical blocks with reference counts and a free list."""

from __future__ import annotations

import itertools
from collections import deque


class PoolExhaustedError(RuntimeError):
    """No block is free. The scheduler asks before it takes, so this is a bug in the caller."""


class BlockPool:
    """Blocks 0 to ``num_blocks - 1``. The free list is first in, first out, so that freed content stays longest.

    Attributes:
        ref_counts: references per block; 0 means free.
    """

    def __init__(self, num_blocks: int) -> None:
        if num_blocks < 1:
            raise ValueError(f"num_blocks={num_blocks}: must be at least 1")
        self.ref_counts = [0] * num_blocks
        self._free = deque(range(num_blocks))

    @property
    def num_free(self) -> int:
        return len(self._free)

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
            raise PoolExhaustedError(f"all {len(self.ref_counts)} blocks are in use")
        block = self._free.popleft()
        self.ref_counts[block] = 1
        return block

    def share(self, block: int) -> int:
        """Adds a reference to an allocated block; returns the new count."""
        if self.ref_counts[block] == 0:
            raise ValueError(f"block {block} is free and can't be shared")
        self.ref_counts[block] += 1
        return self.ref_counts[block]

    def release(self, block: int) -> int:
        """Drops a reference; returns how many are left. At 0 the block is free.

        Raises:
            ValueError: the block is free already.
        """
        if self.ref_counts[block] == 0:
            raise ValueError(f"block {block} is free already")
        self.ref_counts[block] -= 1
        if self.ref_counts[block] == 0:
            self._free.append(block)
        return self.ref_counts[block]
