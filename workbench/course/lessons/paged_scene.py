"""Random sequences on pages, for the lessons on attention: ragged lengths, pages in any order, poison elsewhere."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

#: exp of it is no float32: who subtracts any maximum but the largest so far gets infinity.
PEAK = 150.0


def lift_of(seed: int) -> tuple[float, int | None]:
    """``lift`` and ``peak_at`` of the scenes on which an online softmax is graded.

    All scores are large for odd seeds; seed 1 has the largest one at the end of each sequence, seed 3 at its beginning.
    """
    return (0.0, 100.0)[seed % 2], {1: -1, 3: 0}.get(seed)


@dataclass(frozen=True)
class Scene:
    """Keys and values of some sequences, on the pages of one layer's pool.

    Attributes:
        q: float32 ``[num_seqs, num_heads, dim]``, one query per sequence: that of its newest token.
        k_cache, v_cache: float32 ``[num_blocks, block_size, num_kv_heads, dim]``. Slots of no sequence hold NaN.
        block_tables: int64 ``[num_seqs, max_blocks]``. Entries behind a sequence's last page name a page of poison.
        context_lens: int64 ``[num_seqs]``.
    """

    q: Tensor
    k_cache: Tensor
    v_cache: Tensor
    block_tables: Tensor
    context_lens: Tensor

    @property
    def block_size(self) -> int:
        return self.k_cache.shape[1]

    @property
    def lengths(self) -> list[int]:
        return [int(length) for length in self.context_lens]

    def pages(self, sequence: int) -> int:
        """How many pages the sequence has."""
        return -(-self.lengths[sequence] // self.block_size)

    def to(self, device: str | torch.device) -> Scene:
        fields = (self.q, self.k_cache, self.v_cache, self.block_tables, self.context_lens)
        return Scene(*(tensor.to(device) for tensor in fields))


def make_scene(
    seed: int,
    *,
    num_seqs: int = 3,
    block_size: int | None = None,
    max_pages: int = 6,
    num_kv_heads: int = 1,
    group: int = 1,
    dim: int = 16,
    poison: bool = True,
    lift: float = 0.0,
    peak_at: int | None = None,
) -> Scene:
    """A scene made from a seed. The first sequence has at least three pages, the last one not full.

    Args:
        block_size: None: 4, 8 or 16, by the seed.
        group: query heads that share a KV head.
        poison: False: slots of no sequence hold 0.
        lift: added to all scores (q k / sqrt(dim)): weights stay what they are, but exp(score) may overflow.
        peak_at: with ``lift``, this token of every sequence (-1: its last) has scores that are `PEAK` larger still.
    """
    rng = torch.Generator().manual_seed(1_000_003 * (seed + 1))

    def whole(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=rng))

    size = block_size or (4, 8, 16)[seed % 3]
    lengths = [size * whole(2, max_pages - 1) + whole(1, size - 1)]
    lengths += [whole(1, size * max_pages) for _ in range(num_seqs - 1)]
    pages = [-(-length // size) for length in lengths]
    num_blocks = sum(pages) + 3
    order = torch.randperm(num_blocks, generator=rng).tolist()
    bad = order.pop()
    k, v = (torch.full((num_blocks, size, num_kv_heads, dim), math.nan if poison else 0.0) for _ in range(2))
    tables = torch.full((num_seqs, max(pages) + 1), bad, dtype=torch.int64)
    for seq, length in enumerate(lengths):
        tables[seq, : pages[seq]] = torch.tensor([order.pop() for _ in range(pages[seq])])
        where = torch.arange(length)
        slots = tables[seq, where // size], where % size
        k[slots] = torch.randn(length, num_kv_heads, dim, generator=rng)
        v[slots] = torch.randn(length, num_kv_heads, dim, generator=rng)
        if lift:
            k[slots[0], slots[1], :, 0] = lift
            if peak_at is not None:
                k[slots[0][peak_at], slots[1][peak_at], :, 0] += PEAK
    q = torch.randn(num_seqs, num_kv_heads * group, dim, generator=rng)
    if lift:
        q[:, :, 0] = math.sqrt(dim)
    return Scene(q, k, v, tables, torch.tensor(lengths))
