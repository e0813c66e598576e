"""Lesson 8: the graders, the runs behind the text, and the questions."""

from __future__ import annotations

from typing import Any

import pytest

from tests.course.solutions import solutions
from workbench.course.lessons import lesson08
from workbench.course.lessons.lesson08 import Victim
from workbench.engine.preemption import Candidate
from workbench.events import types as ev

KEY = solutions("08_swapping")
SEEDS = range(12)


def test_reference_answers_pass_on_many_seeds() -> None:
    for seed in SEEDS:
        for verdict in (
            lesson08.grade_costs(KEY.costs, seed),
            lesson08.grade_choice(KEY.decide, seed),
            # A real run belongs to seed 0 only.
            lesson08.grade_policy(KEY.CheapestPerPage, seed + 1),
        ):
            assert verdict.passed, f"{seed}: {verdict}"
    assert lesson08.grade_policy(KEY.CheapestPerPage, 0).passed


def test_real_decisions_are_foretold_and_of_all_kinds() -> None:
    for seed in lesson08.EXERCISES["8.3"].seeds:
        verdict = lesson08.grade_replay(KEY.decide, seed)
        assert verdict.passed, verdict
        found = lesson08.decisions(*lesson08.adaptive_run(seed))
        assert {d.mode for d in found} == {"swap", "recompute"}
        assert any(d.victim.kept for d in found)
        assert any(d.victim.pages > d.host_free for d in found)


def one_way(victim: Victim, bandwidth: float, speed: float) -> tuple[float, float]:
    return victim.num_bytes / bandwidth, (victim.tokens - victim.kept) / speed


def forgets_kept(victim: Victim, bandwidth: float, speed: float) -> tuple[float, float]:
    return 2 * victim.num_bytes / bandwidth, victim.tokens / speed


def swapped_round(victim: Victim, bandwidth: float, speed: float) -> tuple[float, float]:
    return KEY.costs(victim, bandwidth, speed)[::-1]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (one_way, "seconds of swapping"),
        (forgets_kept, "seconds of recomputing"),
        (swapped_round, "seconds of swapping"),
        (lambda *args: 1.0, "None"),
    ],
)
def test_wrong_costs(answer: Any, words: str) -> None:
    failed = [verdict for verdict in (lesson08.grade_costs(answer, seed) for seed in range(5)) if not verdict.passed]
    assert len(failed) == 5
    assert words in str(failed[0].first_wrong)


def ignores_the_host(victim: Victim, bandwidth: float, speed: float, host_free: int) -> str:
    swap, recompute = KEY.costs(victim, bandwidth, speed)
    return "swap" if swap <= recompute else "recompute"


def needs_one_more(victim: Victim, bandwidth: float, speed: float, host_free: int) -> str:
    return "recompute" if victim.pages >= host_free else ignores_the_host(victim, bandwidth, speed, host_free)


def ties_recompute(victim: Victim, bandwidth: float, speed: float, host_free: int) -> str:
    swap, recompute = KEY.costs(victim, bandwidth, speed)
    return "swap" if swap < recompute and victim.pages <= host_free else "recompute"


def forgets_the_cache(victim: Victim, bandwidth: float, speed: float, host_free: int) -> str:
    return KEY.decide(Victim(victim.tokens, 0, victim.pages, victim.num_bytes), bandwidth, speed, host_free)


@pytest.mark.parametrize("answer", [ignores_the_host, needs_one_more, ties_recompute, forgets_the_cache])
def test_wrong_decisions(answer: Any) -> None:
    verdicts = [lesson08.grade_choice(answer, seed) for seed in lesson08.EXERCISES["8.2"].seeds]
    failed = [verdict for verdict in verdicts if not verdict.passed]
    assert failed
    assert "host pages are free" in failed[0].message
    assert {failed[0].yours, failed[0].expected} == {"swap", "recompute"}


def test_wrong_decisions_about_a_real_run_name_the_step() -> None:
    for answer in (ignores_the_host, forgets_the_cache):
        verdicts = [lesson08.grade_replay(answer, seed) for seed in lesson08.EXERCISES["8.3"].seeds]
        failed = [verdict for verdict in verdicts if not verdict.passed]
        assert failed
        assert "step" in str(failed[0].first_wrong)


class FewestTokens:
    name = "fewest_tokens"

    def key(self, candidate: Candidate) -> Any:
        return candidate.footprint.tokens


class ByHeldPages:
    """Counts pages that others keep alive."""

    name = "by_held_pages"

    def key(self, candidate: Candidate) -> Any:
        return candidate.footprint.tokens / candidate.footprint.blocks


class FreesNothing:
    """Takes whoever frees no page first of all."""

    name = "frees_nothing"

    def key(self, candidate: Candidate) -> Any:
        held = candidate.footprint
        return held.tokens / held.lost if held.lost else 0


class DividesByZero:
    name = "divides"

    def key(self, candidate: Candidate) -> Any:
        return candidate.footprint.tokens / candidate.footprint.lost


@pytest.mark.parametrize("answer", [FewestTokens, ByHeldPages, FreesNothing])
def test_wrong_policies(answer: Any) -> None:
    verdict = lesson08.grade_policy(answer, 1)
    assert not verdict.passed
    assert "victim of case" in str(verdict.first_wrong)


def test_a_policy_that_raises_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        lesson08.grade_policy(DividesByZero, 1)


def test_what_the_text_says_of_its_runs() -> None:
    plain, careful = lesson08.burst(num_blocks=20), lesson08.burst(num_blocks=20, watermark=0.25)
    assert lesson08.twice(careful) < lesson08.twice(plain)
    assert careful.last_step > plain.last_step
    swapped = lesson08.totals(lesson08.burst("swap"))
    assert swapped.recomputed_tokens == 0
    assert swapped.swapped_in_bytes == swapped.swapped_out_bytes > 0


def test_a_text_larger_than_the_pool() -> None:
    _, _, whole = lesson08.long_text(44)
    _, timeline, tokens = lesson08.long_text(10)
    assert tokens == whole
    read = [e for e in timeline.events() if isinstance(e, ev.BlocksStreamed)][-1]
    assert read.host_pages == 42 - 10
    assert lesson08.read_per_token(timeline) == pytest.approx(read.host_pages * 24576 / 1e6)


def test_questions_have_right_answers() -> None:
    seen = set()
    for seed in range(5):
        question = lesson08.make_question(seed)
        assert question.answer(question.expected).passed
        wrong = question.expected * 2 + 1 if isinstance(question.expected, float) else "neither"
        assert not question.answer(wrong).passed
        seen.add(question.question)
    assert len(seen) == 5
    assert lesson08.make_question(3) == lesson08.make_question(3)
