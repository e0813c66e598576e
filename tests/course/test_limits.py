"""A student's code that never ends, or takes all memory, ends in a verdict, and the next cell works."""

from __future__ import annotations

import functools
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.course.conftest import right
from workbench.course import check, checking, limits, registry
from workbench.course.exercise import Question
from workbench.course.limits import can_limit, limited
from workbench.course.session import SESSION

needs_timer = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")


pytestmark = pytest.mark.usefixtures("lesson90")


def endless(num_tokens: int, page_size: int) -> int:
    pages = 0
    while num_tokens > 0:  # never less
        pages += 1
    return pages


def endless_for_some(num_tokens: int, page_size: int) -> int:
    while num_tokens % 7 == 3:
        pass
    return right(num_tokens, page_size)


def swallows_errors(num_tokens: int, page_size: int) -> int:
    while True:
        try:
            endless(num_tokens, page_size)
        except Exception:
            num_tokens += 1


def swallows_all(num_tokens: int, page_size: int) -> int:
    while True:
        try:
            sum(range(1000))
            time.sleep(0.01)
        except:  # noqa: E722
            num_tokens += 1


class Endless:
    def __eq__(self, other: object) -> bool:
        return bool(endless(3, 4))


@needs_timer
def test_a_loop_without_end_is_stopped_and_says_where() -> None:
    began = time.monotonic()
    verdict = check("90.1", endless, limit=0.5)
    assert time.monotonic() - began < 10
    assert not verdict.passed
    assert "your `endless` was still running after" in verdict.message
    assert "of test_limits.py: `" in verdict.message
    assert any(f"`{line}`" in verdict.message for line in ("while num_tokens > 0:  # never less", "pages += 1"))
    assert "A loop may never end" in verdict.message
    assert str(verdict.first_wrong).startswith("the call endless(num_tokens=")
    assert f'check("90.1", ..., seed={verdict.seed})' in str(verdict)
    assert SESSION.verdicts["90.1"] == [verdict]
    assert check("90.1", right).passed


@needs_timer
def test_the_first_input_that_never_ends_is_named() -> None:
    verdict = check("90.1", endless_for_some, limit=0.5)
    given = int(str(verdict.first_wrong).split("num_tokens=")[1].split(",")[0])
    assert given % 7 == 3
    again = check("90.1", endless_for_some, seed=verdict.seed, limit=0.5)
    assert again.first_wrong == verdict.first_wrong


@needs_timer
@pytest.mark.parametrize("answer", [swallows_errors, swallows_all])
def test_whoever_swallows_exceptions_is_stopped_all_the_same(answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_AGAIN_SECONDS", 0.3)
    tracer = sys.gettrace()
    verdict = check("90.1", answer, limit=0.3)
    assert f"your `{answer.__name__}` was still running" in verdict.message
    assert sys.gettrace() is tracer


@needs_timer
def test_what_was_set_before_is_set_again() -> None:
    struck: list[float] = []
    began = time.monotonic()
    pytests = signal.signal(signal.SIGALRM, lambda number, frame: struck.append(time.monotonic() - began))
    former = signal.setitimer(signal.ITIMER_REAL, 60)
    try:
        handler = signal.getsignal(signal.SIGALRM)
        check("90.1", endless, limit=0.3)
        left, interval = signal.getitimer(signal.ITIMER_REAL)
        assert signal.getsignal(signal.SIGALRM) is handler
        assert 0 < left < 60
        assert interval == 0
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        check("90.1", endless, limit=0.3)
        time.sleep(0.1)
        assert len(struck) == 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, pytests)
        if former[0]:
            signal.setitimer(signal.ITIMER_REAL, *former)


@needs_timer
def test_a_check_in_a_check_has_a_limit_of_its_own() -> None:
    inner: list[Any] = []

    def checks(num_tokens: int, page_size: int) -> int:
        inner.append(check("90.1", endless, limit=0.3))
        while True:
            pass

    verdict = check("90.1", checks, limit=1)
    assert "your `endless`" in inner[0].message
    assert "your `checks`" in verdict.message


