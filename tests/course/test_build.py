"""Notebooks from sources: two versions, always the same bytes, and errors that say where."""

from __future__ import annotations

import re
from pathlib import Path

import nbformat
import pytest

from workbench.cli import main
from workbench.course.build import SourceError, build, make_notebook, notebook_path, notebook_text

DATA = Path(__file__).parent / "data"
SOURCE = DATA / "source" / "90_pages.py"
TITLE = "# %% [markdown]\n# # 3. Pages\n\n"


def test_the_student_gets_an_error_with_words_where_the_key_has_the_solution() -> None:
    student, key = notebook_text(SOURCE, "student"), notebook_text(SOURCE, "key")
    assert "num_tokens // page_size" not in student
    assert r"    raise NotImplementedError(\"divide, and round up\")" in student
    assert "-(-num_tokens // page_size)" in key
    for text in (student, key):
        assert "SOLUTION" not in text
        notebook = nbformat.reads(text, as_version=4)
        assert all(not cell.outputs for cell in notebook.cells if cell.cell_type == "code")
        assert notebook.cells[7].metadata == {"tags": ["raises-exception"]}
        assert [cell.id for cell in notebook.cells] == [c.id for c in make_notebook(SOURCE, "student").cells]


def test_the_same_source_makes_the_same_bytes_and_an_edit_changes_one_id(tmp_path: Path) -> None:
    assert notebook_text(SOURCE, "student") == notebook_text(SOURCE, "student")
    edited = tmp_path / SOURCE.name
    edited.write_text(SOURCE.read_text(encoding="utf-8").replace("[][0]", "[][1]"), encoding="utf-8")
    before, after = (make_notebook(path, "student").cells for path in (SOURCE, edited))
    assert [a.id != b.id for a, b in zip(before, after, strict=True)].count(True) == 1


@pytest.mark.parametrize(
    ("body", "where", "words"),
    [
        ("# %%\nx = 1\n### BEGIN SOLUTION\nx = 2\n### END SOLUTION\n", "cell 2, line 6", "body of a function"),
        ("# %%\ndef f():\n    ### BEGIN SOLUTION\n    return 1\n", "cell 2, line 6", "BEGIN SOLUTION without an END"),
        ("# %%\ndef f():\n    return 1\n    ### END SOLUTION\n", "cell 2, line 7", "END SOLUTION without a BEGIN"),
        ("# %%\ndef f():\n    # BEGIN SOLUTION\n    return 1\n", "cell 2, line 6", "'# BEGIN SOLUTION' is no marker"),
        (
            "# %%\ndef f():\n    ### BEGIN SOLUTION\n    # later\n    ### END SOLUTION\n",
            "cell 2, line 6",
            "the solution is empty",
        ),
        (
            "# %%\ndef f():\n    ### BEGIN SOLUTION\n    return 1\n### END SOLUTION\n",
            "cell 2, line 8",
            "not indented as its BEGIN",
        ),
        ("# %% [markdown]\n# ### BEGIN SOLUTION\n", "cell 2, line 5", "marker in a markdown cell"),
        ("# %%\n" + "x = 1\n" * 16, "cell 2, line 5", "16 lines; at most 15"),
        ("# %%\n\n# %%\nx = 1\n", "cell 2, line ", "the cell is empty"),
    ],
)
def test_what_is_wrong_in_a_source_is_named_with_its_place(tmp_path: Path, body: str, where: str, words: str) -> None:
    path = tmp_path / "03_pages.py"
    path.write_text(TITLE + body, encoding="utf-8")
    with pytest.raises(SourceError, match=f"{re.escape(str(path))}, {where}.*{words}"):
        notebook_text(path, "student")


def test_title_and_name_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "04_pages.py"
    path.write_text(TITLE, encoding="utf-8")
    with pytest.raises(SourceError, match=r"cell 1, line 2: .*begin with '# 4\. '"):
        notebook_text(path, "student")
    path = tmp_path / "pages.py"
    path.write_text(TITLE, encoding="utf-8")
    with pytest.raises(SourceError, match=r"must be like 03_pages\.py"):
        notebook_text(path, "student")


def test_build_writes_what_changed_and_check_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / SOURCE.name).write_bytes(SOURCE.read_bytes())
    command = ["course", "--folder", str(tmp_path), "build"]
    assert main([*command, "--check"]) == 1
    assert not list(tmp_path.glob("**/*.ipynb"))
    assert main(command) == 0
    for version in ("student", "key"):
        assert notebook_path(tmp_path, "90_pages", version).read_text(encoding="utf-8") == notebook_text(
            SOURCE, version
        )
    assert main([*command, "--check", "90"]) == 0
    (tmp_path / "05_old.ipynb").write_text("{}", encoding="utf-8")
    (tmp_path / "source" / "06_bad.py").write_text("x = 1\n", encoding="utf-8")
    built = build(tmp_path)
    assert (built.unchanged, built.strays, len(built.errors)) == (2, [tmp_path / "05_old.ipynb"], 1)
    assert main([*command, "--check"]) == 1
    capsys.readouterr()
    assert main([*command, "07"]) == 2
    assert "lesson='07': no source; there are 06_bad, 90_pages" in capsys.readouterr().err
