"""Lesson 5, the Triton kernel as puzzles: exercises, hints and quiz.

Puzzles 5.1 to 5.4 look at one page of one head: caches are ``[num_blocks, block_size, dim]``. 5.6 has heads.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

from workbench.course.exercise import Exercise, Question
from workbench.course.lessons.paged_scene import make_scene
from workbench.course.lessons.real_runs import short_run
from workbench.course.lessons.triton_grading import (
    grade_attend,
    grade_attend_page,
    grade_gqa,
    grade_load_page,
    grade_load_tokens,
    grade_scores,
    scene_of,
)
from workbench.course.lessons.triton_pictures import planned_reads, reads, reads_figure
from workbench.course.lessons.triton_puzzles import DEVICE, HAS_TRITON, tl, triton, where
from workbench.course.lessons.triton_specs import (
    spec_attend,
    spec_attend_page,
    spec_load_page,
    spec_load_tokens,
    spec_scores,
)
from workbench.course.verdict import Verdict

__all__ = [
    "DEVICE", "HAS_TRITON", "make_scene", "planned_reads", "reads", "reads_figure", "scene_of", "short_run",
    "spec_attend", "spec_attend_page", "spec_load_page", "spec_load_tokens", "spec_scores", "tl", "triton", "where",
]  # fmt: skip

_TASKS = {
    "5.1": Exercise(
        "Load one page",
        grade_load_page,
        (
            "A page begins at number `page * BLOCK_SIZE * DIM` of the cache; a slot is DIM numbers further.",
            "`slot = tl.arange(0, BLOCK_SIZE)` and `dim = tl.arange(0, DIM)`; `slot[:, None] * DIM + dim[None, :]` are "
            "the places within a page.",
            "`rows = tl.load(cache_ptr + page * BLOCK_SIZE * DIM + places)`, then `tl.store(out_ptr + places, rows)`.",
        ),
    ),
    "5.2": Exercise(
        "Load only the slots that hold a token",
        grade_load_tokens,
        (
            "`tl.load` takes a `mask`: where it is false, nothing is read and `other` stands there instead.",
            "The mask must have the shape of the places, or one that grows to it: `(slot < count)[:, None]`.",
            "`tl.load(pointers, mask=(slot < count)[:, None], other=0.0)`; the store has no mask: zeros are wanted.",
        ),
    ),
    "5.3": Exercise(
        "The products of a query with the keys of a page",
        grade_scores,
        (
            "The query is DIM numbers: one load. Multiply it with every row and add up along the row.",
            "`tl.sum(x, axis=1)` adds up along rows; `q[None, :]` stands beside every row.",
            "A masked key is 0 and so is its score, but it must be minus infinity: "
            '`tl.where(slot < count, scores, float("-inf"))`.',
        ),
    ),
    "5.4": Exercise(
        "Softmax over one page",
        grade_attend_page,
        (
            "Softmax: subtract the largest score, `tl.exp`, divide by the sum.",
            "exp(-inf) is 0, so slots without a token get no weight. Mask their values all the same: 0 x NaN is NaN.",
            "`tl.sum(weights[:, None] * values, axis=0) / tl.sum(weights, axis=0)`, stored at `out_ptr + dim`.",
        ),
    ),
    "5.5": Exercise(
        "The online softmax over a block table",
        grade_attend,
        (
            "`one_more_page`: keys, values and scores as in puzzle 4, then the new state as in exercise 4.3. The "
            "kernel: page i of sequence seq is number `seq * max_pages + i` of the tables.",
            "Lesson 4: new = tl.maximum(largest, tl.max(scores, axis=0)); fade = tl.exp(largest - new); total and acc "
            "are old x fade + new ones, with the weights tl.exp(scores - new).",
            "`for start in range(0, length, BLOCK_SIZE)`: page = `tl.load(tables_ptr + seq * max_pages + start // "
            "BLOCK_SIZE)`; `largest, total, acc = one_more_page(q, k_ptr, v_ptr, page, length - start, scale, largest, "
            "total, acc, BLOCK_SIZE, DIM)`.",
        ),
    ),
    "5.6": Exercise(
        "Grouped heads: read each page once for all query heads of a KV head",
        grade_gqa,
        (
            "A program has one sequence and one KV head, `tl.program_id(1)`, and GROUP query heads: `kv_head * GROUP + "
            "tl.arange(0, GROUP)`.",
            "A slot now has num_kv_heads * DIM numbers, the `row`; our head's part begins at kv_head * DIM in it. So "
            "the pointers move by `page * BLOCK_SIZE * row + kv_head * DIM`. Scores are `[GROUP, BLOCK_SIZE]`.",
            "Scores: `tl.sum(q[:, None, :] * keys[None, :, :], axis=2)`. largest and total become `[GROUP]`, acc "
            "`[GROUP, DIM]`: `tl.sum(weights[:, :, None] * values[None, :, :], axis=1)`.",
        ),
    ),
}


def _with_hint(task: Exercise) -> Exercise:
    """A kernel can't be asked whether it is written by running it, so its grader looks; the words are added here."""

    def grade(answer: Any, seed: int) -> Verdict:
        verdict = task.grade(answer, seed)
        return replace(verdict, message=f"{task.title}. {task.hints[0]}") if verdict.is_missing else verdict

    return replace(task, grade=grade)


EXERCISES = {number: _with_hint(task) for number, task in _TASKS.items()}


def make_question(seed: int) -> Question:
    """An address, or the number of programs and loads, for a block table of a real run."""
    rng = random.Random(seed)
    llm = short_run(seed)
    state = llm.page_map
    sequence = rng.choice(sorted(state.sequences))
    table, length = state.sequences[sequence].block_table, state.sequences[sequence].num_computed_tokens
    size = state.block_size
    layer = llm.model.layers[0]
    kv_heads, dim = layer.num_kv_heads, layer.head_dim
    head_line = (
        f"A run of the engine on the bundled model ({layer.num_heads} query heads, {kv_heads} KV heads, {dim} numbers "
        f"per key), pages of {size}: sequence {sequence} has {length} tokens, block table {table}."
    )
    if rng.random() < 0.6:
        position, kv_head = rng.randrange(length), rng.randrange(kv_heads)
        page, offset = table[position // size], position % size
        answer = ((page * size + offset) * kv_heads + kv_head) * dim
        return Question(
            f"{head_line} The keys of a layer are `[pages, {size}, {kv_heads}, {dim}]`, without gaps. At which number "
            f"does the key of position {position}, KV head {kv_head} begin?",
            answer,
            f"Logical block {position // size} is page {page}, offset {offset}: (({page} x {size} + {offset}) x "
            f"{kv_heads} + {kv_head}) x {dim}.",
        )
    last = length - (len(table) - 1) * size
    count = len(state.sequences)
    return Question(
        f"{head_line} {count} sequences decode in this step. With a program per sequence and KV head, as in "
        f"puzzle 5.6: how many programs run in a layer, and for how many slots is the mask of this sequence's "
        f"last page true? Answer with a list of two numbers.",
        [count * kv_heads, last],
        f"{count} x {kv_heads} programs; {length} tokens leave {last} on the last of {len(table)} pages.",
        what="number",
    )
