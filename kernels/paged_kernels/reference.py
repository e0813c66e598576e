"""The contracts of the attention kernels in plain torch: one query after another, in float64. Slow, and easy to trust.

The kernels are tested against these functions. The arguments are those of the kernels; the result is float64, and only
the pages that a query sees are read.
"""

from __future__ import annotations

import torch
from torch import Tensor


def _visible(cache: Tensor, table: Tensor, low: int, high: int, scale: Tensor | None) -> Tensor:
    """Keys or values of the positions from ``low`` to below ``high``, float64 ``[high - low, num_kv_heads, dim]``."""
    positions = torch.arange(low, high, device=cache.device)
    block_size = cache.shape[1]
    found = cache[table[positions // block_size].long(), positions % block_size].double()
    return found if scale is None else found * scale.double().view(1, -1, 1)


def attend_one(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    table: Tensor,
    position: int,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    alibi_slopes: Tensor | None = None,
    k_scale: Tensor | None = None,
    v_scale: Tensor | None = None,
    num_keys: int | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention of the query at ``position``, ``[num_heads, head_dim]``, over itself and what comes before it.

    Args:
        num_keys: there are so many keys; default: as many as the query could see. None of them seen gives zeros, and a
            log-sum-exp of minus infinity, or the sink.

    Returns:
        The output ``[num_heads, value_head_dim]``, the log-sum-exp ``[num_heads]``, and the weights
        ``[num_heads, keys up to the last one seen]`` (zeros outside the window), float64.
    """
    high = max(0, position + 1 if num_keys is None else min(position + 1, num_keys))
    low = 0 if window is None else min(max(0, position + 1 - window), high)
    k = _visible(k_cache, table, low, high, k_scale)
    v = _visible(v_cache, table, low, high, v_scale)
    group = q.shape[0] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    scores = torch.einsum("hd,nhd->hn", q.double(), k) * scale
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if alibi_slopes is not None:
        distance = torch.arange(low, high, device=q.device) - position
        scores = scores + alibi_slopes.double()[:, None] * distance
    logits = scores if sinks is None else torch.cat([scores, sinks.double()[:, None]], dim=1)
    lse = logits.logsumexp(dim=1)
    weights = torch.exp(scores - lse[:, None])
    out = torch.einsum("hn,nhd->hd", weights, v)
    return out, lse, torch.nn.functional.pad(weights, (low, 0))


def paged_attention_decode(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    *,
    behind: int = 0,
    **options: object,
) -> tuple[Tensor, Tensor]:
    """What `paged_kernels.decode.paged_attention_decode` computes, and its log-sum-exp; float64."""
    out = torch.zeros(*q.shape[:2], v_cache.shape[-1], dtype=torch.float64, device=q.device)
    lse = torch.full(q.shape[:2], -torch.inf, dtype=torch.float64, device=q.device)
    for seq, length in enumerate(context_lens.tolist()):
        out[seq], lse[seq], _ = attend_one(
            q[seq],
            k_cache,
            v_cache,
            block_tables[seq],
            length - 1 + behind,
            num_keys=length,
            **options,  # type: ignore[arg-type]
        )
    return out, lse


def paged_attention_prefill(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    query_start: Tensor,
    *,
    behind: int = 0,
    **options: object,
) -> tuple[Tensor, Tensor]:
    """What `paged_kernels.prefill.paged_attention_prefill` computes, and its log-sum-exp; float64."""
    out = torch.zeros(*q.shape[:2], v_cache.shape[-1], dtype=torch.float64, device=q.device)
    lse = torch.full(q.shape[:2], -torch.inf, dtype=torch.float64, device=q.device)
    starts = query_start.tolist()
    for seq, length in enumerate(context_lens.tolist()):
        for token in range(starts[seq], starts[seq + 1]):
            position = length - (starts[seq + 1] - token) + behind
            out[token], lse[token], _ = attend_one(
                q[token],
                k_cache,
                v_cache,
                block_tables[seq],
                position,
                num_keys=length,
                **options,  # type: ignore[arg-type]
            )
    return out, lse


def page_attention_mass(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, block_tables: Tensor, context_lens: Tensor, **options: object
) -> Tensor:
    """What `paged_kernels.page_mass.page_attention_mass` computes: float64 ``[num_seqs, num_heads, max_blocks]``."""
    block_size = k_cache.shape[1]
    mass = torch.zeros(*q.shape[:2], block_tables.shape[1], dtype=torch.float64, device=q.device)
    for seq, length in enumerate(context_lens.tolist()):
        if length:
            weights = attend_one(q[seq], k_cache, v_cache, block_tables[seq], length - 1, **options)[2]  # type: ignore[arg-type]
            pages = torch.nn.functional.pad(weights, (0, -length % block_size)).unflatten(1, (-1, block_size))
            mass[seq, :, : pages.shape[1]] = pages.sum(dim=2)
    return mass
