"""The tensors behind the books: one allocation per tier, cut into a K and a V pool for every layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class LayerShape(Protocol):
    """What a layer keeps per token."""

    @property
    def num_kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def value_head_dim(self) -> int: ...


def bytes_per_block(layers: Sequence[LayerShape], block_size: int, dtype: torch.dtype) -> int:
    """Size of a page that holds the keys and values of these layers."""
    return block_size * dtype.itemsize * sum(x.num_kv_heads * (x.head_dim + x.value_head_dim) for x in layers)


def allocate_kv_cache(
    layers: Sequence[LayerShape],
    num_blocks: int,
    block_size: int,
    dtype: torch.dtype,
    device: torch.device,
) -> list[tuple[Tensor, Tensor]]:
    """K and V of every layer, each ``[num_blocks, block_size, num_kv_heads, head_dim]``, views of one allocation.

    Args:
        layers: those whose keys and values a page holds.

    Raises:
        MemoryError: the device has not that much memory; nothing is kept.
    """
    shapes = [
        (num_blocks, block_size, layer.num_kv_heads, dim)
        for layer in layers
        for dim in (layer.head_dim, layer.value_head_dim)
    ]
    sizes = [n * b * h * d for n, b, h, d in shapes]
    try:
        # Zeros, not empty memory: a padded table entry is read and masked, and NaN times 0 would still be NaN.
        arena = torch.zeros(sum(sizes), dtype=dtype, device=device)
    except RuntimeError as error:
        needed = sum(sizes) * dtype.itemsize / 2**20
        raise MemoryError(
            f"num_blocks={num_blocks}: the KV pool needs {needed:,.0f} MiB on {device}: {error}"
        ) from error
    views = [part.view(shape) for part, shape in zip(arena.split(sizes), shapes, strict=True)]
    return list(zip(views[::2], views[1::2], strict=True))


def allocate_host_tier(num_blocks: int, bytes_per_block: int, pinned: bool) -> Tensor:
    """Rows of the host tier: uint8 ``[num_blocks, bytes_per_block]``. ``pinned``: a GPU can reach them by itself.

    Raises:
        MemoryError: there is not that much memory.
    """
    try:
        return torch.zeros(num_blocks, bytes_per_block, dtype=torch.uint8, pin_memory=pinned)
    except RuntimeError as error:
        needed = num_blocks * bytes_per_block / 2**20
        raise MemoryError(f"num_host_blocks={num_blocks}: the host tier needs {needed:,.0f} MiB: {error}") from error
