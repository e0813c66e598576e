"""Where the course lies: `tutorials/` in a checkout, within the package when installed from a wheel."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import workbench

_PACKAGE = Path(workbench.__file__).parent
_CHECKOUT = _PACKAGE.parent / "tutorials"
_INSTALLED = _PACKAGE / "course" / "notebooks"


def course_folder() -> Path:
    """The folder with the notebooks.

    Raises:
        FileNotFoundError: the notebooks are not there.
    """
    if (_PACKAGE.parent / "pyproject.toml").is_file() and _CHECKOUT.is_dir():
        return _CHECKOUT
    if _INSTALLED.is_dir():
        return _INSTALLED
    raise FileNotFoundError(f"the course's notebooks are missing: neither {_CHECKOUT} nor {_INSTALLED} is there")


def lesson_names(folder: Path) -> list[str]:
    """Names of the lessons that have a student's notebook: "03_pages"."""
    return sorted(path.stem for path in folder.glob("[0-9][0-9]_*.ipynb"))


def pick_lessons(folder: Path, only: Iterable[str] = ()) -> list[str]:
    """Lessons by the beginnings of their names ("03"); all of them for none.

    Raises:
        ValueError: there is none of that name.
    """
    names, wanted = lesson_names(folder), tuple(only)
    for word in wanted:
        if not any(name.startswith(word) for name in names):
            raise ValueError(f"lesson={word!r}: no such notebook in {folder}; there are {', '.join(names) or 'none'}")
    return [name for name in names if not wanted or name.startswith(wanted)]
