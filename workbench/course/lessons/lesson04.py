"""Lesson 4, attention over pages: exercises, hints and quiz."""

from __future__ import annotations

import random

from workbench.course.exercise import Exercise, Question
from workbench.course.lessons.attention_graders import (
    grade_add_page,
    grade_attend,
    grade_batch,
    grade_gather,
    grade_merge,
    reference,
    rows,
    score_pages,
    split_parts,
    start_state,
)
from workbench.course.lessons.paged_scene import Scene, make_scene
from workbench.course.lessons.real_runs import engine_kv, short_run
from workbench.course.lessons.softmax_pictures import softmax_figure, softmax_steps

__all__ = [
    "EXERCISES", "Scene", "engine_kv", "make_question", "make_scene", "reference", "rows", "score_pages", "short_run",
    "softmax_figure", "softmax_steps", "split_parts", "start_state",
]  # fmt: skip

EXERCISES = {
    "4.1": Exercise(
        "Gather the keys of a sequence from its pages",
        grade_gather,
        (
            "Position p lies in logical block p // block_size, at offset p % block_size.",
            "`table[i]` is the number of the physical page of logical block i; `cache[page]` is `[block_size, dim]`.",
            "Walk over the pages, `torch.cat` them, and cut the result to `length`: the last page is not full.",
        ),
    ),
    "4.2": Exercise(
        "Attention in a loop over pages",
        grade_attend,
        (
            "Collect the scores page by page, then take one softmax over all of them, then add up the values page by "
            "page.",
            "On the last page there are only `length - i * block_size` tokens. Cut the page before you multiply.",
            "`scores = torch.cat([k_cache[table[i]][:n] @ q for ...]) / dim ** 0.5`, then `weights.split(block_size)` "
            "gives each page's share of the weights.",
        ),
    ),
    "4.3": Exercise(
        "The online softmax: one more page",
        grade_add_page,
        (
            "The state is as if all exponentials had been taken of `score - largest`. A page may bring a larger score.",
            "If the largest grows from m to m', everything summed so far must be multiplied by exp(m - m').",
            "`new = torch.maximum(largest, scores.max())`, `fade = torch.exp(largest - new)`; then both `total` and "
            "`acc` are old x fade + what the page adds.",
        ),
    ),
    "4.4": Exercise(
        "Paged attention for a ragged batch",
        grade_batch,
        (
            "Two loops: over the sequences, and over the pages of each. Start every sequence with a fresh state.",
            "A sequence of `length` tokens has `-(-length // block_size)` pages. Entries behind them name somebody "
            "else's page.",
            "For each page: cut to the tokens that are there, scores = keys @ q / dim ** 0.5, `state = add_page(...)`. "
            "At the end `acc / total`.",
        ),
    ),
    "4.5": Exercise(
        "Merge two parts",
        grade_merge,
        (
            "exp(lse) is the sum of the exponentials of a part: its weight in the whole.",
            "lse = log(exp(lse_a) + exp(lse_b)) is `torch.logaddexp`. Weight of a part: exp(its lse - lse).",
            "If both parts are empty, lse is minus infinity and -inf - -inf is NaN: then return `out_a` and minus "
            "infinity.",
        ),
        seeds=(0, 1, 2, 3, 4, 5),
    ),
}


def make_question(seed: int) -> Question:
    """Where a position lies, or which slots must not be read, in a real run's block table."""
    rng = random.Random(seed)
    llm = short_run(seed)
    state = llm.page_map
    sequence = rng.choice(sorted(state.sequences))
    table, length = state.sequences[sequence].block_table, state.sequences[sequence].num_computed_tokens
    size = state.block_size
    head = (
        f"A run of the engine, stopped after step {llm.step_number}: sequence {sequence} has {length} tokens on pages "
        f"of {size}; its block table is {table}."
    )
    if rng.random() < 0.5:
        position = rng.randrange(length)
        page, offset = table[position // size], position % size
        return Question(
            f"{head} In which slot of the pool (page x block size + offset) is the key of position {position}?",
            page * size + offset,
            f"Position {position} is in logical block {position // size}, which is page {page}, at offset {offset}: "
            f"{page} x {size} + {offset}.",
        )
    empty = len(table) * size - length
    return Question(
        f"{head} How many slots of its pages must attention leave out?",
        empty,
        f"{len(table)} pages have {len(table) * size} slots, {length} hold a token; those left over hold old data or "
        "none.",
    )
