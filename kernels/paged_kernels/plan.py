"""Who computes what: the work lists of the attention kernels, made on the device.

Lengths live on the device (inside a CUDA graph the host does not know them), so a small kernel cuts the step's work
into pieces, once per step and kind of layer. The programs of an attention kernel read rows of the list and compute just
that. Rows are int32 ``[.., ROW_WIDTH]``.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Columns of a row: for decoding sequence, piece, pieces, the sequence's first row, first key, end key, length;
#: for prefill sequence (-1: an unused row, at the end), first query, queries, context length, first token.
ROW_WIDTH = 8


# Batch sizes and addresses change from step to step: a variant compiled for each would cost more than it gains.
@triton.jit(
    do_not_specialize=["num_seqs", "num_workers", "share_tiles", "least_workers", "window"],
    do_not_specialize_on_alignment=["context_lens_ptr", "rows_ptr", "workers_ptr"],
)
def _plan_decode_kernel(  # type: ignore[no-untyped-def]
    context_lens_ptr,
    rows_ptr,
    workers_ptr,
    num_seqs,
    num_workers,
    share_tiles,
    least_workers,
    window,
    TILE: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    BLOCK_SEQS: tl.constexpr,
):
    seq = tl.arange(0, BLOCK_SEQS)
    is_seq = seq < num_seqs
    length = tl.load(context_lens_ptr + seq, mask=is_seq, other=0)
    first = tl.zeros_like(length)
    if HAS_WINDOW:
        first = tl.maximum(length - window, 0) // TILE * TILE
    # A sequence without keys has one tile, too: somebody has to write its zeros.
    tiles = tl.where(is_seq, tl.maximum(tl.cdiv(length - first, TILE), 1), 0)
    tile_end = tl.cumsum(tiles)
    tile_begin = tile_end - tiles
    all_tiles = tl.sum(tiles)
    busy = tl.cdiv(all_tiles, least_workers)

    # First try: whole sequences, or equal parts of one, with a worker for each or for a few.
    parts = tl.cdiv(tiles, busy)
    part_tiles = tl.cdiv(tiles, tl.maximum(parts, 1))
    num_parts = tl.sum(parts)
    part_workers = tl.minimum(num_parts, num_workers)
    is_even = tl.max(part_tiles) * num_parts * 4 <= all_tiles * 5

    # Else: all tiles in a line, and an equal share of them for every worker.
    share = tl.maximum(tl.minimum(share_tiles, busy), tl.cdiv(all_tiles, num_workers))
    first_sharer = tile_begin // share
    pieces = tl.where(is_seq, (tile_end - 1) // share - first_sharer + 1, 0)
    pieces = tl.where(is_even, parts, pieces)
    first_row = tl.cumsum(pieces) - pieces
    for piece in range(0, tl.max(pieces)):
        place = first_row + piece
        worker = tl.where(is_even, place * part_workers // num_parts, first_sharer + piece)
        begin_tile = tl.where(is_even, piece * part_tiles, tl.maximum(worker * share - tile_begin, 0))
        end_tile = tl.where(is_even, begin_tile + part_tiles, (worker + 1) * share - tile_begin)
        row = rows_ptr + place * 8
        mine = piece < pieces
        tl.store(row, seq, mask=mine)
        tl.store(row + 1, piece, mask=mine)
        tl.store(row + 2, pieces, mask=mine)
        tl.store(row + 3, first_row, mask=mine)
        tl.store(row + 4, tl.minimum(first + begin_tile * TILE, length), mask=mine)
        tl.store(row + 5, tl.minimum(first + end_tile * TILE, length), mask=mine)
        tl.store(row + 6, length, mask=mine)
        is_first = tl.where(
            is_even,
            (place == 0) | ((place - 1) * part_workers // num_parts != worker),
            begin_tile + tile_begin == worker * share,
        )
        is_last = tl.where(
            is_even,
            (place == num_parts - 1) | ((place + 1) * part_workers // num_parts != worker),
            (end_tile <= tiles) | (tile_end == all_tiles),
        )
        tl.store(workers_ptr + worker * 2, place, mask=mine & is_first)
        tl.store(workers_ptr + worker * 2 + 1, place + 1, mask=mine & is_last)
    for start in range(tl.where(is_even, part_workers, tl.cdiv(all_tiles, share)), num_workers, BLOCK_SEQS):
        idle = start + seq < num_workers
        tl.store(workers_ptr + (start + seq) * 2, 0, mask=idle)
        tl.store(workers_ptr + (start + seq) * 2 + 1, 0, mask=idle)


@triton.jit(
    do_not_specialize=["num_seqs", "num_rows"],
    do_not_specialize_on_alignment=["query_start_ptr", "context_lens_ptr", "rows_ptr"],
)
def _plan_prefill_kernel(  # type: ignore[no-untyped-def]
    query_start_ptr,
    context_lens_ptr,
    rows_ptr,
    num_seqs,
    num_rows,
    QUERIES: tl.constexpr,
    BLOCK_SEQS: tl.constexpr,
):
    seq = tl.arange(0, BLOCK_SEQS)
    is_seq = seq < num_seqs
    begin = tl.load(query_start_ptr + seq, mask=is_seq, other=0)
    count = tl.load(query_start_ptr + seq + 1, mask=is_seq, other=0) - begin
    length = tl.load(context_lens_ptr + seq, mask=is_seq, other=0)
    tiles = tl.cdiv(count, QUERIES)
    used = 0
    # The last queries see most keys: they come first, so that the longest pieces don't end the launch.
    for back in range(0, tl.max(tiles)):
        mine = back < tiles
        place = used + tl.cumsum(mine.to(tl.int32)) - 1
        row = rows_ptr + place * 8
        first_query = (tiles - 1 - back) * QUERIES
        tl.store(row, seq, mask=mine)
        tl.store(row + 1, first_query, mask=mine)
        tl.store(row + 2, count, mask=mine)
        tl.store(row + 3, length, mask=mine)
        tl.store(row + 4, begin, mask=mine)
        used += tl.sum(mine.to(tl.int32))
    for start in range(used, num_rows, BLOCK_SEQS):
        tl.store(rows_ptr + (start + seq) * 8, -1, mask=start + seq < num_rows)


def plan_decode(
    context_lens: Tensor,
    rows: Tensor,
    workers: Tensor,
    tile: int,
    share_tiles: int,
    least_workers: int,
    window: int | None,
) -> None:
    """Gives the keys of all sequences, in tiles, to workers.

    What a worker has of one sequence is a piece, a row of the list; a worker's rows follow each other. Sequences of
    about the same length are cut each into equal pieces, and a worker gets one or a few of them. A ragged batch is laid
    end to end, and cut into equal shares without regard to where sequences end, so that all workers end at the same
    time (stream-K, Osama et al., 2023).

    Args:
        context_lens: int32 ``[num_seqs]``. A sequence without keys gets one empty piece.
        rows: int32 ``[at least least_workers + num_workers + num_seqs, ROW_WIDTH]``, written.
        workers: int32 ``[num_workers, 2]``, written: every worker's first row, and the one behind its last; both 0 if
            it has nothing to do.
        share_tiles: a ragged batch's share per worker, where that occupies at least ``least_workers``; if not, it is
            smaller; and larger if it would occupy more workers than there are.
        window: only the last ``window`` keys; None: all.
    """
    num_seqs, num_workers = context_lens.shape[0], workers.shape[0]
    block = max(16, triton.next_power_of_2(num_seqs))
    _plan_decode_kernel[(1,)](
        context_lens,
        rows,
        workers,
        num_seqs,
        num_workers,
        share_tiles,
        least_workers,
        window or 0,
        TILE=tile,
        HAS_WINDOW=window is not None,
        BLOCK_SEQS=block,
        num_warps=4 if block <= 512 else 8,
    )


def plan_prefill(query_start: Tensor, context_lens: Tensor, rows: Tensor, queries: int) -> None:
    """Cuts the new tokens of every sequence into pieces of ``queries``, those with the most keys first.

    Args:
        query_start: int32 ``[num_seqs + 1]``, the first token of every sequence, and behind them their number.
        context_lens: int32 ``[num_seqs]``, new tokens included.
        rows: int32 ``[at least num_tokens // queries + num_seqs, ROW_WIDTH]``, written.
    """
    num_seqs = context_lens.shape[0]
    block = max(16, triton.next_power_of_2(num_seqs))
    _plan_prefill_kernel[(1,)](
        query_start,
        context_lens,
        rows,
        num_seqs,
        rows.shape[0],
        QUERIES=queries,
        BLOCK_SEQS=block,
        num_warps=4 if block <= 512 else 8,
    )


def multiprocessors(device: torch.device) -> int:
    """Streaming multiprocessors of a GPU; 4 for a CPU, where the interpreter runs."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4
