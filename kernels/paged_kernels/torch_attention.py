"""Attention over a paged KV cache in plain torch: fast on a CPU, and the same to the last bit whatever the batch.

Shapes used throughout:

- ``k_cache``, ``v_cache``: ``[num_blocks, block_size, num_kv_heads, head_dim]``, one layer's pool;
- ``block_tables``: int64 ``[num_seqs, max_blocks]``, physical block of every logical block, padded with any valid id;
- a slot is ``block_id * block_size + offset``; keys are taken in tiles of `TILE` slots, so lengths are multiples of it.

Why tiles. The same product of matrices, computed for other row counts or lengths, may add its terms in another order
and differ in the last bit; once in some ten thousand tokens such a bit decides which token is sampled, and the text
goes another way. Here every product has `TILE` keys and a multiple of `ROWS` rows, at most `MOST_ROWS`, whatever the
context, the chunk or the batch: for such shapes the matrix library adds in one and the same order (the tests check it),
tiles are added up from the first to the last, and masked tiles add exact zeros. So decoding a token, computing it in a
prompt of any chunking, and computing it again after a preemption give the same bits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

TILE = 64
#: Matrix libraries have special code for few, for odd and for many rows, with another order of addition: on an Intel
#: Xeon of the fourth generation for fewer than 8 (heads of 96 and more) and from 64 on (heads of up to 64).
ROWS = 8
MOST_ROWS = 56


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
    positions: Tensor, num_heads: int, num_kv_heads: int, length: int, window: int | None, dtype: torch.dtype
) -> Tensor:
    """What each query sees, in tiles: 0 where it sees a key, -inf where it does not.

    Args:
        positions: int64 ``[num_seqs, num_queries]``, the queries' places in their sequences. A query sees itself and
            what comes before it.
        window: only itself and the ``window - 1`` positions before it; None: all of them.

    Returns:
        ``[num_seqs * num_kv_heads, tiles, rows, TILE]``. The rows are the queries times the heads that share a KV
        head, rounded up to a multiple of `ROWS`; the rows that this adds are ignored later, and see all keys.
    """
    num_seqs, num_queries = positions.shape
    group = num_heads // num_kv_heads
    key = torch.arange(length, device=positions.device)
    query = positions[:, :, None]
    visible = key <= query
    if window is not None:
        visible &= key > query - window
    mask = torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, -torch.inf)
    tiles = mask.view(num_seqs, 1, num_queries, 1, length // TILE, TILE)
    tiles = tiles.expand(-1, num_kv_heads, -1, group, -1, -1).reshape(
        num_seqs * num_kv_heads, num_queries * group, length // TILE, TILE
    )
    return F.pad(tiles.transpose(1, 2), (0, 0, 0, -num_queries * group % ROWS)).contiguous()


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
        rows: from `cache_rows`; ``mask``: from `attention_mask`, for the same heads and length.
        softcap: bounds the scores to ``softcap * tanh(score / softcap)`` before the mask (Gemma 2).
        sinks: ``[num_heads]``, a logit per head that takes part in the softmax and has no value (GPT-OSS).

    Returns:
        ``[num_seqs, num_queries, num_heads, value_head_dim]``.
    """
    num_seqs, num_queries, num_heads, head_dim = q.shape
    num_kv_heads, value_head_dim = k_cache.shape[2], v_cache.shape[3]
    group = num_heads // num_kv_heads
    batch, tiles, num_rows, _ = mask.shape

    # The query heads of one KV head are rows beside each other: GQA without repeating keys and values.
    grouped = q.reshape(num_seqs, num_queries, num_kv_heads, group, head_dim).transpose(1, 2)
    grouped = grouped.reshape(batch, 1, num_queries * group, head_dim)
    grouped = F.pad(grouped, (0, 0, 0, num_rows - num_queries * group))
    queries = grouped.expand(-1, tiles, -1, -1).reshape(batch * tiles, num_rows, head_dim)
    flat = rows.flatten()
    k = k_cache.view(-1, head_dim).index_select(0, flat).view(batch * tiles, TILE, head_dim)
    v = v_cache.view(-1, value_head_dim).index_select(0, flat).view(batch * tiles, TILE, value_head_dim)

    if softcap is None:
        pairs = zip(mask.flatten(0, 1).split(MOST_ROWS, 1), queries.split(MOST_ROWS, 1), strict=True)
        scores = _joined([torch.baddbmm(m, part, k.transpose(1, 2), alpha=scale) for m, part in pairs])
    else:
        scores = _product(queries, k.transpose(1, 2)) * (scale / softcap)
        scores = scores.tanh_().mul_(softcap).add_(mask.flatten(0, 1))
    by_row = scores.view(batch, tiles, num_rows, TILE).transpose(1, 2).reshape(batch, num_rows, tiles * TILE)
    weights = by_row.softmax(dim=-1) if sinks is None else _softmax_with_sinks(by_row, sinks, num_queries, num_kv_heads)
    by_tile = weights.view(batch, num_rows, tiles, TILE).transpose(1, 2).reshape(batch * tiles, num_rows, TILE)

    parts = _product(by_tile, v).view(batch, tiles, num_rows, value_head_dim)
    out = parts[:, 0]
    for tile in range(1, tiles):
        out = out + parts[:, tile]
    out = out[:, : num_queries * group].view(num_seqs, num_kv_heads, num_queries, group, value_head_dim)
    return out.transpose(1, 2).reshape(num_seqs, num_queries, num_heads, value_head_dim)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """``torch.bmm``, at most `MOST_ROWS` rows of ``a`` at a time."""
    return _joined([torch.bmm(part, b) for part in a.split(MOST_ROWS, 1)])


def _joined(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _softmax_with_sinks(scores: Tensor, sinks: Tensor, num_queries: int, num_kv_heads: int) -> Tensor:
    """Softmax of ``[num_seqs * num_kv_heads, rows, length]`` with one more logit per row, its head's sink."""
    batch, num_rows, _ = scores.shape
    per_row = sinks.view(num_kv_heads, 1, -1).expand(-1, num_queries, -1).reshape(num_kv_heads, -1)
    per_row = F.pad(per_row, (0, num_rows - per_row.shape[1])).repeat(batch // num_kv_heads, 1)[:, :, None]
    largest = torch.maximum(scores.amax(dim=-1, keepdim=True), per_row)
    exponentials = torch.exp(scores - largest)
    return exponentials / (exponentials.sum(dim=-1, keepdim=True) + torch.exp(per_row - largest))
