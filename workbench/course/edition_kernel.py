"""Within the kernel that makes the edition: step-throughs as replays."""

from __future__ import annotations

from typing import Any

_LATER: list[Any] = []


def show_steppers() -> None:
    """From now on a `Stepper` that ends a cell shows itself as a replay, too."""
    from IPython import get_ipython

    formatters = get_ipython().display_formatter.formatters
    formatters["text/html"].for_type_by_name("workbench.widgets.stepper", "Stepper", _replay)
    _LATER.clear()


def _replay(stepper: Any) -> str | None:
    if stepper.llm is not None:
        # A live engine has done nothing yet: its steps are those of the cells below.
        _LATER.append(stepper)
        return later_mark(len(_LATER) - 1)
    return _frame(stepper.history)


def later_mark(index: int) -> str:
    return f"<!-- replay {index} -->"


def late_replays() -> list[str | None]:
    """Of steppers of live engines, in the order in which they were shown."""
    return [_frame(stepper.history) for stepper in _LATER]


def _frame(history: Any) -> str | None:
    """None (the figure is shown instead) if there is nothing to step through."""
    from workbench.views import show_replay

    try:
        shown = show_replay(history)
    except ValueError:
        return None
    return getattr(shown, "data", None)
