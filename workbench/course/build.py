"""Notebooks from sources: one jupytext "percent" file becomes a student's notebook and an answer key, without outputs.

Within a function, ``### BEGIN SOLUTION`` to ``### END SOLUTION`` stays in the key and becomes a
``raise NotImplementedError`` for the student. Text after ``BEGIN SOLUTION`` is the error's message. The same
sources always make the same bytes.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Version = Literal["student", "key"]
VERSIONS: tuple[Version, ...] = ("student", "key")
MAX_LINES = 15
_NAME = re.compile(r"\d\d_[a-z0-9_]+")
_CELL = re.compile(r"# ?%%")
_BEGIN = re.compile(r"(?P<indent>\s*)### BEGIN SOLUTION\b[ :]*(?P<words>.*)")
_END = re.compile(r"(?P<indent>\s*)### END SOLUTION\s*")
#: What looks like a marker, but is none of the two above.
_ALMOST = re.compile(r"\s*#+\s*(BEGIN|END)\b.*(SOLUTION|HIDDEN)", re.IGNORECASE)
_WORDS = "your code here"


class SourceError(ValueError):
    """Something in a lesson's source is wrong; says the file, the cell (from 1) and the line."""


@dataclass(frozen=True)
class _Cell:
    """One cell of a source: ``line`` is where its first line stands in ``file``; ``index`` counts from 1."""

    file: Path
    index: int
    line: int
    kind: str
    source: str
    metadata: dict[str, Any]

    def error(self, message: str, offset: int = 0) -> SourceError:
        return SourceError(f"{self.file}, cell {self.index}, line {self.line + offset}: {message}")


def sources(folder: Path) -> list[Path]:
    """The lessons' sources in ``folder/source``, in order."""
    return sorted(path for path in (folder / "source").glob("*.py") if path.name != "__init__.py")


def notebook_path(folder: Path, name: str, version: Version) -> Path:
    return folder / f"{name}.ipynb" if version == "student" else folder / "key" / f"{name}.ipynb"


def make_notebook(source: Path, version: Version) -> Any:
    """The notebook (nbformat 4.5) that a source makes.

    Raises:
        SourceError: a marker, a cell's length, the title or the file's name is wrong.
        OSError: the source can't be read.
    """
    import nbformat.v4

    cells = _read(source)
    _require_title(source, cells)
    made: list[Any] = []
    ids: set[str] = set()
    for cell in cells:
        text = _version_of(cell, version) if cell.kind == "code" else cell.source
        if cell.kind == "code":
            _require_short(cell, _version_of(cell, "key"))
        elif cell.index == 1 and version == "key":
            text += "\n\n*Answer key: the exercises are solved here.*"
        new = nbformat.v4.new_code_cell if cell.kind == "code" else nbformat.v4.new_markdown_cell
        made.append(new(text, id=_cell_id(cell, ids), metadata=cell.metadata))
    return nbformat.v4.new_notebook(
        cells=made,
        metadata={
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
    )


def notebook_text(source: Path, version: Version) -> str:
    """The same as the text of an ``.ipynb`` file.

    Raises:
        SourceError: as for `make_notebook`.
    """
    import nbformat

    notebook = make_notebook(source, version)
    nbformat.validate(notebook)
    return str(nbformat.writes(notebook)).rstrip("\n") + "\n"


@dataclass(frozen=True)
class Built:
    """What a build did or, with ``check``, would have done.

    Attributes:
        written: notebooks that were (or have to be) written.
        unchanged: how many were as they should be.
        strays: notebooks that no source makes.
        errors: what is wrong in sources, one line each; their notebooks are left as they are.
    """

    written: list[Path]
    unchanged: int
    strays: list[Path]
    errors: list[str]

    @property
    def is_clean(self) -> bool:
        return not (self.written or self.strays or self.errors)


def build(folder: Path, only: Iterable[str] = (), check: bool = False) -> Built:
    """Makes both versions of every lesson in ``folder``.

    Args:
        only: beginnings of names ("03"); none: all.
        check: writes nothing.

    Raises:
        ValueError: a name in ``only`` is none of a source, or there is no source at all.
    """
    found = sources(folder)
    wanted = tuple(only)
    for name in wanted:
        if not any(path.stem.startswith(name) for path in found):
            raise ValueError(f"lesson={name!r}: no source; there are {', '.join(p.stem for p in found) or 'none'}")
    if not found:
        raise ValueError(f"folder={str(folder)!r}: no lesson in {folder / 'source'}")
    written, errors, unchanged = [], [], 0
    for path in found:
        if wanted and not path.stem.startswith(wanted):
            continue
        try:
            texts = {version: notebook_text(path, version) for version in VERSIONS}
        except SourceError as error:
            errors.append(str(error))
            continue
        for version, text in texts.items():
            target = notebook_path(folder, path.stem, version)
            if target.is_file() and target.read_text(encoding="utf-8") == text:
                unchanged += 1
                continue
            written.append(target)
            if not check:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text, encoding="utf-8", newline="\n")
    names = {path.stem for path in found}
    strays = [p for p in [*folder.glob("*.ipynb"), *folder.glob("key/*.ipynb")] if p.stem not in names]
    return Built(written, unchanged, strays, errors)


