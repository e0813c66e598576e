"""The functions, classes and kernels of a lesson's source, solutions included, without running its other cells."""

from __future__ import annotations

import ast
from pathlib import Path
from types import SimpleNamespace
from typing import Any

_SOURCES = Path(__file__).parents[2] / "tutorials" / "source"


def solutions(lesson: str) -> Any:
    """A namespace of what the source of ``lesson`` ("04_attention_over_pages") imports and defines."""
    path = _SOURCES / f"{lesson}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kept = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef)
    tree.body = [node for node in tree.body if isinstance(node, kept)]
    names: dict[str, Any] = {"__name__": lesson}
    # The real file's name and lines, so that Triton finds the source of its kernels.
    exec(compile(tree, str(path), "exec"), names)
    return SimpleNamespace(**names)
