"""Pages between the pools of all layers and rows of one buffer, one launch a direction: what swapping needs.

A page outside the pools is one run of bytes (`CacheAddresses` says how it is laid out), so a staging buffer goes to
the host in one copy, and a page on the host is read and written in one piece.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from paged_kernels.block_copy import page, tiling
from paged_kernels.cache_addresses import CacheAddresses, widest_access
from paged_kernels.checks import check_runnable


def gather_blocks(caches: CacheAddresses, blocks: Tensor, buffer: Tensor, rows: Tensor | None = None) -> None:
    """Copies block ``blocks[i]`` of every tensor to row ``rows[i]`` of ``buffer``.

    Args:
        blocks: int64 or int32 ``[n]`` on the caches' device.
        buffer: uint8 ``[num_rows, caches.row_bytes]`` on that device, or in pinned host memory, which the kernel
            then writes by itself: complete once the stream got there. Rows may have gaps between them.
        rows: int64 or int32 ``[n]`` on the caches' device, all different; None: 0 to n - 1.
            A negative block or row skips its pair. One beyond the pool or the buffer is an error that a launch
            cannot report: nothing is copied for it.

    Raises:
        TypeError, ValueError: a wrong dtype; a wrong shape, layout or device.
    """
    _transfer(caches, blocks, buffer, rows, to_buffer=True)


def scatter_blocks(buffer: Tensor, caches: CacheAddresses, blocks: Tensor, rows: Tensor | None = None) -> None:
    """Copies row ``rows[i]`` of ``buffer`` to block ``blocks[i]`` of every tensor: undoes `gather_blocks`.

    Arguments and errors as there, but the blocks are all different, and rows may occur more than once.
    """
    _transfer(caches, blocks, buffer, rows, to_buffer=False)


def _transfer(caches: CacheAddresses, blocks: Tensor, buffer: Tensor, rows: Tensor | None, to_buffer: bool) -> None:
    caches.check_transfer(buffer, blocks, rows)
    check_runnable(caches.table)
    num_moved = blocks.shape[0]
    if num_moved == 0:
        return
    stride = buffer.stride(0)
    access = widest_access(caches.unit, buffer.data_ptr(), stride)
    word, chunk, num_chunks = tiling(caches, access)
    _transfer_blocks[(num_moved * num_chunks, len(caches.pages))](
        caches.table,
        blocks,
        buffer,
        rows,
        caches.num_blocks,
        buffer.shape[0],
        stride // access,
        caches.unit,
        access,
        word,
        chunk,
        num_chunks,
        to_buffer,
        num_warps=4,
    )


@triton.jit(do_not_specialize=["num_blocks", "num_rows", "stride"])
def _transfer_blocks(  # type: ignore[no-untyped-def]
    table,
    blocks,
    buffer,
    rows,
    num_blocks,
    num_rows,
    stride,
    UNIT: tl.constexpr,
    ACCESS: tl.constexpr,
    WORD: tl.constexpr,
    CHUNK: tl.constexpr,
    NUM_CHUNKS: tl.constexpr,
    TO_BUFFER: tl.constexpr,
):
    index = tl.program_id(0) // NUM_CHUNKS
    block = tl.load(blocks + index).to(tl.int64)
    row = index.to(tl.int64) if rows is None else tl.load(rows + index).to(tl.int64)
    inside = (block >= 0) & (block < num_blocks) & (row >= 0) & (row < num_rows)
    address, distance, size, offset = page(table, tl.program_id(1), UNIT, WORD)
    words = (tl.program_id(0) % NUM_CHUNKS) * CHUNK + tl.arange(0, CHUNK)
    mask = (words < size) & inside
    in_pool = address + block * distance + words
    in_buffer = buffer.to(tl.pointer_type(WORD)) + (row * stride * (ACCESS * 8 // WORD.primitive_bitwidth) + offset)
    if TO_BUFFER:
        tl.store(in_buffer + words, tl.load(in_pool, mask=mask), mask=mask)
    else:
        tl.store(in_pool, tl.load(in_buffer + words, mask=mask), mask=mask)
