"""The choice of pages: bounds are never below a score, and what is chosen is what the definition says."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from paged_kernels import reference
from paged_kernels.page_bounds import choose_pages, chosen_tables, new_bounds, score_bounds, update_bounds
from paged_kernels.torch_partial import partial_attention

MANY = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
HEADS = st.sampled_from([(4, 4), (8, 2), (6, 1)])
LENGTHS = st.lists(st.integers(0, 90), min_size=1, max_size=4)
BLOCK_SIZES = st.sampled_from([1, 3, 16])


class Cache:
    """Keys written a few at a time to pages in random order, which had keys of other owners before."""

    def __init__(
        self, data: st.DataObject, lengths: list[int], kv_heads: int, dim: int, block_size: int, dtype: torch.dtype,
        device: str,
    ) -> None:  # fmt: skip
        self.block_size, self.lengths, self.device = block_size, lengths, device
        rng = torch.Generator().manual_seed(data.draw(st.integers(0, 10_000), "seed"))
        pages = [-(-length // block_size) for length in lengths]
        num_blocks = sum(pages) + 2
        order = torch.randperm(num_blocks, generator=rng).tolist()
        # Entries past the end are no block at all.
        self.tables = torch.full((len(lengths), max(pages) + 2), 1_000_000, dtype=torch.int32)
        for seq, count in enumerate(pages):
            self.tables[seq, :count] = torch.tensor([order.pop() for _ in range(count)])
        self.k_cache = torch.full((num_blocks, block_size, kv_heads, dim), math.nan, dtype=dtype)
        limit = dtype if data.draw(st.booleans(), "bounds like the cache") else torch.float32
        self.lo, self.hi = new_bounds(num_blocks, kv_heads, dim, limit, device)
        everywhere = torch.arange(num_blocks * block_size)
        huge = torch.randn(len(everywhere), kv_heads, dim, generator=rng) * 1e4
        update_bounds(huge.to(dtype).to(device), everywhere.to(device), self.lo, self.hi, block_size)
        # A step writes some tokens of every sequence, mixed, with padding between them.
        done = [0] * len(lengths)
        while done != lengths:
            slots = [-1] * data.draw(st.integers(0, 2), "padding")
            for seq, length in enumerate(lengths):
                stop = min(length, done[seq] + data.draw(st.integers(1, 60), "tokens"))
                where = torch.arange(done[seq], stop)
                slots += (self.tables[seq, where // block_size] * block_size + where % block_size).tolist()
                done[seq] = stop
            mapping = torch.tensor(slots, dtype=torch.int64)[torch.randperm(len(slots), generator=rng)]
            k = torch.randn(len(slots), kv_heads, dim, generator=rng).to(dtype)
            stored = mapping >= 0
            self.k_cache.flatten(0, 1)[mapping[stored]] = k[stored]
            k[~stored] = math.nan
            mapping = mapping.to(torch.int32) if len(slots) % 2 else mapping
            update_bounds(k.to(device), mapping.to(device), self.lo, self.hi, block_size)
        self.context_lens = torch.tensor(lengths, dtype=torch.int32)

    def keys(self, seq: int) -> Tensor:
        where = torch.arange(self.lengths[seq])
        return self.k_cache[self.tables[seq, where // self.block_size].long(), where % self.block_size]

    def bounds(self, q: Tensor) -> Tensor:
        tables, lens = self.tables.to(self.device), self.context_lens.to(self.device)
        return score_bounds(q.to(self.device), self.lo, self.hi, tables, lens, self.block_size).cpu()


@MANY
@given(st.data(), LENGTHS, HEADS, BLOCK_SIZES, st.sampled_from([torch.float32, torch.bfloat16]))
def test_no_score_is_above_its_bound(
    device: str, data: st.DataObject, lengths: list[int], heads: tuple[int, int], block_size: int, dtype: torch.dtype
) -> None:
    num_heads, kv_heads = heads
    cache = Cache(data, lengths, kv_heads, 8, block_size, dtype, device)
    q = torch.randn(len(lengths), num_heads, 8).to(dtype)
    bounds = cache.bounds(q)
    for seq, length in enumerate(lengths):
        pages = -(-length // block_size)
        assert (bounds[seq, :, pages:] == -math.inf).all()
        for page in range(pages):
            keys = cache.keys(seq)[page * block_size : (page + 1) * block_size].double()
            keys = keys.repeat_interleave(num_heads // kv_heads, dim=1)
            query = q[seq].double()
            scores = torch.einsum("hd,nhd->hn", query, keys).amax(dim=1)
            assert (bounds[seq, :, page].double() >= scores - 1e-5).all()
            # Exactly the bounds of the keys of this owner, and of no other.
            exact = torch.maximum(query * keys.amin(dim=0), query * keys.amax(dim=0)).sum(dim=1)
            torch.testing.assert_close(bounds[seq, :, page].double(), exact, rtol=1e-5, atol=1e-5)


@MANY
@given(st.data(), LENGTHS, HEADS, BLOCK_SIZES, st.booleans(), st.booleans())
def test_chosen_pages(
    data: st.DataObject, lengths: list[int], heads: tuple[int, int], block_size: int, per_head: bool, ties: bool
) -> None:
    num_heads, kv_heads = heads
    counts = [-(-length // block_size) for length in lengths]
    bounds = torch.randn(len(lengths), num_heads, max(counts) + data.draw(st.integers(0, 3), "spare"))
    bounds -= data.draw(st.sampled_from([0, 5]), "below 0")
    if ties:
        bounds = bounds.round()
    # Unread pages may hold anything.
    for seq, count in enumerate(counts):
        bounds[seq, :, count:] = data.draw(st.sampled_from([math.nan, math.inf, -math.inf]), "poison")
    first, recent = data.draw(st.integers(0, 3), "first"), data.draw(st.integers(0, 3), "recent")
    top_k = data.draw(st.integers(max(1, first + recent), 12), "top_k")
    lens = torch.tensor(lengths)
    chosen = choose_pages(bounds, lens, block_size, top_k, num_kv_heads=kv_heads, per_head=per_head,
                          first=first, recent=recent)  # fmt: skip
    groups = kv_heads if per_head else 1
    assert chosen.shape == ((len(lengths), kv_heads, top_k) if per_head else (len(lengths), top_k))
    for seq, count in enumerate(counts):
        for group, row in enumerate(chosen.view(len(lengths), groups, top_k)[seq].tolist()):
            size = num_heads // groups
            values = bounds[seq, group * size : (group + 1) * size, :count].amax(dim=0).tolist()
            always = {page for page in range(count) if page < first or page >= count - recent}
            others = sorted(set(range(count)) - always, key=lambda page: (-values[page], page))
            expected = sorted([*always, *others[: top_k - len(always)]])
            assert row == expected + [-1] * (top_k - len(expected))


@MANY
@given(st.data(), st.lists(st.integers(1, 90), min_size=1, max_size=3), HEADS, BLOCK_SIZES, st.integers(2, 12))
def test_attention_over_chosen_pages(
    data: st.DataObject, lengths: list[int], heads: tuple[int, int], block_size: int, top_k: int
) -> None:
    """Tables of the chosen pages give attention over just these; with room for all, nothing changes."""
    num_heads, kv_heads = heads
    cache = Cache(data, lengths, kv_heads, 8, block_size, torch.float32, "cpu")
    q = torch.randn(len(lengths), num_heads, 8)
    pages = choose_pages(
        cache.bounds(q), cache.context_lens, block_size, top_k, num_kv_heads=kv_heads, per_head=False, recent=1
    )
    tables, lens = chosen_tables(pages, cache.tables, cache.context_lens, block_size)
    assert (tables.dtype, lens.dtype) == (torch.int32, torch.int32)
    # Keys that are not chosen are not read.
    kept = torch.cat([row[row >= 0].unique() for row in torch.where(pages >= 0, tables, -1)]).long()
    poisoned = torch.full_like(cache.k_cache, math.nan)
    poisoned[kept] = cache.k_cache[kept]
    out, lse = reference.paged_attention_decode(q, poisoned, poisoned, tables, lens, scale=0.3)
    for seq, length in enumerate(lengths):
        where = torch.arange(length)
        k = cache.keys(seq)[torch.isin(where // block_size, pages[seq])]
        expected = partial_attention(q[seq : seq + 1], k, k, scale=0.3)
        torch.testing.assert_close(out[seq], expected[0][0].double(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(lse[seq], expected[1][0].double(), rtol=1e-4, atol=1e-5)
        if -(-length // block_size) <= top_k:
            assert lens[seq] == length
            assert torch.equal(tables[seq, : len(k[::block_size])], cache.tables[seq, : len(k[::block_size])])


def test_pages_without_known_keys_come_first() -> None:
    lo, hi = new_bounds(6, 1, 4)
    tables, lens = torch.arange(6)[None], torch.tensor([6])
    update_bounds(torch.full((5, 1, 4), 100.0), torch.tensor([0, 1, 2, 4, 5]), lo, hi, 1)
    bounds = score_bounds(torch.tensor([[[1.0, 0.0, -1.0, 2.0]]]), lo, hi, tables, lens, 1)
    assert bounds[0, 0].tolist() == [200.0] * 3 + [math.inf] + [200.0] * 2
    assert choose_pages(bounds, lens, 1, 3, num_kv_heads=1)[0, 0].tolist() == [0, 3, 5]
    for unknown in (math.inf, math.nan):  # not before the first and the last page
        poisoned = torch.full_like(bounds, unknown)
        assert choose_pages(poisoned, lens, 1, 2, num_kv_heads=1)[0, 0].tolist() == [0, 5]
        poisoned[0, 0, :4] = -1
        assert choose_pages(poisoned, lens, 1, 3, num_kv_heads=1)[0, 0].tolist() == [0, 4, 5]
    before = lo.clone(), hi.clone()
    update_bounds(torch.zeros(0, 1, 4), torch.zeros(0, dtype=torch.int64), lo, hi, 1)
    update_bounds(torch.zeros(2, 1, 4), torch.tensor([-1, -7]), lo, hi, 1)
    assert torch.equal(lo, before[0])
    assert torch.equal(hi, before[1])


def test_views_of_a_pool_of_layers_are_changed_in_place() -> None:
    lo, hi = new_bounds(2 * 3, 1, 4)
    layers = lo.view(3, 2, 1, 4).transpose(0, 1), hi.view(3, 2, 1, 4).transpose(0, 1)
    update_bounds(torch.ones(1, 1, 4), torch.tensor([8]), layers[0][1], layers[1][1], 4)
    assert lo.isfinite().all(dim=2).flatten().tolist() == [False] * 5 + [True]


def test_bad_arguments_are_named() -> None:
    lo, hi = new_bounds(3, 2, 4)
    k, slots = torch.zeros(5, 2, 4), torch.arange(5)
    calls: list[tuple[dict[str, Any], str]] = [
        ({"k": k[..., :3]}, "lo: shape"),
        ({"slot_mapping": slots[:4]}, "slot_mapping: shape"),
        ({"slot_mapping": slots.float()}, "slot_mapping: dtype float32"),
        ({"hi": hi[:2]}, "hi: shape"),
        ({"hi": hi.half()}, "hi: dtype float16"),
        ({"lo": lo.half(), "hi": hi.half()}, "lo: dtype float16"),
        ({"block_size": 0}, "block_size: 0 given"),
    ]
    for change, message in calls:
        given = {"k": k, "slot_mapping": slots, "lo": lo, "hi": hi, "block_size": 4} | change
        with pytest.raises((ValueError, TypeError), match=message):
            update_bounds(**given)
    tables, lens = torch.zeros(1, 3, dtype=torch.int64), torch.tensor([9])
    with pytest.raises(ValueError, match="q: 3 heads given; expected a multiple of num_kv_heads=2"):
        score_bounds(torch.zeros(1, 3, 4), lo, hi, tables, lens, 4)
    with pytest.raises(ValueError, match="context_lens: shape"):
        score_bounds(torch.zeros(1, 4, 4), lo, hi, tables, lens[:0], 4)
    bounds = torch.zeros(1, 4, 3)
    with pytest.raises(ValueError, match="top_k: 2 given; expected at least first \\+ recent = 3"):
        choose_pages(bounds, lens, 4, 2, num_kv_heads=2, recent=2)
    with pytest.raises(ValueError, match="bounds: 4 heads given; expected a multiple of num_kv_heads=3"):
        choose_pages(bounds, lens, 4, 2, num_kv_heads=3)
    with pytest.raises(ValueError, match="first: -1 given"):
        choose_pages(bounds, lens, 4, 2, num_kv_heads=2, first=-1)
    with pytest.raises(TypeError, match="pages: dtype int32"):
        chosen_tables(torch.zeros(1, 2, dtype=torch.int32), tables, lens, 4)
