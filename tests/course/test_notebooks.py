"""Every notebook of the course, run headless and without a network: both versions, one kernel per lesson."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from workbench.course import registry
from workbench.course.build import VERSIONS, build, notebook_path, sources
from workbench.course.execute import Kernel, kernel
from workbench.course.folders import course_folder, lesson_names
from workbench.course.grading import faults, run_version

DATA = Path(__file__).parent / "data"
COURSE = course_folder()
LIMIT_SECONDS = 90

pytestmark = [pytest.mark.course, pytest.mark.timeout(240)]


def test_the_notebooks_are_what_the_sources_make() -> None:
    if not sources(COURSE):
        pytest.skip("no lesson yet")
    built = build(COURSE, check=True)
    assert built.is_clean, f"workbench course build: {built}"


@pytest.mark.parametrize("name", lesson_names(COURSE))
def test_a_lesson(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    began = time.perf_counter()
    with kernel() as python:
        start = time.perf_counter() - began
        runs = {version: run_version(python, COURSE, name, version) for version in VERSIONS}
    found = {version: faults(run, version) for version, run in runs.items()}
    words = [f"{version} {run.seconds:.1f} s ({run.cpu_seconds:.1f} s of CPU)" for version, run in runs.items()]
    with capsys.disabled():
        print(f"\n{name}: kernel {start:.1f} s, {', '.join(words)}")
    assert found == {version: [] for version in VERSIONS}
    # Far more than any needs (docs/benchmarks.md), and of CPU time: what it finds is a cell that has become endless.
    assert max(run.cpu_seconds for run in runs.values()) < LIMIT_SECONDS


def test_versions_run_in_one_kernel_without_knowing_of_each_other(tmp_path: Path) -> None:
    registry.register(90, "tests.course.data.lesson90")
    (tmp_path / "source").mkdir()
    source = DATA / "source" / "90_pages.py"
    (tmp_path / "source" / source.name).write_bytes(source.read_bytes())
    build(tmp_path)
    with kernel() as python:
        student = run_version(python, tmp_path, "90_pages", "student")
        key = run_version(python, tmp_path, "90_pages", "key")
        refused = _try_the_network(python, tmp_path)
    registry._ELSEWHERE.clear()
    assert "the course uses no network" in refused
    assert [(error.name, error.is_intended) for error in key.errors] == [("IndexError", True)]
    assert student.verdicts["90.1"].is_missing
    assert "A page may be partly filled." in student.verdicts["90.1"].text
    assert key.verdicts["90.1"].passed
    assert key.verdicts["quiz 90, seed 3"].passed
    shown = str(key.notebook.cells)
    assert "measured 7 pages; you made no prediction" in shown
    assert "text/markdown" in shown


def _try_the_network(python: Kernel, folder: Path) -> str:
    import nbformat.v4

    code = "import urllib.request\nurllib.request.urlopen('http://192.0.2.1/', timeout=1)"
    run = python.run(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)]), "network", folder)
    return run.errors[0].message


def test_faults_are_told_in_words(tmp_path: Path) -> None:
    registry.register(90, "tests.course.data.lesson90")
    (tmp_path / "source").mkdir()
    text = (DATA / "source" / "90_pages.py").read_text(encoding="utf-8")
    text = text.replace('check("90.1", pages_of)', "1 / 0").replace("-(-num_tokens", "(num_tokens")
    (tmp_path / "source" / "90_pages.py").write_text(text, encoding="utf-8")
    build(tmp_path)
    with kernel() as python:
        run = run_version(python, tmp_path, "90_pages", "key")
    found = faults(run, "key")
    registry._ELSEWHERE.clear()
    assert found == [
        "cell 6 raises ZeroDivisionError: division by zero",
        "exercise 90.1 is never checked",
    ]
    assert notebook_path(tmp_path, "90_pages", "key").parent.name == "key"
