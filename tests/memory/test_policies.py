"""Which page gives way: eviction and placement policies, and the cache of named pages."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.events import Cause, EventBus
from workbench.events import types as ev
from workbench.memory import PagedMemory, TieredMemory
from workbench.memory.eviction import EVICTION_POLICIES, FIFO, LFU, LRU, CachedPage, EvictionPolicy, Key, LeafFirst
from workbench.memory.placement import PLACEMENT_POLICIES, KeepFirst, LeastAttended, OldestFirst, PlacedPage
from workbench.memory.prefix_cache import PrefixCache, page_hash

A, B, C = b"a", b"b", b"c"


def chain(policy: EvictionPolicy) -> PrefixCache:
    """Three pages of one text, in blocks 0, 1, 2, all idle; the first was given up first."""
    cache = PrefixCache(policy)
    for block, (name, parent) in enumerate([(A, b""), (B, A), (C, B)]):
        cache.add(block, name, parent, block)
    for block in (0, 1, 2):
        cache.retire(block)
    return cache


def evict_all(cache: PrefixCache) -> list[int]:
    foretold = cache.eviction_order()
    order = [cache.evict().block for _ in range(cache.num_idle)]
    assert len(cache) == cache.num_idle == 0
    with pytest.raises(IndexError):
        cache.evict()
    assert sorted(order) == sorted(foretold)
    return order


def test_lru_evicts_what_was_given_up_longest_ago() -> None:
    cache = chain(LRU())
    cache.use(0)
    cache.retire(0)
    assert evict_all(cache) == [1, 2, 0]


def test_lfu_evicts_what_was_found_least_often() -> None:
    cache = chain(LFU())
    for block in (1, 1, 0):
        cache.use(block)
        cache.retire(block)
    assert evict_all(cache) == [2, 0, 1]


def test_fifo_does_not_care_for_use() -> None:
    cache = chain(FIFO())
    cache.use(0)
    cache.retire(0)
    assert evict_all(cache) == [0, 1, 2]


def test_leaf_first_never_cuts_a_chain() -> None:
    cache = chain(LeafFirst())
    cache.add(3, b"d", A, 1)  # a second text that goes on from the first page
    cache.retire(3)
    assert evict_all(cache) == [2, 1, 3, 0], "the others of the first text before the younger one, their beginning last"


def test_a_policy_of_ones_own() -> None:
    class Deepest:
        name = "deepest"

        def key(self, page: CachedPage) -> Key:
            return (-page.depth,)

    assert evict_all(chain(Deepest())) == [2, 1, 0]


def test_a_page_in_use_is_not_evicted() -> None:
    cache = chain(LRU())
    cache.use(0)
    assert cache.find(A) == 0
    assert not cache.is_idle(0)
    assert [cache.evict().block, cache.evict().block] == [1, 2]
    with pytest.raises(IndexError):
        cache.evict()
    assert cache.find(A) == 0
    assert cache.find(B) is None
    assert not cache.has(1)


def test_the_first_page_with_a_name_keeps_it() -> None:
    cache = chain(LRU())
    cache.add(7, A, b"", 0)
    assert (cache.find(A), cache.has(7), len(cache)) == (0, False, 3)


def test_a_page_that_comes_back_knows_its_children() -> None:
    cache = chain(LRU())
    assert cache.evict().block == 0
    cache.add(9, A, b"", 0)
    cache.retire(9)
    kept = PrefixCache(LeafFirst())
    kept.add(1, B, A, 1)
    kept.add(9, A, b"", 0)
    kept.retire(9)
    kept.retire(1)
    assert evict_all(kept) == [1, 9], "it is not a leaf: block 1 continues it"


def test_names_stand_for_the_whole_text() -> None:
    first = page_hash(b"", [1, 2])
    assert len(first) == 16
    assert page_hash(b"", [1, 2]) == first
    assert len({first, page_hash(b"", [2, 1]), page_hash(first, [1, 2]), page_hash(page_hash(b"", [3]), [1, 2])}) == 4


@settings(max_examples=60, deadline=None)
@given(
    name=st.sampled_from(list(EVICTION_POLICIES)),
    actions=st.lists(st.tuples(st.sampled_from("uure"), st.integers(0, 7)), max_size=60),
)
def test_the_cheapest_idle_page_goes_whatever_happened_before(name: str, actions: list[tuple[str, int]]) -> None:
    """The heap against a search through all idle pages, with keys as they are now."""
    policy = EVICTION_POLICIES[name]()
    cache = PrefixCache(policy)
    for block in range(8):  # a tree: two texts from each page
        cache.add(block, bytes([block + 1]), bytes([(block + 1) // 2]) if block else b"", block.bit_length())
    for action, block in actions:
        if not cache.has(block):
            continue
        if action == "u":
            cache.use(block)
        elif action == "r" and not cache.is_idle(block):
            cache.retire(block)
        elif action == "e" and cache.num_idle:
            idle = {b: cache._by_block[b] for b in range(8) if cache.is_idle(b)}
            expected = min(idle, key=lambda b: (policy.key(idle[b]), b))
            assert cache.eviction_order()[0] == expected
            assert cache.evict().block == expected


def test_placement_policies_order_pages() -> None:
    masses = [0.5, 0.1, None, 0.3]
    pages = [PlacedPage(index, 4, mass) for index, mass in enumerate(masses)]

    def order(policy: OldestFirst | KeepFirst | LeastAttended) -> list[int]:
        return [page.index for page in sorted(pages, key=policy.key)]

    assert order(OldestFirst()) == [0, 1, 2, 3]
    assert order(KeepFirst()) == [1, 2, 3, 0]
    assert order(LeastAttended()) == [2, 1, 3, 0]


@pytest.mark.parametrize(("name", "moved"), [("oldest", [0, 1]), ("keep_first", [1, 2]), ("least_attended", [1, 3])])
def test_offload_moves_what_the_placement_policy_says(name: str, moved: list[int]) -> None:
    memory = TieredMemory(5, 2, 0.0, None, 8, bytes_per_block=32, placement=PLACEMENT_POLICIES[name]())
    tokens = list(range(10))
    memory.allocate(0, tokens, 10, 20)
    assert memory.try_append(0, 8)
    memory.commit(0, 8, Cause.PREFILL)
    memory.note_mass(0, [0.5, 0.1, 0.3, 0.0])
    assert not memory.try_append(0, 14)
    assert memory.offload(0, 0, 14)
    assert memory.try_append(0, 14)
    assert sorted(memory.block_tables(0)[0].host) == moved
    assert not memory.offload(0, 0, 200), "the device is too small, whatever moves"


def test_a_text_found_again_and_evicted_is_told() -> None:
    """One sequence leaves its pages behind; the next one that begins alike has them; a third one takes the room."""
    bus = EventBus()
    events: list[ev.AnyEvent] = []
    bus.subscribe(lambda batch: events.extend(batch.events))
    memory = PagedMemory(4, 2, 0.0, bus, eviction=LRU())
    bus.emit(ev.RunStarted(1, "paged", 2, 4, 32, 0, ev.ModelGeometry("m", "M", 1, 1, 1, 1, 1, "float32", 8), {}))
    for number, tokens in enumerate([[1, 2, 3, 4, 5], [1, 2, 3, 9], [7, 7, 7, 7, 7, 7, 7, 7]]):
        bus.emit(ev.RequestQueued(number, number, "", len(tokens), 1))
        kept = memory.allocate(number, tokens, len(tokens), 1)
        assert kept == (0, 2, 0)[number]
        memory.commit(number, len(tokens) - kept, Cause.PREFILL)
        memory.free(number, Cause.REQUEST_FINISHED)
    bus.flush()
    hits = [e for e in events if isinstance(e, ev.PrefixHit)]
    assert [(e.block, e.logical_index, e.ref_count) for e in hits] == [(0, 0, 1)]
    evicted = [e for e in events if isinstance(e, ev.BlockEvicted)]
    assert {e.policy for e in evicted} == {"lru"}
    assert evicted[0].hash == page_hash(page_hash(b"", [1, 2]), [3, 4]).hex(), "the one that was not found again"
    totals = bus.page_map.totals
    assert (totals.prefix_hit_tokens, totals.evictions) == (2, len(evicted))


def test_a_fork_of_a_shorter_beginning_names_its_own_pages() -> None:
    memory = PagedMemory(16, 1, 0.0, None, eviction=LRU())
    parent, child = [1, 2, 3, 4], [1, 2, 9, 9, 5]
    memory.allocate(0, parent, 4, 4)
    memory.commit(0, 4, Cause.PREFILL)
    assert memory.fork(0, 1, child, 2) == 2
    assert memory.try_append(1, 5)
    memory.commit(1, 3, Cause.PREFILL)
    assert memory.allocate(2, [1, 2, 3, 4, 5, 0], 6, 4) == 4, "page 5 of the child does not go on from the parent's"
    assert memory.allocate(3, [1, 2, 9, 9, 5, 0], 6, 4) == 5


def test_pages_that_come_back_from_the_host_are_found_again() -> None:
    memory = TieredMemory(4, 2, 0.0, None, 8, eviction=LRU(), bytes_per_block=32)
    tokens = [1, 2, 3, 4, 5]
    memory.allocate(0, tokens, 5, 4)
    memory.commit(0, 5, Cause.PREFILL)
    memory.swap_out(0, [0], Cause.PREEMPTION_VICTIM)
    memory.allocate(1, [9] * 8, 8, 1)  # takes all of the device, so what was there is evicted
    memory.commit(1, 8, Cause.PREFILL)
    memory.free(1, Cause.REQUEST_FINISHED)
    memory.swap_in(0, [0], Cause.RESUMPTION)
    # Not at once: on a GPU they are still on their way, and another request of the same step must not read them.
    assert memory.can_allocate([1, 2, 3, 4, 6], 5, 4, alone=True) is not None
    assert memory.try_append(0, 6)
    assert memory.allocate(2, [1, 2, 3, 4, 6], 5, 4) == 4
    assert memory.block_table(2)[:2] == memory.block_table(0)[:2]
