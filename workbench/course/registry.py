"""Lessons by number. A lesson is a module with ``EXERCISES``, maybe ``make_question``; imported when needed."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import re
from types import ModuleType

from workbench.course import lessons
from workbench.course.exercise import Exercise

#: number: the module's name, for lessons that live elsewhere
_ELSEWHERE: dict[str, str] = {}


def register(number: str | int, module: str) -> None:
    """Adds a lesson that lives elsewhere: ``module`` is the name of a module that can be imported."""
    _ELSEWHERE[str(number)] = module


def numbers() -> list[str]:
    """The numbers of all lessons, in order."""
    found = {m.name for m in pkgutil.iter_modules(lessons.__path__) if re.fullmatch(r"lesson\d\d", m.name)}
    return sorted({str(int(name.removeprefix("lesson"))) for name in found} | set(_ELSEWHERE), key=int)


def lesson(number: str | int) -> ModuleType:
    """The module of a lesson.

    Raises:
        ValueError: there is no such lesson.
    """
    name = str(number).strip()
    name = str(int(name)) if name.isdigit() else name
    if name not in numbers():
        raise ValueError(f"lesson={number!r}: there is no such lesson; allowed are {', '.join(numbers())}")
    return importlib.import_module(_ELSEWHERE.get(name, f"workbench.course.lessons.lesson{int(name):02d}"))


def exercise(number: str) -> Exercise:
    """The exercise ``"3.1"``: the first of lesson 3.

    Raises:
        ValueError: there is no such exercise.
    """
    module = lesson(str(number).split(".")[0])
    exercises: dict[str, Exercise] = module.EXERCISES
    if number not in exercises:
        raise ValueError(f"exercise={number!r}: lesson {number.split('.')[0]} has {', '.join(exercises) or 'none'}")
    return exercises[number]
