"""Lesson 4: graders pass the reference answers on many seeds and name the first page at which others go wrong."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.course.solutions import solutions
from workbench.course import check, quiz
from workbench.course.lessons import lesson04
from workbench.course.lessons.attention_graders import graded_pages
from workbench.course.lessons.paged_scene import make_scene

ANSWERS = solutions("04_attention_over_pages")
RIGHT = {
    "4.1": ANSWERS.gather,
    "4.2": ANSWERS.attend_pages,
    "4.3": ANSWERS.add_page,
    "4.4": ANSWERS.paged_attention,
    "4.5": ANSWERS.merge,
}


@pytest.mark.parametrize("number", RIGHT)
def test_the_reference_answer_passes_on_every_seed(number: str) -> None:
    assert list(RIGHT) == list(lesson04.EXERCISES)
    for seed in range(60):
        verdict = check(number, RIGHT[number], seed=seed)
        assert verdict.passed, verdict


def gather_in_pool_order(cache: Tensor, table: Tensor, length: int) -> Tensor:
    return cache.flatten(0, 1)[:length]


def gather_whole_pages(cache: Tensor, table: Tensor, length: int) -> Tensor:
    return cache[table[: -(-length // cache.shape[1])]].flatten(0, 1)


def gather_full_pages_only(cache: Tensor, table: Tensor, length: int) -> Tensor:
    return cache[table[: length // cache.shape[1]]].flatten(0, 1)


def gather_sorted(cache: Tensor, table: Tensor, length: int) -> Tensor:
    pages = table[: -(-length // cache.shape[1])].sort().values
    return cache[pages].flatten(0, 1)[:length]


@pytest.mark.parametrize("seed", range(12))
def test_gathering_wrongly(seed: int) -> None:
    scene = make_scene(seed)
    last = scene.pages(0) - 1
    # 1 page for every wrong one of these: the first sequence's last page is never full
    for wrong, page in ((gather_whole_pages, last), (gather_full_pages_only, last)):
        verdict = check("4.1", wrong, seed=seed)
        assert not verdict.passed
        assert verdict.first_wrong == f"page {page} of sequence 0"
    table = scene.block_tables[0, : last + 1].tolist()
    in_pool = next((i for i, page in enumerate(table) if page != i), None)
    in_order = next((i for i, page in enumerate(table) if page != sorted(table)[i]), None)
    for wrong, place in ((gather_in_pool_order, in_pool), (gather_sorted, in_order)):
        if place is not None:
            assert check("4.1", wrong, seed=seed).first_wrong == f"page {place} of sequence 0"


def attend_unscaled(q: Tensor, k: Tensor, v: Tensor, table: Tensor, length: int) -> Any:
    return RIGHT["4.2"](q * math.sqrt(len(q)), k, v, table, length)


def attend_softmax_per_page(q: Tensor, k: Tensor, v: Tensor, table: Tensor, length: int) -> Any:
    size = k.shape[1]
    parts = []
    for start in range(0, length, size):
        page, n = table[start // size], min(size, length - start)
        parts.append((k[page][:n] @ q / math.sqrt(len(q))).softmax(0) @ v[page][:n])
    return torch.stack(parts).mean(0)


def attend_masked_by_zero(q: Tensor, k: Tensor, v: Tensor, table: Tensor, length: int) -> Any:
    pages = table[: -(-length // k.shape[1])]
    inside = torch.arange(len(pages) * k.shape[1]) < length
    weights = ((k[pages].flatten(0, 1) @ q) * inside / math.sqrt(len(q))).softmax(0) * inside
    return weights @ v[pages].flatten(0, 1)


@pytest.mark.parametrize(
    ("wrong", "page"), [(attend_unscaled, 0), (attend_softmax_per_page, 1), (attend_masked_by_zero, -1)]
)
def test_attending_wrongly(wrong: Any, page: int) -> None:
    for seed in range(12):
        verdict = check("4.2", wrong, seed=seed)
        assert not verdict.passed, seed
        expected = make_scene(seed).pages(0) - 1 if page < 0 else page
        assert verdict.first_wrong == f"page {expected} of sequence 0"
        assert ("NaN" in verdict.message) == (wrong is attend_masked_by_zero)


def add_without_fading(state: Any, scores: Tensor, values: Tensor) -> Any:
    largest, total, acc = state
    new = torch.maximum(largest, scores.max())
    weights = torch.exp(scores - new)
    return new, total + weights.sum(), acc + weights @ values


def add_fading_the_sum_only(state: Any, scores: Tensor, values: Tensor) -> Any:
    _, total, _ = RIGHT["4.3"](state, scores, values)
    largest, _, acc = add_without_fading(state, scores, values)
    return largest, total, acc


def add_without_largest(state: Any, scores: Tensor, values: Tensor) -> Any:
    weights = torch.exp(scores)
    return state[0], state[1] + weights.sum(), state[2] + weights @ values


def add_forgetting_the_largest(state: Any, scores: Tensor, values: Tensor) -> Any:
    """Takes each page's own maximum."""
    largest, total, acc = state
    new = scores.max()
    fade, weights = torch.exp(largest - new), torch.exp(scores - new)
    return new, total * fade + weights.sum(), acc * fade + weights @ values


