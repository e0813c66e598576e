"""Loading a model and making sure that its attention really runs on our pages.

A model is "tiny" (bundled), a local directory, or a hub id. Before any KV memory is taken it is examined: every layer
must reach the hook exactly once, and on a short text the logits must agree with those of the model's own attention.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from workbench.events.types import ModelGeometry
from workbench.models.device import pick_device, pick_dtype
from workbench.models.examination import UnsupportedModelError, examine
from workbench.models.geometry import LayerGeometry
from workbench.models.paged_batch import PagedBatch

BUNDLED = "tiny"
BUNDLED_DIR = Path(__file__).with_name("tiny")


@dataclass(frozen=True)
class LoadedModel:
    """Weights, tokenizer and geometry. Shareable: any number of engines and threads may use one.

    Attributes:
        layers: per layer, what it keeps per token.
        max_positions: the longest sequence that the model was made for, in tokens; None if it doesn't say.
        suppressed_token_ids: tokens that its generation config forbids (``suppress_tokens``).
        suppressed: the same on the device, int64; None if there are none.
        lock: held during a forward pass, if its layers leave each other something there (`fused_linear`).
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
    lock: threading.Lock | None = None

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        batch: PagedBatch | int,
        logit_rows: Tensor,
        call: Callable[..., Any] | None = None,
    ) -> Tensor:
        """Logits ``[len(logit_rows), vocab_size]`` of packed tokens; ``input_ids`` and ``positions`` ``[num_tokens]``.

        Keys and values of all tokens are stored on the way. Suppressed tokens still have their logits: who chooses
        tokens leaves them out (`workbench.engine.sampler`).

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
        with self.lock or nullcontext():
            logits: Tensor = (self.model if call is None else call)(
                input_ids=ids, position_ids=places, use_cache=False, paged_batch=batch, **kwargs
            ).logits[0]
        return logits if self.takes_logits_to_keep else logits[logit_rows]


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

    ``pack``: replace linear layers by faster ones, if the logits stay equal: on a CPU by a layout that is faster for
    decoding (`packed_linear`), on a CUDA device by one product for all that read the same input (`fused_linear`).

    Raises:
        UnsupportedModelError: with the architecture's name and the reason; no KV memory has been taken.
    """
    architecture = type(model).__name__
    model.eval().requires_grad_(False)
    text_config = model.config.get_text_config()
    try:
        layers, is_fused = examine(model, text_config, pack)
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
        lock=threading.Lock() if is_fused else None,
        suppressed=torch.tensor(suppressed, device=parameter.device) if suppressed else None,
    )


def _forward_parameters(model: Any) -> set[str]:
    return set(inspect.signature(model.forward).parameters)


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
