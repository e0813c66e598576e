"""What the attention kernels do to a tile of scores before the softmax, and to what they have summed up after it.

Scores are kept in powers of two: multiplied with log2(e), so that the softmax is `exp2`, which the hardware has.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _tanh(x):  # type: ignore[no-untyped-def]
    # Exact at both ends: exp2 goes to 0 or to infinity there.
    return 1.0 - 2.0 / (1.0 + tl.exp2(x * 2.8853900817779268))


@triton.jit
def bias_scores(  # type: ignore[no-untyped-def]
    products,
    query_positions,
    key_positions,
    slopes,
    scale,
    softcap,
    HAS_SOFTCAP: tl.constexpr,
    HAS_ALIBI: tl.constexpr,
):
    """Scores from ``products`` = QK^T, float32 ``[M, N]``: soft cap (Gemma 2) and ALiBi (Press et al., 2022).

    Args:
        query_positions: ``[M]``; key_positions: ``[N]``; slopes: ``[M]``, the ALiBi slope of every row's head.

    Returns:
        The scores, and the factor, above 0, that turns them into log2 units. Without options the scores are the
        products themselves: scaling them and subtracting the maximum is then one instruction later on.
    """
    factor = scale * 1.4426950408889634
    if HAS_SOFTCAP or HAS_ALIBI:
        products = products * scale
        if HAS_SOFTCAP:
            products = softcap * _tanh(products / softcap)
        if HAS_ALIBI:
            products += slopes[:, None] * (key_positions[None, :] - query_positions[:, None]).to(tl.float32)
        factor = 1.4426950408889634
    return products, factor


@triton.jit
def write_out(  # type: ignore[no-untyped-def]
    acc, largest, total, rows, heads, is_row, v_scale, sinks_ptr, out_ptr, lse_ptr, stride_os, stride_oh, num_heads,
    DV: tl.constexpr, DV_PAD: tl.constexpr, HAS_SINKS: tl.constexpr, HAS_LSE: tl.constexpr,
):  # fmt: skip
    """Divides by the softmax's denominator, and stores.

    Args:
        acc: ``[M, DV_PAD]``, summed values; largest, total: ``[M]``, the running softmax, in log2 units.
        rows: rows of ``out``, ``[M]`` or one for all; heads: ``[M]``; is_row: ``[M]``, whether there is such a row.
    """
    if HAS_SINKS:
        # A logit without a value: only the denominator gets it.
        sink = tl.load(sinks_ptr + heads, mask=is_row, other=0.0).to(tl.float32) * 1.4426950408889634
        new_largest = tl.maximum(largest, sink)
        acc = acc * tl.exp2(largest - new_largest)[:, None]
        total = total * tl.exp2(largest - new_largest) + tl.exp2(sink - new_largest)
        largest = new_largest
    if HAS_LSE:
        lse = (largest + tl.log2(total)) * 0.6931471805599453
        tl.store(lse_ptr + rows * num_heads + heads, lse, mask=is_row)
    out = acc * (v_scale / tl.where(total > 0.0, total, 1.0))[:, None]
    dim = tl.arange(0, DV_PAD)
    tl.store(
        out_ptr + (rows.to(tl.int64) * stride_os + heads * stride_oh)[:, None] + dim[None, :],
        out.to(out_ptr.dtype.element_ty),
        mask=is_row[:, None] & (dim < DV)[None, :],
    )


def operand_dtype(dtype: torch.dtype) -> tl.dtype:
    """What the matrix products are fed with: the queries' dtype."""
    if dtype == torch.bfloat16 and triton.knobs.runtime.interpret:
        # The interpreter keeps bfloat16 as integers, and would multiply those.
        return tl.float32
    return {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}[dtype]