def add_keeping_the_first(state: Any, scores: Tensor, values: Tensor) -> Any:
    """Never repairs the sums: the first page's maximum stays."""
    largest, total, acc = state
    new = scores.max() if largest == -math.inf else largest
    weights = torch.exp(scores - new)
    return new, total + weights.sum(), acc + weights @ values


@pytest.mark.parametrize("wrong", [add_forgetting_the_largest, add_keeping_the_first])
def test_only_the_largest_score_so_far_will_do(wrong: Any) -> None:
    verdict = check("4.3", wrong)
    assert not verdict.passed
    assert "Its largest score is" in verdict.message
    assert "NaN" in verdict.message
    assert check("4.3", RIGHT["4.3"]).passed

    def batch(q: Tensor, k: Tensor, v: Tensor, tables: Tensor, lens: Tensor) -> Tensor:
        return batch_with(wrong, q, k, v, tables, lens)

    verdict = check("4.4", batch)
    assert not verdict.passed
    assert "an exp that is too large" in verdict.message


@pytest.mark.parametrize("seed", range(12))
def test_taking_in_a_page_wrongly(seed: int) -> None:
    pages = [scores for scores, _ in graded_pages(seed)]
    tops = [float(p.max()) for p in pages]
    grows = next(i for i in range(1, len(tops)) if tops[i] > max(tops[:i]))
    for wrong in (add_without_fading, add_fading_the_sum_only):
        assert check("4.3", wrong, seed=seed).first_wrong == f"page {grows}"
    # Without subtracting the largest score all is well as long as scores are small.
    large = next(i for i, top in enumerate(tops) if abs(top) > 88)
    assert check("4.3", add_without_largest, seed=seed).first_wrong == f"page {large}"


