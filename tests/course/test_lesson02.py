"""Lesson 2: Fig. 2 re-made, the graders, and the questions."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from workbench.course.lessons import lesson02
from workbench.events.waste import measure_waste


def asked(rule: str, prompt: int, output: int, longest: int) -> int:
    stored = prompt + output - 1
    if rule == "max":
        return longest
    if rule == "oracle":
        return stored
    return min(prompt + (1 << (output - 1).bit_length()), longest)


def region(slots: int, unit: int) -> int:
    units = -(-slots // unit)
    return unit * (1 << (units - 1).bit_length())


def judge(size: int, asked: int, stored: int, final: int) -> lesson02.Judged:
    return stored, final - stored, asked - final, size - asked


def test_reference_answers_pass_on_many_seeds() -> None:
    for seed in range(40):
        for verdict in (lesson02.grade_asked(asked, seed), lesson02.grade_region(region, seed)):
            assert verdict.passed, f"{seed}: {verdict}"
    for seed in range(4):
        verdict = lesson02.grade_judge(judge, seed)
        assert verdict.passed, f"{seed}: {verdict}"


def _from_output_too(rule: str, prompt: int, output: int, longest: int) -> int:
    """Rounds the whole sequence."""
    return 1 << (prompt + output - 1).bit_length() if rule == "pow2" else asked(rule, prompt, output, longest)


def _last_token(rule: str, prompt: int, output: int, longest: int) -> int:
    return prompt + output if rule == "oracle" else asked(rule, prompt, output, longest)


def _next_power(rule: str, prompt: int, output: int, longest: int) -> int:
    """A power of two is rounded up to the next one."""
    return min(prompt + (1 << output.bit_length()), longest) if rule == "pow2" else asked(rule, prompt, output, longest)


@pytest.mark.parametrize(
    ("answer", "rule"), [(_from_output_too, "pow2"), (_last_token, "oracle"), (_next_power, "pow2")]
)
def test_wrong_rules_are_named(answer: Callable[[str, int, int, int], int], rule: str) -> None:
    failed = [v for v in (lesson02.grade_asked(answer, seed) for seed in range(5)) if not v.passed]
    assert failed
    assert all(str(verdict.first_wrong).endswith(f"rule {rule}") for verdict in failed)


def _with_a_power(rule: str, prompt: int, output: int, longest: int) -> float:
    """The right numbers, which `math.pow` makes floats."""
    if rule != "pow2":
        return asked(rule, prompt, output, longest)
    return min(prompt + math.pow(2, math.ceil(math.log2(output))), longest)


def test_a_right_number_may_be_a_float() -> None:
    for seed in range(5):
        verdict = lesson02.grade_asked(_with_a_power, seed)  # type: ignore[arg-type]
        assert verdict.passed, verdict
    assert not lesson02.grade_asked(lambda rule, prompt, output, longest: True, 0).passed


def test_wrong_regions() -> None:
    assert not lesson02.grade_region(lambda slots, unit: -(-slots // unit) * unit, 1).passed
    assert not lesson02.grade_region(lambda slots, unit: unit << (slots // unit).bit_length(), 1).passed
    verdict = lesson02.grade_region(lambda slots, unit: 1 << (slots - 1).bit_length(), 0)
    assert verdict.passed or "slots" in str(verdict.first_wrong)


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (lambda size, asked, stored, final: (stored, asked - stored, 0, size - asked), "reservation"),
        (lambda size, asked, stored, final: (final, 0, asked - final, size - asked), "token states"),
        (lambda size, asked, stored, final: (stored, final - stored, size - final, 0), "internal"),
    ],
)
def test_wrong_splits(answer: Callable[[int, int, int, int], lesson02.Judged], part: str) -> None:
    failed = [v for v in (lesson02.grade_judge(answer, seed) for seed in range(3)) if not v.passed]
    assert failed
    for verdict in failed:
        assert str(verdict.first_wrong).startswith("step ")
        assert str(verdict.first_wrong).endswith(part)


def test_fig_2_comes_out_in_the_papers_order() -> None:
    """Even Oracle wastes about half; pages hold nearly nothing but tokens."""
    found = {}
    for memory in ("oracle", "paged"):
        llm, timeline = lesson02.run_burst(memory)
        found[memory] = lesson02.split(measure_waste(timeline, saturated_only=True))
        assert abs(sum(found[memory]) - 100) < 0.3
        assert llm.page_map.totals.max_running >= 4
    assert found["oracle"][0] < 60
    assert found["paged"][0] > 80
    assert found["oracle"][2] == 0
    assert len(lesson02.fig2(found).data) == 4


def test_questions_have_right_answers() -> None:
    texts = set()
    for seed in range(5):
        question = lesson02.make_question(seed)
        assert question.answer(question.expected).passed
        assert not question.answer(question.expected + 1).passed
        texts.add(question.question)
    assert len(texts) == 5


def test_enough_is_free_and_no_piece_is_large_enough() -> None:
    """What the lesson says of step 20 under Oracle."""
    _, timeline = lesson02.run_burst("oracle")
    state = timeline.state_at(20)
    assert state.blocked is not None
    assert (state.blocked.request, state.blocked.needed, state.blocked.available) == (11, 128, 64)
    assert state.num_slots - sum(held.region.size for held in state.sequences.values() if held.region) == 128
