"""The kernel behind `paged_kernels.decode`."""

from __future__ import annotations

import triton
import triton.language as tl

from paged_kernels.scores import bias_scores, write_out


@triton.jit
def _merge(  # type: ignore[no-untyped-def]
           kv_head, seq, pieces, first_row, v_scale, partial_ptr, stats_ptr, sinks_ptr, out_ptr, lse_ptr, stride_os,
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
        rows = (first_row + piece).to(tl.int64)[:, None] * num_heads + heads[None, :]
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
    write_out(acc, largest, total, seq, heads, is_head, v_scale, sinks_ptr, out_ptr, lse_ptr, stride_os, stride_oh,
               num_heads, DV, DV_PAD, HAS_SINKS, HAS_LSE)  # fmt: skip


@triton.jit(do_not_specialize=["window"], do_not_specialize_on_alignment=["tables_ptr", "rows_ptr", "workers_ptr"])
def decode_kernel(  # type: ignore[no-untyped-def]
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    lse_ptr,
    tables_ptr,
    rows_ptr,
    workers_ptr,
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
    worker = tl.program_id(1)
    num_heads = num_kv_heads * GROUP
    member = tl.arange(0, M)
    is_head = member < GROUP
    heads = kv_head * GROUP + member
    dim, value_dim = tl.arange(0, D_PAD), tl.arange(0, DV_PAD)
    offset = tl.arange(0, TILE)
    # Tiles begin at multiples of TILE: a key's place in its page is the same in every tile.
    slot = offset % BLOCK_SIZE
    k_rows = k_ptr + kv_head * stride_kh + (slot * stride_ks)[:, None] + dim[None, :]
    v_rows = v_ptr + kv_head * stride_vh + (slot * stride_vs)[:, None] + value_dim[None, :]
    v_scale = 1.0
    if HAS_SCALES:
        scale = scale * tl.load(k_scale_ptr + kv_head * k_scale_step)
        v_scale = tl.load(v_scale_ptr + kv_head * v_scale_step)
    slopes = tl.zeros([M], tl.float32)
    if HAS_ALIBI:
        slopes = tl.load(slopes_ptr + heads, mask=is_head, other=0.0)

    for row in range(tl.load(workers_ptr + worker * 2), tl.load(workers_ptr + worker * 2 + 1)):
        work = rows_ptr + row * 8
        seq = tl.load(work)
        pieces = tl.load(work + 2)
        first_row = tl.load(work + 3)
        begin = tl.load(work + 4)
        end = tl.load(work + 5)
        length = tl.load(work + 6)
        lowest = tl.maximum(length - window, 0) if HAS_WINDOW else 0
        positions = tl.zeros([M], tl.int32) + length - 1
        q = tl.load(
            q_ptr + seq.to(tl.int64) * stride_qs + heads[:, None] * stride_qh + dim[None, :],
            mask=is_head[:, None] & (dim < D)[None, :],
            other=0.0,
        ).to(OPERAND)
        table = tables_ptr + seq.to(tl.int64) * stride_table
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
            write_out(acc, largest, total, seq, heads, is_head, v_scale, sinks_ptr, out_ptr, lse_ptr, stride_os,
                       stride_oh, num_heads, DV, DV_PAD, HAS_SINKS, HAS_LSE)  # fmt: skip
        else:
            # One piece of several: leave it for whoever is done last to merge.
            place = row * num_heads + heads
            tl.store(
                partial_ptr + place[:, None] * DV + value_dim[None, :],
                acc,
                mask=is_head[:, None] & (value_dim < DV)[None, :],
            )
            tl.store(stats_ptr + place * 2, largest, mask=is_head)
            tl.store(stats_ptr + place * 2 + 1, total, mask=is_head)
            tl.debug_barrier()  # all threads' stores, before one of them says that they are done
            counter = counters_ptr + seq * num_kv_heads + kv_head
            if tl.atomic_add(counter, 1, sem="acq_rel") == pieces - 1:
                tl.debug_barrier()
                tl.store(counter, 0)
                _merge(kv_head, seq, pieces, first_row, v_scale, partial_ptr, stats_ptr, sinks_ptr, out_ptr, lse_ptr,
                       stride_os, stride_oh, num_heads, GROUP, GROUP_PAD, DV, DV_PAD, MERGE_ROWS, HAS_SINKS,
                       HAS_LSE)  # fmt: skip
