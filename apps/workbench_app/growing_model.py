"""A second body for a model that engines use: the same weights, but the attention that transformers itself would run.

The engines' model has its attention switched to pages, and many threads run it at once, so it must stay as it is. The
twin is a copy of its module tree in which every tensor is the very same: it costs some Python objects, no weights.
"""

from __future__ import annotations

import copy
import threading
import weakref
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from workbench.models.fused_linear import FusedPart
from workbench.models.loading import LoadedModel
from workbench.models.packed_linear import PackedLinear

#: Two rows of the probe, one of them padded: what a batch of `generate` looks like.
_PROBE_TOKENS, _PROBE_PADDING = 9, 3


#: Twins by the module that they share their tensors with. Any number of threads may run one: its calls leave nothing.
_TWINS: weakref.WeakKeyDictionary[nn.Module, OwnAttention] = weakref.WeakKeyDictionary()
_LOCK = threading.Lock()


class OwnAttentionError(ValueError):
    """The model can't run with transformers' own attention and cache. The message says why."""


@dataclass(frozen=True)
class OwnAttention:
    """A model on its own attention. ``implementation``: transformers' name of it, "sdpa" or "eager"."""

    module: Any
    implementation: str


def own_attention(model: LoadedModel) -> OwnAttention:
    """The twin of a loaded model, with "sdpa" if that agrees with "eager" on a padded text, else with "eager".

    It is made once and stays as long as the model does.

    Raises:
        OwnAttentionError: it can run with neither.
    """
    with _LOCK:
        if model.model not in _TWINS:
            _TWINS[model.model] = _examined_twin(model)
        return _TWINS[model.model]


def _examined_twin(model: LoadedModel) -> OwnAttention:
    try:
        twin = _twin(model.model)
        twin.set_attn_implementation("eager")
        expected = _probe(twin, model)
    except Exception as error:
        raise OwnAttentionError(
            f"{type(model.model).__name__} can't run a padded batch on transformers' own cache: "
            f"{str(error) or type(error).__name__}"
        ) from error
    tolerance = 1e-3 if model.dtype == torch.float32 else 8e-2
    try:
        twin.set_attn_implementation("sdpa")
        # SDPA may leave out what an architecture asks for (Gemma 2's soft cap).
        difference = (_probe(twin, model) - expected).abs().max() / expected.abs().max()
        if difference.item() <= tolerance:
            return OwnAttention(twin, "sdpa")
    except (ValueError, KeyError, RuntimeError, NotImplementedError):
        pass
    twin.set_attn_implementation("eager")
    return OwnAttention(twin, "eager")


def _twin(module: nn.Module) -> Any:
    """A copy of a module tree, with its own configuration, that shares every parameter and buffer."""
    shared: dict[int, Any] = {}
    for tensor in (*module.parameters(), *module.buffers()):
        shared[id(tensor)] = tensor
    for part in module.modules():
        if isinstance(part, PackedLinear):
            shared[id(part)] = part  # it keeps nothing between calls
        elif isinstance(part, FusedPart):
            shared[id(part)] = _plain(part)  # it does: its parts leave each other something
    return copy.deepcopy(module, shared)


def _plain(part: FusedPart) -> nn.Linear:
    linear = nn.Linear(part.in_features, part.out_features, bias=part.bias is not None, device="meta")
    linear.weight, linear.bias = part.weight, part.bias
    return linear.eval()


@torch.inference_mode()
def _probe(twin: Any, model: LoadedModel) -> Tensor:
    """Logits ``[2, vocab_size]`` after a prefill of two rows, one padded, and one more token."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.geometry.vocab_size, (2, _PROBE_TOKENS), generator=generator).to(model.device)
    mask = torch.ones_like(ids)
    mask[1, :_PROBE_PADDING] = 0
    cache = new_cache(twin)
    for first, stop in ((0, _PROBE_TOKENS - 1), (_PROBE_TOKENS - 1, _PROBE_TOKENS)):
        logits = forward(twin, ids[:, first:stop], mask[:, :stop], cache, model.takes_logits_to_keep)
    return logits.float()


def new_cache(twin: Any) -> DynamicCache:
    """An empty cache, as ``generate`` makes it."""
    return DynamicCache(config=twin.config.get_text_config(decoder=True))


def forward(twin: Any, ids: Tensor, mask: Tensor, cache: DynamicCache, takes_logits_to_keep: bool) -> Tensor:
    """Logits ``[rows, vocab_size]`` of the last of ``ids [rows, tokens]``, as ``generate`` computes them.

    Args:
        mask: int64 ``[rows, length]``, 0 where a row is padded; it covers what is cached and ``ids``.
    """
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    kwargs: dict[str, Any] = {"logits_to_keep": 1} if takes_logits_to_keep else {}
    logits: Tensor = twin(
        input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True, **kwargs
    ).logits
    return logits[:, -1]
