"""What a student's code raised, or why it was stopped, in words: which call, which line, and what may be the cause."""

from __future__ import annotations

import linecache
import reprlib
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from workbench.course.limits import Stopped
from workbench.course.verdict import Verdict
from workbench.course.whose import is_library

_LONGEST_ARGUMENT = 60


@dataclass(frozen=True)
class Blame:
    """The student's part of a traceback.

    Attributes:
        outer: the frame that the grader called.
        inner, line: the frame that ran last, and its line.
        is_recursive: the innermost function is in it more than once.
    """

    outer: FrameType
    inner: FrameType
    line: int
    is_recursive: bool

    @property
    def place(self) -> str:
        """The line: "in its line 3: `while True:`", with the cell or file if that is known."""
        code = linecache.getline(self.inner.f_code.co_filename, self.line).strip()
        cell = _cell(self.inner.f_code.co_filename)
        where = f"in line {self.line} of {cell}" if cell else f"in its line {self.line}"
        return f"{where}: `{code}`" if code else where

    @property
    def call(self) -> str:
        """The call by the grader, with its arguments as they are now."""
        code, names = self.outer.f_code, self.outer.f_locals
        given = [name for name in _parameters(code) if name in names and name not in ("self", "cls")]
        return f"{self.name}({', '.join(f'{name}={_short(names[name])}' for name in given)})"

    @property
    def name(self) -> str:
        name = self.outer.f_code.co_name
        return "your function" if name == "<lambda>" else name


def blame(error: BaseException, grade: Callable[..., Any]) -> Blame | None:
    """Whose frames of the traceback are neither the grader's nor a library's; None: none is."""
    grader = getattr(getattr(grade, "__code__", None), "co_filename", "")
    frames = [
        (frame, line)
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename != grader and not is_library(frame.f_code.co_filename)
    ]
    if not frames:
        return None
    inner, line = frames[-1]
    return Blame(frames[0][0], inner, line, sum(frame.f_code is inner.f_code for frame, _ in frames) > 1)


def failure(error: Exception, guilty: Blame | None) -> Verdict:
    """The verdict on an answer that raised ``error``."""
    words = f"`{type(error).__name__}: {error}`" if str(error) else f"`{type(error).__name__}`"
    if guilty is None:
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}, line {last.lineno}"
        return Verdict(
            False,
            f"Your answer could not be used: {words} ({where}). Are its arguments and its result those asked for?",
        )
    if isinstance(error, RecursionError) and guilty.is_recursive:
        message = (
            f"Your code calls itself without end (`RecursionError`), {guilty.place}. Which call should be the last, "
            "and what makes sure that it is reached?"
        )
        return Verdict(False, message, first_wrong=guilty.call)
    if isinstance(error, MemoryError):
        message = f"Your code asked for more memory than there is ({words}), {guilty.place}."
        return Verdict(False, message, first_wrong=guilty.call)
    return Verdict(False, f"Your code raised {words} {guilty.place}")


def stopped(stop: Stopped, guilty: Blame | None, number: str) -> Verdict:
    """The verdict on a check of exercise ``number`` that took too much."""
    took = f"{stop.seconds:.0f} s"
    longer = f'`check("{number}", ..., limit={10 * max(1, round(stop.seconds / 5))})`'
    if guilty is None:
        what = f"had grown by {stop.grown / 1e9:.1f} GB" if stop.grown else f"was still running after {took}"
        return Verdict(
            False, f"The check {what}, but not in your code: it was stopped. A busy machine may need longer: {longer}."
        )
    name = guilty.name if guilty.name == "your function" else f"your `{guilty.name}`"
    if stop.grown:
        message = (
            f"The check was stopped: after {took} {name} had taken {stop.grown / 1e9:.1f} GB of memory. It was "
            f"{guilty.place}. Something may grow in a loop that never ends."
        )
    else:
        message = (
            f"The check was stopped: {name} was still running after {took}. It was {guilty.place}. A loop may never "
            f"end: what must change in it so that it does? (If it does end, and is only slow: {longer}.)"
        )
    return Verdict(False, message, first_wrong=f"the call {guilty.call}, its arguments as they were then")


def _cell(filename: str) -> str:
    """The notebook's cell, "cell [12]", or the name of a file; empty if it is neither."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    named = getattr(getattr(shell, "compile", None), "format_code_name", lambda name: None)(filename)
    if named:
        return "cell " + str(named[-1]).removeprefix("In ").removeprefix("In")
    return Path(filename).name if Path(filename).suffix == ".py" and Path(filename).is_file() else ""


def _parameters(code: CodeType) -> tuple[str, ...]:
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def _short(value: Any) -> str:
    """A value in a few characters, without walking through all of something huge; else its type."""
    short = reprlib.Repr()
    short.maxlist = short.maxtuple = short.maxdict = short.maxdeque = short.maxset = 8
    short.maxother = 2 * _LONGEST_ARGUMENT
    try:
        text = short.repr(value)
    except Exception:
        text = ""
    is_short = text and len(text) <= _LONGEST_ARGUMENT and "\n" not in text and not text.startswith("<")
    return text if is_short else f"<{type(value).__name__}>"
