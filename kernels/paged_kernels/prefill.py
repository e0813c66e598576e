"""Paged attention for prompts: several new tokens per sequence against all pages before and of them, causal.

A program takes one KV head and a few consecutive new tokens of one sequence, with all query heads that share the KV
head: that many rows of one matrix product. Keys come in tiles; tiles that every row sees whole need no mask
(FlashAttention-2, Dao, 2023, section 3.3).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from paged_kernels.checks import check_contiguous, check_dtype, check_not_negative, check_same_device
from paged_kernels.options import AttentionOptions, check_attention, kernel_constants, kernel_strides
from paged_kernels.plan import ROW_WIDTH, plan_prefill
from paged_kernels.prefill_kernel import prefill_kernel

#: What CUDA allows in the second dimension of a grid.
_MAX_PIECES = 65_535


@dataclass(frozen=True)
class PrefillConfig:
    """How the kernel is launched. The defaults were measured on an H200 (docs/benchmarks.md).

    Attributes:
        rows: queries times heads per KV head that a program computes.
        tile: keys per step of a program.
    """

    rows: int = 256
    tile: int = 64
    num_warps: int = 16
    num_stages: int = 3

    @staticmethod
    def choose(
        head_dim: int, value_head_dim: int, query_dtype: torch.dtype, cache_dtype: torch.dtype, group: int = 1
    ) -> PrefillConfig:
        """The configuration for head sizes, dtypes, and the query heads per KV head."""
        if query_dtype == torch.float32:
            return PrefillConfig(rows=max(32, triton.next_power_of_2(group)), tile=32, num_warps=4, num_stages=1)
        if cache_dtype.itemsize == 1 and head_dim != value_head_dim:
            # Triton 3.6 on an H200 was seen to compute wrong products of larger tiles here.
            return PrefillConfig(rows=max(16, triton.next_power_of_2(group)), tile=16, num_warps=4, num_stages=2)
        if max(head_dim, value_head_dim) > 128:
            return PrefillConfig(rows=128, tile=32, num_warps=8, num_stages=2)
        return PrefillConfig()


class PrefillPlan:
    """The work list of a batch of chunks. One plan serves all layers of a step.

    Args:
        group: query heads per KV head.
    """

    def __init__(self, group: int, device: torch.device | str, config: PrefillConfig) -> None:
        self.config = config
        self.group = group
        self.queries = max(1, config.rows // triton.next_power_of_2(group))
        self._device = torch.device(device)
        self.rows = torch.empty(0, ROW_WIDTH, dtype=torch.int32, device=self._device)
        self.num_rows = 0

    def update(self, query_start: Tensor, context_lens: Tensor, num_tokens: int) -> PrefillPlan:
        """Plans for ``num_tokens`` new tokens; int32 on the device, ``[num_seqs + 1]`` and ``[num_seqs]``."""
        self.num_rows = num_tokens // self.queries + context_lens.shape[0]
        if self.num_rows > self.rows.shape[0]:
            self.rows = torch.empty(
                triton.next_power_of_2(self.num_rows), ROW_WIDTH, dtype=torch.int32, device=self._device
            )
        plan_prefill(query_start, context_lens, self.rows[: self.num_rows], self.queries)
        return self


def paged_attention_prefill(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    query_start: Tensor,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    alibi_slopes: Tensor | None = None,
    k_scale: Tensor | None = None,
    v_scale: Tensor | None = None,
    behind: int = 0,
    plan: PrefillPlan | None = None,
    out: Tensor | None = None,
    lse: Tensor | None = None,
) -> Tensor:
    """Causal attention of new tokens over their sequences' pages, of which they are the last (chunked prefill).

    With ``behind`` the pages are an earlier part of the context, and the results for all parts are merged by
    `paged_kernels.merge.merge_partial`. Query ``i`` of a sequence's ``T`` has the position ``context_len - T + i +
    behind``, counted from the part's first key. For a part that ends before key ``b`` of a context of ``n`` keys (new
    tokens included), ``behind`` is ``n - b``; with ``behind >= T`` every query sees the whole part.

    Args:
        q: ``[num_tokens, num_heads, head_dim]``, packed one sequence after another; the last dimension contiguous.
        block_tables: int32 ``[num_seqs, max_blocks]``.
        context_lens: int32 ``[num_seqs]``, keys of every sequence, its new tokens included; with ``behind``, keys of
            the part. A query that sees no key gets zeros (its log-sum-exp is minus infinity, or the sink).
        query_start: int32 ``[num_seqs + 1]``: sequence ``i`` has the tokens from ``query_start[i]`` to, not including,
            ``query_start[i + 1]``; at most ``context_lens[i]`` of them, or any number with ``behind``.
        behind: how much further behind the given keys the queries of all sequences are.
        plan: made by `PrefillPlan.update` for the same lengths; made anew if missing.
        out: ``[num_tokens, num_heads, value_head_dim]``, written; allocated if missing.
        lse: float32 ``[num_tokens, num_heads]``, written: the log-sum-exp of the scores, sinks included.

    The other arguments are those of `paged_attention_decode`, and so are the errors.

    Returns:
        ``out``.
    """
    options = AttentionOptions(scale, window, softcap, sinks, alibi_slopes, k_scale, v_scale)
    shape = check_attention(q, k_cache, v_cache, block_tables, context_lens, options, out, lse)
    check_dtype("query_start", query_start, (torch.int32,))
    check_contiguous("query_start", query_start)
    check_same_device(q=q, query_start=query_start)
    check_not_negative("behind", behind)
    num_seqs = context_lens.shape[0]
    if query_start.shape != (num_seqs + 1,):
        raise ValueError(f"query_start: shape {tuple(query_start.shape)} given; expected [{num_seqs + 1}]")
    num_tokens = q.shape[0]
    if out is None:
        out = torch.empty(num_tokens, shape.num_heads, shape.value_head_dim, dtype=q.dtype, device=q.device)
    if num_tokens == 0:
        return out
    group = shape.num_heads // shape.num_kv_heads
    if plan is None:
        config = PrefillConfig.choose(shape.head_dim, shape.value_head_dim, q.dtype, k_cache.dtype, group)
        plan = PrefillPlan(group, q.device, config).update(query_start, context_lens, num_tokens)
    elif plan.rows.device != q.device:
        raise ValueError(f"plan: on {plan.rows.device}; expected {q.device}, where q is")
    elif plan.group != group or plan.num_rows != num_tokens // plan.queries + num_seqs:
        raise ValueError(f"plan: made for other lengths, or for {plan.group} instead of {group} heads per KV head")
    if plan.num_rows > _MAX_PIECES:
        raise ValueError(
            f"q: {num_tokens} tokens given, which make {plan.num_rows} pieces of {plan.queries}; at most {_MAX_PIECES} "
            "are allowed: give the tokens in several calls"
        )
    config = plan.config
    constants = kernel_constants(q, shape, options, lse)
    prefill_kernel[(shape.num_kv_heads, plan.num_rows)](
        q,
        k_cache,
        v_cache,
        out,
        lse,
        block_tables,
        plan.rows,
        sinks,
        alibi_slopes,
        k_scale,
        v_scale,
        scale,
        softcap or 0.0,
        window or 0,
        *kernel_strides(q, k_cache, v_cache, block_tables, out),
        options.k_scale_step,
        options.v_scale_step,
        shape.num_kv_heads,
        behind,
        ROWS=max(config.rows, constants["GROUP_PAD"]),
        TILE=config.tile,
        HAS_BEHIND=behind > 0,
        **constants,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    return out
