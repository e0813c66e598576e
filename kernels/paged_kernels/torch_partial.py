"""Attention with its log-sum-exp in plain torch, over keys that lie one after another; and the mass of pages.

For a CPU that attends to a part of a context at a time. Unlike `paged_kernels.torch_attention`, the last bits depend on
how the context is cut into parts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paged_kernels.checks import (
    FLOATS,
    FP8,
    INDICES,
    check_dtype,
    check_positive,
    check_same_device,
    check_scale,
    check_shape,
)


def partial_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    first_position: int | None = None,
    key_positions: Tensor | None = None,
    window: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention of some queries of one sequence over some of its keys, in any order; computed in float32.

    Parts are put together by `paged_kernels.merge.merge_partial`. The scores of all queries, heads and keys are in
    memory at once: the caller chooses parts that are small enough.

    Args:
        q: ``[num_queries, num_heads, head_dim]``, float16, bfloat16 or float32.
        k: ``[num_keys, num_kv_heads, head_dim]``, of q's dtype; ``num_heads`` is a multiple of ``num_kv_heads``.
        v: ``[num_keys, num_kv_heads, value_head_dim]``. Finite, also where it is masked.
        scale: factor on the scores.
        softcap: scores become ``softcap * tanh(score / softcap)``.
        sinks: ``[num_heads]``, a logit per head without a value. Give it with exactly one of the parts.
        first_position: of the first query; the others follow it. A query sees the keys at its own position and before.
            None: every query sees every key.
        key_positions: integers ``[num_keys]``; None: the keys are at 0, 1, 2, and so on.
        window: a query sees only the last ``window`` positions, its own included. Needs ``first_position``.

    Returns:
        ``[num_queries, num_heads, value_head_dim]``, of q's dtype, and the log-sum-exp of the scores, sinks included,
        float32 ``[num_queries, num_heads]``: 0 and minus infinity (or the sink) for a query that sees no key.

    Raises:
        ValueError, TypeError: naming the argument.
    """
    num_heads, num_kv_heads = _check_partial(q, k, v, sinks, first_position, key_positions, window)
    num_queries, num_keys, head_dim = q.shape[0], k.shape[0], q.shape[2]
    group = num_heads // num_kv_heads
    # The query heads of one KV head are rows beside each other: GQA without repeating keys and values.
    rows = q.float().reshape(num_queries, num_kv_heads, group, head_dim).transpose(0, 1)
    rows = rows.reshape(num_kv_heads, num_queries * group, head_dim)
    scores = torch.bmm(rows, k.float().permute(1, 2, 0)).mul_(scale)
    if softcap is not None:
        scores = scores.div_(softcap).tanh_().mul_(softcap)
    if first_position is not None:
        hidden = _hidden(num_queries, num_keys, first_position, key_positions, window, q.device)
        scores.view(num_kv_heads, num_queries, group, num_keys).masked_fill_(hidden[:, None], -torch.inf)
    lse = scores.logsumexp(dim=-1)
    if sinks is not None:
        per_row = sinks.float().view(num_kv_heads, 1, group).expand(-1, num_queries, -1)
        lse = torch.logaddexp(lse, per_row.reshape(lse.shape))
    # Where nothing is seen, minus infinity less minus infinity would be NaN.
    weights = scores.sub_(lse.masked_fill(lse == -torch.inf, 0.0)[..., None]).exp_()
    out = torch.bmm(weights, v.float().transpose(0, 1))
    out = out.view(num_kv_heads, num_queries, group, v.shape[2]).transpose(0, 1)
    out = out.reshape(num_queries, num_heads, v.shape[2])
    return out.to(q.dtype), lse.view(num_kv_heads, num_queries, group).transpose(0, 1).reshape(num_queries, num_heads)


def _hidden(
    num_queries: int,
    num_keys: int,
    first_position: int,
    key_positions: Tensor | None,
    window: int | None,
    device: torch.device,
) -> Tensor:
    """Which keys a query does not see, bool ``[num_queries, num_keys]``."""
    query = torch.arange(first_position, first_position + num_queries, device=device)[:, None]
    key = torch.arange(num_keys, device=device) if key_positions is None else key_positions
    hidden = key > query
    return hidden if window is None else hidden | (key <= query - window)


