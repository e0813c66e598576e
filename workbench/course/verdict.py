"""What a check found: passed or not, yours beside what was expected, and the first place where they differ."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from workbench.course.words import BAD, GOOD, Said, box, shown, to_html

#: Rows shown of a long list, so that the first wrong one is among them.
_ROWS = 12


@dataclass(frozen=True, repr=False)
class Verdict(Said):
    """The outcome of one check.

    Attributes:
        passed: also what ``bool(verdict)`` says.
        message: what was found, in one or two sentences.
        yours, expected: what the answer gave and what it should have given; None if there is nothing to compare. Two
            lists or two mappings are shown row by row.
        first_wrong: the first place where they differ, in words: "page 3", "token 17", "step 4".
        seed: of the workload on which it failed.
        exercise: its number, filled in by `check`.
        is_missing: nothing was written yet.
        next_hint: the call that gives the next hint; empty if there is none.
    """

    passed: bool
    message: str
    yours: Any = None
    expected: Any = None
    first_wrong: str | None = None
    seed: int | None = None
    exercise: str = ""
    is_missing: bool = False
    next_hint: str = ""

    def __bool__(self) -> bool:
        return self.passed

    @property
    def _heading(self) -> str:
        state = "✓ passed" if self.passed else "… not written yet" if self.is_missing else "✗ not yet"
        return f"{self.exercise}: {state}" if self.exercise else state

    @property
    def _has_values(self) -> bool:
        return not self.passed and (self.yours is not None or self.expected is not None)

    def _tail(self) -> str:
        parts = []
        if self.seed is not None and not self.passed and not self.is_missing and self.exercise:
            parts.append(f'The same workload again: `check("{self.exercise}", ..., seed={self.seed})`.')
        if self.next_hint:
            parts.append(f"Stuck? `{self.next_hint}`")
        return " ".join(parts)

    def _plain(self) -> str:
        lines = [f"{self._heading}. {self.message}".rstrip()]
        if self.first_wrong and not self.passed:
            lines.append(f"First wrong: {self.first_wrong}.")
        if self._has_values:
            rows = _rows(self.yours, self.expected)
            widths = [max(map(len, texts)) for texts in ([r[0] for r in rows], [r[1] for r in rows])]
            for place, yours, expected, differs in rows:
                cells = f"{place:<{widths[0]}}  {yours:<{widths[1]}}  {expected}".strip()
                lines.append(f"  {'≠' if differs else ' '} {cells}".rstrip())
        if self._tail():
            lines.append(self._tail())
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        body = to_html(f"**{self._heading}.** {self.message}")
        if self.first_wrong and not self.passed:
            body += to_html(f"First wrong: **{self.first_wrong}**.")
        if self._has_values:
            body += _table(_rows(self.yours, self.expected))
        if self._tail():
            body += to_html(self._tail())
        return box(GOOD if self.passed else BAD, body)


Row = tuple[str, str, str, bool]


def _rows(yours: Any, expected: Any) -> list[Row]:
    """Heading and rows: place, yours, expected, whether they differ."""
    head: Row = ("", "yours", "expected", False)
    if isinstance(yours, Mapping) and isinstance(expected, Mapping):
        keys = [*expected, *(key for key in yours if key not in expected)]
        rows = [_row(shown(key), yours.get(key, "-"), expected.get(key, "-")) for key in keys]
    elif _is_list(yours) and _is_list(expected):
        rows = [
            _row(str(i), yours[i] if i < len(yours) else "-", expected[i] if i < len(expected) else "-")
            for i in range(max(len(yours), len(expected)))
        ]
    else:
        return [head, _row("", yours, expected)]
    return [head, *_cut(rows)]


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _row(place: str, yours: Any, expected: Any) -> Row:
    left, right = shown(yours), shown(expected)
    return place, left, right, left != right


def _cut(rows: list[Row]) -> list[Row]:
    if len(rows) <= _ROWS:
        return rows
    first = next((i for i, row in enumerate(rows) if row[3]), 0)
    start = max(0, min(first - _ROWS // 2, len(rows) - _ROWS))
    kept = rows[start : start + _ROWS]
    if start:
        kept = [(f"(0 to {start - 1} agree)", "", "", False), *kept]
    after = len(rows) - start - _ROWS
    return [*kept, (f"({after} more)", "", "", False)] if after else kept


def _table(rows: list[Row]) -> str:
    def cells(row: Row, tag: str) -> str:
        mark = "≠" if row[3] else ""
        weight = "font-weight:bold;" if row[3] else ""
        style = f"style='text-align:left;padding:.1em .8em;font-family:monospace;white-space:pre-wrap;{weight}'"
        return "".join(f"<{tag} {style}>{html.escape(text)}</{tag}>" for text in (row[0], row[1], row[2], mark))

    head = f"<tr>{cells(rows[0], 'th')}</tr>"
    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in rows[1:])
    return f"<table>{head}{body}</table>"
