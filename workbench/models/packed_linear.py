"""Linear layers for small batches on a CPU: weights kept in the blocked layout that oneDNN's kernels read.

A decode step multiplies every weight with one row per sequence, so it is bound by reading weights. torch's default
route (MKL) reads them in their plain layout; oneDNN's own layout is about twice as fast there for 16 rows
(`docs/benchmarks.md`). This is what torch.compile does to a frozen model, without compiling it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

#: The layout is chosen for this many rows; seen to serve 4 to 1,024 rows alike.
_ROWS = 16


class PackedLinear(nn.Module):
    """A `torch.nn.Linear` for inference: ``[..., in_features] -> [..., out_features]``, float32 on a CPU.

    ``weight`` is opaque: it can be multiplied with, not read.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _ROWS)
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, inputs: Tensor) -> Tensor:
        out: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, self.weight, self.bias, "none", [], "")
        return out

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def can_pack() -> bool:
    """Whether this build of torch has oneDNN's linear layer."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")


def pack_linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Replaces every float32 `torch.nn.Linear` on the CPU, of whatever architecture; returns what stood there, by name.

    A weight that is tied to the embedding stays there, too: the packed copy costs its memory once more.
    """
    if not can_pack():
        return {}
    linears: dict[str, nn.Linear] = {
        name: module
        for name, module in model.named_modules()
        if type(module) is nn.Linear and module.weight.device.type == "cpu" and module.weight.dtype == torch.float32
    }
    for name, module in linears.items():
        model.set_submodule(name, PackedLinear(module))
    return dict(linears)
