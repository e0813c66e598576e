"""A guess typed before the answer is seen, then both side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workbench.course.session import SESSION
from workbench.course.words import Said, shown

_UNITS = {
    "bytes": {"B": 1.0, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
    | {"byte": 1.0, "bytes": 1.0, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30, "TiB": 2.0**40},
    "seconds": {"s": 1.0, "ms": 1e-3, "µs": 1e-6, "us": 1e-6, "min": 60.0},
}


@dataclass(frozen=True, repr=False)
class Prediction(Said):
    """What a student expects; ``value`` is None until there is something."""

    name: str
    value: Any
    unit: str

    def _plain(self) -> str:
        if self.value is None:
            return (
                f"Prediction {self.name}: nothing yet. Write your guess in place of `None` and run the cell again, "
                "or go on without one."
            )
        return f"Prediction {self.name}: you expect {_with_unit(self.value, self.unit)}."


@dataclass(frozen=True, repr=False)
class Revealed(Said):
    """A prediction beside what came out; ``ratio`` is predicted / found, None where there is none."""

    name: str
    predicted: Any
    predicted_unit: str
    found: Any
    unit: str
    how: str

    @property
    def ratio(self) -> float | None:
        if not (_is_number(self.predicted) and _is_number(self.found)) or self.found == 0:
            return None
        factor = _factor(self.predicted_unit, self.unit)
        return None if factor is None else float(self.predicted) * factor / float(self.found)

    def _plain(self) -> str:
        found = f"{self.how} {_with_unit(self.found, self.unit)}"
        if self.predicted is None:
            return f"{self.name}: {found}; you made no prediction."
        sentence = f"{self.name}: you predicted {_with_unit(self.predicted, self.predicted_unit)}, {found}"
        ratio = self.ratio
        if ratio is not None:
            if abs(ratio - 1) < 0.005:
                return f"{sentence}: a hit."
            return f"{sentence}: your guess is {ratio:.3g} times that."
        if type(self.predicted) is type(self.found) or (_is_number(self.found) and _is_number(self.predicted)):
            return f"{sentence}: {'the same' if self.predicted == self.found else 'not the same'}."
        return f"{sentence}."


def predict(name: str, value: Any = None, unit: str = "") -> Prediction:
    """Keeps what the student expects under ``name``; None: nothing yet. Until it is revealed it may be changed."""
    SESSION.predictions[name] = (value, unit)
    return Prediction(name, value, unit)


def reveal(name: str, found: Any, unit: str = "", how: str = "measured") -> Revealed:
    """The prediction ``name`` beside ``found``.

    Args:
        unit: of ``found``; empty: that of the prediction.
        how: "measured", "modelled", "simulated" or "computed": how ``found`` came about.
    """
    value, predicted_unit = SESSION.predictions.get(name, (None, ""))
    if hasattr(found, "item") and not isinstance(found, str):
        found = found.item()
    SESSION.measured[name] = (found, unit or predicted_unit)
    return Revealed(name, value, predicted_unit or unit, found, unit or predicted_unit, how)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _factor(unit: str, other: str) -> float | None:
    """How many ``other`` one ``unit`` is; None if they can't be compared."""
    if unit == other:
        return 1.0
    for sizes in _UNITS.values():
        if unit in sizes and other in sizes:
            return sizes[unit] / sizes[other]
    return None


def _with_unit(value: Any, unit: str) -> str:
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else shown(value)
    return f"{text}{'' if unit == '%' else ' '}{unit}".strip()
