"""Attention over pages against plain float64 attention: ragged lengths, permuted tables, poisoned free pages."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from paged_kernels.torch_attention import (
    TILE,
    attention_mask,
    cache_rows,
    cache_write,
    paged_attention,
    whole_tiles,
)


def reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    first: int,
    scale: float,
    window: int | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """Textbook attention, one query after another. ``q [T, Hq, D]``, ``k, v [context, Hkv, D]``; float64."""
    groups = q.shape[1] // k.shape[1]
    out = torch.zeros(*q.shape[:2], v.shape[-1], dtype=torch.float64)
    for t in range(q.shape[0]):
        position = first + t
        low = 0 if window is None else max(0, position - window + 1)
        for h in range(q.shape[1]):
            keys = k[low : position + 1, h // groups].double()
            scores = keys @ q[t, h].double() * scale
            if softcap is not None:
                scores = softcap * torch.tanh(scores / softcap)
            if sinks is not None:
                scores = torch.cat([scores, sinks[h : h + 1].double()])
            weights = scores.softmax(0)[: len(keys)]
            out[t, h] = weights @ v[low : position + 1, h // groups].double()
    return out


@settings(deadline=None, max_examples=40)
@given(
    data=st.data(),
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    heads=st.sampled_from([(4, 4), (4, 2), (6, 1)]),
    block_size=st.sampled_from([1, 3, 8, 16]),
    window=st.sampled_from([None, 1, 5, 64]),
    softcap=st.sampled_from([None, 2.0]),
    with_sinks=st.booleans(),
)
def test_decode_and_chunked_prefill_match_reference(
    data: st.DataObject,
    lengths: list[int],
    heads: tuple[int, int],
    block_size: int,
    window: int | None,
    softcap: float | None,
    with_sinks: bool,
) -> None:
    num_heads, num_kv_heads = heads
    head_dim, scale = 8, 0.3
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10_000)))
    blocks = [-(-n // block_size) for n in lengths]
    pool = sum(blocks) + 2
    order = torch.randperm(pool, generator=generator).tolist()
    # Whatever is not written must not matter. It may be huge, but not NaN: pools start as zeros.
    k_cache = torch.full((pool, block_size, num_kv_heads, head_dim), 1e4)
    v_cache = torch.full((pool, block_size, num_kv_heads, head_dim), -1e4)
    tables = torch.zeros(len(lengths), max(blocks), dtype=torch.int64)
    sinks = torch.randn(num_heads, generator=generator) if with_sinks else None
    keys, values = [], []
    for row, (n, b) in enumerate(zip(lengths, blocks, strict=True)):
        table = torch.tensor([order.pop() for _ in range(b)])
        tables[row, :b] = table
        k, v = (torch.randn(n, num_kv_heads, head_dim, generator=generator) for _ in range(2))
        positions = torch.arange(n)
        cache_write(k, v, k_cache, v_cache, table[positions // block_size] * block_size + positions % block_size)
        keys.append(k)
        values.append(v)

    def attend(q: Tensor, rows: Tensor, lens: list[int], extra: int) -> Tensor:
        """``q [num_seqs, num_queries, ...]``, the last tokens of their contexts; ``extra`` tiles of padding."""
        length = whole_tiles(max(lens)) + extra * TILE
        context = torch.tensor(lens)
        positions = context[:, None] + torch.arange(-q.shape[1], 0)
        mask = attention_mask(positions, num_heads, num_kv_heads, length, window, q.dtype)
        found = cache_rows(rows, block_size, num_kv_heads, length)
        return paged_attention(q, k_cache, v_cache, found, mask, scale, softcap, sinks)

    whole = [torch.randn(n, num_heads, head_dim, generator=generator) for n in lengths]
    last = torch.stack([q[-1:] for q in whole])
    decoded = attend(last, tables, lengths, extra=data.draw(st.integers(0, 1)))
    for row, n in enumerate(lengths):
        expected = reference(whole[row], keys[row], values[row], 0, scale, window, softcap, sinks)
        prompt = attend(whole[row][None], tables[row : row + 1], [n], extra=0)[0]
        torch.testing.assert_close(prompt.double(), expected, atol=2e-5, rtol=2e-5)
        # The same bits, whether a token is decoded among others, or computed in a prompt or in a chunk of one.
        assert torch.equal(decoded[row, 0], prompt[-1])
        chunk = data.draw(st.integers(1, n))
        assert torch.equal(
            attend(whole[row][None, n - chunk :], tables[row : row + 1], [n], extra=1)[0], prompt[-chunk:]
        )


def test_cache_write_touches_only_its_slots() -> None:
    k_cache, v_cache = torch.zeros(3, 4, 2, 5), torch.zeros(3, 4, 2, 5)
    cache_write(torch.ones(2, 2, 5), torch.full((2, 2, 5), 2.0), k_cache, v_cache, torch.tensor([9, 2]))
    assert k_cache.flatten(0, 1).sum(dim=(1, 2)).nonzero().flatten().tolist() == [2, 9]
    assert v_cache.flatten(0, 1)[[2, 9]].eq(2).all()


def test_sink_changes_the_result() -> None:
    """Guards the reference above: a sink of this size must take attention away."""
    q, k = torch.ones(1, 1, 2), torch.ones(3, 1, 2)
    with_sink = reference(q, k, k, 2, 1.0, None, None, torch.tensor([2.0]))
    assert with_sink[0, 0, 0].item() == pytest.approx(0.75, abs=1e-6)
