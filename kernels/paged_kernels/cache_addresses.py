"""Where the pages of all layers lie in memory, prepared once, for kernels that move a page of every layer at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from paged_kernels.checks import (
    INDICES,
    check_blocks_contiguous,
    check_contiguous,
    check_dtype,
    check_last_dim_contiguous,
    check_positive,
    check_same_device,
    check_shape,
)

#: The widest access of one thread, in bytes.
WIDEST = 16


class CacheAddresses:
    """The K and V caches of all layers, seen as bytes. Keeps them alive; made again when one is replaced.

    A *row* is one block of every tensor, in the order of ``tensors`` and without gaps: tensor ``i`` has the bytes
    from ``offsets[i]`` on. That is the layout of a page outside the pool: one run of memory.

    Args:
        tensors: ``[num_blocks, ...]`` each, usually ``[num_blocks, block_size, num_kv_heads, head_dim]``, of any
            dtypes, on one device. Each block is contiguous. Bytes per block and distances between blocks may differ
            from tensor to tensor.

    Attributes:
        num_blocks: blocks of every tensor.
        row_bytes: bytes of one block in all tensors together.
        block_bytes: largest number of bytes of a block in one tensor.
        unit: largest power of two up to 16 that divides every address, distance, size and offset.
        table: int64 ``[num_tensors, 4]`` on the device, in units: address, distance between blocks, size, offset.
        pages: uint8 views ``[num_blocks, bytes]`` of the tensors.

    Raises:
        ValueError: no tensors, or their shapes, strides or devices are not as above.
    """

    __slots__ = ("block_bytes", "device", "num_blocks", "offsets", "pages", "row_bytes", "table", "tensors", "unit")

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        check_positive("tensors", len(tensors))
        named = {f"tensors[{i}]": tensor for i, tensor in enumerate(tensors)}
        self.device = check_same_device(**named)
        self.num_blocks = tensors[0].shape[0] if tensors[0].dim() else 0
        self.tensors = tuple(tensors)
        self.pages: list[Tensor] = []
        self.offsets: list[int] = []
        self.row_bytes = 0
        numbers: list[tuple[int, int, int, int]] = []
        for name, tensor in named.items():
            if tensor.dim() < 2 or tensor.numel() == 0 or tensor.shape[0] != self.num_blocks:
                expected = f"[num_blocks={self.num_blocks}, ...], not empty" if self.num_blocks else "[num_blocks, ...]"
                raise ValueError(f"{name}: shape {tuple(tensor.shape)} given; expected {expected}")
            check_blocks_contiguous(name, tensor)
            page = tensor.as_strided((self.num_blocks, tensor[0].numel()), (tensor.stride(0), 1)).view(torch.uint8)
            self.pages.append(page)
            self.offsets.append(self.row_bytes)
            numbers.append((page.data_ptr(), page.stride(0), page.shape[1], self.row_bytes))
            self.row_bytes += page.shape[1]
        self.block_bytes = max(page.shape[1] for page in self.pages)
        self.unit = widest_access(*(number for entry in numbers for number in entry))
        in_units = [[number // self.unit for number in entry] for entry in numbers]
        self.table = torch.tensor(in_units, dtype=torch.int64).to(self.device)

    def check_indices(self, name: str, indices: Tensor, pattern: str, sizes: dict[str, int]) -> None:
        """Indices of blocks or rows: int64 or int32, of this shape, contiguous, on the caches' device."""
        check_shape(name, indices, pattern, sizes)
        check_dtype(name, indices, INDICES)
        check_contiguous(name, indices)
        check_same_device(caches=self.table, **{name: indices})

    def check_transfer(self, buffer: Tensor, blocks: Tensor, rows: Tensor | None) -> None:
        """The arguments of a gather or a scatter; what they must be is said there."""
        sizes = {"row_bytes": self.row_bytes}
        check_shape("buffer", buffer, "num_rows row_bytes", sizes)
        check_dtype("buffer", buffer, (torch.uint8,))
        check_last_dim_contiguous("buffer", buffer)
        if sizes["num_rows"] > 1 and buffer.stride(0) < self.row_bytes:
            raise ValueError(f"buffer: row stride {buffer.stride(0)} given; expected at least {self.row_bytes}")
        if buffer.device != self.device and not (buffer.device.type == "cpu" and buffer.is_pinned()):
            raise ValueError(f"buffer: on {buffer.device}; expected {self.device} or pinned host memory")
        self.check_indices("blocks", blocks, "num_moved", sizes)
        if rows is not None:
            self.check_indices("rows", rows, "num_moved", sizes)
        elif blocks.shape[0] > sizes["num_rows"]:
            raise ValueError(f"blocks: {blocks.shape[0]} given for a buffer of {sizes['num_rows']} rows without `rows`")


def widest_access(*numbers: int) -> int:
    """The largest power of two, at most `WIDEST`, that divides all the numbers."""
    together = WIDEST
    for number in numbers:
        together |= number
    return together & -together
