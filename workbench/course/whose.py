"""Whose code it is that runs: a student's, or a library's."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import workbench

_PACKAGE = Path(workbench.__file__).parent
_LIBRARIES = (
    _PACKAGE,
    _PACKAGE.parent / "kernels",
    *(Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib", "platlib")),
)


def is_library(filename: str) -> bool:
    """Whether code with this file name is Python's, an installed package's or this project's; else it is a student's.

    A notebook's cells have names of files that do not exist, mostly in the system's folder for temporary files.
    """
    return filename.startswith("<frozen ") or any(library in Path(filename).parents for library in _LIBRARIES)
