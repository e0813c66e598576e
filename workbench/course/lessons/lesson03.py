"""Lesson 3, pages: the paper's example on the engine, and what its block manager begins with."""

from __future__ import annotations

import random
from collections import deque

from workbench import LLM, SamplingParams
from workbench.course.exercise import Exercise, Question
from workbench.course.lessons.bundled import random_jobs, run, tiny
from workbench.course.lessons.paging_graders import grade_grow, grade_manager, grade_replay, grade_slot
from workbench.course.lessons.paper_pool import PAPER_PROMPT, paper_pool
from workbench.events import PageMap, Timeline
from workbench.views.palette import request_label

__all__ = [
    "EXERCISES", "FIG6_PROMPT", "Books", "fig6_engine", "grade_grow", "grade_manager", "grade_replay", "grade_slot",
    "make_question", "small_run", "table_of", "tiny",
]  # fmt: skip

FIG6_PROMPT = PAPER_PROMPT


def fig6_engine() -> tuple[LLM, Timeline, int]:
    """The pool of `paper_pool`, all of it soon taken, and the request of the paper's Fig. 6 last in the queue.

    Returns:
        The engine before its first step, its history, and the request's number.
    """
    llm, timeline = paper_pool()
    request = llm.add_request(FIG6_PROMPT, SamplingParams(max_tokens=6, temperature=0, ignore_eos=True))
    return llm, timeline, request


def table_of(page_map: PageMap, request: int) -> list[int]:
    """The block table of a request with one sequence; empty if it holds no page."""
    sequence = page_map.sequences.get(page_map.requests[request].sequence)
    return list(sequence.block_table) if sequence is not None else []


def small_run() -> Timeline:
    """Eight requests of random lengths on pages of 16, to their end; none has to wait."""
    _, timeline = run(random_jobs(random.Random(0), 8, (3, 60), (20, 60)), block_size=16, num_blocks=64)
    return timeline


class Books:
    """What a block manager keeps: the free list, and a block table per sequence.

    Attributes:
        block_size: slots per page.
        free: numbers of the free pages, the next to be handed out first.
        tables: per sequence, its pages in logical order.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self.free = deque(range(num_blocks))
        self.tables: dict[int, list[int]] = {}


# -- the register ----------------------------------------------------------------------------------------------------

EXERCISES = {
    "3.1": Exercise(
        "Translate a position into a slot",
        grade_slot,
        (
            "Which logical page is the token in, and at which place there? Divide its position by the block size.",
            "`logical, offset = divmod(position, block_size)`; the table says which physical page that is.",
            "Slots are counted through all of memory: a physical page begins at slot `page * block_size`.",
        ),
    ),
    "3.2": Exercise(
        "Grow: pages on demand",
        grade_grow,
        (
            "How many pages do `num_tokens` tokens need in all, and how many does the sequence have already?",
            "Round up: `-(-num_tokens // self.block_size)` pages in all. The difference may be 0, or more than 1.",
            "Look at `len(self.free)` first. If there are too few, return False and change nothing: no table, no list.",
            "Else `table.append(self.free.popleft())` as often as needed, put the table into `self.tables`.",
        ),
    ),
    "3.3": Exercise(
        "Release: pages come back",
        grade_manager,
        (
            "What must be true of every page at any time? It is in one table, or on the free list: never both.",
            "`self.tables.pop(sequence)` takes the table out and returns it.",
            "The last page is the first to go to the end of the free list: `self.free.extend(reversed(...))`.",
        ),
    ),
    "3.4": Exercise(
        "Foretell a real run",
        grade_replay,
        ("This needs no new code: it is your manager of 3.3 on the lengths of a real run, preemptions included.",),
        seeds=(0, 1, 2),
    ),
}


def make_question(seed: int) -> Question:
    """About one step of a real run: a slot, a number of pages, or the page that comes next."""
    rng = random.Random(seed)
    block_size = rng.choice((4, 8))
    jobs = random_jobs(rng, 4, (3, 4 * block_size), (12, 24))
    _, timeline = run(jobs, steps=rng.randint(3, 10), block_size=block_size, num_blocks=32, max_model_len=128)
    state = timeline.state_at(timeline.last_step)
    sequence = rng.choice(sorted(state.sequences))
    held = state.sequences[sequence]
    name, table, tokens = request_label(held.request), list(held.block_table), held.num_computed_tokens
    facts = (
        f"Step {state.step} of a run with pages of {block_size} tokens. Request {name} has {tokens} tokens in memory, "
        f"its block table is {table}."
    )
    kind = rng.choice(("slot", "empty", "next", "more"))
    if kind == "slot":
        position = rng.randrange(tokens)
        logical, offset = divmod(position, block_size)
        return Question(
            f"{facts} In which slot do the keys and values of its token {position} lie (tokens counted from 0)?",
            table[logical] * block_size + offset,
            f"Token {position} is in logical page {logical} at offset {offset}. That is page {table[logical]}: "
            f"{table[logical]} x {block_size} + {offset}.",
        )
    if kind == "empty":
        return Question(
            f"{facts} How many of the slots that it holds are empty?",
            len(table) * block_size - tokens,
            f"{len(table)} pages x {block_size} - {tokens} tokens. There are always fewer than {block_size}.",
        )
    free = state.free_list() or []
    if kind == "next":
        return Question(
            f"{facts} The free list is {free[:6]} and so on. Which physical page does it get when it needs one more?",
            free[0],
            "The first of the free list; any other free page would do as well.",
        )
    total = tokens + rng.randint(1, 3 * block_size)
    return Question(
        f"{facts} How many more pages does it need for {total} tokens in all?",
        -(-total // block_size) - len(table),
        f"{total} tokens need {-(-total // block_size)} pages of {block_size}; it has {len(table)}.",
    )
