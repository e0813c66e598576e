"""Exercises and quizzes as a student calls them: check, hint, quiz."""

from __future__ import annotations

import linecache
import sysconfig
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import workbench
from workbench.course import registry
from workbench.course.exercise import Exercise, Question
from workbench.course.session import SESSION
from workbench.course.verdict import Verdict
from workbench.course.words import Said

_PACKAGE = Path(workbench.__file__).parent
#: Code below these is not the student's.
_LIBRARIES = (
    _PACKAGE,
    _PACKAGE.parent / "kernels",
    *(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")),
)


def check(number: str, answer: Any = None, seed: int | None = None) -> Verdict:
    """Grades ``answer`` to exercise ``number`` on workloads made from seeds; a wrong or missing answer never raises.

    Args:
        seed: one workload only; None: all of the exercise's seeds, up to the first failure.

    Raises:
        ValueError: there is no such exercise.
    """
    task = registry.exercise(number)
    if answer is None or answer is ...:
        verdict = _missing(task)
    else:
        verdict = _graded(task, answer, task.seeds if seed is None else (seed,))
    verdict = replace(verdict, exercise=number, next_hint="" if verdict.passed else _next_hint(number, task))
    SESSION.keep(number, verdict)
    return verdict


def _graded(task: Exercise, answer: Any, seeds: Any) -> Verdict:
    for seed in seeds:
        try:
            verdict = task.grade(answer, seed)
        except Exception as error:
            place = _place(error, task)
            if isinstance(error, NotImplementedError) and place is not None:
                return _missing(task)
            verdict = Verdict(False, _what_happened(error, place))
        if not verdict.passed:
            return replace(verdict, seed=seed if verdict.seed is None else verdict.seed)
    count = len(seeds)
    return replace(verdict, message=f"{verdict.message} ({count} workload{'s' if count > 1 else ''})")


def _missing(task: Exercise) -> Verdict:
    first = f" {task.hints[0]}" if task.hints else ""
    return Verdict(False, f"{task.title}.{first}", is_missing=True)


def _what_happened(error: Exception, place: tuple[int, str] | None) -> str:
    words = f"`{type(error).__name__}: {error}`"
    if place is None:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}, line {last.lineno}"
        return f"Your answer could not be used: {words} ({where}). Are its arguments and its result those asked for?"
    line, code = place
    return f"Your code raised {words} in its line {line}: `{code}`" if code else f"Your code raised {words}"


def _place(error: Exception, task: Exercise) -> tuple[int, str] | None:
    """Line and text of the last line of the student's that ran; None if no code of theirs did."""
    grader = getattr(getattr(task.grade, "__code__", None), "co_filename", "")
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if frame.filename != grader and not any(library in path.parents for library in _LIBRARIES):
            line = frame.lineno or 0
            return line, linecache.getline(frame.filename, line).strip()
    return None


def _next_hint(number: str, task: Exercise) -> str:
    taken = SESSION.hints.get(number, 0)
    return f'hint("{number}")' if taken < len(task.hints) else ""


@dataclass(frozen=True, repr=False)
class Hint(Said):
    """One hint: the ``index``-th (from 1) of ``count``."""

    number: str
    index: int
    count: int
    text: str

    def _plain(self) -> str:
        left = self.count - self.index
        more = f'`hint("{self.number}")` again gives the next.' if left else "That was the last one."
        return f"**Hint {self.index} of {self.count} to {self.number}.** {self.text} {more}"


def hint(number: str) -> Hint:
    """The next hint to an exercise: each call gives one more, after the last one the last one again.

    Raises:
        ValueError: there is no such exercise, or it has no hints.
    """
    task = registry.exercise(number)
    if not task.hints:
        raise ValueError(f"exercise={number!r}: it has no hints")
    index = min(SESSION.hints.get(number, 0) + 1, len(task.hints))
    SESSION.hints[number] = index
    return Hint(number, index, len(task.hints), task.hints[index - 1])


def quiz(lesson: str | int, seed: int) -> Question:
    """Question ``seed`` of a lesson: the same seed makes the same question.

    Raises:
        ValueError: there is no such lesson, or it has no quiz.
    """
    module = registry.lesson(lesson)
    if not hasattr(module, "make_question"):
        raise ValueError(f"lesson={lesson!r}: it has no quiz")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed={seed!r}: allowed are whole numbers from 0")
    question: Question = module.make_question(seed)
    name = f"quiz {lesson}, seed {seed}"
    return replace(question, lesson=str(lesson), seed=seed, _on_verdict=lambda verdict: SESSION.keep(name, verdict))
