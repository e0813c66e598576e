"""Loading a model and making sure that its attention really runs on our pages.

A model is "tiny" (bundled), a local directory, or a hub id. Before any KV memory is taken it is examined: every layer
must reach the hook exactly once, and on a short text the logits must agree with those of the model's own attention.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from workbench.events.types import ModelGeometry
from workbench.models import hook
from workbench.models.device import pick_device, pick_dtype
from workbench.models.geometry import LayerGeometry
from workbench.models.hook import GeometryProbe, HookError
from workbench.models.packed_linear import pack_linear_layers
from workbench.models.paged_batch import PagedBatch

log = logging.getLogger(__name__)

BUNDLED = "tiny"
BUNDLED_DIR = Path(__file__).with_name("tiny")

#: The examination's text: long enough for two pages and some decoding, short enough to cost nothing.
_PROBE_TOKENS, _PROBE_DECODES, _PROBE_BLOCK_SIZE = 11, 3, 4


class UnsupportedModelError(ValueError):
    """This architecture can't run on pages. The message names it and says why."""


@dataclass(frozen=True)
class LoadedModel:
    """Weights, tokenizer and geometry. Shareable: any number of engines and threads may use one.

    Attributes:
        layers: per layer, what it keeps per token.
        max_positions: the longest sequence that the model was made for, in tokens; None if it doesn't say.
        suppressed_token_ids: tokens that its generation config forbids (``suppress_tokens``).
        suppressed: the same on the device, int64; None if there are none.
    """

    name: str
    model: nn.Module
    tokenizer: Any
    layers: tuple[LayerGeometry, ...]
    geometry: ModelGeometry
    device: torch.device
    dtype: torch.dtype
    max_positions: int | None
    eos_token_ids: frozenset[int]
    suppressed_token_ids: tuple[int, ...]
    takes_logits_to_keep: bool
    suppressed: Tensor | None = None

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        batch: PagedBatch | int,
        logit_rows: Tensor,
        call: Callable[..., Any] | None = None,
    ) -> Tensor:
        """Logits ``[len(logit_rows), vocab_size]`` of packed tokens; ``input_ids`` and ``positions`` ``[num_tokens]``.

        Keys and values of all tokens are stored on the way.

        Args:
            batch: the step's tokens, or the handle of a `StepState`.
            call: a compiled form of ``model`` to call instead of it.
        """
        ids, places = input_ids[None], positions[None]
        kwargs: dict[str, Any] = {"logits_to_keep": logit_rows} if self.takes_logits_to_keep else {}
        if call is not None:
            # One program for every number of tokens, instead of one for each.
            for tensor, dim in ((ids, 1), (places, 1), (logit_rows, 0)):
                torch._dynamo.mark_dynamic(tensor, dim)
        logits: Tensor = (self.model if call is None else call)(
            input_ids=ids, position_ids=places, use_cache=False, paged_batch=batch, **kwargs
        ).logits[0]
        logits = logits if self.takes_logits_to_keep else logits[logit_rows]
        if self.suppressed is not None:
            logits.index_fill_(1, self.suppressed, -torch.inf)
        return logits


def load_model(name: str, device: str = "auto", dtype: str = "auto", pack: bool = True) -> LoadedModel:
    """Loads "tiny", a local directory or a hub id, and examines it. Only a hub id may use the network.

    ``pack``: see `prepare_model`.

    Raises:
        UnsupportedModelError: the architecture can't be hooked.
        ValueError: there is no such model, device or dtype.
    """
    target_device = pick_device(device)
    target_dtype = pick_dtype(dtype, target_device)
    source = str(BUNDLED_DIR) if name == BUNDLED else name
    if name.startswith((".", "/", "~")) or "\\" in name:
        source = str(Path(name).expanduser())
        if not Path(source).is_dir():
            raise ValueError(f"model={name!r}: no such directory; allowed are 'tiny', a model directory, or a hub id")
    is_local = Path(source).is_dir()
    if is_local:
        # A bar is for downloads; what lies on this disk is there at once.
        transformers_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(source, local_files_only=is_local)
        model = AutoModelForCausalLM.from_pretrained(
            source, config=config, dtype=target_dtype, local_files_only=is_local
        )
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=is_local)
    except (OSError, ValueError) as error:
        raise ValueError(f"model={name!r}: could not be loaded: {error}") from error
    return prepare_model(model.to(target_device), tokenizer, name, pack)


