"""Attention over a paged KV cache in plain torch: fast on a CPU, and the same to the last bit whatever the batch.

Shapes used throughout:

- ``k_cache``, ``v_cache``: ``[num_blocks, block_size, num_kv_heads, head_dim]``, one layer's pool;
- ``block_tables``: int64 ``[num_seqs, max_blocks]``, physical block of every logical block, padded with any valid id;
- a slot is ``block_id * block_size + offset``; keys are taken in tiles of `TILE` slots, so lengths are multiples of it.

Why tiles. The same product of matrices, computed for other row counts or lengths, may add its terms in another order
and differ in the last bit; once in some ten thousand tokens such a bit decides which token is sampled, and the text
goes another way. Here every product has `TILE` keys and a multiple of `ROWS` rows, whatever the context, the chunk or
the batch: for such shapes the matrix library adds in one and the same order (the tests check it), tiles are added up
from the first to the last, and masked tiles add exact zeros. So decoding a token, computing it in a prompt of any
chunking, and computing it again after a preemption give the same bits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TILE = 64
#: Matrix libraries have special code for few and for odd rows, with another order of addition.
ROWS = 4
#: Queries of a prompt that are looked at together: bounds the memory for their scores.
_QUERY_BLOCK = 128


def cache_write(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slot_mapping: Tensor) -> None:
    """Stores keys and values ``[num_tokens, num_kv_heads, head_dim]`` at ``slot_mapping`` (int64 ``[num_tokens]``)."""
    k_cache.flatten(0, 1).index_copy_(0, slot_mapping, k)
    v_cache.flatten(0, 1).index_copy_(0, slot_mapping, v)


def whole_tiles(length: int) -> int:
    """``length`` rounded up to a multiple of `TILE`."""
    return -(-length // TILE) * TILE


def cache_rows(block_tables: Tensor, block_size: int, num_kv_heads: int, length: int) -> Tensor:
    """Where to find every position of every sequence and KV head in a cache seen as ``[slots * heads, head_dim]``.

    Args:
        length: positions per sequence, a multiple of `TILE`. Those behind a table's end point to slot 0.

    Returns:
        int64 ``[num_seqs, num_kv_heads, length]``.
    """
    offsets = torch.arange(block_size, device=block_tables.device)
    slots = (block_tables[:, :, None] * block_size + offsets).flatten(1)[:, :length]
    slots = F.pad(slots, (0, length - slots.shape[1]))
    heads = torch.arange(num_kv_heads, device=block_tables.device)
    return slots[:, None] * num_kv_heads + heads[:, None]


def attention_mask(
    positions: Tensor, context_lens: Tensor, length: int, window: int | None, dtype: torch.dtype
) -> Tensor:
    """What each query sees: 0 where it sees a key, -inf where it does not.

    Args:
        positions: int64 ``[num_seqs, num_queries]``, the queries' places in their sequences.
        context_lens: int64 ``[num_seqs]``, keys that are there.
        window: a query sees itself and the ``window - 1`` positions before it; None: all before it.

    Returns:
        ``[num_seqs, num_queries, length]``.
    """
    key = torch.arange(length, device=positions.device)
    query = positions[:, :, None]
    visible = (key <= query) & (key < context_lens[:, None, None])
    if window is not None:
        visible &= key > query - window
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, -torch.inf)


def paged_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    rows: Tensor,
    mask: Tensor,
    scale: float,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Softmax attention over pages (Kwon et al., SOSP 2023, eq. 4), for decoding and for prompts alike.

    Args:
        q: ``[num_seqs, num_queries, num_heads, head_dim]``; ``num_heads`` is a multiple of ``num_kv_heads`` (GQA).
        rows: from `cache_rows`; ``mask``: from `attention_mask`, of the same length.
        softcap: bounds the scores to ``softcap * tanh(score / softcap)`` before the mask (Gemma 2).
        sinks: ``[num_heads]``, a logit per head that takes part in the softmax and has no value (GPT-OSS).

    Returns:
        ``[num_seqs, num_queries, num_heads, value_head_dim]``.
    """
    num_queries = q.shape[1]
    if num_queries <= _QUERY_BLOCK:
        return _attend(q, k_cache, v_cache, rows, mask, scale, softcap, sinks)
    parts = [
        _attend(part, k_cache, v_cache, rows, part_mask, scale, softcap, sinks)
        for part, part_mask in zip(q.split(_QUERY_BLOCK, 1), mask.split(_QUERY_BLOCK, 1), strict=True)
    ]
    return torch.cat(parts, dim=1)


def _attend(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    rows: Tensor,
    mask: Tensor,
    scale: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    num_seqs, num_queries, num_heads, head_dim = q.shape
    _, num_kv_heads, length = rows.shape
    group, tiles, batch = num_heads // num_kv_heads, length // TILE, num_seqs * num_kv_heads
    # The query heads of one KV head are rows beside each other: GQA without repeating keys and values.
    grouped = q.reshape(num_seqs, num_queries, num_kv_heads, group, head_dim).transpose(1, 2)
    grouped = grouped.reshape(batch, 1, num_queries * group, head_dim) * scale
    padding = -num_queries * group % ROWS
    if padding:
        grouped = F.pad(grouped, (0, 0, 0, padding))
    num_rows = num_queries * group + padding
    flat = rows.flatten()
    k = k_cache.view(-1, head_dim).index_select(0, flat).view(batch * tiles, TILE, head_dim)
    v = v_cache.view(-1, v_cache.shape[-1]).index_select(0, flat).view(batch * tiles, TILE, v_cache.shape[-1])

    queries = grouped.expand(-1, tiles, -1, -1).reshape(batch * tiles, num_rows, head_dim)
    scores = torch.bmm(queries, k.transpose(1, 2)).view(batch, tiles, num_rows, TILE)
    scores = scores[:, :, : num_queries * group].transpose(1, 2)
    scores = scores.reshape(num_seqs, num_kv_heads, num_queries, group, length)
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = scores + mask[:, None, :, None]
    weights = _softmax(scores, None if sinks is None else sinks.view(num_kv_heads, 1, group, 1))

    weights = weights.view(batch, num_queries * group, tiles, TILE).transpose(1, 2)
    if padding:
        weights = F.pad(weights, (0, 0, 0, padding))
    parts = torch.bmm(weights.reshape(batch * tiles, num_rows, TILE), v).view(batch, tiles, num_rows, -1)
    out = parts[:, 0]
    for tile in range(1, tiles):
        out = out + parts[:, tile]
    out = out[:, : num_queries * group].reshape(num_seqs, num_kv_heads, num_queries, group, -1)
    return out.transpose(1, 2).flatten(2, 3)


def _softmax(scores: Tensor, sinks: Tensor | None) -> Tensor:
    """Softmax over the last dimension, with one more logit per row if there are sinks."""
    if sinks is None:
        return scores.softmax(dim=-1)
    largest = torch.maximum(scores.amax(dim=-1, keepdim=True), sinks)
    exponentials = torch.exp(scores - largest)
    return exponentials / (exponentials.sum(dim=-1, keepdim=True) + torch.exp(sinks - largest))
