"""Attention by the Triton kernels, as one operator that torch.compile and CUDA graphs can look at from outside.

The hook hands each layer's queries, keys and values to ``workbench::paged_attention``. What else the layer needs (its
caches, and where the step's tokens lie) is the same for all layers of a step: it stands in a `StepState`, which the
operator finds by a number. The number never changes, so a compiled model stays valid from step to step; the tensors in
the state are static buffers while a graph is captured, so the graph stays valid, too.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from workbench.models.geometry import LayerGeometry
from workbench.models.paged_batch import Options, Reader


class Kernels:
    """The kernels that a `StepState` calls: those of `paged_kernels`, imported when one of these is made."""

    def __init__(self) -> None:
        from paged_kernels import cache_write, decode, prefill

        self._decode, self._prefill = decode, prefill
        self.cache_write: Callable[..., None] = cache_write.reshape_and_cache
        self.decode: Callable[..., Tensor] = decode.paged_attention_decode
        self.prefill: Callable[..., Tensor] = prefill.paged_attention_prefill

    def decode_plan(self, layer: LayerGeometry, max_seqs: int, dtype: torch.dtype, device: torch.device) -> Any:
        """Work list and scratch memory for the decodes of one kind of layer."""
        config = self._decode.DecodeConfig.choose(max(layer.head_dim, layer.value_head_dim), dtype)
        return self._decode.DecodePlan(
            max_seqs, layer.num_heads, layer.num_kv_heads, layer.value_head_dim, device, config
        )

    def prefill_plan(
        self, layer: LayerGeometry, dtype: torch.dtype, cache_dtype: torch.dtype, device: torch.device
    ) -> Any:
        """The same for its prompt chunks."""
        group = layer.num_heads // layer.num_kv_heads
        config = self._prefill.PrefillConfig.choose(layer.head_dim, layer.value_head_dim, dtype, cache_dtype, group)
        return self._prefill.PrefillPlan(group, device, config)


def why_not(layers: Sequence[LayerGeometry], block_size: int) -> str | None:
    """Why the kernels can't serve a model, or None if they can."""
    try:
        from paged_kernels.options import unsupported
    except ImportError as error:
        return f"Triton can't be imported ({error})"
    for number, layer in enumerate(layers):
        reason = unsupported(layer.head_dim, layer.value_head_dim, block_size, layer.num_heads, layer.num_kv_heads)
        if reason is not None:
            return f"layer {number}: {reason}"
    return None


