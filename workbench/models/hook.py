"""The hook into transformers: a model's own attention layers, on pages of the KV cache, with no architecture patched.

transformers lets an attention function be registered under a name (`AttentionInterface`). Ours is called by every
attention layer with keys and values after the rotary embedding. It stores them at the step's slots and attends over
the block tables. What it needs to know about the step travels as one keyword argument, ``paged_batch``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from paged_kernels.torch_attention import cache_write
from paged_kernels.torch_attention import paged_attention as attend_over_pages
from workbench.models.attention_op import paged_attention_op
from workbench.models.geometry import LayerGeometry
from workbench.models.paged_batch import Options, PagedBatch, PagedView

#: transformers treats names with "flash", a slash or "paged|" in a special way: this one has none of them.
ATTENTION_NAME = "workbench_kv"


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
    paged_batch: PagedBatch | GeometryProbe | int | None = None,
    **_: object,
) -> tuple[Tensor, None]:
    """The function that every attention layer calls.

    Args:
        query: ``[1, num_heads, num_tokens, head_dim]``, packed over the step's sequences.
        key: ``[1, num_kv_heads, num_tokens, head_dim]``; ``value`` alike.
        scaling: factor on the scores; models that scale the query themselves pass 1.0.
        sliding_window: a token sees itself and the ``sliding_window - 1`` tokens before it.
        s_aux: attention sinks, one logit per head.
        paged_batch: the step's tokens; a number is the handle of a `StepState`, for the Triton kernels.

    Returns:
        ``[1, num_tokens, num_heads, head_dim]`` and no attention weights.
    """
    if paged_batch is None:
        raise HookError(f"{type(module).__name__} does not hand keyword arguments on to its attention function")
    layer = getattr(module, "layer_idx", None)
    if layer is None:
        raise HookError(f"{type(module).__name__} has no layer_idx")
    q, k, v = query[0].transpose(0, 1), key[0].transpose(0, 1), value[0].transpose(0, 1)
    scale = q.shape[-1] ** -0.5 if scaling is None else scaling
    if isinstance(paged_batch, int):
        return paged_attention_op(q, k, v, layer, paged_batch, scale, sliding_window, softcap, s_aux)[None], None
    if isinstance(paged_batch, GeometryProbe):
        paged_batch.calls += 1
        paged_batch.layers[layer] = LayerGeometry(q.shape[1], k.shape[1], k.shape[2], v.shape[2], sliding_window)
        return q.new_zeros(1, q.shape[0], q.shape[1], v.shape[2]), None

    k_cache, v_cache = paged_batch.caches[layer]
    paged_batch.calls[layer] += 1
    view = paged_batch.view(layer)
    options = Options(scale, sliding_window, softcap, None if s_aux is None else s_aux.to(q.dtype))
    cache_write(k, v, k_cache, v_cache, view.slot_mapping)

    def attend_plainly() -> Tensor:
        return _attend(q, k_cache, v_cache, view, options)

    if paged_batch.reader is not None:
        out = paged_batch.reader.attend(layer, q, k, attend_plainly, options)
    else:
        out = attend_plainly()
    return out[None], None


def _attend(q: Tensor, k_cache: Tensor, v_cache: Tensor, view: PagedView, options: Options) -> Tensor:
    """Attention over all pages: ``[num_tokens, num_heads, value_head_dim]``."""
    block_size, num_kv_heads, num_heads = k_cache.shape[1], k_cache.shape[2], q.shape[1]
    outputs: list[Tensor] = []
    for group in view.groups:
        queries = q[group.start : group.stop].unflatten(0, (group.count, group.query_len))
        rows = group.rows(block_size, num_kv_heads)
        mask = group.mask(num_heads, num_kv_heads, options.window, q.dtype)
        out = attend_over_pages(queries, k_cache, v_cache, rows, mask, options.scale, options.softcap, options.sinks)
        outputs.append(out.flatten(0, 1))
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs)


def register() -> None:
    """Makes `ATTENTION_NAME` known to transformers. Calling it again changes nothing.

    No mask function goes with it: then transformers builds no mask (block tables and lengths say what a token may see),
    and does not look into the positions for packed sequences either, which would make the host wait for the device.
    """
    AttentionInterface.register(ATTENTION_NAME, paged_attention)
