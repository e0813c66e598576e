"""Exercises and quizzes as a student calls them: check, hint, quiz."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from workbench.course import registry
from workbench.course.exercise import Exercise, Question
from workbench.course.failures import blame, failure, stopped
from workbench.course.limits import LIMIT_SECONDS, Stopped, limited
from workbench.course.session import SESSION
from workbench.course.verdict import Verdict
from workbench.course.words import Said


def check(number: str, answer: Any = None, seed: int | None = None, limit: float | None = LIMIT_SECONDS) -> Verdict:
    """Grades ``answer`` to exercise ``number`` on workloads made from seeds; a wrong or missing answer never raises.

    An answer that never comes to its end is stopped, and the verdict says in which call and which line it was. That
    does not work on Windows, nor outside of the main thread: there interrupt the kernel.

    Args:
        seed: one workload only; None: all of the exercise's seeds, up to the first failure.
        limit: seconds that the whole check may take, see `workbench.course.limits`; None: as long as it likes.

    Raises:
        ValueError: there is no such exercise, or ``limit`` is not above 0.
    """
    task = registry.exercise(number)
    if answer is None or answer is ...:
        verdict = _missing(task)
    else:
        verdict = _graded(number, task, answer, task.seeds if seed is None else (seed,), limit)
    verdict = replace(verdict, exercise=number, next_hint="" if verdict.passed else _next_hint(number, task))
    SESSION.keep(number, verdict)
    return verdict


def _graded(number: str, task: Exercise, answer: Any, seeds: Sequence[int], limit: float | None) -> Verdict:
    seed = seeds[0]
    try:
        with limited(limit):
            for seed in seeds:
                verdict = _on_workload(task, answer, seed)
                if not verdict.passed:
                    return verdict
    except Stopped as stop:
        return replace(stopped(stop, blame(stop, task.grade), number), seed=seed)
    count = len(seeds)
    return replace(verdict, message=f"{verdict.message} ({count} workload{'s' if count > 1 else ''})")


def _on_workload(task: Exercise, answer: Any, seed: int) -> Verdict:
    try:
        verdict = task.grade(answer, seed)
    except Exception as error:
        guilty = blame(error, task.grade)
        if isinstance(error, NotImplementedError) and guilty is not None:
            return _missing(task)
        verdict = failure(error, guilty)
    return verdict if verdict.passed or verdict.seed is not None else replace(verdict, seed=seed)


def _missing(task: Exercise) -> Verdict:
    first = f" {task.hints[0]}" if task.hints else ""
    return Verdict(False, f"{task.title}.{first}", is_missing=True)


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