class StepState:
    """Where the tokens of the step in progress lie, for every layer.

    A step's tokens are packed: first those of the sequences that decode, one each, then the prompt chunks.

    Attributes:
        handle: the number by which the operator finds this state.
        calls: how often each layer called the operator since it was last set to 0.
        reader: stands between the layers and their pages in the step in progress; None in most steps.
        scales: what a stored value of 1 stands for, for keys and values in float8; empty otherwise.

    Args:
        dtype: of the model.
        group_of: per layer, its group of block tables; None: there is one.
    """

    _by_handle: weakref.WeakValueDictionary[int, StepState] = weakref.WeakValueDictionary()
    _lock = threading.Lock()

    def __init__(
        self,
        layers: Sequence[LayerGeometry],
        caches: Sequence[tuple[Tensor, Tensor]],
        max_seqs: int,
        kernels: Kernels,
        dtype: torch.dtype | None = None,
        group_of: Sequence[int] | None = None,
    ) -> None:
        self.caches = caches
        self.calls = [0] * len(layers)
        cache_dtype, device = caches[0][0].dtype, caches[0][0].device
        dtype = dtype or cache_dtype
        self.kernels = kernels
        self.reader: Reader | None = None
        self.scales: dict[str, Tensor] = {}
        if cache_dtype != dtype:
            one = torch.ones(1, dtype=torch.float32, device=device)
            self.scales = {"k_scale": one, "v_scale": one}
        self._group_of = group_of or [0] * len(layers)
        self._decode_plans: dict[LayerGeometry, Any] = {}
        self._prefill_plans: dict[LayerGeometry, Any] = {}
        self._layers = layers
        for layer in layers:
            if layer not in self._decode_plans:
                self._decode_plans[layer] = kernels.decode_plan(layer, max_seqs, dtype, device)
                self._prefill_plans[layer] = kernels.prefill_plan(layer, dtype, cache_dtype, device)
        with self._lock:
            # The lowest one that is free: engines one after another have the same, and share what was compiled for it.
            self.handle = next(number for number in itertools.count(2) if number not in self._by_handle)
            self._by_handle[self.handle] = self

    def close(self) -> None:
        """Gives the handle back, and lets go of the caches."""
        self._by_handle.pop(self.handle, None)
        self.caches = []

    @classmethod
    def find(cls, handle: int) -> StepState:
        """The state with this handle; it must still be in use."""
        return cls._by_handle[handle]

    def begin(
        self,
        slots: Sequence[Tensor],
        block_tables: Sequence[Tensor],
        context_lens: Tensor,
        num_decodes: int,
        query_start: Tensor | None = None,
    ) -> None:
        """Sets the step. No tensor is copied, and nothing waits for the device.

        Args:
            slots: per layer group, int64 ``[num_tokens]``, the slot of every token; negative: nothing is stored.
            block_tables: per layer group, int32 ``[num_seqs, max_blocks]``.
            context_lens: int32 ``[num_seqs]``, tokens in the cache after this step; 0 for a row of padding.
            num_decodes: the first so many sequences have one token each.
            query_start: int32 ``[num_seqs - num_decodes + 1]``, where each prompt chunk begins, counted from the first
                of them, and behind them their end; None if there are none.
        """
        self._slots, self._tables, self._lens = slots, block_tables, context_lens
        self._num_decodes, self._query_start = num_decodes, query_start
        if num_decodes:
            for layer, plan in self._decode_plans.items():
                plan.update(context_lens[:num_decodes], window=layer.window)
        if query_start is not None:
            for plan in self._prefill_plans.values():
                plan.update(query_start, context_lens[num_decodes:], slots[0].shape[0] - num_decodes)

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        layer: int,
        scale: float,
        window: int | None,
        softcap: float | None,
        sinks: Tensor | None,
    ) -> Tensor:
        """Stores keys and values of one layer's tokens and attends: ``[num_tokens, num_heads, value_head_dim]``."""
        self.calls[layer] += 1
        kind = self._layers[layer]
        if window != kind.window:
            raise ValueError(f"layer {layer} has a window of {window}; when it was examined it had {kind.window}")
        k_cache, v_cache = self.caches[layer]
        q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
        self.kernels.cache_write(k, v, k_cache, v_cache, self._slots[self._group_of[layer]], **self.scales)
        options = Options(scale, window, softcap, sinks)
        if self.reader is None:
            return self._attend_plainly(layer, q, options)
        return self.reader.attend(layer, q, k, lambda: self._attend_plainly(layer, q, options), options)

    def _attend_plainly(self, layer: int, q: Tensor, asked: Options) -> Tensor:
        """Attention over all pages on the device."""
        kind, tables = self._layers[layer], self._tables[self._group_of[layer]]
        k_cache, v_cache = self.caches[layer]
        out = q.new_empty(q.shape[0], q.shape[1], v_cache.shape[3])
        options: dict[str, Any] = {
            "scale": asked.scale, "window": asked.window, "softcap": asked.softcap, "sinks": asked.sinks, **self.scales
        }  # fmt: skip
        n = self._num_decodes
        if n:
            self.kernels.decode(
                q[:n], k_cache, v_cache, tables[:n], self._lens[:n],
                plan=self._decode_plans[kind], out=out[:n], **options,
            )  # fmt: skip
        if self._query_start is not None:
            self.kernels.prefill(
                q[n:], k_cache, v_cache, tables[n:], self._lens[n:], self._query_start,
                plan=self._prefill_plans[kind], out=out[n:], **options,
            )  # fmt: skip
        return out


@torch.library.custom_op(
    "workbench::paged_attention",
    mutates_args=(),
    schema="(Tensor q, Tensor k, Tensor v, int layer, int state, float scale, int? window, float? softcap, "
    "Tensor? sinks) -> Tensor",
)
def paged_attention_op(q, k, v, layer, state, scale, window, softcap, sinks):  # type: ignore[no-untyped-def]
    """`StepState.attend` of the state with the handle ``state``. ``q``, ``k``, ``v``: ``[num_tokens, heads, dim]``.

    It writes to KV caches that are not among its arguments, which nothing else reads within a step: layers follow each
    other because each needs the output of the one before.
    """
    return StepState.find(state).attend(q, k, v, layer, scale, window, softcap, sinks)


@paged_attention_op.register_fake
def _(q, k, v, layer, state, scale, window, softcap, sinks):  # type: ignore[no-untyped-def]
    return q.new_empty(q.shape[0], q.shape[1], v.shape[2])
