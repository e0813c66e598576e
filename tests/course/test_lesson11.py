"""Lesson 11: recordings, the two kinds of used, the graders, and the questions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from workbench.course.lessons import lesson11
from workbench.events import PageMap, Recording
from workbench.events import types as ev
from workbench.events.types import AnyEvent
from workbench.metrics_counts import COUNTERS, HISTOGRAMS
from workbench.metrics_gauges import GAUGES


def fold(events: Sequence[AnyEvent]) -> dict[int, list[int]]:
    tables: dict[int, list[int]] = {}
    for event in events:
        if isinstance(event, ev.BlockAllocated):
            tables.setdefault(event.sequence, []).append(event.block)
        elif isinstance(event, ev.BlockReleased):
            tables[event.sequence].remove(event.block)
    return tables


def preemptions(recording: Recording) -> list[tuple[int, int, int]]:
    return [(e.step, e.request, e.tokens_lost) for e in recording.events() if isinstance(e, ev.RequestPreempted)]


def usage(page_map: PageMap) -> tuple[float, float]:
    held = [page for page in page_map.pages if page.ref_count > 0]
    return len(held) / len(page_map.pages), sum(page.filled for page in held) / page_map.num_slots


def test_reference_answers_pass() -> None:
    for seed in range(5):
        for verdict in (
            lesson11.grade_fold(fold, seed),
            lesson11.grade_preemptions(preemptions, seed),
            lesson11.grade_usage(usage, seed),
        ):
            assert verdict.passed, f"{seed}: {verdict}"


def test_every_recording_of_the_exercises_has_preemptions() -> None:
    for seed in lesson11.EXERCISES["11.2"].seeds:
        assert preemptions(Recording.open(lesson11.recorded(seed)))


def _never_released(events: Sequence[AnyEvent]) -> dict[int, list[int]]:
    return fold([event for event in events if not isinstance(event, ev.BlockReleased)])


def _only_ends(events: Sequence[AnyEvent]) -> dict[int, list[int]]:
    """Takes pages back when a request ends, but not when it is preempted."""
    return fold([e for e in events if not (isinstance(e, ev.BlockReleased) and e.cause is ev.Cause.PREEMPTION_VICTIM)])


def _at_the_front(events: Sequence[AnyEvent]) -> dict[int, list[int]]:
    return {sequence: table[::-1] for sequence, table in fold(events).items()}


@pytest.mark.parametrize("answer", [_never_released, _only_ends, _at_the_front])
def test_wrong_folds(answer: Callable[[Sequence[AnyEvent]], dict[int, list[int]]]) -> None:
    verdict = lesson11.grade_fold(answer, 0)
    assert not verdict.passed
    step = int(str(verdict.first_wrong).split(",")[0].removeprefix("step "))
    recording = Recording.open(lesson11.recorded(0))
    before = [event for event in recording.events() if event.step < step]
    state = recording.state_at(step - 1)
    right = {number: list(held.block_table) for number, held in state.sequences.items()}
    assert {number: table for number, table in answer(before).items() if table} == right


@pytest.mark.parametrize(
    ("answer", "place"),
    [
        (lambda recording: preemptions(recording)[1:], "preemption 0"),
        (lambda recording: [(s, r, 0) for s, r, _ in preemptions(recording)], "preemption 0"),
        (lambda recording: [(s + 1, r, n) for s, r, n in preemptions(recording)], "preemption 0"),
        (lambda recording: [*preemptions(recording), (99, 0, 0)], "preemption"),
    ],
)
def test_wrong_preemptions(answer: Callable[[Recording], Any], place: str) -> None:
    verdict = lesson11.grade_preemptions(answer, 0)
    assert not verdict.passed
    assert str(verdict.first_wrong).startswith(place)


def _with_cached(page_map: PageMap) -> tuple[float, float]:
    return sum(p.ref_count > 0 or p.is_cached for p in page_map.pages) / len(page_map.pages), usage(page_map)[1]


def _all_filled(page_map: PageMap) -> tuple[float, float]:
    return usage(page_map)[0], sum(page.filled for page in page_map.pages) / page_map.num_slots


def _references(page_map: PageMap) -> tuple[float, float]:
    return sum(page.ref_count for page in page_map.pages) / len(page_map.pages), usage(page_map)[1]


def _per_sequence(page_map: PageMap) -> tuple[float, float]:
    tokens = sum(held.num_computed_tokens for held in page_map.sequences.values())
    return usage(page_map)[0], tokens / page_map.num_slots


@pytest.mark.parametrize(
    ("answer", "part"),
    [
        (_with_cached, "pages held"),
        (_all_filled, "slots with a token"),
        (_references, "pages held"),
        (_per_sequence, "slots with a token"),
    ],
)
def test_wrong_usages(answer: Callable[[PageMap], tuple[float, float]], part: str) -> None:
    failed = [v for v in (lesson11.grade_usage(answer, seed) for seed in range(3)) if not v.passed]
    assert failed
    assert all(str(verdict.first_wrong).endswith(part) for verdict in failed)


def test_two_thirds_used_and_a_third_filled() -> None:
    llm = lesson11.half_empty_engine()
    registry = lesson11.watched(llm)
    llm.step()
    pages, slots = lesson11.truth(llm.page_map)
    assert (round(100 * pages, 1), round(100 * slots, 1)) == (66.7, 36.5)
    samples = lesson11.exported(registry)
    assert samples["kv_cache_usage_perc"] == pages
    assert samples["kv_slots{token_states}"] == 70
    llm.close()


def test_names_of_metrics() -> None:
    assert set(lesson11.AS_IN_VLLM) <= {*GAUGES, *COUNTERS, *HISTOGRAMS}
    assert "kv_slots" in lesson11.our_names()


def test_questions_have_right_answers() -> None:
    texts = set()
    for seed in [*range(6), *range(100, 106)]:
        question = lesson11.make_question(seed)
        assert question.answer(question.expected).passed, question
        assert not question.answer("nonsense").passed
        texts.add(question.question)
    assert len(texts) == 12
    assert lesson11.recorded.cache_info().currsize <= 8
