"""The tab "Learn" as HTML and data."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from workbench.glossary import GLOSSARY
from workbench.views.palette import request_color
from workbench_app.learn import LEARN_CSS, LEARN_SCRIPTS, learn_head, learn_html, notebooks
from workbench_app.learn_help import CONTROL_HELP, PAGE_HELP
from workbench_app.learn_tours import TOURS


def test_every_term_is_there_with_its_anchor_and_no_link_leads_nowhere() -> None:
    html = learn_html()
    ids = re.findall(r'id="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert {term.anchor for term in GLOSSARY} <= set(ids)
    assert set(re.findall(r'href="#([^"]+)"', html)) <= set(ids)
    assert set(re.findall(r'aria-labelledby="([^"]+)"', html)) <= set(ids)
    assert request_color(0) in html
    assert "http" not in html


def test_the_head_holds_the_data_and_nothing_ends_the_script() -> None:
    head = learn_head(lambda path: "x/" + path.name)
    text = head.removeprefix("<script>window.KVW_LEARN = ").split(";</script>")[0]
    data = json.loads(text)
    assert "</" not in text
    assert [tour["id"] for tour in data["tours"]] == [tour.id for tour in TOURS]
    assert len(data["help"]) == len(PAGE_HELP)
    assert re.findall(r'src="x/([^"]+)"', head) == [path.name for path in LEARN_SCRIPTS]
    assert all(path.is_file() for path in (*LEARN_SCRIPTS, LEARN_CSS))


def test_tours_and_help_are_whole() -> None:
    assert len({tour.id for tour in TOURS}) == len(TOURS)
    for tour in TOURS:
        for step in tour.steps:
            assert bool(step.task) == (step.done is not None), step.title
            assert 1 <= len(re.findall(r"[.?!](?=\s|$)", step.text)) <= 3, step.title
    assert len({entry.key for entry in PAGE_HELP}) == len(PAGE_HELP)
    assert all(entry.says.endswith(".") for entry in PAGE_HELP)
    assert all(text.endswith(".") for text in CONTROL_HELP.values())
    assert all(entry.label for entry in PAGE_HELP if entry.mark)


def test_the_course_is_what_lies_in_the_folder(tmp_path: Path) -> None:
    assert notebooks(tmp_path / "none") == []
    assert "not part of this version" in learn_html(tmp_path)
    cell = {"cell_type": "markdown", "source": ["text\n", "# Pages & <blocks>\n", "more"]}
    (tmp_path / "01_pages.ipynb").write_text(json.dumps({"cells": [{"cell_type": "code", "source": []}, cell]}))
    (tmp_path / "02_broken_file.ipynb").write_text("{")
    assert notebooks(tmp_path) == [("01_pages.ipynb", "Pages & <blocks>"), ("02_broken_file.ipynb", "02 broken file")]
    html = learn_html(tmp_path)
    assert "Pages &amp; &lt;blocks&gt; <code>tutorials/01_pages.ipynb</code>" in html
    assert "not part of this version" not in html
    title = {"cell_type": "markdown", "source": ["# 12. Far & wide"]}
    (tmp_path / "12_far.ipynb").write_text(json.dumps({"cells": [title]}))
    assert '<li value="12">Far &amp; wide <code>tutorials/12_far.ipynb</code></li>' in learn_html(tmp_path)


@pytest.mark.parametrize(
    "label", ["Reservation", "Pool size", "Block size", "Longest sequence", "Output length", "Seed"]
)
def test_controls_have_help(label: str) -> None:
    assert len(CONTROL_HELP[label]) > 20
