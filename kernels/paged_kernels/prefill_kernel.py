"""The kernel behind `paged_kernels.prefill`."""

from __future__ import annotations

import triton
import triton.language as tl

from paged_kernels.scores import bias_scores, write_out


@triton.jit
def _attend(  # type: ignore[no-untyped-def]
            q, acc, total, largest, begin, end, lowest, table, k_head, v_head, positions, slopes, scale, softcap,
            window, stride_kb, stride_ks, stride_vb, stride_vs, D: tl.constexpr, D_PAD: tl.constexpr, DV: tl.constexpr,
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
    next_block = tl.load(
        table + (begin + offset) // BLOCK_SIZE, mask=(begin + offset < end) & (begin + offset >= lowest), other=0
    )
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


@triton.jit(do_not_specialize=["window", "behind"], do_not_specialize_on_alignment=["tables_ptr", "rows_ptr"])
def prefill_kernel(  # type: ignore[no-untyped-def]
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
    behind,
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
    HAS_BEHIND: tl.constexpr,
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
    dim = tl.arange(0, D_PAD)
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
    if HAS_BEHIND:
        before += behind
    positions = before + query
    end = tl.minimum(length, before + first_query + QUERIES)
    begin = 0
    lowest = 0
    # Keys up to the first query's own are seen by every row.
    masked_from = (before + first_query + 1) // TILE * TILE
    if HAS_BEHIND:
        # The keys may end before the first query, or begin behind the last one (then there is nothing to do).
        masked_from = tl.maximum(tl.minimum(before + first_query + 1, length), 0) // TILE * TILE
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
        q, acc, total, largest, masked_from, end, lowest, table, k_head, v_head, positions, slopes, scale, softcap,
        window, stride_kb, stride_ks, stride_vb, stride_vs, D, D_PAD, DV, DV_PAD, BLOCK_SIZE, TILE, True, HAS_WINDOW,
        HAS_SOFTCAP, HAS_ALIBI, PRECISION, OPERAND)  # fmt: skip

    write_out(acc, largest, total, token, heads, is_row, v_scale, sinks_ptr, out_ptr, lse_ptr, stride_os, stride_oh,
              num_heads, DV, DV_PAD, HAS_SINKS, HAS_LSE)  # fmt: skip
