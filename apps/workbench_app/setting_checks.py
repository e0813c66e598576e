"""Checks of single values, whose errors name the field, the value, and what is allowed."""

from __future__ import annotations


class SettingError(ValueError):
    """A setting is not usable. The message names the field, its value, and what is allowed."""

    def __init__(self, field: str, value: object, allowed: str) -> None:
        shown = repr(value) if isinstance(value, str) else str(value)
        if len(shown) > 80:
            shown = shown[:77] + "..."
        super().__init__(f"{field}: {shown} is not possible. {allowed}")
        self.field = field


def integer(field: str, value: object, limits: tuple[int, int]) -> int:
    """A whole number between two limits, both included; a float from a slider may stand for one."""
    low, high = limits
    allowed = f"Allowed are whole numbers from {low:,} to {high:,}."
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SettingError(field, value, allowed)
    if not low <= value <= high or value != int(value):
        raise SettingError(field, value, allowed)
    return int(value)


def number(field: str, value: object, limits: tuple[float, float]) -> float:
    """A number between two limits, both included."""
    low, high = limits
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise SettingError(field, value, f"Allowed are numbers from {low:g} to {high:g}.")
    return float(value)


def one_of(field: str, value: object, names: tuple[str, ...]) -> str:
    """One of a few names."""
    if not isinstance(value, str) or value not in names:
        raise SettingError(field, value, f"Allowed are {', '.join(names)}.")
    return value


def truth(field: str, value: object) -> bool:
    """True or False, and nothing else."""
    if not isinstance(value, bool):
        raise SettingError(field, value, "Allowed are true and false.")
    return value
