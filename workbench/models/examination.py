"""Examines a model before any KV memory is taken: does its attention really run on our pages?

Every layer must reach the hook exactly once, and on a short text the logits must agree with those of the model's own
attention.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from workbench.models import hook
from workbench.models.fused_linear import FusedPart, find_groups, fuse_linear_layers
from workbench.models.geometry import LayerGeometry
from workbench.models.hook import GeometryProbe, HookError
from workbench.models.packed_linear import pack_linear_layers
from workbench.models.paged_batch import PagedBatch, PagedView

log = logging.getLogger(__name__)

#: The examination's text: long enough for two pages and some decoding, short enough to cost nothing.
_PROBE_TOKENS, _PROBE_DECODES, _PROBE_BLOCK_SIZE = 11, 3, 4


class UnsupportedModelError(ValueError):
    """This architecture can't run on pages. The message names it and says why."""


@torch.inference_mode()
def examine(model: Any, text_config: Any, pack: bool) -> tuple[tuple[LayerGeometry, ...], bool]:
    """Switches the model to the hook, compares it with the model as it was.

    Args:
        pack: then replaces linear layers by faster ones, if the logits stay equal.

    Returns:
        Every layer's geometry, and whether layers were fused (`fused_linear`).

    Raises:
        UnsupportedModelError: the model can't run on pages.
    """
    architecture = type(model).__name__
    num_layers = text_config.num_hidden_layers
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(text_config.vocab_size, (_PROBE_TOKENS,), generator=generator).to(device)
    positions = torch.arange(_PROBE_TOKENS, device=device)
    # SDPA may leave out what an architecture asks for, as it does with Gemma 2's soft cap in transformers 5.17.
    model.set_attn_implementation("eager")
    expected = model(input_ids=ids[None], use_cache=False).logits[0].float()

    hook.register()
    try:
        model.set_attn_implementation(hook.ATTENTION_NAME)
        probe = GeometryProbe()
        model(input_ids=ids[None], position_ids=positions[None], use_cache=False, paged_batch=probe)
    except (KeyError, TypeError, ValueError, AttributeError, HookError) as error:
        raise UnsupportedModelError(
            f"{architecture} can't run on a paged KV cache: it does not use transformers' attention interface "
            f"({type(error).__name__}: {error})"
        ) from error
    if sorted(probe.layers) != list(range(num_layers)) or probe.calls != num_layers:
        raise UnsupportedModelError(
            f"{architecture} can't run on a paged KV cache: {len(probe.layers)} of its {num_layers} layers use "
            f"transformers' attention interface ({probe.calls} calls); the others keep their state elsewhere"
        )
    _refuse_hidden_windows(architecture, text_config, probe)
    layers = tuple(probe.layers[index] for index in range(num_layers))
    tolerance = 1e-3 if next(model.parameters()).dtype == torch.float32 else 8e-2
    deviation = _deviation(model, layers, ids, expected)
    if not deviation <= tolerance:
        raise UnsupportedModelError(
            f"{architecture} can't run on a paged KV cache: on a test of {_PROBE_TOKENS} tokens its logits differ from "
            f"those of its own attention by {deviation:.2%} of their range (allowed {tolerance:.1%})"
        )
    if not pack:
        return layers, False

    def is_equal() -> bool:
        return _deviation(model, layers, ids, expected) <= tolerance

    def run() -> None:
        model(input_ids=ids[None], position_ids=positions[None], use_cache=False, paged_batch=GeometryProbe())

    if device.type == "cuda":
        _replace(model, lambda: fuse_linear_layers(model, find_groups(model, run)), is_equal)
        # They may have been fused before, by an earlier examination of the same model.
        return layers, any(isinstance(module, FusedPart) for module in model.modules())
    _replace(model, lambda: pack_linear_layers(model), is_equal)
    return layers, False


def _refuse_hidden_windows(architecture: str, text_config: Any, probe: GeometryProbe) -> None:
    """A window that a model puts into its mask, and does not tell the attention function, would be ignored."""
    kinds = getattr(text_config, "layer_types", None) or ["full_attention"] * len(probe.layers)
    for layer, kind in enumerate(kinds[: len(probe.layers)]):
        if kind != "full_attention" and probe.layers[layer].window is None:
            raise UnsupportedModelError(
                f"{architecture} can't run on a paged KV cache: layer {layer} is of type {kind!r}, but does not "
                "tell the attention function its window"
            )
    window = getattr(text_config, "sliding_window", None) if getattr(text_config, "use_sliding_window", True) else None
    if window and all(told.window is None for told in probe.layers.values()):
        raise UnsupportedModelError(
            f"{architecture} can't run on a paged KV cache: its configuration has sliding_window={window}, but no "
            "layer tells the attention function so"
        )


def _replace(model: Any, replace: Callable[[], dict[str, nn.Module]], is_equal: Callable[[], bool]) -> bool:
    """Replaces layers, and takes that back should the model not work with it: it is only for speed. Returns success."""
    replaced = replace()
    try:
        equal = is_equal()
    except (RuntimeError, TypeError, AttributeError) as error:
        log.warning("%s keeps its linear layers, more slowly: %s", type(model).__name__, str(error).split("\n")[0])
        equal = False
    if not equal:
        for name, linear in replaced.items():
            model.set_submodule(name, linear)
    return equal and bool(replaced)


def _deviation(model: Any, layers: tuple[LayerGeometry, ...], ids: Tensor, expected: Tensor) -> float:
    """Largest difference from the expected logits ``[num_tokens, vocab_size]``, as a share of their range."""
    actual = _run_on_probe_pages(model, layers, ids)
    return ((actual - expected).abs().max() / expected.abs().max()).item()


def _run_on_probe_pages(model: Any, layers: tuple[LayerGeometry, ...], ids: Tensor) -> Tensor:
    """A prefill, then single decodes, on a tiny pool with its pages in reverse order."""
    parameter = next(model.parameters())
    blocks = -(-_PROBE_TOKENS // _PROBE_BLOCK_SIZE)
    caches = [
        (
            parameter.new_zeros(blocks, _PROBE_BLOCK_SIZE, g.num_kv_heads, g.head_dim),
            parameter.new_zeros(blocks, _PROBE_BLOCK_SIZE, g.num_kv_heads, g.value_head_dim),
        )
        for g in layers
    ]
    positions = torch.arange(_PROBE_TOKENS, device=ids.device)
    table = torch.arange(blocks - 1, -1, -1, device=ids.device)[None]
    logits = []
    chunks = [(0, _PROBE_TOKENS - _PROBE_DECODES)] + [
        (p, p + 1) for p in range(_PROBE_TOKENS - _PROBE_DECODES, _PROBE_TOKENS)
    ]
    for start, stop in chunks:
        here = positions[start:stop]
        slots = table[0, here // _PROBE_BLOCK_SIZE] * _PROBE_BLOCK_SIZE + here % _PROBE_BLOCK_SIZE
        batch = PagedBatch(caches, [PagedView(slots, table, [stop], [stop - start], num_decodes=int(start > 0))])
        output = model(input_ids=ids[None, start:stop], position_ids=here[None], use_cache=False, paged_batch=batch)
        logits.append(output.logits[0].float())
    return torch.cat(logits)
