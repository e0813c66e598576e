"""Tensors compared and shown in a verdict: what the graders of lessons 4 and 5 share."""

from __future__ import annotations

from torch import Tensor

#: float32 sums in another order differ by less; a forgotten token or factor by more.
TOLERANCE = 1e-4


def unequal(yours: Tensor, expected: Tensor) -> Tensor:
    """Where they differ, bool of their shape; NaN differs from everything, minus infinity from everything else."""
    close = (yours.double() - expected.double()).abs() <= TOLERANCE * (1 + expected.double().abs())
    return ~((close & expected.isfinite()) | (yours == expected))


def differ(yours: Tensor, expected: Tensor) -> bool:
    """Whether they differ anywhere."""
    return bool(unequal(yours, expected).any())


def numbers(value: Tensor) -> list[float]:
    """The first eight numbers, for a verdict."""
    return [round(float(x), 4) for x in value.flatten()[:8]]
