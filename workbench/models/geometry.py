"""What one attention layer is like, as far as its KV cache and its kernels are concerned."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LayerGeometry:
    """A layer keeps ``[num_kv_heads, head_dim]`` for K and ``[num_kv_heads, value_head_dim]`` for V per token.

    Attributes:
        window: a token sees itself and the ``window - 1`` tokens before it; None: all of them.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    value_head_dim: int
    window: int | None = None
