"""What the attention kernels have in common before a launch: options, checks, and arguments."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from paged_kernels.checks import (
    check_contiguous,
    check_dtype,
    check_last_dim_contiguous,
    check_positive,
    check_runnable,
    check_same_device,
    check_shape,
)
from paged_kernels.scores import operand_dtype

HEAD_DIMS = (8, 16, 32, 64, 80, 96, 128, 192, 256)
MAX_BLOCK_SIZE = 256
QUERY_DTYPES = (torch.float16, torch.bfloat16, torch.float32)


class AttentionShape(NamedTuple):
    """Sizes that the arguments agree on."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    value_head_dim: int
    block_size: int


class AttentionOptions(NamedTuple):
    """The options of `paged_attention_decode` and `paged_attention_prefill`, documented there."""

    scale: float
    window: int | None
    softcap: float | None
    sinks: Tensor | None
    alibi_slopes: Tensor | None
    k_scale: Tensor | None
    v_scale: Tensor | None

    @property
    def k_scale_step(self) -> int:
        """Distance between two KV heads' scales: 0 if there is one for all."""
        return 0 if self.k_scale is None or self.k_scale.numel() == 1 else 1

    @property
    def v_scale_step(self) -> int:
        return 0 if self.v_scale is None or self.v_scale.numel() == 1 else 1


def unsupported(head_dim: int, value_head_dim: int, block_size: int, num_heads: int, num_kv_heads: int) -> str | None:
    """Why the kernels can't serve these sizes; None if they can."""
    for name, dim in (("head_dim", head_dim), ("value_head_dim", value_head_dim)):
        if dim not in HEAD_DIMS:
            return f"{name}={dim}: the kernels take {', '.join(map(str, HEAD_DIMS))}"
    if not 1 <= block_size <= MAX_BLOCK_SIZE or block_size & (block_size - 1):
        return f"block_size={block_size}: the kernels take powers of two from 1 to {MAX_BLOCK_SIZE}"
    if num_heads % num_kv_heads:
        return f"num_heads={num_heads}: must be a multiple of num_kv_heads={num_kv_heads}"
    if num_heads // num_kv_heads > 128:
        return f"num_heads={num_heads}: at most 128 for every KV head, of which there are {num_kv_heads}"
    return None


def padded(dim: int) -> int:
    """A head size as the matrix products take it: a power of two, 16 or more."""
    return max(16, triton.next_power_of_2(dim))


def kernel_strides(q: Tensor, k_cache: Tensor, v_cache: Tensor, block_tables: Tensor, out: Tensor) -> tuple[int, ...]:
    """The strides that decoding and prefill take, in their kernels' order."""
    return (*q.stride()[:2], *out.stride()[:2], block_tables.stride(0), *k_cache.stride()[:3], *v_cache.stride()[:3])


def kernel_constants(q: Tensor, shape: AttentionShape, options: AttentionOptions, lse: Tensor | None) -> dict[str, Any]:
    """What decoding and prefill compile in, by the kernels' names."""
    group = shape.num_heads // shape.num_kv_heads
    return {
        "GROUP": group,
        "GROUP_PAD": triton.next_power_of_2(group),
        "D": shape.head_dim,
        "D_PAD": padded(shape.head_dim),
        "DV": shape.value_head_dim,
        "DV_PAD": padded(shape.value_head_dim),
        "BLOCK_SIZE": shape.block_size,
        "HAS_WINDOW": options.window is not None,
        "HAS_SOFTCAP": options.softcap is not None,
        "HAS_ALIBI": options.alibi_slopes is not None,
        "HAS_SINKS": options.sinks is not None,
        "HAS_SCALES": options.k_scale is not None,
        "HAS_LSE": lse is not None,
        "PRECISION": "ieee" if q.dtype == torch.float32 else "tf32",
        "OPERAND": operand_dtype(q.dtype),
    }


