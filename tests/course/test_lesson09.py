"""Lesson 9: graders of page masses, chosen pages and eviction policies; the board is the engine's own memory."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.course.solutions import solutions
from workbench import LLM, EngineConfig, SamplingParams
from workbench.course import check, quiz
from workbench.course.lessons import eviction_board, lesson09
from workbench.course.lessons.paged_scene import make_scene
from workbench.memory.eviction import FIFO, LFU, LRU, CachedPage
from workbench.models import LoadedModel

ANSWERS = solutions("09_relevance")


@pytest.mark.parametrize(("number", "answer"), [("9.1", ANSWERS.page_mass), ("9.2", ANSWERS.choose_pages)])
def test_the_reference_answer_passes_on_every_seed(number: str, answer: Any) -> None:
    for seed in range(60):
        verdict = check(number, answer, seed=seed)
        assert verdict.passed, verdict


def mass_with_a_softmax_per_page(q: Tensor, k: Tensor, table: Tensor, length: int) -> list[float]:
    return [1.0] * -(-length // k.shape[1])


def mass_by_tokens(q: Tensor, k: Tensor, table: Tensor, length: int) -> list[float]:
    size = k.shape[1]
    return [min(size, length - start) / length for start in range(0, length, size)]


def mass_unscaled(q: Tensor, k: Tensor, table: Tensor, length: int) -> list[float]:
    masses: list[float] = ANSWERS.page_mass(q * math.sqrt(len(q)), k, table, length)
    return masses


def mass_of_full_pages(q: Tensor, k: Tensor, table: Tensor, length: int) -> list[float]:
    masses: list[float] = ANSWERS.page_mass(q, k, table, length)
    return masses[: length // k.shape[1]]


def mass_with_empty_slots(q: Tensor, k: Tensor, table: Tensor, length: int) -> list[float]:
    masses: list[float] = ANSWERS.page_mass(q, k, table, -(-length // k.shape[1]) * k.shape[1])
    return masses


@pytest.mark.parametrize("seed", range(8))
def test_masses_computed_wrongly(seed: int) -> None:
    last = make_scene(seed).pages(0) - 1
    for wrong, page in (
        (mass_with_a_softmax_per_page, 0),
        (mass_by_tokens, 0),
        (mass_unscaled, 0),
        (mass_with_empty_slots, 0),  # NaN anywhere in a softmax is NaN everywhere
        (mass_of_full_pages, last),
    ):
        assert check("9.1", wrong, seed=seed).first_wrong == f"page {page} of sequence 0"


def choose_best_only(mass: list[float], count: int) -> list[int]:
    return sorted(sorted(range(len(mass)), key=lambda page: -mass[page])[:count])


def choose_unsorted(mass: list[float], count: int) -> list[int]:
    between = sorted(range(1, len(mass) - 1), key=lambda page: -mass[page])
    return [0, len(mass) - 1, *between][:count]


def choose_newest(mass: list[float], count: int) -> list[int]:
    return sorted({0, *range(max(0, len(mass) - count + 1), len(mass))})


def choose_one_too_many(mass: list[float], count: int) -> list[int]:
    return lesson09.best_pages(mass, count + 1)


def test_pages_chosen_wrongly() -> None:
    for seed in range(8):
        for wrong in (choose_best_only, choose_unsorted, choose_newest, choose_one_too_many):
            verdict = check("9.2", wrong, seed=seed)
            assert not verdict.passed
            yours, expected = verdict.yours, verdict.expected
            missing = [page for page in expected if page not in yours]
            extra = [page for page in yours if page not in expected]
            moved = [a for a, b in zip(yours, expected, strict=False) if a != b]
            assert verdict.first_wrong == f"page {(missing or extra or moved)[0]}"
    assert check("9.2", lambda mass, count: {0, 1}).message.startswith("Return a list")


def choose_the_later_of_equals(mass: list[float], count: int) -> list[int]:
    between = sorted(range(1, len(mass) - 1), key=lambda page: (-mass[page], -page))
    return sorted([0, len(mass) - 1, *between[: count - 2]]) if count < len(mass) else list(range(len(mass)))


def test_of_equal_masses_the_earlier_page_is_read() -> None:
    failed = [
        verdict for seed in range(5) if not (verdict := check("9.2", choose_the_later_of_equals, seed=seed)).passed
    ]
    assert failed
    for verdict in failed:
        page = str(verdict.first_wrong).removeprefix("page ")
        assert f"Of equal masses the earlier page is read, so page {page} before " in verdict.message
    assert not check("9.2", choose_the_later_of_equals).passed


@pytest.mark.parametrize("convert", [tuple, np.array, lambda pages: [np.int64(p) for p in pages], torch.tensor])
def test_whole_numbers_of_other_kinds_are_whole_numbers(convert: Any) -> None:
    verdict = check("9.2", lambda mass, count: convert(ANSWERS.choose_pages(mass, count)))
    assert verdict.passed, verdict


def test_floats_are_no_pages() -> None:
    verdict = check("9.2", lambda mass, count: [float(page) for page in ANSWERS.choose_pages(mass, count)])
    assert verdict.message.startswith("Return a list of whole numbers")


def test_the_policy_of_the_key_beats_lru_on_many_seeds() -> None:
    for seed in range(101, 113):
        verdict = check("9.3", ANSWERS.MyPolicy, seed=seed)
        assert verdict.passed, verdict
    assert check("9.3", ANSWERS.MyPolicy()).passed


class Newest:
    """Most recently used first: the opposite of the default."""

    name = "newest"

    def key(self, page: CachedPage) -> tuple[float, ...]:
        return (-page.last_used,)


@pytest.mark.parametrize(
    ("policy", "word"), [(LRU, "1.00 times"), (LFU, "'shifting'"), (FIFO, "times"), (Newest, "times")]
)
def test_policies_that_are_not_good_enough(policy: Any, word: str) -> None:
    verdict = check("9.3", policy)
    assert not verdict.passed
    assert word in verdict.message
    kind = str(verdict.first_wrong).split("'")[1]
    row = eviction_board.Row("", kind, verdict.seed or 0, 0, 1)
    mine, lru = eviction_board._evicted(policy(), row), eviction_board._evicted(LRU(), row)
    parting = next(((a, b) for a, b in zip(mine, lru, strict=False) if a != b), None)
    if parting is None:
        assert policy is LRU
        assert "as LRU does" in str(verdict.first_wrong)
    else:
        assert f"page {parting[0]} " in str(verdict.first_wrong)
        assert f"LRU evicts page {parting[1]}" in str(verdict.first_wrong)
    assert verdict.yours[kind] == eviction_board.replay(eviction_board.prompts(kind, row.seed), policy())


class NotANumber(LRU):
    def key(self, page: CachedPage) -> tuple[float, ...]:
        return (math.nan,)


class NoTuple(LRU):
    def key(self, page: CachedPage) -> Any:
        return page.last_used


class NotWritten(LRU):
    def key(self, page: CachedPage) -> tuple[float, ...]:
        raise NotImplementedError("your turn")


def test_what_is_no_policy_is_refused_in_words() -> None:
    for policy in (NotANumber, NoTuple):
        verdict = check("9.3", policy)
        assert "tuple of numbers" in verdict.message
        assert str(verdict.first_wrong).startswith("page ")
    assert "A policy has a `name`" in check("9.3", object()).message
    assert check("9.3", NotWritten).is_missing


@pytest.mark.parametrize("policy", [LRU(), LFU(), ANSWERS.MyPolicy()])
def test_the_board_finds_what_a_real_engine_finds(llama: LoadedModel, policy: Any) -> None:
    """Same texts, same pool, one output token: the engine looks up and evicts the same pages."""
    rng = random.Random(3)
    beginnings = [[rng.randrange(97) for _ in range(64)] for _ in range(4)]
    texts = [
        [*(rng.choice(beginnings) if rng.random() < 0.5 else [rng.randrange(97) for _ in range(64)]), *range(16)]
        for _ in range(60)
    ]
    config = EngineConfig(
        num_blocks=24, prefix_caching=True, eviction=policy, watermark=0.0, max_num_seqs=1, device="cpu"
    )
    with LLM(llama, config) as llm:
        for text in texts:
            llm.generate([text], SamplingParams(max_tokens=1, temperature=0, ignore_eos=True))
        found = llm.page_map.totals.prefix_hit_tokens
    assert found > 500
    assert abs(eviction_board.replay(texts, policy, num_blocks=24) - found) <= 0.1 * found


def test_masses_of_a_real_run_add_up_and_show() -> None:
    run = lesson09.long_run(0, tokens=60, steps=4)
    found = lesson09.masses(run)
    assert [query for query, _ in found] == [60, 61, 62]
    assert all(sum(mass) == pytest.approx(1, abs=2e-3) and len(mass) == 4 for _, mass in found)
    figure = lesson09.mass_figure(run)
    assert len(figure.data[0].z) == 3
    rows = lesson09.selection_rows([2, 3], tokens=60, steps=4)
    assert [row.top_k for row in rows] == [2, 3]
    assert rows[0].covered < rows[1].covered < 1


def test_the_board_ranks_by_the_mean() -> None:
    table = lesson09.board_table(lesson09.board([LRU(), FIFO(), ANSWERS.MyPolicy()], [0, 1]))
    assert list(table.ratios) == ["mine", "lru", "fifo"]
    assert set(table.ratios["lru"].values()) == {1.0}
    assert str(table).splitlines()[1].startswith("mine")
    assert "mine" in table._repr_html_()


def test_best_pages_are_the_best() -> None:
    mass = [0.1, 0.3, 0.05, 0.3, 0.2, 0.05]
    assert lesson09.best_pages(mass, 3) == [0, 1, 5]
    assert lesson09.best_pages(mass, 4) == [0, 1, 3, 5]
    assert lesson09.best_pages(mass, 9) == [0, 1, 2, 3, 4, 5]
    assert torch.tensor(lesson09.true_mass(make_scene(0), 0)).sum().item() == pytest.approx(1)


def test_questions_come_from_real_runs_and_repeat() -> None:
    assert len({quiz("9", seed).question for seed in range(10)}) == 10
    for seed in range(3):
        question, again = quiz("9", seed), quiz("9", seed)
        assert (question.question, question.expected) == (again.question, again.expected)
        assert question.answer(question.expected).passed
        assert not question.answer(question.expected + 1).passed
