"""The real source of library code, read when it is shown."""

from __future__ import annotations

import functools
import inspect
import os
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import workbench

ROOT = Path(workbench.__file__).parent.parent
#: Where links lead, with ``{path}`` and ``{line}``; unset: to the file itself.
LINKS = "WORKBENCH_SOURCE_URL"


@dataclass(frozen=True, repr=False)
class Source:
    """Lines ``first`` to ``last`` of ``path``; ``name`` is what they define."""

    name: str
    path: Path
    first: int
    last: int
    code: str

    @property
    def place(self) -> str:
        """The file as it is named in the project."""
        return self.path.relative_to(ROOT).as_posix() if self.path.is_relative_to(ROOT) else str(self.path)

    @property
    def link(self) -> str:
        template = os.environ.get(LINKS)
        if template:
            return template.format(path=self.place, line=self.first)
        # A path from the notebook works where the notebook server shows the checkout, too.
        if (ROOT / "pyproject.toml").is_file() and Path.cwd().is_relative_to(ROOT):
            return Path(os.path.relpath(self.path, Path.cwd())).as_posix()
        return self.path.as_uri()

    def _repr_markdown_(self) -> str:
        fence = "````" if "```" in self.code else "```"
        return (
            f"`{self.name}`, [{self.place}]({self.link}), lines {self.first} to {self.last}:\n\n"
            f"{fence}python\n{self.code}\n{fence}\n"
        )

    def __repr__(self) -> str:
        return f"# {self.place}, lines {self.first} to {self.last}\n{self.code}"


def show_source(obj: Any, lines: tuple[int, int] | None = None) -> Source:
    """The source of a function, class, method, property or module of a library.

    Args:
        lines: first and last line to show, counted within the object from 1; None: all.

    Raises:
        ValueError: it has no Python source, or ``lines`` lie outside it.
    """
    target = inspect.unwrap(_function(obj))
    try:
        text, start = inspect.getsourcelines(target)
        path = Path(inspect.getsourcefile(target) or "")
    except (TypeError, OSError) as error:
        raise ValueError(f"obj={obj!r}: has no Python source that could be shown ({error})") from None
    start = max(start, 1)
    if lines is not None:
        first, last = lines
        if not 1 <= first <= last <= len(text):
            raise ValueError(f"lines={lines}: allowed are 1 to {len(text)}, the first not after the last")
        text, start = text[first - 1 : last], start + first - 1
    code = inspect.cleandoc("\n" + "".join(text)) if text else ""
    name = target.__name__ if isinstance(target, ModuleType) else getattr(target, "__qualname__", repr(obj))
    return Source(name, path, start, start + len(text) - 1, code)


def _function(obj: Any) -> Any:
    """What has a source: of a property its getter, of a Triton kernel its Python function, of an object its class."""
    if isinstance(obj, property):
        return obj.fget
    if isinstance(obj, functools.partial | functools.cached_property):
        return obj.func
    if not isinstance(obj, type | ModuleType) and hasattr(obj, "fn") and callable(obj.fn):
        return obj.fn
    if inspect.isroutine(obj) or isinstance(obj, type | ModuleType):
        return obj
    return type(obj)
