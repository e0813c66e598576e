"""Fused linear layers: found by what they read, equal to the layers that they replace, and nothing stored twice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from tests.models.architectures import supported
from workbench.models import prepare_model
from workbench.models.fused_linear import find_groups, fuse_linear_layers


def _model(name: str) -> Any:
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(supported()[name]).eval().requires_grad_(False)


IDS = torch.arange(11)[None]


@pytest.mark.parametrize("name", supported())
def test_logits_stay_equal(name: str) -> None:
    model = _model(name)
    expected = model(IDS, use_cache=False).logits
    before = _stored_bytes(model)
    groups = find_groups(model, lambda: model(IDS, use_cache=False))
    replaced = fuse_linear_layers(model, groups)
    assert len(replaced) == sum(map(len, groups))
    for _ in range(2):
        torch.testing.assert_close(model(IDS, use_cache=False).logits, expected, atol=1e-4, rtol=1e-4)
    assert _stored_bytes(model) == before
    for place, linear in replaced.items():
        model.set_submodule(place, linear)
    torch.testing.assert_close(model(IDS, use_cache=False).logits, expected, atol=1e-4, rtol=1e-4)


def _stored_bytes(model: nn.Module) -> int:
    tensors = [*model.parameters(), *(m.all_weights for m in model.modules() if hasattr(m, "all_weights"))]
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(storages.values())


def test_what_is_found() -> None:
    model = _model("llama")
    groups = find_groups(model, lambda: model(IDS, use_cache=False))
    projections = ["q_proj", "k_proj", "v_proj"]
    assert groups == [
        names
        for layer in range(2)
        for names in (
            [f"model.layers.{layer}.self_attn.{name}" for name in projections],
            [f"model.layers.{layer}.mlp.{name}" for name in ("gate_proj", "up_proj")],
        )
    ]


def test_a_layer_used_twice_or_shared_is_left_alone() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = (nn.Linear(4, 4) for _ in range(4))
            self.d.weight = self.c.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.a(x) + self.b(x) + self.a(x) + self.c(x) + self.d(x)

    model = Twice()
    assert find_groups(model, lambda: model(torch.randn(2, 4))) == []


def test_out_of_turn_is_an_error() -> None:
    model = _model("llama")
    fuse_linear_layers(model, find_groups(model, lambda: model(IDS, use_cache=False)))
    with pytest.raises(RuntimeError, match="before the first of its group"):
        model.model.layers[0].self_attn.k_proj(torch.randn(1, 32))


def test_a_model_that_does_not_take_it_keeps_its_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    from workbench.models import examination

    model = _model("llama")
    kinds = [type(module) for module in model.modules()]
    changed = examination._replace(
        model,
        lambda: fuse_linear_layers(model, find_groups(model, lambda: model(IDS, use_cache=False))),
        lambda: False,
    )
    assert not changed
    assert [type(module) for module in model.modules()] == kinds
    assert prepare_model(model, None, "again").lock is None
