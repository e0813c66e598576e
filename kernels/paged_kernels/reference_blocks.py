"""Writing, copying and moving pages in plain torch: the contracts of `cache_write`, `block_copy` and `block_transfer`.

What the kernels are tested against, and what a CPU runs. Skipped entries are filtered out, which on a GPU waits for
the device. Blocks and slots beyond the pool raise IndexError on a CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from paged_kernels.cache_addresses import CacheAddresses
from paged_kernels.checks import FP8, check_cache_write

_FP8_MAX = 448.0


def reshape_and_cache(
    k: Tensor,
    v: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    slot_mapping: Tensor,
    k_scale: Tensor | None = None,
    v_scale: Tensor | None = None,
) -> None:
    """As `paged_kernels.cache_write.reshape_and_cache`, to the last bit."""
    check_cache_write(k, v, k_cache, v_cache, slot_mapping, k_scale, v_scale)
    block_size = k_cache.shape[1]
    wanted = slot_mapping >= 0
    slots = slot_mapping[wanted].long()
    where = (slots // block_size, slots % block_size)
    for new, cache, scale in ((k, k_cache, k_scale), (v, v_cache, v_scale)):
        rows = new[wanted]
        if scale is not None:
            scaled = rows.float() * (1 / scale).view(-1, 1)
            # torch can neither limit on its way to float8 nor index it: bytes are indexed instead.
            rows = scaled.clamp(-_FP8_MAX, _FP8_MAX).to(FP8).view(torch.uint8)
            cache = cache.view(torch.uint8)
        cache[where] = rows


def copy_blocks(caches: CacheAddresses, pairs: Tensor) -> None:
    """As `paged_kernels.block_copy.copy_blocks`."""
    caches.check_indices("pairs", pairs, "num_pairs 2", {})
    sources, destinations = pairs[(pairs >= 0).all(dim=1)].long().unbind(dim=1)
    for pages in caches.pages:
        pages[destinations] = pages[sources]


def gather_blocks(caches: CacheAddresses, blocks: Tensor, buffer: Tensor, rows: Tensor | None = None) -> None:
    """As `paged_kernels.block_transfer.gather_blocks`."""
    blocks, rows = _moved(caches, blocks, buffer, rows)
    for pages, offset in zip(caches.pages, caches.offsets, strict=True):
        buffer[rows.to(buffer.device), offset : offset + pages.shape[1]] = pages[blocks].to(buffer.device)


def scatter_blocks(buffer: Tensor, caches: CacheAddresses, blocks: Tensor, rows: Tensor | None = None) -> None:
    """As `paged_kernels.block_transfer.scatter_blocks`."""
    blocks, rows = _moved(caches, blocks, buffer, rows)
    for pages, offset in zip(caches.pages, caches.offsets, strict=True):
        pages[blocks] = buffer[rows.to(buffer.device), offset : offset + pages.shape[1]].to(pages.device)


def _moved(caches: CacheAddresses, blocks: Tensor, buffer: Tensor, rows: Tensor | None) -> tuple[Tensor, Tensor]:
    """Checks a transfer; blocks and rows as int64, without those to skip."""
    caches.check_transfer(buffer, blocks, rows)
    if rows is None:
        rows = torch.arange(blocks.shape[0], device=blocks.device)
    wanted = (blocks >= 0) & (rows >= 0)
    return blocks[wanted].long(), rows[wanted].long()
