"""What happened in this session (one kernel): predictions, verdicts, hints taken."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from workbench.course import registry
from workbench.course.verdict import Verdict
from workbench.course.words import NEUTRAL, Said, box, shown, to_html


@dataclass
class Session:
    """Kept in memory only.

    Attributes:
        predictions: name: (value, unit).
        measured: name: (value, unit), once revealed.
        verdicts: exercise or question: every verdict, oldest first.
        hints: exercise: how many were given.
    """

    predictions: dict[str, tuple[Any, str]] = field(default_factory=dict)
    measured: dict[str, tuple[Any, str]] = field(default_factory=dict)
    verdicts: dict[str, list[Verdict]] = field(default_factory=dict)
    hints: dict[str, int] = field(default_factory=dict)

    def keep(self, name: str, verdict: Verdict) -> None:
        self.verdicts.setdefault(name, []).append(verdict)


SESSION = Session()


def start_again() -> None:
    """Forgets everything."""
    SESSION.__dict__.update(Session().__dict__)


@dataclass(frozen=True, repr=False)
class Progress(Said):
    """How far a student has come. ``verdicts``: the last one of every exercise and question tried."""

    verdicts: dict[str, Verdict]
    titles: dict[str, str]
    tries: dict[str, int]
    hints: dict[str, int]
    predictions: dict[str, tuple[Any, str]]
    measured: dict[str, tuple[Any, str]]

    @property
    def passed(self) -> list[str]:
        return [name for name, verdict in self.verdicts.items() if verdict.passed]

    def _rows(self) -> list[tuple[str, str]]:
        rows = []
        for name in dict.fromkeys([*self.titles, *self.verdicts]):
            verdict, tries = self.verdicts.get(name), self.tries.get(name, 0)
            state = "not tried" if verdict is None else verdict._heading.split(": ")[-1]
            counts = [f"{tries} tries" if tries != 1 else "1 try"] if tries else []
            if self.hints.get(name):
                counts.append(f"{self.hints[name]} hint{'s' if self.hints[name] > 1 else ''}")
            title = f"{name} {self.titles[name]}" if name in self.titles else name
            rows.append((title, f"{state} ({', '.join(counts)})" if counts else state))
        return rows

    def _plain(self) -> str:
        done = sum(1 for name in self.titles if name in self.passed)
        lines = [f"{done} of {len(self.titles)} exercises passed."]
        lines += [f"{title}: {state}" for title, state in self._rows()]
        lines += [f"Prediction {name}: {self._guess(name)}" for name in self.predictions]
        return "\n".join(lines)

    def _guess(self, name: str) -> str:
        value, unit = self.predictions[name]
        guess = "none" if value is None else f"{shown(value)} {unit}".strip()
        if name not in self.measured:
            return f"{guess}, not revealed yet"
        found, its_unit = self.measured[name]
        return f"{guess}; it was {shown(found)} {its_unit}".strip()

    def _repr_html_(self) -> str:
        return box(NEUTRAL, to_html(self._plain()))

    def to_json(self) -> str:
        """Verdicts as JSON: ``{name: {"passed", "is_missing", "message", "first_wrong", "text"}}``."""
        return json.dumps(
            {
                name: {
                    "passed": verdict.passed,
                    "is_missing": verdict.is_missing,
                    "message": verdict.message,
                    "first_wrong": verdict.first_wrong,
                    "text": str(verdict),
                }
                for name, verdict in self.verdicts.items()
            }
        )


def progress(lesson: str | int | None = None) -> Progress:
    """What was tried and passed in this session: of one lesson, or (None) of every lesson that was touched.

    Raises:
        ValueError: there is no such lesson.
    """
    if lesson is None:
        touched = [*SESSION.verdicts, *SESSION.hints, *SESSION.predictions]
        known = registry.numbers()
        wanted = [n for n in known if n in {_lesson_of(name) for name in touched}]
    else:
        registry.lesson(lesson)
        wanted = [str(lesson)]
    titles = {n: e.title for number in wanted for n, e in registry.lesson(number).EXERCISES.items()}

    def ours(name: str) -> bool:
        return lesson is None or _lesson_of(name) == str(lesson)

    return Progress(
        verdicts={name: found[-1] for name, found in SESSION.verdicts.items() if ours(name)},
        titles=titles,
        tries={name: len(found) for name, found in SESSION.verdicts.items()},
        hints=dict(SESSION.hints),
        predictions={name: value for name, value in SESSION.predictions.items() if ours(name)},
        measured=dict(SESSION.measured),
    )


def _lesson_of(name: str) -> str:
    """The lesson of an exercise "3.1", a prediction "3.a", a question "quiz 3, seed 7"."""
    return name.removeprefix("quiz ").split(",")[0].split(".")[0].strip()
