"""What each puzzle of lesson 5 computes, in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

_INF = float("inf")


def spec_load_page(cache: Tensor, page: int) -> Tensor:
    """5.1: the page's rows, ``[block_size, dim]``."""
    return cache[page]


def spec_load_tokens(cache: Tensor, page: int, count: int) -> Tensor:
    """5.2: the page's first ``count`` rows, zeros below them; what lies there in the cache is not read."""
    rows = torch.zeros_like(cache[page])
    rows[:count] = cache[page][:count]
    return rows


def spec_scores(q: Tensor, k_cache: Tensor, page: int, count: int, scale: float) -> Tensor:
    """5.3: the query's product with each of the first ``count`` keys, times ``scale``; -inf below them."""
    scores = torch.full((k_cache.shape[1],), -_INF)
    scores[:count] = k_cache[page][:count] @ q * scale
    return scores


def spec_attend_page(q: Tensor, k_cache: Tensor, v_cache: Tensor, page: int, count: int, scale: float) -> Tensor:
    """5.4: attention over the first ``count`` tokens of one page, ``[dim]``."""
    weights = spec_scores(q, k_cache, page, count, scale)[:count].softmax(0)
    return weights @ v_cache[page][:count]


def spec_attend(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, block_tables: Tensor, context_lens: Tensor, scale: float
) -> Tensor:
    """5.5 and 5.6: attention of one query per sequence over its pages.

    ``q`` and the result are ``[num_seqs, num_heads, dim]``, caches ``[num_blocks, block_size, num_kv_heads, dim]``.
    Query head h reads KV head h // group. In 5.5 both numbers of heads are 1.
    """
    out = torch.empty_like(q)
    group = q.shape[1] // k_cache.shape[2]
    for seq, length in enumerate(context_lens.tolist()):
        place = torch.arange(length)
        slots = block_tables[seq, place // k_cache.shape[1]], place % k_cache.shape[1]
        for head in range(q.shape[1]):
            keys, values = k_cache[slots][:, head // group], v_cache[slots][:, head // group]
            weights = (keys @ q[seq, head] * scale).softmax(0)
            out[seq, head] = weights @ values
    return out
