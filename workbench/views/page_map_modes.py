"""What the colours of a page map can stand for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from workbench.events import PageMap
from workbench.views.page_map_columns import Columns
from workbench.views.palette import CAUSE_FAMILIES, REQUEST_COLORS, SEQUENTIAL, request_label

#: Mode to what the colours stand for, as it is called in a menu.
MODE_NAMES = {
    "request": "request",
    "refs": "sequences that use it",
    "fill": "slots filled",
    "age": "steps since taken, moved or given back",
    "mass": "attention it got",
    "cause": "why taken, moved or given back last",
}
COLOR_MODES = tuple(MODE_NAMES)

#: Orders that numbers in pages can show, as they are called in a menu.
ORDERS = {
    "free": "free ones, next handed out first",
    "eviction": "cached ones, next to give way first",
}
#: In the legend of modes in which free and cached pages have colours, too.
IDLE_WORDS = "paler: free, or kept for reuse"


@dataclass(frozen=True)
class Mode:
    """One meaning of the colours.

    Attributes:
        title: of the legend.
        unknown: what a page in use without a number is called.
        colors, names: of the classes; no names where the classes are those of the requests in the picture.
        numbers: a tier's pages as numbers, NaN where a page has none.
        classes: the class of each number.
        label: a number in a few characters, for a cell.
        words: a number for a sentence.
        is_mean: whether several pages have their mean; else what most of them have.
        of_idle: whether free and cached pages have numbers, too.
    """

    name: str
    title: str
    unknown: str
    colors: tuple[str, ...]
    names: tuple[str, ...]
    numbers: Callable[[Columns], np.ndarray]
    classes: Callable[[np.ndarray], np.ndarray]
    label: Callable[[float], str]
    words: Callable[[float], str]
    is_mean: bool = True
    of_idle: bool = False

    def class_of(self, numbers: np.ndarray) -> np.ndarray:
        """The class of each number, -1 where there is none."""
        known = ~np.isnan(numbers)
        result = np.full(len(numbers), -1)
        result[known] = self.classes(numbers[known])
        return result


def color_mode(name: str, page_map: PageMap, dark: bool = False) -> Mode:
    """A colour mode by its name.

    Raises:
        ValueError: there is none of that name.
    """
    if name == "request":
        return _requests()
    if name == "cause":
        return _causes()
    if name == "refs":
        return _scale(_REFS, lambda c: np.where(c.in_use, c.refs, np.nan), dark)
    if name == "fill":
        return _scale(_FILL, lambda c: np.where(c.in_use, c.filled / c.size, np.nan), dark)
    if name == "mass":
        return _scale(_MASS, lambda c: np.where(c.in_use, c.mass, np.nan), dark)
    if name == "age":
        step = page_map.step
        return _scale(_AGE, lambda c: np.where(_changed(c), np.maximum(0, step - c.since), np.nan), dark)
    raise ValueError(f"color_by={name!r}: must be one of {', '.join(COLOR_MODES)}")


def mode_constants() -> dict[str, dict[str, Any]]:
    """Per mode what a browser needs to show the same classes: its ``name`` in a menu, what a page in use without a
    number is called (``unknown``), and whether free and cached pages have numbers, too, in paler colours
    (``of_idle``: what the legend says of that, else empty). Of scales, also the ``edges`` between classes (a number
    belongs to as many as are not above it), their ``names``, and their ``colors`` in a light and in a dark theme.
    """
    scales = {scale.name: scale for scale in (_REFS, _FILL, _AGE, _MASS)}
    result: dict[str, dict[str, Any]] = {}
    for name in COLOR_MODES:
        scale = scales.get(name)
        of_idle = scale.of_idle if scale is not None else name == "cause"
        result[name] = {"name": MODE_NAMES[name], "of_idle": IDLE_WORDS if of_idle else ""}
        if scale is not None:
            result[name] |= {"edges": scale.edges, "names": scale.names, "unknown": scale.unknown}
            result[name]["colors"] = {"light": _shades(scale, False), "dark": _shades(scale, True)}
    return result


def _changed(columns: Columns) -> np.ndarray:
    """Pages to which anything has ever happened."""
    return columns.in_use | (columns.state > 0) | (columns.family >= 0) | (columns.since > 0)


@dataclass(frozen=True)
class _Scale:
    name: str
    title: str
    unknown: str
    edges: tuple[float, ...]
    names: tuple[str, ...]
    label: Callable[[float], str]
    words: Callable[[float], str]
    of_idle: bool = False


def _short(number: float) -> str:
    return f"{number:,.0f}" if number == round(number) or number >= 10 else f"{number:.1f}"


def _percent(share: float) -> str:
    """Whole percents, but neither nothing nor everything by rounding. Halves go up, as in a browser."""
    if 0 < share < 0.01:
        return "<1%"
    return f"{min(99, int(100 * share + 0.5)) if share < 1 else 100}%"


_REFS = _Scale(
    "refs",
    "Sequences that use the page",
    "in use",
    (2, 3, 4, 5, 9, 17, 33),
    ("1", "2", "3", "4", "5 to 8", "9 to 16", "17 to 32", "33 or more"),
    _short,
    lambda n: f"{_short(n)} " + ("sequence" if n == 1 else "sequences"),
)
_FILL = _Scale(
    "fill",
    "Slots filled",
    "in use",
    (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0),
    ("under 10 %", *(f"{n}0 to {n}9 %" for n in range(1, 8)), "80 to 99 %", "full"),
    _percent,
    lambda n: f"{_percent(n)[:-1]} % filled",
)
_AGE = _Scale(
    "age",
    "Steps since the page was last taken, moved or given back",
    "in use",
    (1, 2, 4, 8, 16, 32, 64, 128),
    ("this step", "1", "2 to 3", "4 to 7", "8 to 15", "16 to 31", "32 to 63", "64 to 127", "128 or more"),
    _short,
    lambda n: "in this step" if n == 0 else f"{_short(n)} {'step' if n == 1 else 'steps'} ago",
    True,
)
_MASS = _Scale(
    "mass",
    "Share of the newest token's attention (measured; a shared page: the largest of its sequences')",
    "not sampled",
    (0.001, 0.01, 0.03, 0.1, 0.2, 0.3, 0.5),
    ("under 0.1 %", "0.1 to 1 %", "1 to 3 %", "3 to 10 %", "10 to 20 %", "20 to 30 %", "30 to 50 %", "50 % or more"),
    _percent,
    lambda n: f"{100 * n:.1f} % of the attention",
)


def _shades(scale: _Scale, dark: bool) -> tuple[str, ...]:
    """A colour per class, from little to much."""
    shades = SEQUENTIAL[1:] if dark else SEQUENTIAL  # the darkest would not stand out from a dark page
    places = np.linspace(0, len(shades) - 1, len(scale.names)).round().astype(int)
    return tuple(shades[place] for place in places)


def _scale(scale: _Scale, numbers: Callable[[Columns], np.ndarray], dark: bool) -> Mode:
    edges = np.array(scale.edges)
    return Mode(
        scale.name,
        scale.title,
        scale.unknown,
        _shades(scale, dark),
        scale.names,
        numbers,
        lambda values: np.searchsorted(edges, values, side="right"),
        scale.label,
        scale.words,
        of_idle=scale.of_idle,
    )


def _requests() -> Mode:
    count = len(REQUEST_COLORS)
    return Mode(
        "request",
        "Request",
        "in use",
        REQUEST_COLORS,
        (),
        lambda c: np.where(c.request >= 0, c.request, np.nan),
        lambda values: values.astype(np.int64) % count,
        lambda n: request_label(int(n)),
        lambda n: f"request {request_label(int(n))}",
        is_mean=False,
    )


def _causes() -> Mode:
    return Mode(
        "cause",
        "Why the page was taken, moved or given back last",
        "cause not known",
        tuple(color for _, _, color, _ in CAUSE_FAMILIES),
        tuple(f"{letter} {name}" for name, letter, _, _ in CAUSE_FAMILIES),
        lambda c: np.where(c.family >= 0, c.family, np.nan),
        lambda values: values.astype(np.int64),
        lambda n: CAUSE_FAMILIES[int(n)][1],
        lambda n: CAUSE_FAMILIES[int(n)][0],
        is_mean=False,
        of_idle=True,
    )
