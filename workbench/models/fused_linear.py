"""Linear layers that read the same input, computed as one product: fewer and larger launches on a GPU.

Query, key and value projections, or the two halves of a gated MLP, are found by watching a forward pass: layers of one
parent that were handed the very same tensor, one after another. The first of them then computes all, from one weight,
and leaves the others their parts. The layers' own weights become views of it, so nothing is stored twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class FusedPart(nn.Module):
    """Stands for one layer, ``[..., in_features] -> [..., out_features]``: hands out what the first one left."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.left: Tensor | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        out, self.left = self.left, None
        if out is None:
            raise RuntimeError("a fused linear layer was called before the first of its group")
        return out


class FusedLinear(FusedPart):
    """Stands for the first layer; computes all."""

    def __init__(self, linears: list[nn.Linear], weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(linears[0])
        self.all_weights, self.all_biases = weight, bias
        self._sizes = [linear.out_features for linear in linears]
        self.others = tuple(FusedPart(linear) for linear in linears[1:])

    def forward(self, inputs: Tensor) -> Tensor:
        parts = F.linear(inputs, self.all_weights, self.all_biases).split(self._sizes, dim=-1)
        for other, part in zip(self.others, parts[1:], strict=True):
            other.left = part
        return parts[0]


def find_groups(model: nn.Module, run: Callable[[], Any]) -> list[list[str]]:
    """Names of linear layers that can be fused, each group in the order of its calls.

    Args:
        run: a forward pass of the model.
    """
    # Holding on to the inputs keeps their identities from being used again.
    calls: list[tuple[str, Tensor]] = []
    handles = []
    uses = Counter(parameter.data_ptr() for _, parameter in model.named_parameters(remove_duplicate=False))
    for name, module in model.named_modules():
        if type(module) is nn.Linear and uses[module.weight.data_ptr()] == 1:
            handles.append(module.register_forward_pre_hook(lambda _, args, name=name: calls.append((name, args[0]))))
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    times = Counter(name for name, _ in calls)
    groups: list[tuple[tuple[Any, ...], list[str]]] = []
    for name, inputs in calls:
        linear = model.get_submodule(name)
        key = (name.rpartition(".")[0], id(inputs), linear.weight.dtype, linear.bias is None)
        if times[name] == 1 and groups and groups[-1][0] == key:
            groups[-1][1].append(name)
        else:
            groups.append((key, [name]))
    return [names for _, names in groups if len(names) > 1 and all(times[name] == 1 for name in names)]


@torch.inference_mode(False)
@torch.no_grad()
def fuse_linear_layers(model: nn.Module, groups: list[list[str]]) -> dict[str, nn.Module]:
    """Fuses the groups; returns the layers that stood there, by name, which still work and can be put back."""
    replaced: dict[str, nn.Module] = {}
    for names in groups:
        linears: list[Any] = [model.get_submodule(name) for name in names]
        weight = torch.cat([linear.weight for linear in linears])
        bias = None if linears[0].bias is None else torch.cat([linear.bias for linear in linears])
        first = 0
        for linear in linears:
            rows = slice(first, first + linear.out_features)
            linear.weight = nn.Parameter(weight[rows], requires_grad=False)
            if bias is not None:
                linear.bias = nn.Parameter(bias[rows], requires_grad=False)
            first += linear.out_features
        fused = FusedLinear(linears, weight, bias)
        for name, linear, module in zip(names, linears, (fused, *fused.others), strict=True):
            model.set_submodule(name, module)
            replaced[name] = linear
    return replaced
