"""Paged attention for prompts: several new tokens per sequence against all pages before and of them, causal.

A program takes one KV head and a few consecutive new tokens of one sequence, with all query heads that share the KV
head: that many rows of one matrix product. Keys come in tiles; tiles that every row sees whole need no mask
(FlashAttention-2, Dao, 2023, section 3.3).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from paged_kernels.checks import check_contiguous, check_dtype, check_same_device
from paged_kernels.options import AttentionOptions, check_attention
from paged_kernels.plan import ROW_WIDTH, plan_prefill
from paged_kernels.scores import bias_scores, operand_dtype


@dataclass(frozen=True)
class PrefillConfig:
    """How the kernel is launched. The defaults were measured on an H200 (docs/benchmarks.md).

    Attributes:
        rows: queries times heads per KV head that a program computes.
        tile: keys per step of a program.
    """

    rows: int = 128
    tile: int = 64
    num_warps: int = 8
    num_stages: int = 3

    @staticmethod
    def choose(head_dim: int, query_dtype: torch.dtype, group: int = 1) -> PrefillConfig:
        """The configuration for a head size (of K or V, the larger), a dtype and the query heads per KV head."""
        if query_dtype == torch.float32:
            return PrefillConfig(rows=max(32, triton.next_power_of_2(group)), tile=32, num_warps=4, num_stages=1)
        if head_dim > 128:
            return PrefillConfig(rows=128, tile=32, num_stages=2)
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
        """Plans for ``num_tokens`` new tokens; both tensors int32 on the device, ``[num_seqs + 1]`` and ``[num_seqs]``."""
        self.num_rows = num_tokens // self.queries + context_lens.shape[0]
        if self.num_rows > self.rows.shape[0]:
            self.rows = torch.empty(
                triton.next_power_of_2(self.num_rows), ROW_WIDTH, dtype=torch.int32, device=self._device
            )
        plan_prefill(query_start, context_lens, self.rows[: self.num_rows], self.queries)
        return self


@triton.jit
def _attend(q, acc, total, largest, begin, end, lowest, table, k_head, v_head, positions, slopes, scale, softcap, window,
            stride_kb, stride_ks, stride_vb, stride_vs, D: tl.constexpr, D_PAD: tl.constexpr, DV: tl.constexpr,
            DV_PAD: tl.constexpr, BLOCK_SIZE: tl.constexpr, TILE: tl.constexpr, MASKED: tl.constexpr,
            HAS_WINDOW: tl.constexpr, HAS_SOFTCAP: tl.constexpr, HAS_ALIBI: tl.constexpr,
            PRECISION: tl.constexpr, OPERAND: tl.constexpr):  # fmt: skip
    """Takes the keys ``begin`` to ``end`` into the running softmax. ``MASKED``: some row does not see some of them."""
    offset = tl.arange(0, TILE)
    dim, value_dim = tl.arange(0, D_PAD), tl.arange(0, DV_PAD)
    # Tiles begin at multiples of TILE: a key's place in its page is the same in every tile.
    slot = offset % BLOCK_SIZE
    k_rows = k_head + (slot * stride_ks)[:, None] + dim[None, :]
    v_rows = v_head + (slot * stride_vs)[:, None] + value_dim[None, :]
    # Block ids are looked up one tile ahead: else every load of keys would wait for that of its address.
    next_block = tl.load(table + (begin + offset) // BLOCK_SIZE, mask=(begin + offset < end) & (begin + offset >= lowest), other=0)
    for start in tl.range(begin, end, TILE):
        keys = start + offset
        block = next_block.to(tl.int64)
        next_block = tl.load(table + (keys + TILE) // BLOCK_SIZE, mask=keys + TILE < end, other=0)
        if MASKED:
            # Pages behind the window or past the end may belong to somebody else by now: they are not read at all.
            inside = (keys < end) & (keys >= lowest)
        k_at, v_at = k_rows + (block * stride_kb)[:, None], v_rows + (block * stride_vb)[:, None]
        if BLOCK_SIZE > TILE:
            first_slot = start % BLOCK_SIZE
            k_at, v_at = k_at + first_slot * stride_ks, v_at + first_slot * stride_vs
        if MASKED:
            k = tl.load(k_at, mask=inside[:, None] & (dim < D)[None, :], other=0.0)
            v = tl.load(v_at, mask=inside[:, None] & (value_dim < DV)[None, :], other=0.0)
        elif D < D_PAD or DV < DV_PAD:
            k = tl.load(k_at, mask=(dim < D)[None, :], other=0.0)
            v = tl.load(v_at, mask=(value_dim < DV)[None, :], other=0.0)
        else:
            k = tl.load(k_at)
            v = tl.load(v_at)
        products = tl.dot(q, tl.trans(k.to(OPERAND)), input_precision=PRECISION)
        scores, factor = bias_scores(products, positions, keys, slopes, scale, softcap, HAS_SOFTCAP, HAS_ALIBI)
        if MASKED:
            visible = (keys[None, :] <= positions[:, None]) & inside[None, :]
            if HAS_WINDOW:
                visible = visible & (keys[None, :] > positions[:, None] - window)
            scores = tl.where(visible, scores, float("-inf"))
        new_largest = tl.maximum(largest, tl.max(scores, 1) * factor)
        # A row that has seen nothing yet: minus infinity minus minus infinity would be NaN.
        safe = tl.where(new_largest == float("-inf"), 0.0, new_largest) if MASKED else new_largest
        weights = tl.exp2(scores * factor - safe[:, None])
        fade = tl.exp2(largest - safe)
        total = total * fade + tl.sum(weights, 1)
        acc = tl.dot(weights.to(OPERAND), v.to(OPERAND), acc * fade[:, None], input_precision=PRECISION)
        largest = new_largest
    return acc, total, largest


@triton.jit
def _prefill_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    lse_ptr,
    tables_ptr,
    rows_ptr,
    sinks_ptr,
    slopes_ptr,
    k_scale_ptr,
    v_scale_ptr,
    scale,
    softcap,
    window,
    stride_qs,
    stride_qh,
    stride_os,
    stride_oh,
    stride_table,
    stride_kb,
    stride_ks,
    stride_kh,
    stride_vb,
    stride_vs,
    stride_vh,
    k_scale_step,
    v_scale_step,
    num_kv_heads,
    GROUP: tl.constexpr,
    GROUP_PAD: tl.constexpr,
    ROWS: tl.constexpr,
    D: tl.constexpr,
    D_PAD: tl.constexpr,
    DV: tl.constexpr,
    DV_PAD: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TILE: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    HAS_ALIBI: tl.constexpr,
    HAS_SINKS: tl.constexpr,
    HAS_SCALES: tl.constexpr,
    HAS_LSE: tl.constexpr,
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,
):
    kv_head = tl.program_id(0)
    work = rows_ptr + tl.program_id(1) * 8
    seq = tl.load(work)
    if seq < 0:
        return
    first_query = tl.load(work + 1)
    num_queries = tl.load(work + 2)
    length = tl.load(work + 3)
    first_token = tl.load(work + 4)

    num_heads = num_kv_heads * GROUP
    QUERIES: tl.constexpr = ROWS // GROUP_PAD
    row = tl.arange(0, ROWS)
    query = first_query + row // GROUP_PAD
    heads = kv_head * GROUP + row % GROUP_PAD
    is_row = (query < num_queries) & (row % GROUP_PAD < GROUP)
    token = (first_token + query).to(tl.int64)
    dim, value_dim = tl.arange(0, D_PAD), tl.arange(0, DV_PAD)
    q = tl.load(
        q_ptr + (token * stride_qs + heads * stride_qh)[:, None] + dim[None, :],
        mask=is_row[:, None] & (dim < D)[None, :],
        other=0.0,
    ).to(OPERAND)
    v_scale = 1.0
    if HAS_SCALES:
        scale = scale * tl.load(k_scale_ptr + kv_head * k_scale_step)
        v_scale = tl.load(v_scale_ptr + kv_head * v_scale_step)
    slopes = tl.zeros([ROWS], tl.float32)
    if HAS_ALIBI:
        slopes = tl.load(slopes_ptr + heads, mask=is_row, other=0.0)

    before = length - num_queries
    positions = before + query
    end = tl.minimum(length, before + first_query + QUERIES)
    begin = 0
    lowest = 0
    # Keys up to the first query's own are seen by every row.
    masked_from = (before + first_query + 1) // TILE * TILE
    if HAS_WINDOW:
        lowest = tl.maximum(before + first_query - window + 1, 0)
        begin = lowest // TILE * TILE
        masked_from = begin
    table = tables_ptr + seq.to(tl.int64) * stride_table
    k_head = k_ptr + kv_head * stride_kh
    v_head = v_ptr + kv_head * stride_vh
    acc = tl.zeros([ROWS, DV_PAD], tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    largest = tl.full([ROWS], float("-inf"), tl.float32)
    if not HAS_WINDOW:
        acc, total, largest = _attend(
            q, acc, total, largest, begin, masked_from, 0, table, k_head, v_head, positions, slopes, scale, softcap,
            window, stride_kb, stride_ks, stride_vb, stride_vs, D, D_PAD, DV, DV_PAD, BLOCK_SIZE, TILE, False,
            HAS_WINDOW, HAS_SOFTCAP, HAS_ALIBI, PRECISION, OPERAND)  # fmt: skip
    acc, total, largest = _attend(
        q, acc, total, largest, masked_from, end, lowest, table, k_head, v_head, positions, slopes, scale, softcap, window,
        stride_kb, stride_ks, stride_vb, stride_vs, D, D_PAD, DV, DV_PAD, BLOCK_SIZE, TILE, True, HAS_WINDOW,
        HAS_SOFTCAP, HAS_ALIBI, PRECISION, OPERAND)  # fmt: skip

    if HAS_SINKS:
        sink = tl.load(sinks_ptr + heads, mask=is_row, other=0.0).to(tl.float32) * 1.4426950408889634
        new_largest = tl.maximum(largest, sink)
        acc = acc * tl.exp2(largest - new_largest)[:, None]
        total = total * tl.exp2(largest - new_largest) + tl.exp2(sink - new_largest)
        largest = new_largest
    if HAS_LSE:
        lse = (largest + tl.log2(total)) * 0.6931471805599453
        tl.store(lse_ptr + token * num_heads + heads, lse, mask=is_row)
    out = acc * (v_scale / tl.where(total > 0.0, total, 1.0))[:, None]
    tl.store(
        out_ptr + (token * stride_os + heads * stride_oh)[:, None] + value_dim[None, :],
        out.to(out_ptr.dtype.element_ty),
        mask=is_row[:, None] & (value_dim < DV)[None, :],
    )


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
    plan: PrefillPlan | None = None,
    out: Tensor | None = None,
    lse: Tensor | None = None,
) -> Tensor:
    """Causal attention of new tokens over their sequences' pages, of which they are the last (chunked prefill).

    Args:
        q: ``[num_tokens, num_heads, head_dim]``, packed one sequence after another; the last dimension contiguous.
        block_tables: int32 ``[num_seqs, max_blocks]``.
        context_lens: int32 ``[num_seqs]``, keys of every sequence, its new tokens included.
        query_start: int32 ``[num_seqs + 1]``: sequence ``i`` has the tokens from ``query_start[i]`` to, not including,
            ``query_start[i + 1]``; at most ``context_lens[i]`` of them.
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
        config = PrefillConfig.choose(max(shape.head_dim, shape.value_head_dim), q.dtype, group)
        plan = PrefillPlan(group, q.device, config).update(query_start, context_lens, num_tokens)
    elif plan.group != group or plan.num_rows != num_tokens // plan.queries + num_seqs:
        raise ValueError(f"plan: made for other lengths, or for {plan.group} instead of {group} heads per KV head")
    config = plan.config
    group_pad = triton.next_power_of_2(group)
    _prefill_kernel[(shape.num_kv_heads, plan.num_rows)](
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
        q.stride(0),
        q.stride(1),
        out.stride(0),
        out.stride(1),
        block_tables.stride(0),
        *k_cache.stride()[:3],
        *v_cache.stride()[:3],
        options.k_scale_step,
        options.v_scale_step,
        shape.num_kv_heads,
        GROUP=group,
        GROUP_PAD=group_pad,
        ROWS=max(config.rows, group_pad),
        D=shape.head_dim,
        D_PAD=max(16, triton.next_power_of_2(shape.head_dim)),
        DV=shape.value_head_dim,
        DV_PAD=max(16, triton.next_power_of_2(shape.value_head_dim)),
        BLOCK_SIZE=shape.block_size,
        TILE=config.tile,
        HAS_WINDOW=window is not None,
        HAS_SOFTCAP=softcap is not None,
        HAS_ALIBI=alibi_slopes is not None,
        HAS_SINKS=sinks is not None,
        HAS_SCALES=k_scale is not None,
        HAS_LSE=lse is not None,
        PRECISION="ieee" if q.dtype == torch.float32 else "tf32",
        OPERAND=operand_dtype(q.dtype),
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    return out
