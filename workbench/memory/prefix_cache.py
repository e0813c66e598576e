"""Automatic prefix caching: full pages that can be found again by what is in them.

A page's name is the hash of its tokens and of the name of the page before it, so equal names mean equal text from the
beginning on, and so equal keys and values. (vLLM calls this automatic prefix caching; SGLang keeps a tree instead.)
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Sequence
from hashlib import blake2b

from workbench.memory.eviction import CachedPage, EvictionPolicy, Key


def page_hash(parent: bytes, token_ids: Sequence[int]) -> bytes:
    """The name of a full page: 16 bytes. ``parent``: that of the page before it, empty for the first."""
    return blake2b(array("q", token_ids).tobytes(), digest_size=16, key=parent).digest()


class PrefixCache:
    """Names of pages, and the order in which idle ones give way. Knows nothing of sequences."""

    def __init__(self, policy: EvictionPolicy) -> None:
        self.policy = policy
        self._by_hash: dict[bytes, CachedPage] = {}
        self._by_block: dict[int, CachedPage] = {}
        self._idle: dict[int, Key] = {}
        self._heap: list[tuple[Key, int]] = []
        self._children: dict[bytes, int] = {}
        self._clock = 0

    def __len__(self) -> int:
        """How many pages have a name."""
        return len(self._by_block)

    @property
    def num_idle(self) -> int:
        return len(self._idle)

    def is_idle(self, block: int) -> bool:
        return block in self._idle

    def has(self, block: int) -> bool:
        """Whether the page has a name."""
        return block in self._by_block

    def find(self, name: bytes) -> int | None:
        """The page with this name."""
        page = self._by_hash.get(name)
        return None if page is None else page.block

    def name_of(self, block: int) -> bytes:
        return self._by_block[block].hash

    def add(self, block: int, name: bytes, parent: bytes, depth: int) -> None:
        """Names a page that is full now. If another page has the same name, that one keeps it."""
        if name in self._by_hash:
            return
        self._clock += 1
        page = CachedPage(block, name, parent, depth, cached_at=self._clock, last_used=self._clock)
        self._by_hash[name] = self._by_block[block] = page
        page.children = self._children.get(name, 0)  # some, if it was evicted before what continues it
        self._count_child(parent, +1)

    def _count_child(self, parent: bytes, change: int) -> None:
        count = self._children[parent] = self._children.get(parent, 0) + change
        if not count:
            del self._children[parent]
        page = self._by_hash.get(parent)
        if page is not None:
            page.children = count
            if page.block in self._idle:
                self._push(page)

    def _push(self, page: CachedPage) -> None:
        key = self.policy.key(page)
        self._idle[page.block] = key
        heapq.heappush(self._heap, (key, page.block))
        if len(self._heap) > 2 * len(self._idle) + 64:  # most entries are out of date
            self._heap = [(key, block) for block, key in self._idle.items()]
            heapq.heapify(self._heap)

    def use(self, block: int) -> None:
        """A sequence found the page by its name, and takes it."""
        self._clock += 1
        page = self._by_block[block]
        page.hits += 1
        page.last_used = self._clock
        self._idle.pop(block, None)

    def retire(self, block: int) -> None:
        """Nobody uses the page any more; it can still be found."""
        self._clock += 1
        page = self._by_block[block]
        page.last_used = self._clock
        self._push(page)

    def evict(self) -> CachedPage:
        """Takes the name from the idle page that the policy chooses.

        Raises:
            IndexError: no page is idle.
        """
        while True:
            key, block = heapq.heappop(self._heap)
            if self._idle.get(block) == key:  # else it was used, or its key has changed, since it was put there
                break
        del self._idle[block]
        page = self._by_block.pop(block)
        del self._by_hash[page.hash]
        self._count_child(page.parent, -1)
        return page

    def eviction_order(self) -> list[int]:
        """Idle pages, the next to be evicted first, if nothing happens in between."""
        return [block for _, block in sorted((key, block) for block, key in self._idle.items())]
