"""Who computes what: the work lists of the attention kernels, made on the device.

Lengths live on the device (inside a CUDA graph the host does not know them), so a small kernel cuts the step's work
into pieces, once per step and kind of layer. A program of an attention kernel reads one row of the list and computes
just that. Rows are int32 ``[.., ROW_WIDTH]``; unused rows, at the end, have -1 in the first place.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Columns of a row: for decoding sequence, piece, pieces, first piece of the sequence, first key, end key, length, 0;
#: for prefill sequence, first query, queries, context length, first token, and three zeros.
ROW_WIDTH = 8


@triton.jit
def _plan_decode_kernel(
    context_lens_ptr,
    rows_ptr,
    num_seqs,
    num_rows,
    piece_tiles,
    least_pieces,
    most_pieces,
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
    tiles = tl.cdiv(length - first, TILE)
    # Pieces of equal size over the whole batch: a long sequence gets many, a short one a single one.
    all_tiles = tl.sum(tiles)
    longest = tl.minimum(piece_tiles, tl.cdiv(all_tiles, least_pieces))
    longest = tl.maximum(tl.maximum(longest, tl.cdiv(all_tiles, most_pieces)), 1)
    pieces = tl.where(is_seq, tl.maximum(tl.cdiv(tiles, longest), 1), 0)
    keys_per_piece = tl.cdiv(tiles, tl.maximum(pieces, 1)) * TILE
    first_piece = tl.cumsum(pieces) - pieces
    used = 0
    # Sequences with many pieces come first: the longest work is not left for the end.
    for back in range(0, tl.max(pieces)):
        piece = pieces - 1 - back
        mine = piece >= 0
        row = rows_ptr + (used + tl.cumsum(mine.to(tl.int32)) - 1) * 8
        begin = first + piece * keys_per_piece
        tl.store(row, seq, mask=mine)
        tl.store(row + 1, piece, mask=mine)
        tl.store(row + 2, pieces, mask=mine)
        tl.store(row + 3, first_piece, mask=mine)
        tl.store(row + 4, tl.minimum(begin, length), mask=mine)
        tl.store(row + 5, tl.minimum(begin + keys_per_piece, length), mask=mine)
        tl.store(row + 6, length, mask=mine)
        used += tl.sum(mine.to(tl.int32))
    for start in range(used, num_rows, BLOCK_SEQS):
        tl.store(rows_ptr + (start + seq) * 8, -1, mask=start + seq < num_rows)


@triton.jit
def _plan_prefill_kernel(
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
    tile: int,
    piece_tiles: int,
    least_pieces: int,
    most_pieces: int,
    window: int | None,
) -> None:
    """Cuts the keys of every sequence into pieces of whole tiles.

    Args:
        context_lens: int32 ``[num_seqs]``. A sequence without keys gets one empty piece.
        rows: int32 ``[at least most_pieces + num_seqs, ROW_WIDTH]``, written.
        piece_tiles: tiles per piece; fewer if that makes less than ``least_pieces``, more if it makes more than
            ``most_pieces``.
        window: only the last ``window`` keys; None: all.
    """
    num_seqs = context_lens.shape[0]
    block = max(16, triton.next_power_of_2(num_seqs))
    _plan_decode_kernel[(1,)](
        context_lens,
        rows,
        num_seqs,
        rows.shape[0],
        piece_tiles,
        least_pieces,
        most_pieces,
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
