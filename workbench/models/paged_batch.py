"""One step's tokens, and where their keys and values lie: what the attention hook gets to know."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from paged_kernels.torch_attention import attention_mask, cache_rows, whole_tiles

#: Queries of a prompt that are looked at together. Bounds the memory for their scores, and leaves out most of the keys
#: that come after them.
_QUERY_BLOCK = 128


@dataclass
class QueryGroup:
    """Queries that are computed in one call: ``query_len`` of each of ``count`` sequences.

    Attributes:
        start: the first of their tokens among the step's tokens.
        block_tables: int64 ``[count, max_blocks]``.
        context_lens: per sequence, how many tokens its last query sees, itself included (without a window).
    """

    start: int
    count: int
    query_len: int
    block_tables: Tensor
    context_lens: list[int]
    _made: dict[Any, Tensor] = field(default_factory=dict)

    @property
    def stop(self) -> int:
        return self.start + self.count * self.query_len

    @property
    def length(self) -> int:
        """Keys per sequence, in whole tiles."""
        return whole_tiles(max(self.context_lens))

    def rows(self, block_size: int, num_kv_heads: int) -> Tensor:
        """`cache_rows`, made once per step."""
        if num_kv_heads not in self._made:
            tables = self.block_tables[:, : -(-max(self.context_lens) // block_size)]
            self._made[num_kv_heads] = cache_rows(tables, block_size, num_kv_heads, self.length)
        return self._made[num_kv_heads]

    def mask(self, num_heads: int, num_kv_heads: int, window: int | None, dtype: torch.dtype) -> Tensor:
        """`attention_mask`, made once per step for every kind of layer."""
        key = (num_heads, num_kv_heads, window)
        if key not in self._made:
            lens = torch.tensor(self.context_lens, device=self.block_tables.device)
            positions = lens[:, None] + torch.arange(-self.query_len, 0, device=lens.device)
            self._made[key] = attention_mask(positions, num_heads, num_kv_heads, self.length, window, dtype)
        return self._made[key]


@dataclass
class PagedView:
    """The tokens of a step as one layer group sees them, packed one sequence after another; decodes come first.

    Attributes:
        slot_mapping: int64 ``[num_tokens]``, the slot of every new token.
        block_tables: int64 ``[num_seqs, max_blocks]``, padded with 0.
        context_lens: tokens of every sequence in the cache after this step, ``[num_seqs]``.
        query_lens: new tokens of every sequence, ``[num_seqs]``; 1 for the first ``num_decodes``.
        groups: the queries, in the order of the tokens.
    """

    slot_mapping: Tensor
    block_tables: Tensor
    context_lens: list[int]
    query_lens: list[int]
    num_decodes: int
    groups: list[QueryGroup] = field(init=False)

    def __post_init__(self) -> None:
        self.groups = []
        start = 0
        if self.num_decodes:
            start = self._add(0, self.num_decodes, 0, 1, 0)
        index = self.num_decodes
        while index < len(self.query_lens):
            query_len = self.query_lens[index]
            count = 1
            if query_len <= _QUERY_BLOCK:
                # Prompts of the same length, such as a class's, are computed in one call.
                while index + count < len(self.query_lens) and self.query_lens[index + count] == query_len:
                    count += 1
            for offset in range(0, query_len, _QUERY_BLOCK):
                block = min(_QUERY_BLOCK, query_len - offset)
                start = self._add(start, count, index, block, query_len - offset - block)
            index += count

    def _add(self, start: int, count: int, first: int, query_len: int, behind: int) -> int:
        """Adds a group of sequences from ``first``, whose last query has ``behind`` tokens of the step behind it."""
        lens = [length - behind for length in self.context_lens[first : first + count]]
        group = QueryGroup(start, count, query_len, self.block_tables[first : first + count], lens)
        self.groups.append(group)
        return group.stop


class PagedBatch:
    """A step: what the attention hook gets to know.

    Args:
        caches: per layer, K and V: ``[num_blocks, block_size, num_kv_heads, head_dim]``.
        views: the step's tokens, per layer group.
        group_of: per layer, its group; None: there is only one.

    Attributes:
        calls: how often each layer called the hook.
        reader: does more than reading all pages of the device, for layers and steps that ask for it; else None.
    """

    def __init__(
        self,
        caches: list[tuple[Tensor, Tensor]],
        views: list[PagedView],
        group_of: Sequence[int] | None = None,
        reader: Reader | None = None,
    ) -> None:
        self.caches, self.views = caches, views
        self._group_of = group_of
        self.reader = reader
        self.calls = [0] * len(caches)

    def view(self, layer: int) -> PagedView:
        """The step as this layer sees it."""
        return self.views[self._group_of[layer] if self._group_of is not None else 0]


class Reader(Protocol):
    """Stands between the hook and the pages of a layer."""

    def attend(
        self, layer: int, q: Tensor, k: Tensor, attend_plainly: Callable[[], Tensor], options: Options
    ) -> Tensor:
        """Attention of one layer ``[num_tokens, num_heads, value_head_dim]``; the step's K and V are stored already.

        Args:
            q: ``[num_tokens, num_heads, head_dim]``; ``k``: the step's keys ``[num_tokens, num_kv_heads, head_dim]``.
            attend_plainly: reads all pages on the device, of all sequences.
        """


@dataclass(frozen=True)
class Options:
    """What a layer's attention asks for beside queries, keys and values."""

    scale: float
    window: int | None
    softcap: float | None
    sinks: Tensor | None
