"""Lesson 5: the puzzles' solutions pass on many seeds; typical wrong kernels are refused at the first wrong page."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("triton", reason="needs triton")

from tests.course.solutions import solutions
from workbench.course import check, quiz
from workbench.course.lessons import lesson05, triton_grading, triton_pictures, triton_puzzles
from workbench.course.lessons.lesson05 import scene_of, tl, triton
from workbench.course.lessons.paged_scene import make_scene

ANSWERS = solutions("05_the_triton_kernel")
RIGHT = {
    "5.1": ANSWERS.load_page,
    "5.2": ANSWERS.load_tokens,
    "5.3": ANSWERS.page_scores,
    "5.4": ANSWERS.attend_page,
    "5.5": ANSWERS.attend,
    "5.6": ANSWERS.attend_grouped,
}
one_more_page, page_for_group = ANSWERS.one_more_page, ANSWERS.page_for_group
# mypy: ignore-errors


@pytest.mark.parametrize("number", RIGHT)
def test_the_solution_passes_on_every_seed(number: str) -> None:
    assert list(RIGHT) == list(lesson05.EXERCISES)
    for seed in range(6):
        verdict = check(number, RIGHT[number], seed=seed)
        assert verdict.passed, verdict


def pages_of(seed: int) -> tuple[list[int], int]:
    """The pages of the first sequence, and the last of them, which is not full."""
    scene = make_scene(seed)
    pages = scene.block_tables[0, : scene.pages(0)].tolist()
    return pages, pages[-1]


@triton.jit
def load_page_without_dim(cache_ptr, out_ptr, page, BLOCK_SIZE: tl.constexpr, DIM: tl.constexpr):
    places = tl.arange(0, BLOCK_SIZE)[:, None] * DIM + tl.arange(0, DIM)[None, :]
    tl.store(out_ptr + places, tl.load(cache_ptr + page * BLOCK_SIZE + places))


@triton.jit
def load_page_too_far(cache_ptr, out_ptr, page, BLOCK_SIZE: tl.constexpr, DIM: tl.constexpr):
    places = tl.arange(0, BLOCK_SIZE)[:, None] * DIM + tl.arange(0, DIM)[None, :]
    tl.store(out_ptr + places, tl.load(cache_ptr + page * BLOCK_SIZE * DIM * DIM + places))


@triton.jit
def load_page_one_row(cache_ptr, out_ptr, page, BLOCK_SIZE: tl.constexpr, DIM: tl.constexpr):
    dim = tl.arange(0, DIM)
    tl.store(out_ptr + dim, tl.load(cache_ptr + page * BLOCK_SIZE * DIM + dim))


@pytest.mark.parametrize("seed", range(3))
def test_loading_a_page_wrongly(seed: int) -> None:
    pages, _ = pages_of(seed)
    shifted = f"page {next(page for page in pages if page)}"
    for wrong in (load_page_without_dim, load_page_too_far):
        assert check("5.1", wrong, seed=seed).first_wrong == shifted
    verdict = check("5.1", load_page_one_row, seed=seed)
    assert (verdict.first_wrong, "row 1" in verdict.message) == (f"page {pages[0]}", True)


@triton.jit
def load_tokens_unmasked(cache_ptr, out_ptr, page, count, BLOCK_SIZE: tl.constexpr, DIM: tl.constexpr):
    places = tl.arange(0, BLOCK_SIZE)[:, None] * DIM + tl.arange(0, DIM)[None, :]
    tl.store(out_ptr + places, tl.load(cache_ptr + page * BLOCK_SIZE * DIM + places))


@triton.jit
def load_tokens_masked_later(cache_ptr, out_ptr, page, count, BLOCK_SIZE: tl.constexpr, DIM: tl.constexpr):
    slot = tl.arange(0, BLOCK_SIZE)
    places = slot[:, None] * DIM + tl.arange(0, DIM)[None, :]
    rows = tl.load(cache_ptr + page * BLOCK_SIZE * DIM + places)
    tl.store(out_ptr + places, tl.where((slot < count)[:, None], rows, 0.0))


@triton.jit
def load_tokens_one_too_many(cache_ptr, out_ptr, page, count, BLOCK_SIZE: tl.constexpr, DIM: tl.constexpr):
    slot = tl.arange(0, BLOCK_SIZE)
    places = slot[:, None] * DIM + tl.arange(0, DIM)[None, :]
    rows = tl.load(cache_ptr + page * BLOCK_SIZE * DIM + places, mask=(slot <= count)[:, None], other=0.0)
    tl.store(out_ptr + places, rows)


@triton.jit
def load_tokens_without_other(cache_ptr, out_ptr, page, count, BLOCK_SIZE: tl.constexpr, DIM: tl.constexpr):
    slot = tl.arange(0, BLOCK_SIZE)
    places = slot[:, None] * DIM + tl.arange(0, DIM)[None, :]
    tl.store(out_ptr + places, tl.load(cache_ptr + page * BLOCK_SIZE * DIM + places, mask=(slot < count)[:, None]))


@triton.jit
def scores_without_other(q_ptr, k_ptr, out_ptr, page, count, scale, BLOCK_SIZE: tl.constexpr, DIM: tl.constexpr):
    """Right: what is undefined gets minus infinity in its place."""
    slot, dim = tl.arange(0, BLOCK_SIZE), tl.arange(0, DIM)
    places = page * BLOCK_SIZE * DIM + slot[:, None] * DIM + dim[None, :]
    keys = tl.load(k_ptr + places, mask=(slot < count)[:, None])
    scores = tl.sum(tl.load(q_ptr + dim)[None, :] * keys, axis=1) * scale
    tl.store(out_ptr + slot, tl.where(slot < count, scores, float("-inf")))


@pytest.mark.skipif(triton_puzzles.DEVICE != "cpu", reason="on a GPU what stands there is anything, mostly 0")
def test_a_masked_load_without_other_leaves_numbers_undefined() -> None:
    _, last = pages_of(0)
    verdict = check("5.2", load_tokens_without_other)
    assert not verdict.passed
    assert verdict.first_wrong == f"page {last}"
    assert "a `mask` but no `other`" in verdict.message
    assert check("5.2", RIGHT["5.2"]).passed
    assert check("5.3", scores_without_other).passed


@pytest.mark.parametrize("seed", range(2))
def test_loading_tokens_wrongly(seed: int) -> None:
    _, last = pages_of(seed)
    for wrong in (load_tokens_unmasked, load_tokens_one_too_many):
        verdict = check("5.2", wrong, seed=seed)
        assert (verdict.first_wrong, "NaN" in verdict.message) == (f"page {last}", True)
    if triton_puzzles.DEVICE == "cpu":  # on a GPU nobody sees what was read in vain
        verdict = check("5.2", load_tokens_masked_later, seed=seed)
        assert (verdict.first_wrong, "was read" in verdict.message) == (f"page {last}", True)


@triton.jit
def scores_unscaled(q_ptr, k_ptr, out_ptr, page, count, scale, BLOCK_SIZE: tl.constexpr, DIM: tl.constexpr):
    slot, dim = tl.arange(0, BLOCK_SIZE), tl.arange(0, DIM)
    places = page * BLOCK_SIZE * DIM + slot[:, None] * DIM + dim[None, :]
    keys = tl.load(k_ptr + places, mask=(slot < count)[:, None], other=0.0)
    scores = tl.sum(tl.load(q_ptr + dim)[None, :] * keys, axis=1)
    tl.store(out_ptr + slot, tl.where(slot < count, scores, float("-inf")))


@triton.jit
def scores_zero_instead(q_ptr, k_ptr, out_ptr, page, count, scale, BLOCK_SIZE: tl.constexpr, DIM: tl.constexpr):
    slot, dim = tl.arange(0, BLOCK_SIZE), tl.arange(0, DIM)
    places = page * BLOCK_SIZE * DIM + slot[:, None] * DIM + dim[None, :]
    keys = tl.load(k_ptr + places, mask=(slot < count)[:, None], other=0.0)
    tl.store(out_ptr + slot, tl.sum(tl.load(q_ptr + dim)[None, :] * keys, axis=1) * scale)


@triton.jit
def scores_of_page_0(q_ptr, k_ptr, out_ptr, page, count, scale, BLOCK_SIZE: tl.constexpr, DIM: tl.constexpr):
    slot, dim = tl.arange(0, BLOCK_SIZE), tl.arange(0, DIM)
    keys = tl.load(k_ptr + slot[:, None] * DIM + dim[None, :], mask=(slot < count)[:, None], other=0.0)
    scores = tl.sum(tl.load(q_ptr + dim)[None, :] * keys, axis=1) * scale
    tl.store(out_ptr + slot, tl.where(slot < count, scores, float("-inf")))


@pytest.mark.parametrize("seed", range(2))
def test_scores_computed_wrongly(seed: int) -> None:
    pages, last = pages_of(seed)
    assert check("5.3", scores_unscaled, seed=seed).first_wrong == f"page {pages[0]}"
    assert check("5.3", scores_zero_instead, seed=seed).first_wrong == f"page {last}"
    assert check("5.3", scores_of_page_0, seed=seed).first_wrong == f"page {next(page for page in pages if page)}"


@triton.jit
def softmax_without_largest(
    q_ptr, k_ptr, v_ptr, out_ptr, page, count, scale, BLOCK_SIZE: tl.constexpr, DIM: tl.constexpr
):
    slot, dim = tl.arange(0, BLOCK_SIZE), tl.arange(0, DIM)
    inside, places = slot < count, page * BLOCK_SIZE * DIM + slot[:, None] * DIM + dim[None, :]
    keys = tl.load(k_ptr + places, mask=inside[:, None], other=0.0)
    values = tl.load(v_ptr + places, mask=inside[:, None], other=0.0)
    scores = tl.sum(tl.load(q_ptr + dim)[None, :] * keys, axis=1) * scale
    weights = tl.exp(tl.where(inside, scores, float("-inf")))
    tl.store(out_ptr + dim, tl.sum(weights[:, None] * values, axis=0) / tl.sum(weights, axis=0))


@triton.jit
def softmax_with_empty_slots(
    q_ptr, k_ptr, v_ptr, out_ptr, page, count, scale, BLOCK_SIZE: tl.constexpr, DIM: tl.constexpr
):
    slot, dim = tl.arange(0, BLOCK_SIZE), tl.arange(0, DIM)
    inside, places = slot < count, page * BLOCK_SIZE * DIM + slot[:, None] * DIM + dim[None, :]
    keys = tl.load(k_ptr + places, mask=inside[:, None], other=0.0)
    values = tl.load(v_ptr + places, mask=inside[:, None], other=0.0)
    scores = tl.sum(tl.load(q_ptr + dim)[None, :] * keys, axis=1) * scale
    weights = tl.exp(scores - tl.max(scores, axis=0))
    tl.store(out_ptr + dim, tl.sum(weights[:, None] * values, axis=0) / tl.sum(weights, axis=0))


@triton.jit
def softmax_with_all_values(
    q_ptr, k_ptr, v_ptr, out_ptr, page, count, scale, BLOCK_SIZE: tl.constexpr, DIM: tl.constexpr
):
    slot, dim = tl.arange(0, BLOCK_SIZE), tl.arange(0, DIM)
    inside, places = slot < count, page * BLOCK_SIZE * DIM + slot[:, None] * DIM + dim[None, :]
    keys = tl.load(k_ptr + places, mask=inside[:, None], other=0.0)
    scores = tl.sum(tl.load(q_ptr + dim)[None, :] * keys, axis=1) * scale
    scores = tl.where(inside, scores, float("-inf"))
    weights = tl.exp(scores - tl.max(scores, axis=0))
    tl.store(out_ptr + dim, tl.sum(weights[:, None] * tl.load(v_ptr + places), axis=0) / tl.sum(weights, axis=0))


@pytest.mark.parametrize("seed", range(2))
def test_one_pages_softmax_computed_wrongly(seed: int) -> None:
    pages, last = pages_of(seed)
    verdict = check("5.4", softmax_without_largest, seed=seed)
    # Where scores are around 100, exp overflows; where they are around 0, it does not.
    assert verdict.passed if seed % 2 == 0 else verdict.first_wrong == f"page {pages[0]}"
    assert not check("5.4", softmax_without_largest).passed
    verdict = check("5.4", softmax_with_all_values, seed=seed)
    assert (verdict.first_wrong, "NaN" in verdict.message) == (f"page {last}", True)
    if seed % 2 == 0:  # a score of 0 is nothing beside scores of 100
        assert check("5.4", softmax_with_empty_slots, seed=seed).first_wrong == f"page {last}"


@triton.jit
def attend_in_pool_order(
    q_ptr, k_ptr, v_ptr, out_ptr, tables_ptr, lens_ptr, max_pages, scale, BLOCK_SIZE: tl.constexpr, DIM: tl.constexpr
):
    seq, dim = tl.program_id(0), tl.arange(0, DIM)
    length, q = tl.load(lens_ptr + seq), tl.load(q_ptr + seq * DIM + dim)
    largest, total, acc = float("-inf"), 0.0, tl.zeros([DIM], tl.float32)
    for start in range(0, length, BLOCK_SIZE):
        largest, total, acc = one_more_page(
            q, k_ptr, v_ptr, start // BLOCK_SIZE, length - start, scale, largest, total, acc, BLOCK_SIZE, DIM
        )
    tl.store(out_ptr + seq * DIM + dim, acc / total)


@triton.jit
def attend_first_table_only(
    q_ptr, k_ptr, v_ptr, out_ptr, tables_ptr, lens_ptr, max_pages, scale, BLOCK_SIZE: tl.constexpr, DIM: tl.constexpr
):
    seq, dim = tl.program_id(0), tl.arange(0, DIM)
    length, q = tl.load(lens_ptr + seq), tl.load(q_ptr + seq * DIM + dim)
    largest, total, acc = float("-inf"), 0.0, tl.zeros([DIM], tl.float32)
    for start in range(0, length, BLOCK_SIZE):
        page = tl.load(tables_ptr + start // BLOCK_SIZE)
        largest, total, acc = one_more_page(
            q, k_ptr, v_ptr, page, length - start, scale, largest, total, acc, BLOCK_SIZE, DIM
        )
    tl.store(out_ptr + seq * DIM + dim, acc / total)


@triton.jit
def attend_whole_pages(
    q_ptr, k_ptr, v_ptr, out_ptr, tables_ptr, lens_ptr, max_pages, scale, BLOCK_SIZE: tl.constexpr, DIM: tl.constexpr
):
    seq, dim = tl.program_id(0), tl.arange(0, DIM)
    length, q = tl.load(lens_ptr + seq), tl.load(q_ptr + seq * DIM + dim)
    largest, total, acc = float("-inf"), 0.0, tl.zeros([DIM], tl.float32)
    for start in range(0, length, BLOCK_SIZE):
        page = tl.load(tables_ptr + seq * max_pages + start // BLOCK_SIZE)
        largest, total, acc = one_more_page(
            q, k_ptr, v_ptr, page, BLOCK_SIZE, scale, largest, total, acc, BLOCK_SIZE, DIM
        )
    tl.store(out_ptr + seq * DIM + dim, acc / total)


@triton.jit
def attend_without_last_page(
    q_ptr, k_ptr, v_ptr, out_ptr, tables_ptr, lens_ptr, max_pages, scale, BLOCK_SIZE: tl.constexpr, DIM: tl.constexpr
):
    seq, dim = tl.program_id(0), tl.arange(0, DIM)
    length, q = tl.load(lens_ptr + seq), tl.load(q_ptr + seq * DIM + dim)
    largest, total, acc = float("-inf"), 0.0, tl.zeros([DIM], tl.float32)
    for start in range(0, length - BLOCK_SIZE, BLOCK_SIZE):
        page = tl.load(tables_ptr + seq * max_pages + start // BLOCK_SIZE)
        largest, total, acc = one_more_page(
            q, k_ptr, v_ptr, page, length - start, scale, largest, total, acc, BLOCK_SIZE, DIM
        )
    tl.store(out_ptr + seq * DIM + dim, acc / total)


@triton.jit
def attend_with_another_maximum(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    tables_ptr,
    lens_ptr,
    max_pages,
    scale,
    keeps_first: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    DIM: tl.constexpr,
):
    """With the first page's maximum for ever, or with each page's own."""
    seq, slot, dim = tl.program_id(0), tl.arange(0, BLOCK_SIZE), tl.arange(0, DIM)
    length, q = tl.load(lens_ptr + seq), tl.load(q_ptr + seq * DIM + dim)
    largest, total, acc = float("-inf"), 0.0, tl.zeros([DIM], tl.float32)
    for start in range(0, length, BLOCK_SIZE):
        page = tl.load(tables_ptr + seq * max_pages + start // BLOCK_SIZE)
        inside, places = slot < length - start, page * BLOCK_SIZE * DIM + slot[:, None] * DIM + dim[None, :]
        keys = tl.load(k_ptr + places, mask=inside[:, None], other=0.0)
        values = tl.load(v_ptr + places, mask=inside[:, None], other=0.0)
        scores = tl.where(inside, tl.sum(q[None, :] * keys, axis=1) * scale, float("-inf"))
        new = tl.max(scores, axis=0)
        if start > 0:
            new = tl.where(keeps_first, largest, new)
        fade, weights = tl.exp(largest - new), tl.exp(scores - new)
        total = total * fade + tl.sum(weights, axis=0)
        acc = acc * fade + tl.sum(weights[:, None] * values, axis=0)
        largest = new
    tl.store(out_ptr + seq * DIM + dim, acc / total)


@triton.jit
def attend_keeping_the_first(
    q_ptr, k_ptr, v_ptr, out_ptr, tables_ptr, lens_ptr, max_pages, scale, BLOCK_SIZE: tl.constexpr, DIM: tl.constexpr
):
    attend_with_another_maximum(
        q_ptr, k_ptr, v_ptr, out_ptr, tables_ptr, lens_ptr, max_pages, scale, True, BLOCK_SIZE, DIM
    )


@triton.jit
def attend_forgetting_the_largest(
    q_ptr, k_ptr, v_ptr, out_ptr, tables_ptr, lens_ptr, max_pages, scale, BLOCK_SIZE: tl.constexpr, DIM: tl.constexpr
):
    attend_with_another_maximum(
        q_ptr, k_ptr, v_ptr, out_ptr, tables_ptr, lens_ptr, max_pages, scale, False, BLOCK_SIZE, DIM
    )


@pytest.mark.parametrize(("wrong", "seed"), [(attend_keeping_the_first, 1), (attend_forgetting_the_largest, 3)])
def test_only_the_largest_score_so_far_will_do(wrong: Any, seed: int) -> None:
    verdict = check("5.5", wrong)
    assert not verdict.passed
    assert verdict.seed == seed
    assert "inf / inf" in verdict.message
    assert check("5.5", RIGHT["5.5"]).passed


@pytest.mark.parametrize("seed", range(2))
def test_block_tables_followed_wrongly(seed: int) -> None:
    scene = scene_of(seed)
    table = scene.block_tables[0].tolist()
    place = next(i for i, page in enumerate(table) if page != i)
    assert check("5.5", attend_in_pool_order, seed=seed).first_wrong == f"page {place} of sequence 0"
    assert check("5.5", attend_first_table_only, seed=seed).first_wrong == "page 0 of sequence 1"
    verdict = check("5.5", attend_whole_pages, seed=seed)
    assert (verdict.first_wrong, "NaN" in verdict.message) == (f"page {scene.pages(0) - 1} of sequence 0", True)
    # Of a context of one page nothing is left: 0 / 0.
    assert check("5.5", attend_without_last_page, seed=seed).first_wrong == "page 0 of sequence 0"


@triton.jit
def grouped_forgetting_the_largest(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    tables_ptr,
    lens_ptr,
    max_pages,
    scale,
    num_kv_heads,
    GROUP: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    DIM: tl.constexpr,
):
    seq, kv_head, member, dim = tl.program_id(0), tl.program_id(1), tl.arange(0, GROUP), tl.arange(0, DIM)
    slot, length, row = tl.arange(0, BLOCK_SIZE), tl.load(lens_ptr + seq), num_kv_heads * DIM
    mine = (seq * num_kv_heads * GROUP + kv_head * GROUP + member)[:, None] * DIM + dim[None, :]
    largest, total = tl.full([GROUP], float("-inf"), tl.float32), tl.zeros([GROUP], tl.float32)
    q, acc = tl.load(q_ptr + mine), tl.zeros([GROUP, DIM], tl.float32)
    for start in range(0, length, BLOCK_SIZE):
        page = tl.load(tables_ptr + seq * max_pages + start // BLOCK_SIZE)
        inside = slot < length - start
        places = page * BLOCK_SIZE * row + kv_head * DIM + slot[:, None] * row + dim[None, :]
        keys = tl.load(k_ptr + places, mask=inside[:, None], other=0.0)
        values = tl.load(v_ptr + places, mask=inside[:, None], other=0.0)
        scores = tl.sum(q[:, None, :] * keys[None, :, :], axis=2) * scale
        scores = tl.where(inside[None, :], scores, float("-inf"))
        new = tl.max(scores, axis=1)
        fade, weights = tl.exp(largest - new), tl.exp(scores - new[:, None])
        acc = acc * fade[:, None] + tl.sum(weights[:, :, None] * values[None, :, :], axis=1)
        total = total * fade + tl.sum(weights, axis=1)
        largest = new
    tl.store(out_ptr + mine, acc / total[:, None])


def test_the_largest_score_of_a_group_must_be_kept() -> None:
    verdict = check("5.6", grouped_forgetting_the_largest)
    assert not verdict.passed
    assert "inf / inf" in verdict.message
    assert check("5.6", RIGHT["5.6"]).passed


@triton.jit
def grouped_first_kv_head_only(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    tables_ptr,
    lens_ptr,
    max_pages,
    scale,
    num_kv_heads,
    GROUP: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    DIM: tl.constexpr,
):
    seq, kv_head, member, dim = tl.program_id(0), tl.program_id(1), tl.arange(0, GROUP), tl.arange(0, DIM)
    length, row = tl.load(lens_ptr + seq), num_kv_heads * DIM
    mine = (seq * num_kv_heads * GROUP + kv_head * GROUP + member)[:, None] * DIM + dim[None, :]
    largest, total = tl.full([GROUP], float("-inf"), tl.float32), tl.zeros([GROUP], tl.float32)
    q, acc = tl.load(q_ptr + mine), tl.zeros([GROUP, DIM], tl.float32)
    for start in range(0, length, BLOCK_SIZE):
        ours = tl.load(tables_ptr + seq * max_pages + start // BLOCK_SIZE) * BLOCK_SIZE * row
        largest, total, acc = page_for_group(
            q, k_ptr + ours, v_ptr + ours, length - start, row, scale, largest, total, acc, BLOCK_SIZE, DIM
        )
    tl.store(out_ptr + mine, acc / total[:, None])


@triton.jit
def grouped_rows_as_for_one_head(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    tables_ptr,
    lens_ptr,
    max_pages,
    scale,
    num_kv_heads,
    GROUP: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    DIM: tl.constexpr,
):
    seq, kv_head, member, dim = tl.program_id(0), tl.program_id(1), tl.arange(0, GROUP), tl.arange(0, DIM)
    length = tl.load(lens_ptr + seq)
    mine = (seq * num_kv_heads * GROUP + kv_head * GROUP + member)[:, None] * DIM + dim[None, :]
    largest, total = tl.full([GROUP], float("-inf"), tl.float32), tl.zeros([GROUP], tl.float32)
    q, acc = tl.load(q_ptr + mine), tl.zeros([GROUP, DIM], tl.float32)
    for start in range(0, length, BLOCK_SIZE):
        ours = (
            tl.load(tables_ptr + seq * max_pages + start // BLOCK_SIZE) * BLOCK_SIZE * num_kv_heads * DIM
            + kv_head * DIM
        )
        largest, total, acc = page_for_group(
            q, k_ptr + ours, v_ptr + ours, length - start, DIM, scale, largest, total, acc, BLOCK_SIZE, DIM
        )
    tl.store(out_ptr + mine, acc / total[:, None])


@triton.jit
def grouped_heads_interleaved(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    tables_ptr,
    lens_ptr,
    max_pages,
    scale,
    num_kv_heads,
    GROUP: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    DIM: tl.constexpr,
):
    seq, kv_head, member, dim = tl.program_id(0), tl.program_id(1), tl.arange(0, GROUP), tl.arange(0, DIM)
    length, row = tl.load(lens_ptr + seq), num_kv_heads * DIM
    mine = (seq * num_kv_heads * GROUP + member * num_kv_heads + kv_head)[:, None] * DIM + dim[None, :]
    largest, total = tl.full([GROUP], float("-inf"), tl.float32), tl.zeros([GROUP], tl.float32)
    q, acc = tl.load(q_ptr + mine), tl.zeros([GROUP, DIM], tl.float32)
    for start in range(0, length, BLOCK_SIZE):
        ours = tl.load(tables_ptr + seq * max_pages + start // BLOCK_SIZE) * BLOCK_SIZE * row + kv_head * DIM
        largest, total, acc = page_for_group(
            q, k_ptr + ours, v_ptr + ours, length - start, row, scale, largest, total, acc, BLOCK_SIZE, DIM
        )
    tl.store(out_ptr + mine, acc / total[:, None])


def test_heads_grouped_wrongly() -> None:
    for seed in range(3):
        group = (4, 2, 1)[seed]
        first = check("5.6", grouped_first_kv_head_only, seed=seed)
        assert first.first_wrong == f"page 0 of sequence 0, query head {group}"
        rows = check("5.6", grouped_rows_as_for_one_head, seed=seed)
        assert rows.first_wrong == "page 0 of sequence 0, query head 0"
        heads = check("5.6", grouped_heads_interleaved, seed=seed)
        assert heads.passed if group == 1 else heads.first_wrong == "page 0 of sequence 0, query head 1"


@triton.jit
def stub(cache_ptr, out_ptr, page, BLOCK_SIZE: tl.constexpr, DIM: tl.constexpr):
    raise NotImplementedError("your code here")


def test_a_stub_is_missing_and_a_plain_function_no_kernel() -> None:
    for number in RIGHT:
        verdict = check(number, stub)
        assert verdict.is_missing
        assert lesson05.EXERCISES[number].hints[0] in verdict.message
    verdict = check("5.1", lambda *args: None)
    assert not verdict.passed
    assert "@triton.jit" in verdict.message


def test_without_triton_the_lesson_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = triton_puzzles._NoTriton()

    @missing.jit
    def kernel(cache_ptr: Any, BLOCK_SIZE: missing.constexpr) -> None: ...

    monkeypatch.setattr(triton_grading, "HAS_TRITON", False)
    monkeypatch.setattr(triton_pictures, "HAS_TRITON", False)
    verdict = check("5.1", kernel)
    assert not verdict.passed
    assert "not installed" in verdict.message
    assert "plain torch" in verdict.message
    assert lesson05.reads(kernel, scene_of(0), 0) == []


@pytest.mark.skipif(triton_puzzles.DEVICE != "cpu", reason="loads are on record in the interpreter only")
def test_recorded_reads_are_what_the_block_table_says() -> None:
    for seed in range(3):
        scene = scene_of(seed)
        planned = [sorted(slots) for slots in lesson05.planned_reads(scene, 0)]
        assert lesson05.reads(RIGHT["5.5"], scene, 0) == planned
        assert len(lesson05.reads_figure(scene, planned, "as read").frames) == scene.pages(0)


def test_questions_come_from_real_runs_and_repeat() -> None:
    for seed in range(5):
        question, again = quiz("5", seed), quiz("5", seed)
        assert (question.question, question.expected) == (again.question, again.expected)
        assert question.answer(question.expected).passed
        assert not question.answer(0).passed
