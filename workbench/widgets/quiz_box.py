"""QuizBox: a question with a place for the answer."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import ipywidgets as iw
from IPython import get_ipython


@runtime_checkable
class QuestionLike(Protocol):
    """What a QuizBox asks: a question of `workbench.course.quiz`, or anything that looks like it.

    If it has ``choices``, they become a list to choose from; a ``figure`` is shown below the text; ``next()`` makes
    another question; ``lesson`` and ``seed`` are part of the heading.
    """

    @property
    def text(self) -> Any:
        """The question, shown by its ``_repr_html_`` or as plain text."""

    def answer(self, given: Any) -> Any:
        """Whether an answer is right, as something that can be shown."""

    def solution(self) -> Any:
        """The answer and why, as something that can be shown."""


class QuizBox:
    """A question, a place for the answer, and buttons: Answer, Solution, Next question.

        QuizBox(quiz("3", seed=0))

    The return key answers, too. Without a browser: set ``box.input.value``, call ``box.answer.click()``, and read
    ``box.verdict``. What each front end needs is said at `Stepper`.

    Args:
        question: see `QuestionLike`.
        make: makes the question of a seed; None: the question's own ``next()`` if it has one.
        seed: of this question, if it does not say.

    Attributes:
        question: the one that is shown.
        verdict: what the last answer got; None before.
        input, answer, solution, next: widgets.
    """

    def __init__(
        self, question: QuestionLike, make: Callable[[int], QuestionLike] | None = None, seed: int = 0
    ) -> None:
        if not isinstance(question, QuestionLike):
            raise TypeError(f"question={question!r}: must have .text, .answer(x) and .solution(), as quiz(...) gives")
        self._make = make
        self.question, self.seed = question, int(getattr(question, "seed", seed))
        self.verdict: Any = None
        self.answer = iw.Button(description="Answer", button_style="primary", layout=iw.Layout(width="auto"))
        self.solution = iw.Button(description="Solution", layout=iw.Layout(width="auto"))
        self.next = iw.Button(description="Next question", layout=iw.Layout(width="auto"))
        self._text, self._said = iw.HTML(), iw.HTML()
        self._figure = iw.Output()
        self.input: iw.Text | iw.RadioButtons = iw.Text()
        self._place = iw.Box([])
        buttons = iw.HBox([self.answer, self.solution, self.next], layout=iw.Layout(flex_flow="row wrap"))
        self.widget = iw.VBox([self._text, self._figure, self._place, buttons, self._said])
        self.answer.on_click(lambda button: self._answer())
        self.solution.on_click(lambda button: self._show_solution())
        self.next.on_click(lambda button: self._next())
        self._show()

    def _show(self) -> None:
        question, self.verdict = self.question, None
        lesson = getattr(question, "lesson", "")
        name = f"Question {self.seed} of lesson {lesson}" if lesson else f"Question {self.seed}"
        choices: Sequence[str] = getattr(question, "choices", ())
        # The choices are in the text, too: the list is where one is chosen.
        asked = getattr(question, "question", None) if choices else None
        shown = _plain_html(asked) if isinstance(asked, str) else _html(question.text)
        self._text.value = f'<div role="heading" aria-level="4"><b>{html.escape(name)}</b></div>{shown}'
        if choices:
            self.input = iw.RadioButtons(options=list(choices), value=None, layout=iw.Layout(width="auto"))
        else:
            self.input = iw.Text(description="Answer", placeholder="a number, a word, or 7, 1, 3")
            self.input.on_msg(self._on_message)
        self._place.children = (self.input,)
        self._said.value = ""
        figure = getattr(question, "figure", None)
        bundle = _figure_bundle(figure)
        self._figure.outputs = (
            ({"output_type": "display_data", "data": bundle, "metadata": {}},) if bundle is not None else ()
        )
        self.next.disabled = self._make is None and not callable(getattr(question, "next", None))

    def _on_message(self, widget: Any, content: Any, buffers: Any) -> None:
        if isinstance(content, dict) and content.get("event") == "submit":
            self._answer()

    def _answer(self) -> None:
        given = self.input.value
        self.verdict = self.question.answer(given if given not in (None, "") else None)
        self._said.value = f'<div role="status">{_html(self.verdict)}</div>'

    def _show_solution(self) -> None:
        self._said.value = f'<div role="status">{_html(self.question.solution())}</div>'

    def _next(self) -> None:
        try:
            self.question = self._make(self.seed + 1) if self._make is not None else self.question.next()  # type: ignore[attr-defined]
        except ValueError as error:  # a question of no lesson
            self._said.value = _plain_html(str(error))
            return
        self.seed = int(getattr(self.question, "seed", self.seed + 1))
        self._show()

    def _repr_mimebundle_(self, *args: Any, **kwargs: Any) -> Any:
        """The widget in a notebook, the question as text elsewhere."""
        words = {"text/plain": str(self.question.text)}
        if not hasattr(get_ipython(), "kernel"):
            return words
        bundle = self.widget._repr_mimebundle_(*args, **kwargs)
        return {**dict(bundle[0] if isinstance(bundle, tuple) else bundle), **words}


def _html(shown: Any) -> str:
    made = shown._repr_html_() if hasattr(shown, "_repr_html_") else None
    return made if isinstance(made, str) else _plain_html(str(shown))


def _plain_html(text: str) -> str:
    return f'<div style="white-space:pre-wrap">{html.escape(text)}</div>'


def _figure_bundle(figure: Any) -> dict[str, Any] | None:
    if figure is None:
        return None
    if hasattr(figure, "_repr_mimebundle_"):
        bundle = figure._repr_mimebundle_()
        return dict(bundle[0] if isinstance(bundle, tuple) else bundle)
    return {"text/plain": str(figure)}
