"""Input components whose values are checked by `workbench_app.settings`, so that errors name the field."""

from __future__ import annotations

from typing import Any, TypeVar

C = TypeVar("C")


def _as_it_is(payload: Any) -> Any:
    return payload


def unchecked(component: C) -> C:
    """Switches a component's own check off: a slider's says "Value -1 is less than minimum value 1", and not of what.

    A subclass would do, too, but Gradio writes a ``.pyi`` file beside the module of every subclass.
    """
    component.preprocess = _as_it_is  # type: ignore[attr-defined]
    return component
