"""A student's books of pages beside the engine's, on the same calls: what the graders of lessons 3 and 6 share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from workbench.course.verdict import Verdict
from workbench.events.types import Cause
from workbench.memory.paged import PagedMemory

#: So many of the last calls are named in a verdict.
_CALLS = 4


class BooksPair:
    """Both get the same calls; after each one they are compared.

    Attributes:
        yours: the student's, with ``free`` (the free list) and ``tables`` (block tables by sequence).
        real: the engine's.
        log: the calls so far, as text.
    """

    def __init__(self, kind: Callable[[int, int], Any], num_blocks: int, block_size: int) -> None:
        self.num_blocks, self.block_size = num_blocks, block_size
        self.yours = kind(num_blocks, block_size)
        self.real = PagedMemory(num_blocks, block_size, 0.0, None)
        self.log: list[str] = []

    def tables(self) -> dict[int, list[int]]:
        """The engine's block tables."""
        return {sequence: list(groups[0][0]) for sequence, groups in self.real.tables().block_tables.items()}

    @property
    def free(self) -> list[int]:
        """The engine's free list."""
        return list(self.real.tables().free_blocks)

    def release(self, sequence: int) -> Verdict | None:
        self.log.append(f"release({sequence})")
        self.real.free(sequence, Cause.REQUEST_FINISHED)
        self.yours.release(sequence)
        return self.compare()

    def compare(self) -> Verdict | None:
        """None if both say the same. What breaks an invariant comes first: it is worse than another page."""
        raise NotImplementedError

    def compare_free(self) -> Verdict | None:
        """Of the free lists; None if they are equal."""
        yours, right = list(self.yours.free), self.free
        if yours == right:
            return None
        missing = [page for page in right if page not in yours]
        if missing:
            words = f"page {missing[0]} is lost: it is in no block table, and not free"
            return self.wrong(words, yours, right, f"page {missing[0]}")
        index = first_difference(yours, right)
        words = "the free list has its pages in another order: first in, first out, and a table's last page comes back "
        words = "a page is on the free list twice" if len(yours) > len(right) else f"{words}first"
        return self.wrong(words, yours, right, f"page {yours[index]}, place {index} of the free list")

    def wrong(self, words: str, yours: Any, expected: Any, first: str) -> Verdict:
        """A verdict that names the pool, the last calls, and the first place that is wrong."""
        calls = self.log[-_CALLS:]
        before = f"{len(self.log) - _CALLS} calls before, then " if len(self.log) > _CALLS else ""
        head = f"{self.num_blocks} pages of {self.block_size}; {before}{', '.join(f'`{c}`' for c in calls)}: "
        return Verdict(False, f"{head}{words}.", yours, expected, f"{first}, call {len(self.log)}")


def first_difference(yours: Sequence[Any], right: Sequence[Any]) -> int:
    """The first index at which two lists differ; if one begins like the other, the shorter one's length."""
    pairs = zip(yours, right, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(yours), len(right)))