def _check_partial(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    sinks: Tensor | None,
    first_position: int | None,
    key_positions: Tensor | None,
    window: int | None,
) -> tuple[int, int]:
    """The arguments of `partial_attention`; returns num_heads and num_kv_heads."""
    sizes: dict[str, int] = {}
    num_heads = check_shape("q", q, "num_queries num_heads head_dim", sizes)[1]
    num_kv_heads = check_shape("k", k, "num_keys num_kv_heads head_dim", sizes)[1]
    check_shape("v", v, "num_keys num_kv_heads value_head_dim", sizes)
    check_dtype("q", q, FLOATS)
    check_dtype("k", k, (q.dtype,))
    check_dtype("v", v, (q.dtype,))
    if num_heads % num_kv_heads:
        raise ValueError(f"q: {num_heads} heads given; expected a multiple of num_kv_heads={num_kv_heads}")
    if sinks is not None:
        check_shape("sinks", sinks, "num_heads", sizes)
    if key_positions is not None:
        check_shape("key_positions", key_positions, "num_keys", sizes)
        check_dtype("key_positions", key_positions, INDICES)
    if window is not None:
        check_positive("window", window)
    if first_position is None and (key_positions is not None or window is not None):
        raise ValueError("first_position: None given; expected a position where key_positions or window are given")
    check_same_device(q=q, k=k, v=v, sinks=sinks, key_positions=key_positions)
    return num_heads, num_kv_heads


def page_attention_mass_torch(
    q: Tensor,
    k_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    lse: Tensor | None = None,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    alibi_slopes: Tensor | None = None,
    k_scale: Tensor | None = None,
) -> Tensor:
    """`paged_kernels.page_mass.page_attention_mass` for a CPU: one query's attention weights, summed over every page.

    Args:
        block_tables: int32 or int64 ``[num_seqs, max_blocks]``; entries past a sequence's end are not used.
        context_lens: int32 or int64 ``[num_seqs]``; 0: a padded row, its mass is 0.
        lse: float32 ``[num_seqs, num_heads]``, the log-sum-exp that the weights are measured by, of these keys or of
            more; None: that of these keys, without sinks.

    The other arguments are those of `paged_kernels.decode.paged_attention_decode`.

    Returns:
        float32 ``[num_seqs, num_heads, max_blocks]``, by logical block; pages that are not read have 0.

    Raises:
        ValueError, TypeError: naming the argument.
    """
    sizes: dict[str, int] = {}
    num_seqs, num_heads, _ = check_shape("q", q, "num_seqs num_heads head_dim", sizes)
    _, block_size, num_kv_heads, _ = check_shape(
        "k_cache", k_cache, "num_blocks block_size num_kv_heads head_dim", sizes
    )
    max_blocks = check_shape("block_tables", block_tables, "num_seqs max_blocks", sizes)[1]
    check_shape("context_lens", context_lens, "num_seqs", sizes)
    check_dtype("q", q, FLOATS)
    check_dtype("k_cache", k_cache, (q.dtype, FP8))
    check_dtype("block_tables", block_tables, INDICES)
    check_dtype("context_lens", context_lens, INDICES)
    check_scale("k_scale", k_scale, k_cache.dtype, num_kv_heads)
    if num_heads % num_kv_heads:
        raise ValueError(f"q: {num_heads} heads given; expected a multiple of num_kv_heads={num_kv_heads}")
    for name, tensor, pattern in (("lse", lse, "num_seqs num_heads"), ("alibi_slopes", alibi_slopes, "num_heads")):
        if tensor is not None:
            check_shape(name, tensor, pattern, sizes)
            check_dtype(name, tensor, (torch.float32,))
    if window is not None:
        check_positive("window", window)
    check_same_device(
        q=q,
        k_cache=k_cache,
        block_tables=block_tables,
        context_lens=context_lens,
        lse=lse,
        alibi_slopes=alibi_slopes,
        k_scale=k_scale,
    )
    mass = torch.zeros(num_seqs, num_heads, max_blocks, device=q.device)
    used = -(-int(context_lens.max()) // block_size) if num_seqs else 0
    if used == 0:
        return mass
    lengths = context_lens.long()[:, None]
    positions = torch.arange(used * block_size, device=q.device)
    visible = positions < lengths
    if window is not None:
        visible &= positions >= lengths - window
    # Entries past the end may hold anything, but only the sums below leave them out.
    is_page = visible.view(num_seqs, used, block_size).any(dim=2)
    keys = k_cache[block_tables[:, :used].long().where(is_page, 0)].flatten(1, 2).float()
    queries = q.float().reshape(num_seqs, num_kv_heads, num_heads // num_kv_heads, q.shape[2])
    scores = torch.matmul(queries, keys.permute(0, 2, 3, 1)) * scale
    if k_scale is not None:
        scores *= k_scale.view(-1, 1, 1)
    scores = scores.flatten(1, 2)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if alibi_slopes is not None:
        scores += alibi_slopes[:, None] * (positions - (lengths - 1))[:, None]
    scores = torch.where(visible[:, None], scores, -torch.inf)
    if lse is None:
        lse = scores.logsumexp(dim=2)
    weights = torch.exp(scores - lse.masked_fill(lse == -torch.inf, 0.0)[..., None])
    mass[:, :, :used] = weights.unflatten(2, (used, block_size)).sum(dim=3)
    return mass