def check_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    options: AttentionOptions,
    out: Tensor | None,
    lse: Tensor | None,
) -> AttentionShape:
    """Checks what decoding and prefill have in common; the first dimension of ``q``, ``out`` and ``lse`` is rows.

    Raises:
        ValueError, TypeError: naming the argument, what was given and what is allowed.
    """
    sizes: dict[str, int] = {}
    check_shape("q", q, "rows num_heads head_dim", sizes)
    check_shape("k_cache", k_cache, "num_blocks block_size num_kv_heads head_dim", sizes)
    check_shape("v_cache", v_cache, "num_blocks block_size num_kv_heads value_head_dim", sizes)
    check_shape("block_tables", block_tables, "num_seqs max_blocks", sizes)
    check_shape("context_lens", context_lens, "num_seqs", sizes)
    shape = AttentionShape(*(sizes[name] for name in AttentionShape._fields))
    reason = unsupported(shape.head_dim, shape.value_head_dim, shape.block_size, shape.num_heads, shape.num_kv_heads)
    if reason is not None:
        raise ValueError(reason)
    check_dtype("q", q, QUERY_DTYPES)
    check_dtype("k_cache", k_cache, (q.dtype, torch.float8_e4m3fn))
    check_dtype("v_cache", v_cache, (k_cache.dtype,))
    check_dtype("block_tables", block_tables, (torch.int32,))
    check_dtype("context_lens", context_lens, (torch.int32,))
    for name, tensor in (("q", q), ("k_cache", k_cache), ("v_cache", v_cache), ("block_tables", block_tables)):
        check_last_dim_contiguous(name, tensor)
    check_contiguous("context_lens", context_lens)
    if out is not None:
        check_shape("out", out, "rows num_heads value_head_dim", sizes)
        check_dtype("out", out, (q.dtype,))
        check_last_dim_contiguous("out", out)
    if lse is not None:
        check_shape("lse", lse, "rows num_heads", sizes)
        check_dtype("lse", lse, (torch.float32,))
        check_contiguous("lse", lse)
    if options.sinks is not None:
        check_shape("sinks", options.sinks, "num_heads", sizes)
        check_contiguous("sinks", options.sinks)
    if options.alibi_slopes is not None:
        check_shape("alibi_slopes", options.alibi_slopes, "num_heads", sizes)
        check_dtype("alibi_slopes", options.alibi_slopes, (torch.float32,))
        check_contiguous("alibi_slopes", options.alibi_slopes)
    _check_scales(k_cache, options, shape.num_kv_heads)
    if not options.scale > 0:
        raise ValueError(f"scale: {options.scale} given; expected a number above 0")
    if options.window is not None:
        check_positive("window", options.window)
    if options.softcap is not None and not options.softcap > 0:
        raise ValueError(f"softcap: {options.softcap} given; expected a number above 0, or None")
    check_same_device(
        q=q,
        k_cache=k_cache,
        v_cache=v_cache,
        block_tables=block_tables,
        context_lens=context_lens,
        out=out,
        lse=lse,
        sinks=options.sinks,
        alibi_slopes=options.alibi_slopes,
        k_scale=options.k_scale,
        v_scale=options.v_scale,
    )
    check_runnable(q)
    return shape


def _check_scales(k_cache: Tensor, options: AttentionOptions, num_kv_heads: int) -> None:
    is_fp8 = k_cache.dtype == torch.float8_e4m3fn
    for name, scale in (("k_scale", options.k_scale), ("v_scale", options.v_scale)):
        if is_fp8 != (scale is not None):
            given = "missing" if scale is None else "given"
            raise ValueError(f"{name}: {given}; float8_e4m3fn caches need scales, and only they")
        if scale is not None:
            if scale.numel() not in (1, num_kv_heads) or scale.dim() > 1:
                raise ValueError(f"{name}: shape {tuple(scale.shape)} given; expected [1] or [{num_kv_heads}]")
            check_dtype(name, scale, (torch.float32,))
            check_contiguous(name, scale)
