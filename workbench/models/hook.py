"""The hook into transformers: a model's own attention layers, on pages of the KV cache, with no architecture patched.

transformers lets an attention function be registered under a name (`AttentionInterface`). Ours is called by every
attention layer with keys and values after the rotary embedding. It stores them at the step's slots and attends over
the block tables. What it needs to know about the step travels as one keyword argument, ``paged_batch``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from paged_kernels.torch_attention import attention_mask, cache_rows, cache_write, whole_tiles
from paged_kernels.torch_attention import paged_attention as attend_over_pages
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

#: transformers treats names with "flash", a slash or "paged|" in a special way: this one has none of them.
ATTENTION_NAME = "workbench_kv"


@dataclass(frozen=True)
class LayerGeometry:
    """What one attention layer keeps per token: ``[num_kv_heads, head_dim]`` for K and (here) for V."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    value_head_dim: int


@dataclass
class PagedBatch:
    """One step's tokens and where their keys and values lie. Sequences that decode come first.

    Attributes:
        caches: per layer, K and V: ``[num_blocks, block_size, num_kv_heads, head_dim]``.
        slot_mapping: int64 ``[num_tokens]``, the slot of every new token.
        block_tables: int64 ``[num_seqs, max_blocks]``, padded with 0.
        context_lens: tokens of every sequence in the cache after this step, ``[num_seqs]``.
        query_lens: new tokens of every sequence, ``[num_seqs]``; 1 for the first ``num_decodes``.
        calls: how often each layer called the hook.
    """

    caches: list[tuple[Tensor, Tensor]]
    slot_mapping: Tensor
    block_tables: Tensor
    context_lens: list[int]
    query_lens: list[int]
    num_decodes: int
    calls: list[int] = field(init=False)
    _made: dict[Any, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.calls = [0] * len(self.caches)

    def groups(self) -> Iterator[tuple[int, int, int]]:
        """Sequences that are computed together: ``(first, count, query_len)``. All decodes, then prompt by prompt."""
        if self.num_decodes:
            yield 0, self.num_decodes, 1
        for index in range(self.num_decodes, len(self.query_lens)):
            yield index, 1, self.query_lens[index]

    def rows(self, first: int, count: int, num_kv_heads: int) -> Tensor:
        """`cache_rows` of ``count`` sequences; made once per step."""
        key = (first, num_kv_heads)
        if key not in self._made:
            block_size = self.caches[0][0].shape[1]
            longest = max(self.context_lens[first : first + count])
            tables = self.block_tables[first : first + count, : -(-longest // block_size)]
            self._made[key] = cache_rows(tables, block_size, num_kv_heads, whole_tiles(longest))
        return self._made[key]

    def mask(self, first: int, count: int, query_len: int, window: int | None, dtype: torch.dtype) -> Tensor:
        """`attention_mask` of the same sequences; made once per step and window."""
        key = (first, window, "mask")
        if key not in self._made:
            lens = torch.tensor(self.context_lens[first : first + count], device=self.block_tables.device)
            positions = lens[:, None] + torch.arange(-query_len, 0, device=lens.device)
            length = whole_tiles(max(self.context_lens[first : first + count]))
            self._made[key] = attention_mask(positions, lens, length, window, dtype)
        return self._made[key]


@dataclass
class GeometryProbe:
    """Stands in for a `PagedBatch` while a model is examined: notes what each layer hands over, stores nothing."""

    layers: dict[int, LayerGeometry] = field(default_factory=dict)
    calls: int = 0


class HookError(RuntimeError):
    """A model called the attention function in a way that it can't serve."""


def paged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    paged_batch: PagedBatch | GeometryProbe | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """The function that every attention layer calls.

    Args:
        query: ``[1, num_heads, num_tokens, head_dim]``, packed over the step's sequences.
        key: ``[1, num_kv_heads, num_tokens, head_dim]``; ``value`` alike.
        scaling: factor on the scores; models that scale the query themselves pass 1.0.
        sliding_window: a token sees itself and the ``sliding_window - 1`` tokens before it.
        s_aux: attention sinks, one logit per head.

    Returns:
        ``[1, num_tokens, num_heads, head_dim]`` and no attention weights.
    """
    if paged_batch is None:
        raise HookError(f"{type(module).__name__} does not hand keyword arguments on to its attention function")
    layer = getattr(module, "layer_idx", None)
    if layer is None:
        raise HookError(f"{type(module).__name__} has no layer_idx")
    q, k, v = query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1)
    if isinstance(paged_batch, GeometryProbe):
        paged_batch.calls += 1
        paged_batch.layers[layer] = LayerGeometry(q.shape[1], k.shape[1], k.shape[2], v.shape[2])
        return q.new_zeros(1, q.shape[0], q.shape[1], v.shape[2]), None

    k_cache, v_cache = paged_batch.caches[layer]
    paged_batch.calls[layer] += 1
    scale = q.shape[-1] ** -0.5 if scaling is None else scaling
    sinks = None if s_aux is None else s_aux.to(q.dtype)
    cache_write(k, v, k_cache, v_cache, paged_batch.slot_mapping)
    outputs: list[Tensor] = []
    start = 0
    for first, count, query_len in paged_batch.groups():
        stop = start + count * query_len
        grouped = q[start:stop].unflatten(0, (count, query_len))
        rows = paged_batch.rows(first, count, k.shape[1])
        mask = paged_batch.mask(first, count, query_len, sliding_window, q.dtype)
        out = attend_over_pages(grouped, k_cache, v_cache, rows, mask, scale, softcap, sinks)
        outputs.append(out.flatten(0, 1))
        start = stop
    out = outputs[0] if len(outputs) == 1 else torch.cat(outputs)
    return out[None], None


def _no_mask(*_: object, **__: object) -> None:
    """The block tables and lengths say what a token may see; transformers need not build a mask."""
    return


def register() -> None:
    """Makes `ATTENTION_NAME` known to transformers. Calling it again changes nothing."""
    AttentionInterface.register(ATTENTION_NAME, paged_attention)
    AttentionMaskInterface.register(ATTENTION_NAME, _no_mask)
