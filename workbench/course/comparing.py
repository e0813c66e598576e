"""Graders' helper: two values compared, with the first place where they differ."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from workbench.course.verdict import Verdict


def compare(yours: Any, expected: Any, what: str = "entry", message: str = "", tolerance: float = 0.0) -> Verdict:
    """Whether ``yours`` equals ``expected``: numbers, texts, lists, mappings, numpy arrays or torch tensors.

    Args:
        what: the word for one place: "page", "token", "step". It and the first differing place make ``first_wrong``.
        message: said on failure; empty: "That is not what was expected."
        tolerance: numbers may differ by this much, absolutely, or relatively to a larger expected number.
    """
    left, right = _as_plain(yours), _as_plain(expected)
    place = _first_difference(left, right, tolerance)
    if place is None:
        return Verdict(True, "As expected.")
    where = f"{what} {', '.join(str(part) for part in place)}" if place else None
    return Verdict(False, message or "That is not what was expected.", left, right, where)


def _as_plain(value: Any) -> Any:
    """Tensors and arrays as nested lists, so that places can be named."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    return value.tolist() if hasattr(value, "tolist") else value


def _first_difference(yours: Any, expected: Any, tolerance: float) -> tuple[Any, ...] | None:
    """The path to the first difference, ``()`` if there is none within; None: equal."""
    if isinstance(expected, Mapping) and isinstance(yours, Mapping):
        for key in [*expected, *(key for key in yours if key not in expected)]:
            if key not in yours or key not in expected:
                return (key,)
            inner = _first_difference(yours[key], expected[key], tolerance)
            if inner is not None:
                return (key, *inner)
        return None
    if isinstance(expected, list | tuple) and isinstance(yours, list | tuple):
        for i in range(max(len(yours), len(expected))):
            if i >= len(yours) or i >= len(expected):
                return (i,)
            inner = _first_difference(yours[i], expected[i], tolerance)
            if inner is not None:
                return (i, *inner)
        return None
    return None if same(yours, expected, tolerance) else ()


def same(yours: Any, expected: Any, tolerance: float = 0.0) -> bool:
    """Whether two values without parts are equal; True and 1 are not."""
    if isinstance(yours, bool) != isinstance(expected, bool):
        return False
    if isinstance(yours, int | float) and isinstance(expected, int | float):
        if math.isnan(yours) or math.isnan(expected):
            return math.isnan(yours) and math.isnan(expected)
        return yours == expected or abs(yours - expected) <= tolerance * max(1.0, abs(expected))
    try:
        return bool(yours == expected)
    except Exception:
        # An object of the student's own, whose comparison raises, or arrays that can't be compared.
        return False