def batch_state_kept(q: Tensor, k: Tensor, v: Tensor, tables: Tensor, lens: Tensor) -> Tensor:
    """Does not start afresh for every sequence."""
    out, state = torch.empty_like(q), lesson04.start_state(q.shape[1])
    for s, length in enumerate(lens.tolist()):
        for start in range(0, length, k.shape[1]):
            page, n = tables[s, start // k.shape[1]], min(k.shape[1], length - start)
            state = RIGHT["4.3"](state, k[page][:n] @ q[s] / math.sqrt(q.shape[1]), v[page][:n])
        out[s] = state[2] / state[1]
    return out


def batch_with(add_page: Any, q: Tensor, k: Tensor, v: Tensor, tables: Tensor, lens: Tensor) -> Tensor:
    """4.4 with another `add_page`."""
    out = torch.empty_like(q)
    for s, length in enumerate(lens.tolist()):
        state = lesson04.start_state(q.shape[1])
        for start in range(0, length, k.shape[1]):
            page, n = tables[s, start // k.shape[1]], min(k.shape[1], length - start)
            state = add_page(state, k[page][:n] @ q[s] / math.sqrt(q.shape[1]), v[page][:n])
        out[s] = state[2] / state[1]
    return out


def batch_all_as_long_as_the_first(q: Tensor, k: Tensor, v: Tensor, tables: Tensor, lens: Tensor) -> Any:
    return RIGHT["4.4"](q, k, v, tables, lens[:1].expand_as(lens).minimum(lens))


def batch_padding_read(q: Tensor, k: Tensor, v: Tensor, tables: Tensor, lens: Tensor) -> Any:
    """Whole pages, whatever is in the last one."""
    return RIGHT["4.4"](q, k, v, tables, -(-lens // k.shape[1]) * k.shape[1])


def test_batches_computed_wrongly() -> None:
    for seed in range(12):
        scene = make_scene(seed, num_seqs=2 + seed % 4)
        assert check("4.4", batch_state_kept, seed=seed).first_wrong == "page 0 of sequence 1"
        verdict = check("4.4", batch_padding_read, seed=seed)
        assert verdict.first_wrong == f"page {scene.pages(0) - 1} of sequence 0"
        shorter = [s for s, length in enumerate(scene.lengths) if length > scene.lengths[0]]
        verdict = check("4.4", batch_all_as_long_as_the_first, seed=seed)
        if shorter and seed != 3:  # there each sequence's first token has all the weight
            page = scene.lengths[0] // scene.block_size
            assert verdict.first_wrong == f"page {page} of sequence {shorter[0]}"
        else:
            assert verdict.passed


def merge_mean(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> Any:
    return (out_a + out_b) / 2, torch.logaddexp(lse_a, lse_b)


def merge_empty_is_nan(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> Any:
    lse = torch.logaddexp(lse_a, lse_b)
    return torch.exp(lse_a - lse) * out_a + torch.exp(lse_b - lse) * out_b, lse


def merge_adds_lse(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> Any:
    out, _ = RIGHT["4.5"](out_a, lse_a, out_b, lse_b)
    return out, lse_a + lse_b


@pytest.mark.parametrize("wrong", [merge_mean, merge_adds_lse])
def test_merging_wrongly(wrong: Any) -> None:
    for seed in range(12):
        runs, parts, _ = lesson04.split_parts(seed)
        verdict = check("4.5", wrong, seed=seed)
        assert not verdict.passed
        # The first part with which there are keys.
        place = next(i for i in range(1, len(parts)) if any(lse > -math.inf for _, lse in parts[: i + 1]))
        first, stop = runs[place]
        pages = "no pages" if first == stop else f"pages {first} to {stop - 1}"
        assert verdict.first_wrong == f"part {place} ({pages})"


def test_two_empty_parts() -> None:
    verdict = check("4.5", merge_empty_is_nan)
    assert not verdict.passed
    assert verdict.first_wrong == "part 1 (no pages)"
    assert "minus infinity less minus infinity" in verdict.message
    assert check("4.5", RIGHT["4.5"]).passed


def test_a_missing_answer_is_no_error() -> None:
    def stub(*args: Any) -> Any:
        raise NotImplementedError("your turn")

    for number in RIGHT:
        assert check(number, stub).is_missing


def test_the_parts_give_the_whole_and_the_steps_the_softmax() -> None:
    for seed in range(9):
        _, parts, (out, lse) = lesson04.split_parts(seed)
        state = parts[0]
        for part in parts[1:]:
            state = RIGHT["4.5"](*state, *part)
        assert torch.allclose(state[0].double(), out, atol=1e-5)
        assert torch.allclose(torch.as_tensor(state[1]).double(), lse, atol=1e-5)
        pages = [scores for scores, _ in lesson04.score_pages(seed)]
        last = lesson04.softmax_steps(pages)[-1]
        weights = torch.cat(pages).double().softmax(0).split([len(p) for p in pages])
        assert last.shares == pytest.approx([float(w.sum()) for w in weights], abs=1e-5)
        assert len(lesson04.softmax_figure(pages).frames) == len(pages)


def test_questions_come_from_real_runs_and_repeat() -> None:
    texts = set()
    for seed in range(4):
        question, again = quiz("4", seed), quiz("4", seed)
        assert (question.question, question.expected) == (again.question, again.expected)
        assert question.answer(question.expected).passed
        assert not question.answer(question.expected + 1).passed
        texts.add(question.question)
    assert len(texts) == 4
