"""QuizBox: a question asked, answered and followed by another one, without a front end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from workbench.widgets import QuizBox


@dataclass
class Said:
    words: str

    def _repr_html_(self) -> str:
        return f"<p>{self.words}</p>"


@dataclass
class Sum:
    """A question that looks like those of the course."""

    seed: int
    choices: tuple[str, ...] = ()
    lesson: str = "3"

    @property
    def text(self) -> str:
        return f"How much is {self.seed} + 1 <b>?"

    def answer(self, given: Any) -> Said:
        return Said("none yet" if given is None else "right" if given == str(self.seed + 1) else "wrong")

    def solution(self) -> Said:
        return Said(str(self.seed + 1))


def test_ask_answer_solve_and_go_on() -> None:
    box = QuizBox(Sum(4), make=Sum)
    assert "Question 4 of lesson 3" in box._text.value
    assert "&lt;b&gt;" in box._text.value
    box.answer.click()
    assert box.verdict.words == "none yet"
    box.input.value = "7"
    box.answer.click()
    assert box.verdict.words == "wrong"
    assert "<p>wrong</p>" in box._said.value
    box.input.value = "5"
    box._on_message(None, {"event": "submit"}, [])  # the return key
    assert box.verdict.words == "right"
    box.solution.click()
    assert "<p>5</p>" in box._said.value
    box.next.click()
    assert box.question == Sum(5)
    assert box.verdict is None
    assert box._said.value == ""
    assert box.input.value == ""


def test_choices_become_a_list() -> None:
    box = QuizBox(Sum(4, ("4", "5")))
    assert box.next.disabled
    assert box.input.value is None
    box.input.value = "5"
    box.answer.click()
    assert box.verdict.words == "right"


def test_elsewhere_it_is_text_and_other_things_are_refused() -> None:
    assert QuizBox(Sum(1))._repr_mimebundle_() == {"text/plain": "How much is 1 + 1 <b>?"}
    with pytest.raises(TypeError, match="question=3: must have"):
        QuizBox(3)  # type: ignore[arg-type]
