"""What a lesson registers: exercises with graders and hints, and questions made from a seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from workbench.course.comparing import compare
from workbench.course.limits import LIMIT_SECONDS, Stopped, limited
from workbench.course.verdict import Verdict
from workbench.course.words import NEUTRAL, Said, box, shown, to_html


@dataclass(frozen=True)
class Exercise:
    """One exercise.

    Attributes:
        title: a few words.
        grade: ``grade(answer, seed)``, a pure function, runs the student's ``answer`` (mostly a function or class) on a
            workload made from ``seed``. It may let the answer's exceptions through: `check` tells the student of them.
        hints: from the gentlest to the nearly complete one.
        seeds: the workloads that `check` tries, in this order, up to the first failure.
    """

    title: str
    grade: Callable[[Any, int], Verdict]
    hints: Sequence[str]
    seeds: Sequence[int] = (0, 1, 2, 3, 4)


@dataclass(frozen=True, repr=False)
class Solution(Said):
    """The answer to a question, and why."""

    value: Any
    why: str

    def _plain(self) -> str:
        return f"Answer: **{shown(self.value)}**. {self.why}".rstrip()


@dataclass(frozen=True, repr=False)
class Text(Said):
    """The text of a question, with its choices."""

    text: str

    def _plain(self) -> str:
        return self.text


@dataclass(frozen=True, repr=False)
class Question:
    """One question of a quiz, made from a seed.

    Attributes:
        question: what is asked.
        expected: the answer: a number, a text, a list of those; with ``choices``, one of them.
        why: how the answer comes about, in a sentence or more.
        choices: answers to choose from; then 1, "a" and the choice itself (or its beginning) are the same answer.
        tolerance: see `compare`.
        what: the word for one place of a list: "page", "token".
        figure: a picture that belongs to the question, or None.
        lesson, seed: filled in by `quiz`.
    """

    question: str
    expected: Any
    why: str
    choices: tuple[str, ...] = ()
    tolerance: float = 0.0
    what: str = "entry"
    figure: Any = None
    lesson: str = ""
    seed: int = 0
    _on_verdict: Callable[[Verdict], None] | None = field(default=None, compare=False)

    @property
    def text(self) -> Text:
        """The question and its choices; shows itself in a notebook, ``str()`` is plain text."""
        lines = [f"{'abcdefghij'[i]}) {choice}" for i, choice in enumerate(self.choices)]
        return Text("\n\n".join([self.question, "\n".join(lines)]) if lines else self.question)

    def answer(self, given: Any = None) -> Verdict:
        """Whether ``given`` is right; never raises."""
        if given is None or given is ...:
            verdict = Verdict(False, "No answer yet.", is_missing=True)
        else:
            value = self._choice(given) if self.choices else _parsed(given, self.expected)
            verdict = self._compared(value)
            if verdict.passed:
                verdict = Verdict(True, f"Right. {self.why}")
            else:
                verdict = Verdict(
                    False,
                    f"{shown(value)} is not it. Try again, or see `.solution()`.",
                    first_wrong=verdict.first_wrong,
                    seed=self.seed,
                )
        if self._on_verdict is not None:
            self._on_verdict(verdict)
        return verdict

    def _compared(self, value: Any) -> Verdict:
        try:
            with limited(LIMIT_SECONDS):
                return compare(value, self.expected, self.what, tolerance=self.tolerance)
        except Stopped:
            # An object of the student's own, whose comparison never ends.
            return Verdict(False, "")

    def solution(self) -> Solution:
        return Solution(self.expected, self.why)

    def next(self) -> Question:
        """The question of the next seed.

        Raises:
            ValueError: it was not made by `quiz`.
        """
        if not self.lesson:
            raise ValueError("this question belongs to no lesson: it has no next one")
        from workbench.course.checking import quiz

        return quiz(self.lesson, self.seed + 1)

    def _choice(self, given: Any) -> Any:
        if isinstance(given, int) and not isinstance(given, bool) and 1 <= given <= len(self.choices):
            return self.choices[given - 1]
        if isinstance(given, str) and given.strip():
            words = given.strip().rstrip(").").casefold()
            if len(words) == 1 and words in "abcdefghij"[: len(self.choices)]:
                return self.choices["abcdefghij".index(words)]
            found = [choice for choice in self.choices if choice.casefold().startswith(words)]
            exact = [choice for choice in found if choice.casefold().rstrip(").") == words]
            if exact or len(found) == 1:
                return (exact or found)[0]
        return given

    def _repr_html_(self) -> str:
        name = f"Question {self.seed} of lesson {self.lesson}" if self.lesson else "Question"
        how = "Answer with `.answer(...)`; `.solution()` tells."
        return box(NEUTRAL, to_html(f"**{name}.** {self.text._plain()}\n\n{how}"))

    def __repr__(self) -> str:
        return f"{self.text}\n(Answer with .answer(...); .solution() tells.)"


def _parsed(given: Any, expected: Any) -> Any:
    """Text from a form as the kind of value that is expected; as it is if it can't be read as that."""
    if not isinstance(given, str):
        return list(given) if isinstance(expected, list) and isinstance(given, tuple) else given
    words = given.strip()
    try:
        if isinstance(expected, bool):
            return {"yes": True, "true": True, "no": False, "false": False}.get(words.casefold(), words)
        if isinstance(expected, int | float):
            return float(words.replace(",", "").replace("_", ""))
        if isinstance(expected, list | tuple) and expected:
            parts = words.strip("[]()").replace(",", " ").split()
            return type(expected)(_parsed(part, expected[0]) for part in parts)
    except ValueError:
        return words
    return expected if isinstance(expected, str) and words.casefold() == expected.casefold() else words
