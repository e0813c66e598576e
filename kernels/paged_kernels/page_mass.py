"""How much of a sequence's attention every page gets: what a page map can show of relevance.

A second, light pass over the keys: with the log-sum-exp that decoding leaves, a page's share is a plain sum. It costs
about half a decode launch, so it is meant for every so many steps.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from paged_kernels.checks import check_contiguous, check_dtype, check_range, check_same_device, check_shape
from paged_kernels.options import AttentionOptions, check_attention, padded
from paged_kernels.scores import bias_scores, operand_dtype


@triton.jit
def _page_mass_kernel(  # type: ignore[no-untyped-def]
    q_ptr,
    k_ptr,
    mass_ptr,
    lse_ptr,
    tables_ptr,
    context_lens_ptr,
    slopes_ptr,
    k_scale_ptr,
    scale,
    softcap,
    window,
    stride_qs,
    stride_qh,
    stride_table,
    stride_kb,
    stride_ks,
    stride_kh,
    k_scale_step,
    num_kv_heads,
    max_blocks,
    GROUP: tl.constexpr,
    M: tl.constexpr,
    D: tl.constexpr,
    D_PAD: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    TILE: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    HAS_ALIBI: tl.constexpr,
    HAS_SCALES: tl.constexpr,
    PRECISION: tl.constexpr,
    OPERAND: tl.constexpr,
):
    kv_head = tl.program_id(0)
    tile = tl.program_id(1)
    seq = tl.program_id(2).to(tl.int64)
    length = tl.load(context_lens_ptr + seq)
    num_heads = num_kv_heads * GROUP
    member = tl.arange(0, M)
    is_head = member < GROUP
    heads = kv_head * GROUP + member
    page = tile * (TILE // BLOCK_SIZE) + tl.arange(0, TILE // BLOCK_SIZE)
    out = mass_ptr + (seq * num_heads + heads)[:, None] * max_blocks + page[None, :]
    is_page = is_head[:, None] & (page < max_blocks)[None, :]
    begin = tile * TILE
    lowest = tl.maximum(length - window, 0) if HAS_WINDOW else 0
    if (begin >= length) | (begin + TILE <= lowest):
        tl.store(out, tl.zeros([M, TILE // BLOCK_SIZE], tl.float32), mask=is_page)
        return

    dim = tl.arange(0, D_PAD)
    q = tl.load(
        q_ptr + seq * stride_qs + heads[:, None] * stride_qh + dim[None, :],
        mask=is_head[:, None] & (dim < D)[None, :],
        other=0.0,
    ).to(OPERAND)
    if HAS_SCALES:
        scale = scale * tl.load(k_scale_ptr + kv_head * k_scale_step)
    slopes = tl.zeros([M], tl.float32)
    if HAS_ALIBI:
        slopes = tl.load(slopes_ptr + heads, mask=is_head, other=0.0)
    keys = begin + tl.arange(0, TILE)
    inside = (keys < length) & (keys >= lowest)
    block = tl.load(tables_ptr + seq * stride_table + keys // BLOCK_SIZE, mask=inside, other=0).to(tl.int64)
    k = tl.load(
        k_ptr + kv_head * stride_kh + (block * stride_kb + keys % BLOCK_SIZE * stride_ks)[:, None] + dim[None, :],
        mask=inside[:, None] & (dim < D)[None, :],
        other=0.0,
    )
    products = tl.dot(q, tl.trans(k.to(OPERAND)), input_precision=PRECISION)
    positions = tl.zeros([M], tl.int32) + length - 1
    scores, factor = bias_scores(products, positions, keys, slopes, scale, softcap, HAS_SOFTCAP, HAS_ALIBI)
    lse = tl.load(lse_ptr + seq * num_heads + heads, mask=is_head, other=0.0) * 1.4426950408889634
    weights = tl.where(inside[None, :], tl.exp2(scores * factor - lse[:, None]), 0.0)
    tl.store(out, tl.sum(tl.reshape(weights, [M, TILE // BLOCK_SIZE, BLOCK_SIZE]), 2), mask=is_page)


def page_attention_mass(
    q: Tensor,
    k_cache: Tensor,
    block_tables: Tensor,
    context_lens: Tensor,
    lse: Tensor,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    alibi_slopes: Tensor | None = None,
    k_scale: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """The attention weights of one query per sequence, summed over every page.

    Args:
        lse: float32 ``[num_seqs, num_heads]``, from `paged_attention_decode` with the same arguments.
        out: float32 ``[num_seqs, num_heads, max_blocks]``, written; allocated if missing.

    The other arguments are those of `paged_attention_decode`, and so are the errors.

    Returns:
        ``out``, by logical block. Every head's row sums to 1, less what its sink takes; pages that are not read have 0.
    """
    options = AttentionOptions(scale, window, softcap, None, alibi_slopes, k_scale, k_scale)
    shape = check_attention(q, k_cache, k_cache, block_tables, context_lens, options, None, lse)
    sizes = {"num_seqs": context_lens.shape[0], "num_heads": shape.num_heads, "max_blocks": block_tables.shape[1]}
    check_shape("q", q, "num_seqs num_heads head_dim", dict(sizes))
    if out is None:
        out = torch.empty(*q.shape[:2], block_tables.shape[1], dtype=torch.float32, device=q.device)
    check_shape("out", out, "num_seqs num_heads max_blocks", sizes)
    check_dtype("out", out, (torch.float32,))
    check_contiguous("out", out)
    check_same_device(q=q, out=out)
    if out.numel() == 0:
        return out
    check_range("q: number of sequences", q.shape[0], 1, 65_535)  # what CUDA allows in a grid's third dimension
    group = shape.num_heads // shape.num_kv_heads
    tile = max(64, shape.block_size)
    grid = (shape.num_kv_heads, triton.cdiv(block_tables.shape[1] * shape.block_size, tile), q.shape[0])
    _page_mass_kernel[grid](
        q,
        k_cache,
        out,
        lse,
        block_tables,
        context_lens,
        alibi_slopes,
        k_scale,
        scale,
        softcap or 0.0,
        window or 0,
        q.stride(0),
        q.stride(1),
        block_tables.stride(0),
        *k_cache.stride()[:3],
        options.k_scale_step,
        shape.num_kv_heads,
        block_tables.shape[1],
        GROUP=group,
        M=max(16, triton.next_power_of_2(group)),
        D=shape.head_dim,
        D_PAD=padded(shape.head_dim),
        BLOCK_SIZE=shape.block_size,
        TILE=tile,
        HAS_WINDOW=window is not None,
        HAS_SOFTCAP=softcap is not None,
        HAS_ALIBI=alibi_slopes is not None,
        HAS_SCALES=k_scale is not None,
        PRECISION="ieee" if q.dtype == torch.float32 else "tf32",
        OPERAND=operand_dtype(q.dtype),
        num_warps=4,
        num_stages=1,
    )
    return out
