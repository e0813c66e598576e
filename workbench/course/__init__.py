"""The library behind the notebooks: predictions, graded exercises, hints, quizzes, and the real source of the engine.

Names are imported on first use, so that building notebooks needs neither torch nor a lesson.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.course.checking import check, hint, quiz
    from workbench.course.comparing import compare
    from workbench.course.exercise import Exercise, Question
    from workbench.course.predictions import predict, reveal
    from workbench.course.session import progress
    from workbench.course.source import show_source
    from workbench.course.verdict import Verdict

_HOMES = {
    "Exercise": "exercise",
    "Question": "exercise",
    "Verdict": "verdict",
    "check": "checking",
    "compare": "comparing",
    "hint": "checking",
    "predict": "predictions",
    "progress": "session",
    "quiz": "checking",
    "reveal": "predictions",
    "show_source": "source",
}

__all__ = [
    "Exercise",
    "Question",
    "Verdict",
    "check",
    "compare",
    "hint",
    "predict",
    "progress",
    "quiz",
    "reveal",
    "show_source",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"workbench.course.{home}"), name)
    globals()[name] = value
    return value
