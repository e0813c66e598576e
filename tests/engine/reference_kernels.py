"""The kernels' contracts in plain torch, in the place of the Triton kernels: for everything around them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from paged_kernels import reference, reference_blocks
from workbench.engine.sampler import _pick
from workbench.models.attention_op import Kernels
from workbench.models.geometry import LayerGeometry


class _Plan:
    """Checks that the lengths with which it was updated are those of the call."""

    def update(self, *tensors: Any, window: int | None = None) -> _Plan:
        self.lens, self.window = tensors[-1] if len(tensors) == 1 else tensors[1], window
        return self


def pick_tokens(logits: Tensor, temperatures: Tensor, uniforms: Tensor, out: Tensor) -> None:
    """`workbench.engine.gpu.sampling.pick_tokens`, without Triton's interpreter, which takes most of a test's time."""
    for row, (temperature, uniform) in enumerate(zip(temperatures.tolist(), uniforms.tolist(), strict=True)):
        one = logits[row : row + 1].float()
        out[row] = one.argmax() if temperature == 0 else _pick(one / temperature, [uniform])[0]


class ReferenceKernels(Kernels):
    def __init__(self) -> None:
        self.cache_write = reference_blocks.reshape_and_cache

    def decode_plan(self, layer: LayerGeometry, max_seqs: int, dtype: torch.dtype, device: torch.device) -> Any:
        return _Plan()

    def prefill_plan(
        self, layer: LayerGeometry, dtype: torch.dtype, cache_dtype: torch.dtype, device: torch.device
    ) -> Any:
        return _Plan()

    def decode(self, q: Tensor, *args: Tensor, plan: _Plan, out: Tensor, **options: Any) -> Tensor:  # type: ignore[override]
        assert plan.lens.data_ptr() == args[3].data_ptr()
        assert plan.window == options["window"]
        return out.copy_(reference.paged_attention_decode(q, *args, **options)[0])

    def prefill(self, q: Tensor, *args: Tensor, plan: _Plan, out: Tensor, **options: Any) -> Tensor:  # type: ignore[override]
        assert plan.lens.data_ptr() == args[3].data_ptr()
        return out.copy_(reference.paged_attention_prefill(q, *args, **options)[0])
