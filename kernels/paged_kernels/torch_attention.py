"""Attention over a paged KV cache in plain torch: correct everywhere, fast on a CPU.

Shapes used throughout:

- ``k_cache``, ``v_cache``: ``[num_blocks, block_size, num_kv_heads, head_dim]``, one layer's pool;
- ``block_tables``: int64 ``[num_seqs, max_blocks]``, physical block of every logical block, padded with any valid id;
- ``context_lens``: tokens in the cache per sequence, those of this step included;
- ``q``: ``[num_tokens, num_heads, head_dim]``; ``num_heads`` is a multiple of ``num_kv_heads`` (GQA).

A slot is ``block_id * block_size + offset``. Masks are additive: 0 where a query sees a key, -inf where it does not.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cache_write(k: Tensor, v: Tensor, k_cache: Tensor, v_cache: Tensor, slot_mapping: Tensor) -> None:
    """Stores keys and values ``[num_tokens, num_kv_heads, head_dim]`` at ``slot_mapping`` (int64 ``[num_tokens]``)."""
    k_cache.flatten(0, 1).index_copy_(0, slot_mapping, k)
    v_cache.flatten(0, 1).index_copy_(0, slot_mapping, v)


def gather_pages(cache: Tensor, block_tables: Tensor) -> Tensor:
    """Copies pages side by side: ``[num_seqs, max_blocks * block_size, num_kv_heads, head_dim]``."""
    num_seqs, max_blocks = block_tables.shape
    pages = cache.index_select(0, block_tables.flatten())
    return pages.view(num_seqs, max_blocks * cache.shape[1], *cache.shape[2:])


def decode_mask(context_lens: Tensor, length: int, window: int | None, dtype: torch.dtype) -> Tensor:
    """Mask ``[num_seqs, 1, 1, length]`` for one new token per sequence, the last of its context."""
    positions = torch.arange(length, device=context_lens.device)
    last = context_lens[:, None]
    visible = positions < last
    if window is not None:
        visible &= positions >= last - window
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, -torch.inf)[
        :, None, None
    ]


def prefill_mask(
    query_len: int, context_len: int, length: int, window: int | None, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Causal mask ``[query_len, length]`` for the last ``query_len`` tokens of a context of ``context_len``."""
    key = torch.arange(length, device=device)
    query = torch.arange(context_len - query_len, context_len, device=device)[:, None]
    visible = key <= query
    if window is not None:
        visible &= key > query - window
    return torch.zeros(visible.shape, dtype=dtype, device=device).masked_fill_(~visible, -torch.inf)


def _attend(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, softcap: float | None, sinks: Tensor | None
) -> Tensor:
    """Softmax attention; all of ``[batch, heads, length, head_dim]``, ``sinks`` one logit per row of ``q``'s heads.

    A soft cap (Gemma 2) bounds the scores before the mask; a sink (GPT-OSS) takes part in the softmax and has no value.
    """
    if softcap is None and sinks is None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, scale=scale)
    scores = torch.matmul(q, k.transpose(-1, -2)) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    if mask is None:
        mask = prefill_mask(q.shape[-2], k.shape[-2], k.shape[-2], None, q.dtype, q.device)
    scores = scores + mask
    if sinks is not None:
        scores = torch.cat([scores, sinks.expand(*scores.shape[:-1], 1)], dim=-1)
    weights = scores.softmax(dim=-1, dtype=torch.float32).to(q.dtype)
    return torch.matmul(weights[..., : k.shape[-2]], v)


def paged_decode_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    mask: Tensor,
    scale: float,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """One new token per sequence, all sequences in one call (Kwon et al., SOSP 2023, eq. 4).

    Args:
        q: ``[num_seqs, num_heads, head_dim]``.
        mask: from `decode_mask`, with ``length = max_blocks * block_size``.
        sinks: ``[num_heads]``, in the type of ``q``.

    Returns:
        ``[num_seqs, num_heads, head_dim]``.
    """
    num_seqs, num_heads, head_dim = q.shape
    num_kv_heads = k_cache.shape[2]
    # The query heads of one KV head stand where a longer query would: GQA without repeating keys and values.
    grouped = q.view(num_seqs, num_kv_heads, num_heads // num_kv_heads, head_dim)
    k = gather_pages(k_cache, block_tables).transpose(1, 2)
    v = gather_pages(v_cache, block_tables).transpose(1, 2)
    if sinks is not None:
        sinks = sinks.view(num_kv_heads, -1, 1)
    return _attend(grouped, k, v, mask, scale, softcap, sinks).reshape(num_seqs, num_heads, v.shape[-1])


def paged_prefill_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_table: Tensor,
    mask: Tensor | None,
    scale: float,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """The new tokens of one sequence against everything it has in the cache: a prompt, or a chunk of one.

    Args:
        q: ``[query_len, num_heads, head_dim]``.
        block_table: int64 ``[num_blocks of the sequence]``.
        mask: from `prefill_mask`, with ``length`` at most the slots of the table; None when the context is exactly
            the query (a whole prompt, no window).
        sinks: ``[num_heads]``, in the type of ``q``.

    Returns:
        ``[query_len, num_heads, head_dim]``.
    """
    query_len, num_heads, head_dim = q.shape
    num_kv_heads = k_cache.shape[2]
    length = query_len if mask is None else mask.shape[-1]
    grouped = q.transpose(0, 1).view(num_kv_heads, num_heads // num_kv_heads, query_len, head_dim)
    k, v = (
        gather_pages(cache, block_table[None])[0, :length].transpose(0, 1)[:, None].expand(-1, grouped.shape[1], -1, -1)
        for cache in (k_cache, v_cache)
    )
    if sinks is not None:
        sinks = sinks.view(num_kv_heads, -1, 1, 1)
    out = _attend(grouped, k, v, mask, scale, softcap, sinks)
    return out.flatten(0, 1).transpose(0, 1)
