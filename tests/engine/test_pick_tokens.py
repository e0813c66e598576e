"""Sampling on the device, in Triton's interpreter, against the sampler's own rule."""

from __future__ import annotations

import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from workbench.engine.sampler import _pick

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton has builds for Linux only")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def pick(logits: torch.Tensor, temperatures: list[float], uniforms: list[float]) -> list[int]:
    from workbench.engine.gpu.sampling import pick_tokens

    out = torch.full((len(logits),), -1, dtype=torch.int64, device=DEVICE)
    pick_tokens(
        logits.to(DEVICE),
        torch.tensor(temperatures, device=DEVICE),
        torch.tensor(uniforms, dtype=torch.float64, device=DEVICE),
        out,
    )
    return out.tolist()


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    vocab_size=st.sampled_from([1, 5, 97, 4096, 4097, 9000]),
    spread=st.sampled_from([0.1, 3.0, 30.0]),
    masked=st.booleans(),
)
def test_same_token_as_the_sampler(seed: int, vocab_size: int, spread: float, masked: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(4, vocab_size, generator=generator) * spread
    if masked and vocab_size > 2:
        logits[:, : vocab_size // 2] = -torch.inf
    temperatures = [0.0, 0.3, 1.0, 1.7]
    uniforms = torch.rand(4, dtype=torch.float64, generator=generator).tolist()
    tokens = pick(logits, temperatures, uniforms)
    assert tokens[0] == logits[0].argmax()
    for row in (1, 2, 3):
        scaled = logits[row : row + 1] / temperatures[row]
        if tokens[row] != _pick(scaled, [uniforms[row]]).item():
            cumulative = scaled[0].double().softmax(-1).cumsum(-1)
            low = cumulative[tokens[row] - 1].item() if tokens[row] else 0.0
            assert low - 1e-6 < uniforms[row] < cumulative[tokens[row]] + 1e-6


def test_borders() -> None:
    logits = torch.tensor([[-torch.inf, 1.0, 1.0, -torch.inf]]).expand(4, -1)
    below_one = 1 - 2**-53
    assert pick(logits, [1.0] * 4, [0.0, 0.4999, 0.5, below_one]) == [1, 1, 2, 2]
    assert pick(logits, [0.0] * 4, [0.0] * 4) == [1] * 4, "of equal logits the first"


def test_rows_are_independent_and_strides_are_honoured() -> None:
    logits = torch.randn(6, 5000, generator=torch.Generator().manual_seed(1))
    uniforms = [0.1, 0.7, 0.3, 0.9, 0.5, 0.2]
    together = pick(logits, [0.8] * 6, uniforms)
    alone = [pick(logits[i : i + 1], [0.8], uniforms[i : i + 1])[0] for i in range(6)]
    assert together == alone
    wide = torch.zeros(6, 6000)
    wide[:, :5000] = logits
    assert pick(wide[:, :5000], [0.8] * 6, uniforms) == together
