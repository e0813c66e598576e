"""The course as pages with outputs, to read without Python and without a network (`make course`).

Exercises show what a student gets, with the solution folded below; step-throughs become replays that step both ways.
Plotly and the replay's viewer are in each page once, taken from the installed packages.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from workbench.course import edition_cells as cells
from workbench.course.build import notebook_path
from workbench.course.edition_page import Assets, lesson_page, plain_page, source_page
from workbench.course.execute import Kernel, kernel, require
from workbench.course.folders import lesson_names, pick_lessons
from workbench.course.source import LINKS, ROOT

_SOURCES = "source"


@dataclass
class _Edition:
    """What is known while pages are made: ``files`` are those of the project that a page leads to."""

    folder: Path
    root: Path
    output: Path
    titles: dict[str, str]
    files: set[Path] = field(default_factory=set)


def render_course(
    folder: Path,
    output: Path,
    only: Iterable[str] = (),
    timeout: int = 120,
    say: Callable[[str], None] | None = None,
) -> list[Path]:
    """Runs the answer keys in ``folder`` and writes pages into ``output``.

    Args:
        only: beginnings of names ("03"); none: all.
        timeout: seconds that one cell may take.
        say: told about each page.

    Raises:
        ValueError: there are no such lessons.
        RuntimeError: a package is missing, or a cell of a key failed.
        OSError: a file can't be read or written.
    """
    require("nbconvert", "nbclient", "ipykernel")
    names = pick_lessons(folder, only)
    if not names:
        raise ValueError(f"folder={str(folder)!r}: there are no notebooks; make them with: workbench course build")
    edition = _Edition(folder, ROOT, output, {n: _title(folder, n) for n in lesson_names(folder)})
    output.mkdir(parents=True, exist_ok=True)
    pages = []
    for name in names:
        with kernel(timeout, {LINKS: f"{_SOURCES}/{{path}}.html#L-{{line}}"}) as python:
            path = output / f"{name}.html"
            path.write_text(_lesson(python, edition, name), encoding="utf-8")
        pages.append(path)
        if say is not None:
            say(f"{name}: {path.stat().st_size / 1e6:.1f} MB")
    pages.append(_index(edition))
    for path in sorted(edition.files):
        place = path.relative_to(edition.root).as_posix()
        target = output / _SOURCES / f"{place}.html"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(source_page(place, path.read_text(encoding="utf-8")), encoding="utf-8")
    return pages


def _title(folder: Path, name: str) -> str:
    import nbformat

    first = nbformat.read(notebook_path(folder, name, "student"), as_version=4).cells[0].source
    return str(first.splitlines()[0].lstrip("# ").strip())


def _lesson(python: Kernel, edition: _Edition, name: str) -> str:
    import nbformat

    student = nbformat.read(notebook_path(edition.folder, name, "student"), as_version=4)
    key = nbformat.read(notebook_path(edition.folder, name, "key"), as_version=4)
    run = python.run(key, name, edition.folder, cells.SHOW_STEPPERS)
    for error in run.errors:
        if not error.is_intended:
            raise RuntimeError(f"{name}, cell {error.index} of the key: {error.name}: {error.message}")
    late = json.loads(python.ask(cells.LATE_REPLAYS))
    assets = Assets()
    body = [
        cells.cell_html(shown, solved, assets, late, lambda link: _link(edition, link, edition.folder))
        for shown, solved in zip(student.cells, run.notebook.cells, strict=True)
    ]
    order = list(edition.titles)
    place = order.index(name)
    around = [(n, edition.titles[n]) if n else None for n in (_at(order, place - 1), _at(order, place + 1))]
    return lesson_page(edition.titles[name], "\n".join(body), around[0], around[1], assets)


def _at(names: list[str], index: int) -> str | None:
    return names[index] if 0 <= index < len(names) else None


def _link(edition: _Edition, link: str, base: Path) -> str:
    """Where a link of a notebook leads to in the edition: notebooks to pages, files of the project to their text."""
    if re.match(r"[a-z]+:|#", link):
        return link
    target, _, anchor = link.partition("#")
    anchor = f"#{anchor}" if anchor else ""
    if target.startswith(f"{_SOURCES}/") and target.endswith(".html"):
        path = edition.root / target.removeprefix(f"{_SOURCES}/").removesuffix(".html")
        return _noted(edition, path) + anchor if path.is_file() else link
    if target.endswith(".ipynb") and Path(target).stem in edition.titles:
        return f"{Path(target).stem}.html{anchor}"
    if target == "README.md":
        return f"index.html{anchor}"
    path = (base / target).resolve()
    if path.is_file() and path.is_relative_to(edition.root):
        return _noted(edition, path) + anchor
    return link


def _noted(edition: _Edition, path: Path) -> str:
    edition.files.add(path)
    return f"{_SOURCES}/{path.relative_to(edition.root).as_posix()}.html"


def _index(edition: _Edition) -> Path:
    readme = edition.folder / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.is_file() else "# The course\n"
    body = cells.markdown_html(text, lambda link: _link(edition, link, edition.folder))
    rows = "".join(
        f'<li><a href="{name}.html">{html.escape(title)}</a></li>'
        for name, title in edition.titles.items()
        if (edition.output / f"{name}.html").is_file()
    )
    path = edition.output / "index.html"
    lessons = f'<nav aria-label="Lessons"><h2>Lessons in this edition</h2><ul class="lessons">{rows}</ul></nav>'
    path.write_text(plain_page("KV Workbench: the course", body + lessons), encoding="utf-8")
    return path
