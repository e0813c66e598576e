"""Writes new keys and values into the pages of one layer, in one launch.

Each program takes a few rows (one head of one token) of K and of V: small enough that one sequence's token keeps few
programs busy, wide enough that each thread moves 16 bytes at a time, with both loads under way before the stores.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from paged_kernels.checks import check_cache_write, check_runnable

#: Elements of K, and of V, that one program moves: two 16-byte accesses a thread for 16-bit elements and 4 warps.
TILE = 2048


def reshape_and_cache(
    k: Tensor,
    v: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    slot_mapping: Tensor,
    k_scale: Tensor | None = None,
    v_scale: Tensor | None = None,
) -> None:
    """Stores the keys and values of tokens at their slots.

    Args:
        k: ``[num_tokens, num_kv_heads, head_dim]``, v: ``[num_tokens, num_kv_heads, value_head_dim]``, float32,
            bfloat16 or float16. Any strides but for the last dimension, so parts of a packed QKV are fine.
        k_cache: ``[num_blocks, block_size, num_kv_heads, head_dim]``, v_cache: the same with ``value_head_dim``.
            Contiguous blocks, possibly with gaps between them. The dtype of ``k``, or float8_e4m3fn with scales.
        slot_mapping: int64 or int32 ``[num_tokens]``, block * block_size + offset. Negative slots are skipped. No
            slot occurs twice. A slot beyond the pool is an error that a launch cannot report: it is not written.
        k_scale, v_scale: float32 ``[1]`` or ``[num_kv_heads]``, positive: ``x * (1 / scale)`` in float32 is
            stored, limited to ±448 (NaN stays NaN). Needed for float8 caches, and only there.

    Raises:
        TypeError, ValueError: a wrong dtype; a wrong shape, layout or device, or a scale missing or not wanted.
    """
    num_tokens, num_kv_heads, head_dim, value_head_dim, num_blocks, block_size = check_cache_write(
        k, v, k_cache, v_cache, slot_mapping, k_scale, v_scale
    )
    check_runnable(k_cache)
    if num_tokens == 0:
        return
    k_columns, v_columns = triton.next_power_of_2(head_dim), triton.next_power_of_2(value_head_dim)
    rows = max(1, TILE // max(k_columns, v_columns))
    k_token_stride, k_head_stride, _ = k.stride()
    v_token_stride, v_head_stride, _ = v.stride()
    num_rows = num_tokens * num_kv_heads
    _reshape_and_cache[(-(-num_rows // rows),)](
        k,
        v,
        k_cache,
        v_cache,
        slot_mapping,
        k_scale,
        v_scale,
        num_rows,
        num_blocks * block_size,
        k_token_stride,
        k_head_stride,
        v_token_stride,
        v_head_stride,
        k_cache.stride(0),
        v_cache.stride(0),
        block_size,
        num_kv_heads,
        head_dim,
        value_head_dim,
        k_scale is not None and k_scale.numel() > 1,
        v_scale is not None and v_scale.numel() > 1,
        rows,
        k_columns,
        v_columns,
        num_warps=4,
    )


@triton.jit(do_not_specialize=["num_rows", "num_slots"])
def _reshape_and_cache(  # type: ignore[no-untyped-def]
    k,
    v,
    k_cache,
    v_cache,
    slot_mapping,
    k_scale,
    v_scale,
    num_rows,
    num_slots,
    k_token_stride,
    k_head_stride,
    v_token_stride,
    v_head_stride,
    K_BLOCK_STRIDE: tl.constexpr,
    V_BLOCK_STRIDE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    NUM_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    VALUE_HEAD_DIM: tl.constexpr,
    K_SCALE_PER_HEAD: tl.constexpr,
    V_SCALE_PER_HEAD: tl.constexpr,
    ROWS: tl.constexpr,
    K_COLUMNS: tl.constexpr,
    V_COLUMNS: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    token = (row // NUM_HEADS).to(tl.int64)
    head = (row % NUM_HEADS).to(tl.int64)
    slot = tl.load(slot_mapping + token, mask=row < num_rows, other=-1).to(tl.int64)
    written = ((slot >= 0) & (slot < num_slots))[:, None]
    block = slot // BLOCK_SIZE
    cached = slot % BLOCK_SIZE * NUM_HEADS + head

    k_column = tl.arange(0, K_COLUMNS)[None, :]
    v_column = tl.arange(0, V_COLUMNS)[None, :]
    k_mask = written & (k_column < HEAD_DIM)
    v_mask = written & (v_column < VALUE_HEAD_DIM)
    keys = tl.load(k + (token * k_token_stride + head * k_head_stride)[:, None] + k_column, mask=k_mask)
    values = tl.load(v + (token * v_token_stride + head * v_head_stride)[:, None] + v_column, mask=v_mask)
    if k_scale is not None:
        keys = _to_float8(keys, k_scale, head, K_SCALE_PER_HEAD)
        values = _to_float8(values, v_scale, head, V_SCALE_PER_HEAD)
    tl.store(k_cache + (block * K_BLOCK_STRIDE + cached * HEAD_DIM)[:, None] + k_column, keys, mask=k_mask)
    tl.store(v_cache + (block * V_BLOCK_STRIDE + cached * VALUE_HEAD_DIM)[:, None] + v_column, values, mask=v_mask)


@triton.jit
def _to_float8(x, scale, head, PER_HEAD: tl.constexpr):  # type: ignore[no-untyped-def]
    """``[rows, columns]`` divided by each row's scale, limited to what float8_e4m3fn holds; NaN stays NaN."""
    # One division a row. Rounded as IEEE says: the reference gets the same bits.
    inverse = tl.div_rn(1.0, tl.load(scale + head * PER_HEAD))
    x = x.to(tl.float32) * inverse[:, None]
    x = tl.where(x > 448.0, 448.0, tl.where(x < -448.0, -448.0, x))
    return x.to(tl.float8e4nv)