def _read(source: Path) -> list[_Cell]:
    import jupytext

    if not _NAME.fullmatch(source.stem):
        raise SourceError(f"{source}, cell 1, line 1: the file's name must be like 03_pages.py")
    text = source.read_text(encoding="utf-8")
    lines = text.splitlines()
    starts = [number for number, line in enumerate(lines, 1) if _CELL.match(line)]
    notebook = jupytext.reads(text, fmt="py:percent")
    if len(starts) != len(notebook.cells):
        raise SourceError(
            f"{source}, cell 1, line 1: {len(notebook.cells)} cells with {len(starts)} '# %%' lines; "
            "the first cell must begin with one"
        )
    cells = []
    for index, (start, cell) in enumerate(zip(starts, notebook.cells, strict=True), 1):
        first = start + 1
        while first <= len(lines) and not lines[first - 1].strip():
            first += 1
        made = _Cell(source, index, first, cell.cell_type, cell.source, dict(cell.metadata))
        if not cell.source.strip():
            raise made.error("the cell is empty")
        if cell.cell_type not in ("code", "markdown"):
            raise made.error(f"a {cell.cell_type} cell; allowed are code and [markdown]")
        if cell.cell_type == "markdown":
            for offset, line in enumerate(cell.source.splitlines()):
                if _ALMOST.match(line):
                    raise made.error("a solution marker in a markdown cell", offset)
        cells.append(made)
    return cells


def _require_title(source: Path, cells: list[_Cell]) -> None:
    number = int(source.stem[:2])
    title = cells[0]
    if title.kind != "markdown" or not title.source.startswith(f"# {number}. "):
        raise title.error(f"the first cell must be markdown and begin with '# {number}. ' and a title")


def _require_short(cell: _Cell, text: str) -> None:
    count = len(text.splitlines())
    if count > MAX_LINES:
        raise cell.error(f"the cell has {count} lines; at most {MAX_LINES} are allowed")


def _version_of(cell: _Cell, version: Version) -> str:
    """The code of a cell with its solutions left in, or taken out."""
    kept: list[str] = []
    raises: dict[int, int] = {}
    begin: tuple[int, str, str] | None = None
    region: list[str] = []
    for offset, line in enumerate(cell.source.splitlines()):
        opening, closing = _BEGIN.fullmatch(line), _END.fullmatch(line)
        if opening:
            if begin is not None:
                raise cell.error("BEGIN SOLUTION within a solution", offset)
            begin, region = (offset, opening["indent"], opening["words"].strip() or _WORDS), []
        elif closing:
            if begin is None:
                raise cell.error("END SOLUTION without a BEGIN", offset)
            _require_region(cell, begin, closing["indent"], region, offset)
            raises[len(kept) + 1] = begin[0]
            words = begin[2].replace("\\", "").replace('"', "'")
            stub = f'{begin[1]}raise NotImplementedError("{words}")'
            kept += region if version == "key" else [stub]
            begin = None
        elif _ALMOST.match(line):
            raise cell.error(f"{line.strip()!r} is no marker; write ### BEGIN SOLUTION and ### END SOLUTION", offset)
        else:
            (kept if begin is None else region).append(line)
    if begin is not None:
        raise cell.error("BEGIN SOLUTION without an END", begin[0])
    text = "\n".join(kept)
    if raises and version == "student":
        _require_within_functions(cell, text, raises)
    return text


def _require_region(cell: _Cell, begin: tuple[int, str, str], indent: str, region: list[str], end: int) -> None:
    if indent != begin[1]:
        raise cell.error("END SOLUTION is not indented as its BEGIN", end)
    if not any(line.strip() and not line.strip().startswith("#") for line in region):
        raise cell.error("the solution is empty", begin[0])
    for offset, line in enumerate(region, begin[0] + 1):
        if line.strip() and not line.startswith(indent):
            raise cell.error("the solution is indented less than its markers", offset)


def _require_within_functions(cell: _Cell, text: str, raises: dict[int, int]) -> None:
    """The student's cell must run as it is: what raises stands within a function."""
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise cell.error(
            f"without its solution the cell is no Python: {error.msg}", next(iter(raises.values()))
        ) from None
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    for line, offset in raises.items():
        if not any(node.body[0].lineno <= line <= (node.end_lineno or 0) for node in functions):
            raise cell.error("a solution must stand within the body of a function or method", offset)


def _cell_id(cell: _Cell, used: set[str]) -> str:
    """Made of the cell's own text, so that an edit changes the ids of no other cells."""
    digest = hashlib.sha256(f"{cell.file.stem}\n{cell.kind}\n{cell.source}".encode()).hexdigest()
    new = next(digest[i : i + 8] for i in range(len(digest) - 8) if digest[i : i + 8] not in used)
    used.add(new)
    return new
