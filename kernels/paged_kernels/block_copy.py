"""Copies blocks within the pools of all layers in one launch: what copy-on-write needs when a page is shared."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from paged_kernels.cache_addresses import CacheAddresses
from paged_kernels.checks import check_runnable

__all__ = ["CacheAddresses", "copy_blocks", "tiling"]

#: Words that one program moves: with 8-byte words and 4 warps, four 16-byte accesses a thread.
CHUNK = 1024
_WORDS = {16: tl.int64, 8: tl.int64, 4: tl.int32, 2: tl.int16, 1: tl.int8}


def copy_blocks(caches: CacheAddresses, pairs: Tensor) -> None:
    """Copies block ``pairs[i, 0]`` to block ``pairs[i, 1]`` in every tensor of ``caches``.

    Args:
        pairs: int64 or int32 ``[num_pairs, 2]`` on the caches' device. A pair with a negative number is skipped.
            Destinations differ from each other and are not the source of another pair: all pairs are copied at the
            same time, in no order. Blocks beyond the pool are an error that a launch cannot report: nothing is copied.

    Raises:
        TypeError, ValueError: a wrong dtype; a wrong shape, layout or device.
    """
    caches.check_indices("pairs", pairs, "num_pairs 2", {})
    check_runnable(caches.table)
    num_pairs = pairs.shape[0]
    if num_pairs == 0:
        return
    word, chunk, num_chunks = tiling(caches, caches.unit)
    _copy_blocks[(num_pairs * num_chunks, len(caches.pages))](
        caches.table, pairs, caches.num_blocks, caches.unit, word, chunk, num_chunks, num_warps=4
    )


def tiling(caches: CacheAddresses, access: int) -> tuple[tl.dtype, int, int]:
    """How programs share a block: the type of a word, words per program, and programs per block.

    Args:
        access: bytes to which all addresses are aligned, 1 to 16. Two 8-byte words make a 16-byte access.
    """
    word_bytes = min(access, 8)
    words = caches.block_bytes // word_bytes
    chunk = min(CHUNK, triton.next_power_of_2(words))
    return _WORDS[access], chunk, triton.cdiv(words, chunk)


@triton.jit
def page(table, tensor, UNIT: tl.constexpr, WORD: tl.constexpr):  # type: ignore[no-untyped-def]
    """One entry of `CacheAddresses.table`: address; distance of blocks, size and offset in words.

    The hint and the products with constants tell the compiler how all is aligned, so that it makes 16-byte accesses.
    """
    PER_UNIT: tl.constexpr = UNIT * 8 // WORD.primitive_bitwidth
    entry = table + tensor * 4
    address = tl.multiple_of((tl.load(entry) * UNIT).to(tl.pointer_type(WORD)), UNIT)
    distance = tl.load(entry + 1) * PER_UNIT
    size = tl.load(entry + 2).to(tl.int32) * PER_UNIT
    offset = tl.load(entry + 3) * PER_UNIT
    return address, distance, size, offset


@triton.jit(do_not_specialize=["num_blocks"])
def _copy_blocks(  # type: ignore[no-untyped-def]
    table, pairs, num_blocks, UNIT: tl.constexpr, WORD: tl.constexpr, CHUNK: tl.constexpr, NUM_CHUNKS: tl.constexpr
):
    pair = pairs + (tl.program_id(0) // NUM_CHUNKS) * 2
    source = tl.load(pair).to(tl.int64)
    destination = tl.load(pair + 1).to(tl.int64)
    inside = (source >= 0) & (source < num_blocks) & (destination >= 0) & (destination < num_blocks)
    address, distance, size, _ = page(table, tl.program_id(1), UNIT, WORD)
    words = (tl.program_id(0) % NUM_CHUNKS) * CHUNK + tl.arange(0, CHUNK)
    mask = (words < size) & inside
    data = tl.load(address + source * distance + words, mask=mask)
    tl.store(address + destination * distance + words, data, mask=mask)
