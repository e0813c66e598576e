"""A lesson to test the course with: pages of a sequence."""

from __future__ import annotations

import random
from collections.abc import Callable

from workbench.course import Exercise, Question, Verdict, compare


def pages_of(num_tokens: int, page_size: int) -> int:
    return -(-num_tokens // page_size)


def grade_pages(answer: Callable[[int, int], int], seed: int) -> Verdict:
    rng = random.Random(seed)
    work = [(rng.randint(1, 100), rng.choice([8, 16, 32])) for _ in range(20)]
    return compare([answer(*w) for w in work], [pages_of(*w) for w in work], "sequence", "Count the last page, too.")


EXERCISES = {
    "90.1": Exercise("Pages of a sequence", grade_pages, ("A page may be partly filled.", "Divide and round up.")),
}


def make_question(seed: int) -> Question:
    rng = random.Random(seed)
    tokens = rng.randint(20, 200)
    return Question(
        f"How many pages of 16 tokens do {tokens} tokens take?", pages_of(tokens, 16), f"{tokens} / 16, rounded up."
    )
