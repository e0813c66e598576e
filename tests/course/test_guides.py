"""The guides for students and teachers: what they say of the lessons, and where their links lead."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from workbench.commands.learn import copy_course
from workbench.course.folders import course_folder
from workbench.glossary import find

COURSE = course_folder()
SOURCES = sorted((COURSE / "source").glob("*.py"))


def _rows(text: str) -> dict[int, list[str]]:
    """Cells of table rows that begin with a lesson's number; of several such rows the first."""
    found: dict[int, list[str]] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        number = re.match(r"(\d+)\b", cells[0])
        if line.startswith("| ") and number:
            found.setdefault(int(number[1]), cells)
    return found


def test_minutes_are_the_same_wherever_they_are_said() -> None:
    readme = _rows((COURSE / "README.md").read_text(encoding="utf-8"))
    plan = _rows((COURSE / "INSTRUCTOR.md").read_text(encoding="utf-8"))
    for path in SOURCES:
        lesson = int(path.name[:2])
        text = re.sub(r"\n# ", " ", path.read_text(encoding="utf-8"))
        said = re.search(r"[Aa]bout (\d+) minutes", text)
        assert said, path.name
        minutes = {int(said[1]), int(readme[lesson][2]), sum(map(int, plan[lesson][1:5]))}
        assert len(minutes) == 1, (lesson, minutes)


def test_words_that_lessons_look_up_are_in_the_glossary() -> None:
    words = [word for path in SOURCES for word in re.findall(r'glossary\.find\("(.+?)"\)', path.read_text("utf-8"))]
    assert len(words) >= 9
    for word in words:
        find(word)


@pytest.mark.parametrize("key", [False, True])
def test_links_of_the_copied_guides_lead_somewhere(tmp_path: Path, key: bool) -> None:
    copy_course(COURSE, tmp_path / "mine", key)
    guides = sorted((tmp_path / "mine").glob("*.md"))
    assert [guide.name for guide in guides] == (["INSTRUCTOR.md", "README.md"] if key else ["README.md"])
    links = [link for guide in guides for link in re.findall(r"\]\(([^)#]+)", guide.read_text(encoding="utf-8"))]
    assert len(links) >= 11
    assert [link for link in links if "://" not in link and not (tmp_path / "mine" / link).exists()] == []