def hungry(num_tokens: int, page_size: int) -> None:
    kept: list[list[int]] = []
    while True:
        kept.append([num_tokens] * 100_000)


@needs_timer
def test_memory_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "limited", functools.partial(limited, num_bytes=100_000_000))
    verdict = check("90.1", hungry)
    assert "your `hungry` had taken" in verdict.message
    assert "GB of memory" in verdict.message
    assert str(verdict.first_wrong).startswith("the call hungry(num_tokens=")
    assert check("90.1", right).passed


def too_much(num_tokens: int, page_size: int) -> Any:
    return [0] * 10**15


def recursive(num_tokens: int, page_size: int) -> int:
    return 1 + recursive(num_tokens - page_size, page_size)


def test_calls_and_memory_without_end_are_verdicts() -> None:
    verdict = check("90.1", recursive)
    assert "Your code calls itself without end" in verdict.message
    assert "`return 1 + recursive(num_tokens - page_size, page_size)`" in verdict.message
    assert str(verdict.first_wrong).startswith("recursive(num_tokens=")
    verdict = check("90.1", too_much)
    assert "more memory than there is" in verdict.message
    assert "return [0] * 10**15" in str(verdict)
    assert check("90.1", right).passed


@needs_timer
def test_an_answer_to_a_question_that_never_compares() -> None:
    question = Question("?", 3, "Because.")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("workbench.course.exercise.LIMIT_SECONDS", 0.3)
        assert not question.answer(Endless()).passed
    assert question.answer(3).passed


def test_nothing_is_limited_in_other_threads() -> None:
    found: list[Any] = []

    def work() -> None:
        with limited(0.001):
            time.sleep(0.6)
        found.append(can_limit())
        found.append(check("90.1", right).passed)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [False, True]


@pytest.mark.parametrize("limit", [0, -1.0, float("nan")])
def test_limits_are_above_zero(limit: float) -> None:
    with pytest.raises(ValueError, match=r"limit=.*: allowed are seconds above 0, or None for no limit"):
        check("90.1", right, limit=limit)
    assert check("90.1", right, limit=None).passed


@needs_timer
def test_in_a_notebook_the_cell_is_named_and_the_next_one_works(tmp_path: Path) -> None:
    pytest.importorskip("nbclient", reason="needs the course's packages")
    import nbformat.v4

    from workbench.course.execute import kernel

    cells = [
        "from workbench.course import check, registry\nregistry.register('90', 'tests.course.data.lesson90')",
        "def loop(num_tokens, page_size):\n    while True:\n        pass\n\ncheck('90.1', loop, limit=0.5)",
        "import signal, time\nassert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)\ntime.sleep(0.6)\n"
        "check('90.1', lambda tokens, size: -(-tokens // size))",
    ]
    with kernel() as python:
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        run = python.run(notebook, "loop", tmp_path)
    assert run.errors == []
    said = [str(cell.outputs[0].data["text/plain"]) for cell in run.notebook.cells[1:]]
    number = run.notebook.cells[1].execution_count
    assert "your loop was still running" in said[0]
    assert any(
        f"in line {line} of cell [{number}]: {code}" in said[0] for line, code in ((2, "while True:"), (3, "pass"))
    )
    assert "passed" in said[1]


@needs_timer
def test_arguments_are_shown_in_a_few_characters() -> None:
    """Something huge, something with an address and something that can't be shown are named by their types."""

    def loops(first: Any, second: Any, third: Any, *, fourth: Any = None) -> None:
        while True:
            pass

    class Odd:
        def __repr__(self) -> str:
            raise OSError

    given = (list(range(10**6)), object(), Odd())
    # A grader lies in another file than the answer.
    grade = eval(compile("lambda answer, seed: answer(*given)", "<grader>", "eval"), {"given": given})
    with pytest.MonkeyPatch.context() as patch:
        task = replace(registry.exercise("90.1"), grade=grade)
        patch.setattr(checking.registry, "exercise", lambda number: task)
        verdict = check("90.1", loops, limit=0.3)
    assert "loops(first=[0, 1, 2, 3, 4, 5, 6, 7, ...], second=<object>, third=<Odd>, fourth=None)" in str(verdict)
