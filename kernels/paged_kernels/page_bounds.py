"""Which pages matter to a query, from the smallest and largest key on every page.

For every page and KV head, ``lo`` and ``hi`` hold the minimum and maximum of its keys, dimension by dimension. No key
on the page has a higher score with a query than ``sum_d max(q_d lo_d, q_d hi_d)`` (Quest, Tang et al., ICML 2024):
pages can be chosen without reading their keys.

All functions are plain torch, for a CPU or a GPU, and wait for no device. Where a page is copied, its caller copies
the rows of ``lo`` and ``hi``, too.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paged_kernels.checks import (
    FLOATS,
    INDICES,
    check_dtype,
    check_not_negative,
    check_positive,
    check_same_device,
    check_shape,
)


def new_bounds(
    num_blocks: int,
    num_kv_heads: int,
    head_dim: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """``lo`` and ``hi``, ``[num_blocks, num_kv_heads, head_dim]``, of pages without a key: infinity, minus infinity."""
    shape = (num_blocks, num_kv_heads, head_dim)
    lo = torch.full(shape, torch.inf, dtype=dtype, device=device)
    return lo, torch.full_like(lo, -torch.inf)


def update_bounds(k: Tensor, slot_mapping: Tensor, lo: Tensor, hi: Tensor, block_size: int) -> None:
    """Takes new keys into account. A page whose first slot is among them begins anew: it had another owner before.

    Keys that are overwritten in the middle of a page stay in its bounds, which are then wider than needed.

    Args:
        k: ``[num_tokens, num_kv_heads, head_dim]``, as attention will read them (for a float8 cache: rounded, and
            multiplied with their scale).
        slot_mapping: int32 or int64 ``[num_tokens]``, from `reshape_and_cache`: ``block * block_size + offset``;
            negative: not stored. A call has tokens of one owner for each page.
        lo, hi: ``[num_blocks, num_kv_heads, head_dim]``, changed; float32, or k's dtype.

    Raises:
        ValueError, TypeError: naming the argument.
    """
    sizes: dict[str, int] = {}
    check_shape("k", k, "num_tokens num_kv_heads head_dim", sizes)
    check_shape("slot_mapping", slot_mapping, "num_tokens", sizes)
    _check_bounds(lo, hi, sizes)
    check_dtype("k", k, FLOATS)
    # Rounded to another dtype, a minimum may become larger than the key.
    check_dtype("lo", lo, (torch.float32, k.dtype))
    check_dtype("slot_mapping", slot_mapping, INDICES)
    check_positive("block_size", block_size)
    check_same_device(k=k, slot_mapping=slot_mapping, lo=lo, hi=hi)
    if k.shape[0] == 0:
        return
    slots = slot_mapping.long()
    stored = slots >= 0
    # How many tokens are stored is not known to the host. The others go to page 0, too, with keys that change nothing.
    blocks = torch.where(stored, slots // block_size, 0)
    first = (stored & (slots % block_size == 0)).to(torch.int32)
    is_new = torch.zeros(lo.shape[0], dtype=torch.int32, device=k.device).index_add_(0, blocks, first)
    is_new_row = (is_new[blocks] > 0)[:, None, None]
    for bound, empty, reduce in ((lo, torch.inf, "amin"), (hi, -torch.inf, "amax")):
        # Several tokens of one page write the same here: what is there, or what a new page begins with.
        bound.index_copy_(0, blocks, bound[blocks].masked_fill_(is_new_row, empty))
        keys = k.to(bound.dtype).masked_fill(~stored[:, None, None], empty)
        bound.scatter_reduce_(0, blocks[:, None, None].expand_as(keys), keys, reduce)


def score_bounds(
    q: Tensor, lo: Tensor, hi: Tensor, block_tables: Tensor, context_lens: Tensor, block_size: int
) -> Tensor:
    """No product of a query with a key on the page is larger, up to float32 rounding.

    Factors and soft caps of scores keep their order, so they need not be known; windows and ALiBi are left out.

    Args:
        q: ``[num_seqs, num_heads, head_dim]``; ``num_heads`` is a multiple of ``num_kv_heads``.
        lo, hi: ``[num_blocks, num_kv_heads, head_dim]``, kept by `update_bounds`.
        block_tables: int32 or int64 ``[num_seqs, max_blocks]``; entries past a sequence's end are not used. With tables
            of another numbering, such as that of pages on the host, ``lo`` and ``hi`` have that numbering, too.
        context_lens: int32 or int64 ``[num_seqs]``, keys of every sequence.

    Returns:
        float32 ``[num_seqs, num_heads, max_blocks]``: minus infinity past a sequence's end, and infinity for a page of
        which no key is known (`new_bounds`).

    Raises:
        ValueError, TypeError: naming the argument.
    """
    sizes: dict[str, int] = {}
    num_seqs, num_heads, head_dim = check_shape("q", q, "num_seqs num_heads head_dim", sizes)
    _check_bounds(lo, hi, sizes)
    max_blocks = check_shape("block_tables", block_tables, "num_seqs max_blocks", sizes)[1]
    check_shape("context_lens", context_lens, "num_seqs", sizes)
    check_dtype("q", q, FLOATS)
    check_dtype("block_tables", block_tables, INDICES)
    check_dtype("context_lens", context_lens, INDICES)
    check_positive("block_size", block_size)
    _check_group("q", num_heads, lo.shape[1])
    check_same_device(q=q, lo=lo, hi=hi, block_tables=block_tables, context_lens=context_lens)
    used = _is_page(context_lens, block_size, max_blocks)
    blocks = torch.where(used, block_tables, 0).long()
    queries = q.float().reshape(num_seqs, lo.shape[1], num_heads // lo.shape[1], head_dim)
    # The larger of both products is the one with hi where q is positive, and the one with lo where it is negative.
    bounds = torch.matmul(queries.clamp(min=0), hi[blocks].float().permute(0, 2, 3, 1))
    bounds += torch.matmul(queries.clamp(max=0), lo[blocks].float().permute(0, 2, 3, 1))
    bounds = bounds.view(num_seqs, num_heads, max_blocks)
    # No key known: 0 times infinity. Such a page may hold any score.
    bounds = torch.where(bounds.isnan(), torch.inf, bounds)
    return bounds.masked_fill_(~used[:, None], -torch.inf)


def choose_pages(
    bounds: Tensor,
    context_lens: Tensor,
    block_size: int,
    top_k: int,
    *,
    num_kv_heads: int,
    per_head: bool = True,
    first: int = 1,
    recent: int = 1,
) -> Tensor:
    """The pages with the highest bounds, the first and the last ones always among them.

    Args:
        bounds: float32 ``[num_seqs, num_heads, max_blocks]``, from `score_bounds`, or another measure of pages, such as
            `page_attention_mass`.
        context_lens: int32 or int64 ``[num_seqs]``.
        top_k: pages per choice, at least ``first + recent``. A context with no more pages has all of them chosen.
        per_head: one choice per KV head, by the highest bound among its query heads. False: one for all heads, by the
            highest among all: a page that must be brought over comes with all its heads.
        first: so many first pages are always chosen (they hold the attention sinks, Xiao et al., ICLR 2024).
        recent: so many last pages are always chosen. With 1 or more, the page that is partly filled comes last.

    Returns:
        int64 ``[num_seqs, num_kv_heads, top_k]``, or ``[num_seqs, top_k]`` without ``per_head``: indices into a
        sequence's block table, ascending; behind them -1 if it has fewer pages. Of equal bounds the first page wins.

    Raises:
        ValueError, TypeError: naming the argument.
    """
    sizes: dict[str, int] = {}
    num_seqs, num_heads, max_blocks = check_shape("bounds", bounds, "num_seqs num_heads max_blocks", sizes)
    check_shape("context_lens", context_lens, "num_seqs", sizes)
    check_dtype("bounds", bounds, (torch.float32,))
    check_dtype("context_lens", context_lens, INDICES)
    for name, value in (("block_size", block_size), ("top_k", top_k), ("num_kv_heads", num_kv_heads)):
        check_positive(name, value)
    check_not_negative("first", first)
    check_not_negative("recent", recent)
    if top_k < first + recent:
        raise ValueError(f"top_k: {top_k} given; expected at least first + recent = {first + recent}")
    _check_group("bounds", num_heads, num_kv_heads)
    check_same_device(bounds=bounds, context_lens=context_lens)
    groups = num_kv_heads if per_head else 1
    largest = torch.finfo(torch.float32).max
    # Infinity is kept for the pages that are always chosen, minus infinity for those that are not there.
    values = bounds.nan_to_num(largest, largest, -largest).reshape(num_seqs, groups, num_heads // groups, max_blocks)
    values = values.amax(dim=2)
    used = _is_page(context_lens, block_size, max_blocks)
    page = torch.arange(max_blocks, device=bounds.device)
    always = (page < first) | (page >= used.sum(dim=1, keepdim=True) - recent)
    values = values.masked_fill(always[:, None], torch.inf).masked_fill(~used[:, None], -torch.inf)
    # torch.topk does not say which of equal values it takes.
    order = torch.sort(values, dim=2, descending=True, stable=True).indices[:, :, :top_k]
    is_there = used[:, None].expand_as(values).gather(2, order)
    # What is not there goes behind all others.
    pages = torch.where(is_there, order, max_blocks).sort(dim=2).values
    pages = torch.where(pages < max_blocks, pages, -1)
    pages = torch.nn.functional.pad(pages, (0, top_k - pages.shape[2]), value=-1)
    return pages if per_head else pages[:, 0]


def chosen_tables(pages: Tensor, block_tables: Tensor, context_lens: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """Block tables and lengths with which `paged_attention_decode` reads the chosen pages and no others.

    Keys get other positions by this, so it is for attention without windows and ALiBi.

    Args:
        pages: int64 ``[num_seqs, top_k]``, from `choose_pages` with ``per_head=False`` and ``recent`` of 1 or more.
        block_tables: int32 or int64 ``[num_seqs, max_blocks]``; context_lens: int32 or int64 ``[num_seqs]``.

    Returns:
        The tables ``[num_seqs, top_k]``, 0 behind the last chosen page, and the lengths ``[num_seqs]``, of the same
        dtypes.

    Raises:
        ValueError, TypeError: naming the argument.
    """
    sizes: dict[str, int] = {}
    check_shape("pages", pages, "num_seqs top_k", sizes)
    check_shape("block_tables", block_tables, "num_seqs max_blocks", sizes)
    check_shape("context_lens", context_lens, "num_seqs", sizes)
    check_dtype("pages", pages, (torch.int64,))
    check_dtype("block_tables", block_tables, INDICES)
    check_dtype("context_lens", context_lens, INDICES)
    check_positive("block_size", block_size)
    check_same_device(pages=pages, block_tables=block_tables, context_lens=context_lens)
    tables = block_tables.gather(1, pages.clamp(min=0)).masked_fill(pages < 0, 0)
    num_pages = (context_lens + block_size - 1) // block_size
    left_out = num_pages - (pages >= 0).sum(dim=1)
    return tables, (context_lens - left_out * block_size).to(context_lens.dtype)


def _is_page(context_lens: Tensor, block_size: int, max_blocks: int) -> Tensor:
    """Which logical blocks hold keys, bool ``[num_seqs, max_blocks]``."""
    return torch.arange(max_blocks, device=context_lens.device) * block_size < context_lens[:, None]


def _check_bounds(lo: Tensor, hi: Tensor, sizes: dict[str, int]) -> None:
    check_shape("lo", lo, "num_blocks num_kv_heads head_dim", sizes)
    check_shape("hi", hi, "num_blocks num_kv_heads head_dim", sizes)
    check_dtype("lo", lo, FLOATS)
    check_dtype("hi", hi, (lo.dtype,))


def _check_group(name: str, num_heads: int, num_kv_heads: int) -> None:
    if num_heads % num_kv_heads:
        raise ValueError(f"{name}: {num_heads} heads given; expected a multiple of num_kv_heads={num_kv_heads}")
