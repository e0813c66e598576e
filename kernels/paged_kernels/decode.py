"""Paged attention for decoding: one new token per sequence, its keys and values on scattered pages.

Every program takes one KV head and one piece of one sequence's context (`plan`), reads that K and V once for all query
heads that share the head, and keeps a running softmax (Milakov and Gimelshein, 2018). Where a context was cut into
pieces, whoever is done last merges them by their log-sum-exp (Dao et al., Flash-Decoding, 2023), in the pieces' order:
the result does not depend on who that was.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from paged_kernels.options import AttentionOptions, check_attention
from paged_kernels.plan import ROW_WIDTH, multiprocessors, plan_decode
from paged_kernels.scores import bias_scores, operand_dtype


@dataclass(frozen=True)
class DecodeConfig:
    """How the kernel is launched. The defaults were measured on an H200 (docs/benchmarks.md).

    Attributes:
        tile: keys per step of a program.
        piece: keys per program to aim at, where that is enough to fill the chip.
        least: programs per multiprocessor to aim at with shorter pieces, where it is not.
        most: programs per multiprocessor at most, with longer pieces.
    """

    tile: int = 32
    num_warps: int = 2
    num_stages: int = 4
    piece: int = 1024
    least: int = 2
    most: int = 8

    @staticmethod
    def choose(head_dim: int, cache_dtype: torch.dtype, query_dtype: torch.dtype) -> DecodeConfig:
        """The configuration for a head size (of K or V, the larger) and dtypes."""
        if query_dtype == torch.float32:
            return DecodeConfig(num_warps=4, num_stages=2)
        if head_dim > 128:
            return DecodeConfig(num_warps=4, num_stages=3)
        return DecodeConfig()


class DecodePlan:
    """The work list of a batch, and the scratch memory of its launches.

    Everything is allocated here, so `update` and `paged_attention_decode` can be captured in a CUDA graph. One plan
    serves the layers of one kind, one after another on one stream.

    Args:
        max_seqs: most sequences in a batch.
        config: default: what suits 16-bit caches.
    """

    def __init__(
        self,
        max_seqs: int,
        num_heads: int,
        num_kv_heads: int,
        value_head_dim: int,
        device: torch.device | str,
        config: DecodeConfig | None = None,
    ) -> None:
        device = torch.device(device)
        self.config = config or DecodeConfig.choose(value_head_dim, torch.bfloat16, torch.bfloat16)
        self.num_heads, self.num_kv_heads, self.value_head_dim = num_heads, num_kv_heads, value_head_dim
        per_head = multiprocessors(device) / num_kv_heads
        #: pieces per KV head: at least, if the keys suffice, and at most, besides one per sequence
        self.least_pieces = math.ceil(self.config.least * per_head)
        self.most_pieces = math.ceil(self.config.most * per_head)
        self.max_seqs = max_seqs
        num_rows = self.most_pieces + max_seqs
        self.rows = torch.full((num_rows, ROW_WIDTH), -1, dtype=torch.int32, device=device)
        self.partial = torch.empty(num_rows, num_heads, value_head_dim, dtype=torch.float32, device=device)
        #: running maximum and sum of every piece and head
        self.partial_stats = torch.empty(num_rows, num_heads, 2, dtype=torch.float32, device=device)
        #: pieces that are done, per sequence and KV head; back at 0 after every launch
        self.counters = torch.zeros(max_seqs, num_kv_heads, dtype=torch.int32, device=device)
        self.num_seqs = 0

    def update(self, context_lens: Tensor, window: int | None = None) -> DecodePlan:
        """Plans for these lengths, int32 ``[num_seqs]`` on the device; on the device, without waiting for it."""
        self.num_seqs = context_lens.shape[0]
        if self.num_seqs > self.max_seqs:
            raise ValueError(f"context_lens: {self.num_seqs} sequences given; this plan takes at most {self.max_seqs}")
        plan_decode(
            context_lens,
            self.rows[: self.num_rows],
            self.config.tile,
            self.config.piece // self.config.tile,
            self.least_pieces,
            self.most_pieces,
            window,
        )
        return self

    @property
    def num_rows(self) -> int:
        """Rows of the work list that may be in use."""
        return self.most_pieces + self.num_seqs


@triton.jit
def _write_out(acc, largest, total, row, heads, is_head, v_scale, sinks_ptr, out_ptr, lse_ptr, stride_os, stride_oh,
               num_heads, DV: tl.constexpr, DV_PAD: tl.constexpr, HAS_SINKS: tl.constexpr,
               HAS_LSE: tl.constexpr):  # fmt: skip
    """Divides by the softmax's denominator, and stores. ``largest`` is in log2 units."""
    if HAS_SINKS:
        # A logit without a value: only the denominator gets it.
        sink = tl.load(sinks_ptr + heads, mask=is_head, other=0.0).to(tl.float32) * 1.4426950408889634
        new_largest = tl.maximum(largest, sink)
        acc = acc * tl.exp2(largest - new_largest)[:, None]
        total = total * tl.exp2(largest - new_largest) + tl.exp2(sink - new_largest)
        largest = new_largest
    if HAS_LSE:
        lse = (largest + tl.log2(total)) * 0.6931471805599453
        tl.store(lse_ptr + row * num_heads + heads, lse, mask=is_head)
    out = acc * (v_scale / tl.where(total > 0.0, total, 1.0))[:, None]
    dim = tl.arange(0, DV_PAD)
    tl.store(
        out_ptr + row.to(tl.int64) * stride_os + heads[:, None] * stride_oh + dim[None, :],
        out.to(out_ptr.dtype.element_ty),
        mask=is_head[:, None] & (dim < DV)[None, :],
    )


