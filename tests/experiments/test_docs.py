"""The code of docs/policies.md runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

DOCUMENT = Path(__file__).parents[2] / "docs" / "policies.md"
BLOCKS = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)


def _run(block: str, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    names: dict[str, Any] = {"__name__": "policies"}
    exec(compile(block, str(DOCUMENT), "exec"), names)
    return names, capsys.readouterr().out


def test_the_page_has_a_policy_of_every_kind() -> None:
    assert [re.findall(r"^class (\w+)", block, re.MULTILINE) for block in BLOCKS] == [
        ["CheapestPerPage"],
        ["UsefulStays"],
        ["MiddleFirst"],
        ["Shortest"],
    ]
    assert max(len(block.splitlines()) for block in BLOCKS) < 25


def test_victim(capsys: pytest.CaptureFixture[str]) -> None:
    names, shown = _run(BLOCKS[0], capsys)
    assert int(shown.split()[0]) > 0
    assert all(output.outputs[0].finish_reason == "length" for output in names["outputs"])


def test_eviction(capsys: pytest.CaptureFixture[str]) -> None:
    _, shown = _run(BLOCKS[1], capsys)
    assert int(shown.split()[0]) >= 3 * 16


def test_placement(capsys: pytest.CaptureFixture[str]) -> None:
    names, shown = _run(BLOCKS[2], capsys)
    assert shown.startswith("120 tokens, ")
    assert names["llm"].page_map.totals.streamed_bytes > 0


def test_leaderboard(capsys: pytest.CaptureFixture[str]) -> None:
    names, shown = _run(BLOCKS[3], capsys)
    assert [row.kind for row in names["rows"]] == ["victim", "victim"]
    assert "| victim | shortest_remaining |" in shown
