"""Which attention runs: the Triton kernels, or plain torch."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from workbench.engine.config import ConfigError
from workbench.models.attention_op import why_not
from workbench.models.loading import LoadedModel


@dataclass(frozen=True)
class AttentionChoice:
    """``name`` is "triton" or "torch"; ``why`` is for people."""

    name: str
    why: str


def choose_attention(asked: str, model: LoadedModel, block_size: int) -> AttentionChoice:
    """Decides for ``EngineConfig.attention``.

    Raises:
        ConfigError: "triton" was asked for and can't be had.
    """
    if asked == "torch":
        return AttentionChoice("torch", "as asked for")
    reason = _why_no_device(model.device) or why_not(model.layers, block_size)
    if reason is None and not (asked == "auto" and model.device.type != "cuda"):
        return AttentionChoice(
            "triton", "as asked for" if asked == "triton" else "CUDA device, kernels serve the model"
        )
    if asked == "triton":
        raise ConfigError(f"attention='triton': {reason}")
    return AttentionChoice("torch", reason or "Triton's interpreter is for tests only")


def _why_no_device(device: torch.device) -> str | None:
    if device.type == "cuda":
        return None
    # The interpreter runs kernels on CPU tensors, slowly: what tests use, and nobody should get by chance.
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1":
        return None
    return f"the kernels need a CUDA device, the model is on {device.type}"
