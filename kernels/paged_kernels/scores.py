"""What every attention kernel here does to a tile of scores before the softmax.

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


def operand_dtype(dtype: torch.dtype) -> tl.dtype:
    """What the matrix products are fed with: the queries' dtype."""
    if dtype == torch.bfloat16 and triton.knobs.runtime.interpret:
        # The interpreter keeps bfloat16 as integers, and would multiply those.
        return tl.float32
    return {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}[dtype]
