"""Lesson 9, relevance: graders and hints; the workloads and the leaderboard are in `eviction_board`."""

from __future__ import annotations

import math
import operator
import random
from collections.abc import Callable, Sequence
from typing import Any

import torch

from workbench.course.exercise import Exercise, Question
from workbench.course.lessons.eviction_board import (
    KINDS,
    Row,
    board,
    board_table,
    grade_policy,
    prompts,
    replay,
)
from workbench.course.lessons.paged_scene import Scene, make_scene
from workbench.course.lessons.relevance_runs import (
    long_run,
    mass_figure,
    masses,
    selection_rows,
)
from workbench.course.verdict import Verdict

__all__ = [
    "KINDS", "Row", "Scene", "best_pages", "board", "board_table", "long_run", "make_scene", "mass_figure", "masses",
    "prompts", "replay", "selection_rows",
]  # fmt: skip

TOLERANCE = 1e-4


# -- 9.1 ---------------------------------------------------------------------------------------------------------------


def true_mass(scene: Scene, sequence: int) -> list[float]:
    """The query's attention weights summed over each page, in float64."""
    size, length = scene.block_size, scene.lengths[sequence]
    where = torch.arange(length)
    keys = scene.k_cache[:, :, 0][scene.block_tables[sequence, where // size], where % size].double()
    weights = (keys @ scene.q[sequence, 0].double() / math.sqrt(keys.shape[1])).softmax(0)
    return [float(part.sum()) for part in weights.split(size)]


def grade_mass(answer: Callable[..., Any], seed: int) -> Verdict:
    """``answer(q, k_cache, table, length)``: a number for each page of the sequence."""
    scene = make_scene(seed)
    for sequence, length in enumerate(scene.lengths):
        expected = true_mass(scene, sequence)
        yours = answer(
            scene.q[sequence, 0].clone(), scene.k_cache[:, :, 0].clone(), scene.block_tables[sequence].clone(), length
        )
        got = _as_numbers(yours)
        if got is None:
            return Verdict(
                False, "Return a list or a tensor of numbers, one for each page.", type(yours).__name__, "list"
            )
        left, right = [round(x, 4) for x in got], [round(x, 4) for x in expected]
        for page in range(max(len(got), len(expected))):
            if page >= len(got) or page >= len(expected) or not abs(got[page] - expected[page]) <= TOLERANCE:
                message = f"Sequence {sequence} has {length} tokens on {len(expected)} pages of {scene.block_size}."
                if len(got) == len(expected) and abs(sum(got) - 1) > 0.01:
                    message += f" Yours add up to {sum(got):.3f}, not to 1."
                return Verdict(False, message, left, right, f"page {page} of sequence {sequence}")
    return Verdict(True, "Every page has its share, and they add up to 1.")


def _as_numbers(value: Any) -> list[float] | None:
    try:
        return [float(x) for x in value]
    except (TypeError, ValueError):
        return None


# -- 9.2 ---------------------------------------------------------------------------------------------------------------


def best_pages(mass: Sequence[float], count: int) -> list[int]:
    """The first page, the last one, and the others with the most mass: ``count`` in all, in order of the text."""
    ends = {0, len(mass) - 1}
    others = sorted(set(range(len(mass))) - ends, key=lambda page: (-mass[page], page))
    return sorted([*ends, *others][:count]) if count < len(mass) else list(range(len(mass)))


def grade_choice(answer: Callable[..., Any], seed: int) -> Verdict:
    """``answer(mass, count)``: the pages to read, in order."""
    rng = random.Random(seed)
    for _ in range(4):
        pages = rng.randint(4, 14)
        raw = [rng.random() ** 3 + 1e-3 for _ in range(pages)]
        if rng.random() < 0.5:  # random masses are never equal
            raw = [float(rng.randint(1, 3)) for _ in raw]
        # The ends are not always among the best: who takes the best only is found out.
        raw[0], raw[-1] = raw[0] * rng.choice((0.01, 1)), raw[-1] * 0.01
        mass = [x / sum(raw) for x in raw]
        for count in (2, 3, rng.randint(2, pages), pages + 2):
            expected = best_pages(mass, count)
            yours = answer(list(mass), count)
            got = _as_pages(yours)
            shown = [round(m, 3) for m in mass]
            if got is None:
                return Verdict(False, "Return a list of whole numbers.", str(yours), expected)
            if got != expected:
                missing = [page for page in expected if page not in got]
                extra = [page for page in got if page not in expected or got.count(page) > 1]
                place = missing[0] if missing else extra[0] if extra else None
                message = f"{count} of {pages} pages with masses {shown}."
                if missing and any(mass[page] == mass[missing[0]] for page in extra):
                    message += f" Of equal masses the earlier page is read, so page {missing[0]} before {extra[0]}."
                if sorted(got) == expected:
                    message += " The right pages, but not in the order of the text."
                    place = next(a for a, b in zip(got, expected, strict=True) if a != b)
                return Verdict(False, message, got, expected, None if place is None else f"page {place}")
    return Verdict(True, "The first, the last and the best of the others, in order.")


def _as_pages(value: Any) -> list[int] | None:
    if hasattr(value, "tolist"):  # a tensor or an array
        value = value.tolist()
    if not isinstance(value, list | tuple):
        return None
    try:
        return [operator.index(page) for page in value]
    except TypeError:
        return None


EXERCISES = {
    "9.1": Exercise(
        "Attention mass per page",
        grade_mass,
        (
            "Compute the weights as in lesson 4: one softmax over all scores. Then add them up page by page.",
            "`weights.split(block_size)` cuts into pages; the last piece may be shorter.",
            "Gather the keys (exercise 4.1), `weights = (keys @ q / dim ** 0.5).softmax(0)`, `[w.sum() for w in "
            "weights.split(block_size)]`.",
        ),
    ),
    "9.2": Exercise(
        "Choose the pages to read",
        grade_choice,
        (
            "Three kinds: page 0, the last page, and of the others those with the most mass.",
            "Sort the pages in between by `-mass[page]` and take `count - 2` of them. `sorted` at the end restores the "
            "order of the text.",
            "If `count` is at least the number of pages, all pages are read.",
        ),
    ),
    "9.3": Exercise(
        "An eviction policy that beats LRU",
        grade_policy,
        (
            "What tells a page that will be needed again from one of a text that came once? `page.hits`.",
            "`hits` alone (LFU) never forgets: in the workload 'shifting' yesterday's favourites stay for ever. Mix "
            "`hits` with `last_used`.",
            "A page that was hit could count as if it had been used some time later than it was: "
            "`page.last_used + bonus * min(page.hits, cap)`. Try bonus and cap on seeds of your own with `board`.",
        ),
        seeds=(101, 102, 103),
    ),
}


def make_question(seed: int) -> Question:
    """How many pages cover a share of the attention, or which page gets the most, in a real run."""
    rng = random.Random(seed)
    run = long_run(seed, tokens=rng.randint(90, 200), steps=rng.randint(3, 8))
    query, mass = masses(run)[-1]
    shown = [round(m, 3) for m in mass]
    head = (
        f"A run of the engine: the token at position {query} attended to {len(mass)} pages of "
        f"{run.block_size} tokens. Its attention mass by page, mean over layers and heads, is {shown}."
    )
    if rng.random() < 0.6:
        share = rng.choice((50, 70, 80, 90))
        total, count = 0.0, 0
        for value in sorted(shown, reverse=True):
            total, count = total + value, count + 1
            if total >= share / 100:
                break
        return Question(
            f"{head} How many pages, chosen well, cover {share} percent of it?",
            count,
            f"The {count} largest add up to {100 * total:.1f} percent, one less to less than {share}.",
        )
    inner = shown[1:-1]
    page = 1 + max(range(len(inner)), key=lambda i: inner[i])
    return Question(
        f"{head} The first and the last page are always read. Which page is the third to be read?",
        page,
        f"Of the pages in between page {page} has the most: {100 * shown[page]:.1f} percent.",
    )
