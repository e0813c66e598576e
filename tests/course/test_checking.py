"""What a student sees: verdicts that never raise, hints in steps, predictions beside what came out, the real source."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.course.conftest import right
from workbench.course import check, compare, hint, predict, progress, quiz, registry, reveal, show_source
from workbench.course.exercise import Question
from workbench.memory import eviction

pytestmark = pytest.mark.usefixtures("lesson90")


def wrong(num_tokens: int, page_size: int) -> int:
    return num_tokens // page_size


def unwritten(num_tokens: int, page_size: int) -> int:
    raise NotImplementedError("pages of a sequence")


def crashing(num_tokens: int, page_size: int) -> int:
    return [1, 2][num_tokens + 2]


def test_a_right_answer_passes_on_every_workload() -> None:
    verdict = check("90.1", right)
    assert verdict
    assert verdict.exercise == "90.1"
    assert "5 workloads" in str(verdict)
    assert progress("90").passed == ["90.1"]
    assert "1 of 1 exercises passed" in str(progress("90"))


def test_a_wrong_answer_is_shown_beside_the_expected_with_the_first_wrong_place() -> None:
    verdict = check("90.1", wrong)
    assert not verdict
    assert verdict.first_wrong is not None
    assert verdict.first_wrong.startswith("sequence ")
    place = int(verdict.first_wrong.split()[1])
    assert verdict.yours[place] + 1 == verdict.expected[place]
    assert verdict.yours[:place] == verdict.expected[:place]
    assert verdict.next_hint == 'hint("90.1")'
    for text in (str(verdict), verdict._repr_html_()):
        assert "≠" in text
        assert "yours" in text
        assert "Count the last page, too." in text
    assert check("90.1", wrong, seed=verdict.seed).first_wrong == verdict.first_wrong


@pytest.mark.parametrize("answer", [None, ..., unwritten])
def test_a_missing_answer_gets_the_first_hint(answer: Any) -> None:
    verdict = check("90.1", answer)
    assert verdict.is_missing
    assert "not written yet" in str(verdict)
    assert "A page may be partly filled." in str(verdict)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (crashing, "IndexError: list index out of range` in line"),
        (lambda: 1, "Your answer could not be used: `TypeError"),
        (7, "Your answer could not be used: `TypeError: 'int' object is not callable`"),
    ],
)
def test_an_answer_that_fails_is_a_verdict(answer: Any, words: str) -> None:
    verdict = check("90.1", answer)
    assert not verdict.passed
    assert words in verdict.message
    if answer is crashing:
        assert "[1, 2][num_tokens + 2]" in verdict.message


def test_an_answer_is_shown_as_text_never_as_html() -> None:
    verdict = check("90.1", lambda tokens, size: "<script>alert(1)</script>")
    assert "<script>" not in verdict._repr_html_()
    assert "&lt;script&gt;" in verdict._repr_html_()


def test_hints_come_in_steps() -> None:
    assert "Hint 1 of 2" in str(hint("90.1"))
    second = hint("90.1")
    assert second.text == "Divide and round up."
    assert check("90.1", wrong).next_hint == ""
    assert hint("90.1").index == 2
    assert "2 hints" in str(progress())


def test_numbers_that_do_not_exist_name_those_that_do() -> None:
    with pytest.raises(ValueError, match=r"exercise='90\.9': lesson 90 has 90\.1"):
        check("90.9", right)
    with pytest.raises(ValueError, match=r"lesson='91': there is no such lesson; allowed are .*90"):
        quiz("91", 0)
    with pytest.raises(ValueError, match="seed=-1"):
        quiz("90", -1)


def test_questions_are_made_from_their_seed() -> None:
    first, again, other = quiz("90", 1), quiz(90, 1), quiz("90", 2)
    assert str(first.text) == str(again.text) != str(other.text)
    assert first.answer(first.expected)
    assert first.answer(str(first.expected)).passed
    assert not first.answer(0)
    assert first.answer().is_missing
    assert str(first.expected) in str(first.solution())
    assert "quiz 90, seed 1" in progress().verdicts
    assert str(first.next().text) == str(other.text)


@pytest.mark.parametrize(
    ("expected", "choices", "good", "bad"),
    [
        ([7, 1, 3], (), ["7, 1, 3", (7, 1, 3), [7, 1, 3]], ["7 1", [1, 7, 3], "page"]),
        ("swap", ("swap", "recompute"), ["swap", 1, "a", "A)", "sw"], ["b", "recompute", 3, "", "x"]),
        (0.5, (), [0.5, "0.5"], ["half", 0.6, True]),
        (True, (), ["yes", True, "True"], ["no", 1, "maybe"]),
        ("page 3", (), ["Page 3", " page 3 "], ["page 4"]),
    ],
)
def test_answers_to_questions(expected: Any, choices: tuple[str, ...], good: list[Any], bad: list[Any]) -> None:
    question = Question("?", expected, "Because.", choices)
    assert [given for given in good if not question.answer(given)] == []
    assert [given for given in bad if question.answer(given)] == []


@pytest.mark.parametrize(
    ("value", "unit", "found", "found_unit", "words"),
    [
        (3.2, "MB", 6.4, "MB", "you predicted 3.2 MB, measured 6.4 MB: your guess is 0.5 times that."),
        (1000, "kB", 1, "MB", "you predicted 1,000 kB, measured 1 MB: a hit."),
        (None, "", 4, "pages", "measured 4 pages; you made no prediction."),
        ("swap", "", "recompute", "", "not the same."),
        (0, "", 0, "", "the same."),
        ("three", "", 3, "", "you predicted three, measured 3."),
    ],
)
def test_a_prediction_beside_what_was_measured(value: Any, unit: str, found: Any, found_unit: str, words: str) -> None:
    said = predict("90.a", value, unit)
    assert ("nothing yet" in str(said)) == (value is None)
    assert str(reveal("90.a", found, found_unit)).endswith(words)


def test_compare_finds_places_within_lists_and_mappings() -> None:
    import torch

    assert compare(torch.tensor([[1.0, 2.0]]), [[1.0, 2.0 + 1e-7]], tolerance=1e-5)
    assert compare({"a": [1, 2], "b": 3}, {"a": [1, 4], "b": 3}, "table").first_wrong == "table a, 1"
    assert compare({}, {7: 1}, "page").first_wrong == "page 7"
    assert compare([1], [1, 2], "token").first_wrong == "token 1"
    assert not compare(object(), 3)
    long = compare(list(range(100)), [*range(60), 0, *range(61, 100)], "page")
    assert len(str(long).splitlines()) < 20
    assert "  ≠ 60" in str(long)


@pytest.mark.parametrize("obj", [registry.exercise, Question, Question.text, eviction, Question("?", 1, "")])
def test_show_source_reads_the_file(obj: Callable[..., Any]) -> None:
    source = show_source(obj)
    lines = source.path.read_text(encoding="utf-8").splitlines()
    assert source.code.splitlines()[0].strip() == lines[source.first - 1].strip()
    assert source.code.splitlines()[-1].strip() == lines[source.last - 1].strip()
    assert source.place.startswith("workbench/")
    assert f"]({source.link})" in source._repr_markdown_()


def test_show_source_of_some_lines() -> None:
    source = show_source(registry.exercise, (2, 4))
    assert source.last == source.first + 2
    with pytest.raises(ValueError, match="allowed are 1 to"):
        show_source(registry.exercise, (1, 999))
    with pytest.raises(ValueError, match="no Python source"):
        show_source(len)