@triton.jit
def _decode_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    lse_ptr,
    tables_ptr,
    rows_ptr,
    partial_ptr,
    stats_ptr,
    counters_ptr,
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
    M: tl.constexpr,
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
    MERGE_ROWS: tl.constexpr,
    GROUP_PAD: tl.constexpr,
):
    kv_head = tl.program_id(0)
    work = rows_ptr + tl.program_id(1) * 8
    seq = tl.load(work)
    if seq < 0:
        return
    piece = tl.load(work + 1)
    pieces = tl.load(work + 2)
    first_piece = tl.load(work + 3)
    begin = tl.load(work + 4)
    end = tl.load(work + 5)
    length = tl.load(work + 6)

    num_heads = num_kv_heads * GROUP
    member = tl.arange(0, M)
    is_head = member < GROUP
    heads = kv_head * GROUP + member
    dim, value_dim = tl.arange(0, D_PAD), tl.arange(0, DV_PAD)
    q = tl.load(
        q_ptr + seq.to(tl.int64) * stride_qs + heads[:, None] * stride_qh + dim[None, :],
        mask=is_head[:, None] & (dim < D)[None, :],
        other=0.0,
    ).to(OPERAND)
    v_scale = 1.0
    if HAS_SCALES:
        scale = scale * tl.load(k_scale_ptr + kv_head * k_scale_step)
        v_scale = tl.load(v_scale_ptr + kv_head * v_scale_step)
    slopes = tl.zeros([M], tl.float32)
    if HAS_ALIBI:
        slopes = tl.load(slopes_ptr + heads, mask=is_head, other=0.0)
    positions = tl.zeros([M], tl.int32) + length - 1
    lowest = tl.maximum(length - window, 0) if HAS_WINDOW else 0

    table = tables_ptr + seq.to(tl.int64) * stride_table
    offset = tl.arange(0, TILE)
    # Tiles begin at multiples of TILE: a key's place in its page is the same in every tile.
    slot = offset % BLOCK_SIZE
    k_rows = k_ptr + kv_head * stride_kh + (slot * stride_ks)[:, None] + dim[None, :]
    v_rows = v_ptr + kv_head * stride_vh + (slot * stride_vs)[:, None] + value_dim[None, :]
    largest = tl.full([M], float("-inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    acc = tl.zeros([M, DV_PAD], tl.float32)
    # Block ids are looked up one tile ahead: else every load of keys would wait for that of its address.
    next_keys = begin + offset
    next_block = tl.load(table + next_keys // BLOCK_SIZE, mask=(next_keys < end) & (next_keys >= lowest), other=0)
    for start in tl.range(begin, end, TILE):
        keys = start + offset
        block = next_block.to(tl.int64)
        next_keys = keys + TILE
        next_block = tl.load(table + next_keys // BLOCK_SIZE, mask=next_keys < end, other=0)
        # Pages behind the window or past the end may belong to somebody else by now: they are not read at all.
        inside = (keys < end) & (keys >= lowest)
        k_at, v_at = k_rows + (block * stride_kb)[:, None], v_rows + (block * stride_vb)[:, None]
        if BLOCK_SIZE > TILE:
            first_slot = start % BLOCK_SIZE
            k_at, v_at = k_at + first_slot * stride_ks, v_at + first_slot * stride_vs
        k = tl.load(k_at, mask=inside[:, None] & (dim < D)[None, :], other=0.0)
        v = tl.load(v_at, mask=inside[:, None] & (value_dim < DV)[None, :], other=0.0)
        products = tl.dot(q, tl.trans(k.to(OPERAND)), input_precision=PRECISION)
        scores, factor = bias_scores(products, positions, keys, slopes, scale, softcap, HAS_SOFTCAP, HAS_ALIBI)
        scores = tl.where(inside[None, :], scores, float("-inf"))
        new_largest = tl.maximum(largest, tl.max(scores, 1) * factor)
        weights = tl.exp2(scores * factor - new_largest[:, None])
        fade = tl.exp2(largest - new_largest)
        total = total * fade + tl.sum(weights, 1)
        acc = tl.dot(weights.to(OPERAND), v.to(OPERAND), acc * fade[:, None], input_precision=PRECISION)
        largest = new_largest

    if pieces == 1:
        _write_out(acc, largest, total, seq, heads, is_head, v_scale, sinks_ptr, out_ptr, lse_ptr, stride_os,
                   stride_oh, num_heads, DV, DV_PAD, HAS_SINKS, HAS_LSE)  # fmt: skip
        return

    # One piece of several: leave it for the last one to merge.
    mine = (first_piece + piece).to(tl.int64) * num_heads + heads
    tl.store(
        partial_ptr + mine[:, None] * DV + value_dim[None, :],
        acc,
        mask=is_head[:, None] & (value_dim < DV)[None, :],
    )
    tl.store(stats_ptr + mine * 2, largest, mask=is_head)
    tl.store(stats_ptr + mine * 2 + 1, total, mask=is_head)
    tl.debug_barrier()  # all threads' stores, before one of them says that they are done
    counter = counters_ptr + seq * num_kv_heads + kv_head
    if tl.atomic_add(counter, 1, sem="acq_rel") == pieces - 1:
        tl.debug_barrier()
        tl.store(counter, 0)
        _merge(kv_head, seq, pieces, first_piece, v_scale, partial_ptr, stats_ptr, sinks_ptr, out_ptr, lse_ptr,
               stride_os, stride_oh, num_heads, GROUP, GROUP_PAD, DV, DV_PAD, MERGE_ROWS, HAS_SINKS,
               HAS_LSE)  # fmt: skip


@triton.jit
def _merge(kv_head, seq, pieces, first_piece, v_scale, partial_ptr, stats_ptr, sinks_ptr, out_ptr, lse_ptr, stride_os,
           stride_oh, num_heads, GROUP: tl.constexpr, GROUP_PAD: tl.constexpr, DV: tl.constexpr, DV_PAD: tl.constexpr,
           MERGE_ROWS: tl.constexpr, HAS_SINKS: tl.constexpr, HAS_LSE: tl.constexpr):  # fmt: skip
    """Merges all pieces of a sequence for one KV head, ``MERGE_ROWS`` at a time, from the first to the last."""
    member = tl.arange(0, GROUP_PAD)
    is_head = member < GROUP
    heads = kv_head * GROUP + member
    value_dim = tl.arange(0, DV_PAD)
    largest = tl.full([GROUP_PAD], float("-inf"), tl.float32)
    total = tl.zeros([GROUP_PAD], tl.float32)
    acc = tl.zeros([GROUP_PAD, DV_PAD], tl.float32)
    for start in range(0, pieces, MERGE_ROWS):
        piece = start + tl.arange(0, MERGE_ROWS)
        there = (piece < pieces)[:, None] & is_head[None, :]
        rows = (first_piece + piece).to(tl.int64)[:, None] * num_heads + heads[None, :]
        # Written by other programs a moment ago: read them where all programs see the same, past the L1 cache.
        top = tl.load(stats_ptr + rows * 2, mask=there, other=float("-inf"), cache_modifier=".cg")
        sums = tl.load(stats_ptr + rows * 2 + 1, mask=there, other=0.0, cache_modifier=".cg")
        parts = tl.load(
            partial_ptr + rows[:, :, None] * DV + value_dim[None, None, :],
            mask=there[:, :, None] & (value_dim < DV)[None, None, :],
            other=0.0,
            cache_modifier=".cg",
        )
        new_largest = tl.maximum(largest, tl.max(top, 0))
        safe = tl.where(new_largest == float("-inf"), 0.0, new_largest)
        factor = tl.exp2(top - safe[None, :])
        fade = tl.exp2(largest - safe)
        total = total * fade + tl.sum(sums * factor, 0)
        acc = acc * fade[:, None] + tl.sum(parts * factor[:, :, None], 0)
        largest = new_largest
    _write_out(acc, largest, total, seq, heads, is_head, v_scale, sinks_ptr, out_ptr, lse_ptr, stride_os, stride_oh,
               num_heads, DV, DV_PAD, HAS_SINKS, HAS_LSE)  # fmt: skip


def paged_attention_decode(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    alibi_slopes: Tensor | None = None,
    k_scale: Tensor | None = None,
    v_scale: Tensor | None = None,
    plan: DecodePlan | None = None,
    out: Tensor | None = None,
    lse: Tensor | None = None,
) -> Tensor:
    """Attention of one query per sequence over its pages (Kwon et al., SOSP 2023, eq. 4).

    Args:
        q: ``[num_seqs, num_heads, head_dim]``, float16, bfloat16 or float32; the last dimension contiguous.
        k_cache: ``[num_blocks, block_size, num_kv_heads, head_dim]``, of q's dtype, or float8_e4m3fn with scales.
        v_cache: ``[num_blocks, block_size, num_kv_heads, value_head_dim]``.
        block_tables: int32 ``[num_seqs, max_blocks]``; entries past a sequence's end, or behind its window, are not
            used.
        context_lens: int32 ``[num_seqs]``, keys of every sequence, the new token's own included. 0: a padded row; its
            output is zeros (its log-sum-exp minus infinity).
        scale: factor on the scores.
        window: only the last ``window`` keys take part.
        softcap: scores become ``softcap * tanh(score / softcap)``.
        sinks: ``[num_heads]``, a logit per head that takes part in the softmax and has no value.
        alibi_slopes: float32 ``[num_heads]``; scores get ``slope * (key position - query position)``.
        k_scale: float32 ``[1]`` or ``[num_kv_heads]``, what a stored value of 1 stands for; ``v_scale`` alike.
        plan: made by `DecodePlan.update` for the same lengths and window; made anew if missing.
        out: ``[num_seqs, num_heads, value_head_dim]``, written; allocated if missing.
        lse: float32 ``[num_seqs, num_heads]``, written: the log-sum-exp of the scores, sinks included.

    Returns:
        ``out``.

    Raises:
        ValueError, TypeError: an argument has a wrong shape, dtype, stride or device; nothing has been launched.
    """
    options = AttentionOptions(scale, window, softcap, sinks, alibi_slopes, k_scale, v_scale)
    shape = check_attention(q, k_cache, v_cache, block_tables, context_lens, options, out, lse)
    num_seqs = q.shape[0]
    if context_lens.shape[0] != num_seqs:
        raise ValueError(f"q: {num_seqs} rows given; expected one per sequence, {context_lens.shape[0]}")
    if out is None:
        out = torch.empty(num_seqs, shape.num_heads, shape.value_head_dim, dtype=q.dtype, device=q.device)
    if num_seqs == 0:
        return out
    if plan is None:
        config = DecodeConfig.choose(max(shape.head_dim, shape.value_head_dim), k_cache.dtype, q.dtype)
        plan = DecodePlan(num_seqs, shape.num_heads, shape.num_kv_heads, shape.value_head_dim, q.device, config)
        plan.update(context_lens, window)
    elif (plan.num_heads, plan.num_kv_heads, plan.value_head_dim, plan.num_seqs) != (
        shape.num_heads,
        shape.num_kv_heads,
        shape.value_head_dim,
        num_seqs,
    ):
        raise ValueError(
            f"plan: made for {plan.num_seqs} sequences, {plan.num_heads} heads, {plan.num_kv_heads} KV heads of "
            f"{plan.value_head_dim}; expected {num_seqs}, {shape.num_heads}, {shape.num_kv_heads}, "
            f"{shape.value_head_dim}"
        )
    config = plan.config
    group = shape.num_heads // shape.num_kv_heads
    group_pad = triton.next_power_of_2(group)
    dv_pad = max(16, triton.next_power_of_2(shape.value_head_dim))
    _decode_kernel[(shape.num_kv_heads, plan.num_rows)](
        q,
        k_cache,
        v_cache,
        out,
        lse,
        block_tables,
        plan.rows,
        plan.partial,
        plan.partial_stats,
        plan.counters,
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
        M=max(16, group_pad),
        D=shape.head_dim,
        D_PAD=max(16, triton.next_power_of_2(shape.head_dim)),
        DV=shape.value_head_dim,
        DV_PAD=dv_pad,
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
        MERGE_ROWS=max(1, min(16, 8192 // (group_pad * dv_pad))),
        GROUP_PAD=group_pad,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )
    return out