def prepare_model(model: Any, tokenizer: Any, name: str, pack: bool = True) -> LoadedModel:
    """Examines a transformers causal language model and switches its attention to the hook, in place.

    ``pack``: on a CPU, also keep the linear layers in a layout that is faster for decoding (`packed_linear`).

    Raises:
        UnsupportedModelError: with the architecture's name and the reason; no KV memory has been taken.
    """
    architecture = type(model).__name__
    model.eval().requires_grad_(False)
    text_config = model.config.get_text_config()
    try:
        layers = _examine(model, text_config, pack)
    except UnsupportedModelError:
        raise
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise UnsupportedModelError(f"{architecture} can't run on a paged KV cache: {reason}") from error
    parameter = next(model.parameters())
    itemsize = parameter.dtype.itemsize
    first = layers[0]
    geometry = ModelGeometry(
        name=name,
        architecture=architecture,
        num_layers=len(layers),
        num_heads=first.num_heads,
        num_kv_heads=first.num_kv_heads,
        head_dim=first.head_dim,
        vocab_size=text_config.vocab_size,
        dtype=str(parameter.dtype).removeprefix("torch."),
        kv_bytes_per_token=sum(g.num_kv_heads * (g.head_dim + g.value_head_dim) for g in layers) * itemsize,
    )
    eos = getattr(model.generation_config, "eos_token_id", None)
    eos_ids = frozenset([eos] if isinstance(eos, int) else eos or [])
    suppressed = tuple(getattr(model.generation_config, "suppress_tokens", None) or ())
    return LoadedModel(
        name=name,
        model=model,
        tokenizer=tokenizer,
        layers=layers,
        geometry=geometry,
        device=parameter.device,
        dtype=parameter.dtype,
        max_positions=_max_positions(text_config),
        eos_token_ids=eos_ids,
        suppressed_token_ids=suppressed,
        takes_logits_to_keep="logits_to_keep" in _forward_parameters(model),
        suppressed=torch.tensor(suppressed, device=parameter.device) if suppressed else None,
    )


def _forward_parameters(model: Any) -> set[str]:
    return set(inspect.signature(model.forward).parameters)


@torch.inference_mode()
def _examine(model: Any, text_config: Any, pack: bool) -> tuple[LayerGeometry, ...]:
    """Switches the model to the hook, compares it with the model as it was; returns every layer's geometry."""
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
    if pack:
        _pack_if_equal(model, layers, ids, expected, tolerance)
    return layers


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


def _max_positions(text_config: Any) -> int | None:
    """The longest sequence; for longrope only up to where the rotation starts to depend on the rest of the batch."""
    longest = getattr(text_config, "max_position_embeddings", None)
    rope = getattr(text_config, "rope_parameters", None) or getattr(text_config, "rope_scaling", None) or {}
    if "longrope" in str(rope):
        original = getattr(text_config, "original_max_position_embeddings", None)
        if original is None and isinstance(rope, dict):
            original = rope.get("original_max_position_embeddings")
        return min(x for x in (longest, original) if x is not None)
    return longest


def _pack_if_equal(
    model: Any, layers: tuple[LayerGeometry, ...], ids: Tensor, expected: Tensor, tolerance: float
) -> None:
    """Packs the linear layers, and takes that back should a model not work with it: it is only for speed."""
    replaced = pack_linear_layers(model)
    try:
        equal = _deviation(model, layers, ids, expected) <= tolerance
    except (RuntimeError, TypeError, AttributeError) as error:
        log.warning("%s runs with unpacked weights, more slowly: %s", type(model).__name__, str(error).split("\n")[0])
        equal = False
    if not equal:
        for name, linear in replaced.items():
            model.set_submodule(name, linear)


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
        batch = PagedBatch(caches, slots, table, [stop], [stop - start], num_decodes=int(start > 0))
        output = model(input_ids=ids[None, start:stop], position_ids=here[None], use_cache=False, paged_batch=batch)
        logits.append(output.logits[0].float())
    return torch.cat(logits)
