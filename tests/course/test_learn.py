"""`workbench learn`: a copy of one's own, in which nothing of a student's is ever lost."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from workbench.cli import main
from workbench.commands.learn import copy_course, jupyter_command
from workbench.course import folders


@pytest.fixture
def course(tmp_path: Path) -> Path:
    course = tmp_path / "course"
    for place in ("README.md", "INSTRUCTOR.md", "01_a.ipynb", "02_b.ipynb", "key/01_a.ipynb", "source/01_a.py"):
        (course / place).parent.mkdir(parents=True, exist_ok=True)
        (course / place).write_text(f"{place} as published", encoding="utf-8")
    return course


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_new_files_only_and_what_was_changed_is_kept(course: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    copy_course(course, mine)
    assert files(mine) == ["01_a.ipynb", "02_b.ipynb", "README.md"]
    (mine / "01_a.ipynb").write_text("my work", encoding="utf-8")
    (mine / "02_b.ipynb").unlink()
    again = copy_course(course, mine, key=True)
    assert [path.name for path in again.kept] == ["01_a.ipynb"]
    assert files(mine) == ["01_a.ipynb", "02_b.ipynb", "INSTRUCTOR.md", "README.md", "key/01_a.ipynb"]
    assert (mine / "01_a.ipynb").read_text(encoding="utf-8") == "my work"
    for old in ("01_a.mine.ipynb", "01_a.mine2.ipynb"):
        (mine / "01_a.ipynb").write_text("my work", encoding="utf-8")
        assert copy_course(course, mine, force=True).replaced == [(mine / "01_a.ipynb", mine / old)]
        assert (mine / old).read_text(encoding="utf-8") == "my work"
        assert (mine / "01_a.ipynb").read_text(encoding="utf-8") == "01_a.ipynb as published"


def test_folders_that_cannot_be_are_refused(course: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(ValueError, match="is a file"):
        copy_course(course, tmp_path / "file")
    with pytest.raises(ValueError, match="lies in the course itself"):
        copy_course(course, course / "key")


def test_the_command_says_what_it_did_and_what_is_missing(
    course: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(folders, "course_folder", lambda: course)
    target = tmp_path / "mine"
    assert main(["learn", str(target), "--copy-only"]) == 0
    assert f"3 new files in {target}" in capsys.readouterr().out
    (target / "01_a.ipynb").write_text("my work", encoding="utf-8")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "jupyterlab" else find(name))
    assert main(["learn", str(target)]) == 2
    said = capsys.readouterr()
    assert f"kept as you have it: {target / '01_a.ipynb'}" in said.out
    assert "jupyterlab is not installed" in said.err
    assert "-m pip install" in said.err
    assert main(["learn", str(target), "--port", "0"]) == 2


def test_jupyterlab_serves_this_machine_only_and_asks_nobody() -> None:
    command = jupyter_command(Path("mine"), "01_a", 9000, True)
    assert "--ServerApp.ip=127.0.0.1" in command
    assert "--ServerApp.port=9000" in command
    assert "--LabApp.news_url=None" in command
    assert "--no-browser" in command
    assert "--no-browser" not in jupyter_command(Path("mine"), "01_a", 9000, False)
