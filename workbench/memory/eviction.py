"""Which cached page gives way when no page is free: a protocol, and four policies.

A policy of your own is a class with a name and a `key`:

    class Deepest:
        name = "deepest"
        def key(self, page: CachedPage) -> Key:
            return (-page.depth,)

    LLM("tiny", EngineConfig(prefix_caching=True, eviction=Deepest()))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

Key = tuple[float, ...]


@dataclass(slots=True)
class CachedPage:
    """A full page whose content has a name: the hash of its tokens and of all tokens before them.

    Times are counts of what happened to the cache so far, not seconds.

    Attributes:
        parent: hash of the page before it; empty for a first page.
        depth: its logical index.
        hits: how often another sequence could use it instead of computing its tokens.
        cached_at: when its content got its name.
        last_used: when it was last taken or given up by a sequence.
        children: pages in the cache that continue it. Without it they can't be found any more.
    """

    block: int
    hash: bytes
    parent: bytes
    depth: int
    hits: int = 0
    cached_at: int = 0
    last_used: int = 0
    children: int = 0


class EvictionPolicy(Protocol):
    """Of the cached pages that nobody uses, the one with the smallest key is evicted first.

    The key is asked for when a page falls idle and when its number of children changes, not at every eviction: it may
    depend on nothing but the page. Equal keys: the lower page number first.
    """

    @property
    def name(self) -> str: ...
    def key(self, page: CachedPage) -> Key: ...


class LRU:
    """Least recently used first. A sequence gives up its last page first, so of one sequence the end goes first."""

    name = "lru"

    def key(self, page: CachedPage) -> Key:
        return (page.last_used,)


class LFU:
    """Least frequently used first, of these the least recently used."""

    name = "lfu"

    def key(self, page: CachedPage) -> Key:
        return (page.hits, page.last_used)


class FIFO:
    """What was cached first goes first, used or not."""

    name = "fifo"

    def key(self, page: CachedPage) -> Key:
        return (page.cached_at,)


class LeafFirst:
    """Pages that no cached page continues go first, the least recently used of them: no chain is cut in the middle."""

    name = "leaf_first"

    def key(self, page: CachedPage) -> Key:
        return (page.children > 0, page.last_used, -page.depth)


EVICTION_POLICIES: dict[str, type[LRU] | type[LFU] | type[FIFO] | type[LeafFirst]] = {
    policy.name: policy for policy in (LRU, LFU, FIFO, LeafFirst)
}
