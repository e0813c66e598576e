"""Attention over parts of a context, put together: what lets a context be larger than the memory that attends to it.

Softmax attention over the keys of ``a`` and ``b`` follows from the two results and their log-sum-exps, with
``w = exp(lse_b) / (exp(lse_a) + exp(lse_b)) = sigmoid(lse_b - lse_a)``::

    lse = log(exp(lse_a) + exp(lse_b))
    out = (1 - w) * out_a + w * out_b

(Milakov and Gimelshein, 2018; Dao et al., Flash-Decoding, 2023.) Order and number of the parts do not matter, up to
rounding. A sink is one more logit of the whole softmax: give it to exactly one of the parts.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paged_kernels.checks import FLOATS, check_dtype, check_same_device, check_shape


def merge_partial(
    out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor, *, inplace: bool = False
) -> tuple[Tensor, Tensor]:
    """Attention over the keys of two parts, from the attention over each. Computed in float32; waits for no device.

    Args:
        out_a: ``[rows, num_heads, value_head_dim]``, float16, bfloat16 or float32. Finite, also where the log-sum-exp
            is minus infinity (no key seen): the kernels write zeros there.
        lse_a: float32 ``[rows, num_heads]``, natural logarithm.
        out_b, lse_b: the same for the other part. ``out_b`` may have another dtype: to merge many parts of 16 bits,
            keep the sum ``a`` in float32.
        inplace: write the result to ``out_a`` and ``lse_a``.

    Returns:
        The output, of ``out_a``'s dtype, and its log-sum-exp: 0 and minus infinity where neither part has a key, if
        ``out_a`` is 0 there.

    Raises:
        ValueError, TypeError: naming the argument.
    """
    sizes: dict[str, int] = {}
    for name, out, lse in (("a", out_a, lse_a), ("b", out_b, lse_b)):
        check_shape(f"out_{name}", out, "rows num_heads value_head_dim", sizes)
        check_shape(f"lse_{name}", lse, "rows num_heads", sizes)
        check_dtype(f"out_{name}", out, FLOATS)
        check_dtype(f"lse_{name}", lse, (torch.float32,))
    check_same_device(out_a=out_a, lse_a=lse_a, out_b=out_b, lse_b=lse_b)
    # Minus infinity less minus infinity is NaN; neither part has a key there, and either output will do.
    weight = torch.sigmoid(lse_b - lse_a).nan_to_num_(0.0)[..., None]
    if not inplace:
        merged = torch.lerp(out_a.float(), out_b.float(), weight).to(out_a.dtype)
        return merged, torch.logaddexp(lse_a, lse_b)
    if out_a.dtype == torch.float32:
        out_a.lerp_(out_b.float(), weight)
    else:
        out_a.copy_(torch.lerp(out_a.float(), out_b.float(), weight))
    return out_a, torch.logaddexp(lse_a, lse_b, out=lse_a)
