"""Lesson 3's graders: a student's translation and block manager beside the engine's books, and a real run."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from workbench.course.comparing import same
from workbench.course.lessons.books_pair import BooksPair, first_difference
from workbench.course.lessons.bundled import random_jobs, run
from workbench.course.verdict import Verdict
from workbench.events import types as ev
from workbench.events.types import Cause

# -- 3.1 ---------------------------------------------------------------------------------------------------------------


def grade_slot(answer: Callable[[list[int], int, int], int], seed: int) -> Verdict:
    """``answer(table, position, block_size)`` against the slots to which the engine's books send tokens."""
    rng = random.Random(seed)
    block_size = rng.choice((1, 2, 4, 5, 16))
    pages = list(range(40))
    rng.shuffle(pages)
    length = rng.randint(1, 6 * block_size)
    table = pages[: -(-length // block_size)]
    expected = [table[t // block_size] * block_size + t % block_size for t in range(length)]
    yours = [answer(list(table), t, block_size) for t in range(length)]
    wrong = next((t for t in range(length) if not same(yours[t], expected[t])), None)
    if wrong is None:
        return Verdict(True, "Every token has its slot.")
    logical = wrong // block_size
    return Verdict(
        False,
        f"Block size {block_size}, block table {table}. Token {wrong} is in logical page {logical}, physical page "
        f"{table[logical]}.",
        yours,
        expected,
        f"token {wrong} (logical page {logical})",
    )


# -- 3.2 and 3.3: your manager beside the engine's ---------------------------------------------------------------------


class _Pair(BooksPair):
    """A student's manager and the engine's own books, on the same calls."""

    def holds(self, sequence: int, num_tokens: int) -> bool:
        return self.real.has(sequence) and self.real.num_stored(sequence) == num_tokens

    def grow(self, sequence: int, num_tokens: int) -> Verdict | None:
        self.log.append(f"grow({sequence}, {num_tokens})")
        if self.real.has(sequence):
            expected = self.real.try_append(sequence, num_tokens)
        else:
            tokens = [0] * num_tokens
            expected = self.real.can_allocate(tokens, num_tokens, 1, alone=True) is None
            if expected:
                self.real.allocate(sequence, tokens, num_tokens, 1)
        if expected:
            self.real.commit(sequence, num_tokens - self.real.num_stored(sequence), Cause.DECODE)
        got = self.yours.grow(sequence, num_tokens)
        if got is not expected:
            words = f"it must return {expected}: {len(self.free)} pages are free after the call"
            return self.wrong(words, got, expected, f"the result of {self.log[-1]}")
        wrong = self.compare()
        if wrong is None and not expected and sequence not in self.tables() and sequence in self.yours.tables:
            words = f"it returned False, so nothing may have changed; but sequence {sequence} now has an empty table"
            return self.wrong(words, self.yours.tables, self.tables(), f"the table of sequence {sequence}")
        return wrong

    def release(self, sequence: int) -> Verdict | None:
        wrong = super().release(sequence)
        if wrong is None and sequence in self.yours.tables:
            words = f"the pages are back, but sequence {sequence} still has a table, an empty one: take it out"
            return self.wrong(words, self.yours.tables, self.tables(), f"the table of sequence {sequence}")
        return wrong

    def compare(self) -> Verdict | None:
        tables, free = self.yours.tables, list(self.yours.free)
        expected, real_free = self.tables(), self.free
        holders: dict[int, str] = {}
        for sequence, table in tables.items():
            for index, page in enumerate(table):
                place = f"logical page {index} of sequence {sequence}"
                if page in holders:
                    words = f"page {page} is in two places: {holders[page]} and {place}"
                    return self.wrong(words, tables, expected, f"page {page}, {place}")
                holders[page] = place
        for page in free:
            if page in holders:
                words = f"page {page} is on the free list although it is {holders[page]}"
                return self.wrong(words, free, real_free, f"page {page}")
        for sequence, right in expected.items():
            if list(tables.get(sequence, [])) != right:
                return self._wrong_table(sequence, tables, expected)
        if any(table for sequence, table in tables.items() if sequence not in expected):
            extra = next(sequence for sequence, table in tables.items() if table and sequence not in expected)
            words = f"sequence {extra} holds pages that it must not have"
            return self.wrong(words, tables, expected, f"page {tables[extra][0]}, logical page 0 of sequence {extra}")
        return self.compare_free()

    def _wrong_table(self, sequence: int, tables: dict[int, list[int]], expected: dict[int, list[int]]) -> Verdict:
        yours, right = list(tables.get(sequence, [])), expected[sequence]
        index = first_difference(yours, right)
        tokens = self.real.num_stored(sequence)
        if len(yours) != len(right):
            words = (
                f"{tokens} tokens in pages of {self.block_size} need {len(right)} pages, your table has {len(yours)}"
            )
        else:
            words = (
                f"page {yours[index]} was free, so attention would be right with it; but the first page of the free "
                f"list was {right[index]}"
            )
        return self.wrong(words, yours, right, f"logical page {index} of sequence {sequence}")


def grade_grow(answer: Callable[[int, int], Any], seed: int) -> Verdict:
    """Only `grow`: sequences come and grow until the pool is full."""
    rng = random.Random(seed)
    pair = _Pair(answer, rng.randint(3, 16), rng.choice((1, 2, 3, 4, 8)))
    lengths: dict[int, int] = {}
    coming = refused = 0
    while refused < 4:
        if not lengths or rng.random() < 0.25:
            sequence, wanted = coming, rng.randint(1, 3 * pair.block_size)
            coming += 1
        else:
            sequence = rng.choice(list(lengths))
            wanted = lengths[sequence] + (1 if rng.random() < 0.8 else rng.randint(2, 2 * pair.block_size + 1))
        wrong = pair.grow(sequence, wanted)
        if wrong is not None:
            return wrong
        if pair.holds(sequence, wanted):
            lengths[sequence] = wanted
        else:
            refused += 1
    return Verdict(True, f"{len(pair.log)} calls, the same pages as the engine's.")


def grade_manager(answer: Callable[[int, int], Any], seed: int) -> Verdict:
    """A random life of a pool: sequences come, grow, and end; the pool is full now and then."""
    rng = random.Random(1000 + seed)
    pair = _Pair(answer, rng.randint(4, 24), rng.choice((1, 2, 4, 8, 16)))
    lengths: dict[int, int] = {}
    coming = 0
    for _ in range(150):
        dice = rng.random()
        if not lengths or dice < 0.2:
            sequence, wanted = coming, rng.randint(1, 4 * pair.block_size)
            coming += 1
        elif dice < 0.3:
            sequence = rng.choice(list(lengths))
            del lengths[sequence]
            if (wrong := pair.release(sequence)) is not None:
                return wrong
            continue
        else:
            sequence = rng.choice(list(lengths))
            wanted = lengths[sequence] + rng.choice((1, 1, 1, rng.randint(1, pair.block_size)))
        if (wrong := pair.grow(sequence, wanted)) is not None:
            return wrong
        if pair.holds(sequence, wanted):
            lengths[sequence] = wanted
    return Verdict(True, f"{len(pair.log)} calls, the same pages as the engine's at every one.")


# -- 3.4: a real run, predicted ----------------------------------------------------------------------------------------


def grade_replay(answer: Callable[[int, int], Any], seed: int) -> Verdict:
    """The manager gets the lengths of a real run, and must come to the same page for every logical page.

    In the run requests are preempted, too: they give their pages back, and get others when they go on.
    """
    rng = random.Random(2000 + seed)
    block_size, num_blocks = rng.choice((2, 4, 8)), rng.randint(10, 14)
    most = num_blocks * block_size
    jobs = random_jobs(rng, 6, (2, most // 4), (4, most // 3))
    _, timeline = run(jobs, block_size=block_size, num_blocks=num_blocks, watermark=0.0)
    yours = answer(num_blocks, block_size)
    allocated = 0
    for event in timeline.events():
        where = f"step {event.step}"
        if isinstance(event, ev.BlockAllocated):
            allocated += 1
            got = yours.grow(event.sequence, event.logical_index * block_size + 1)
            table = list(yours.tables.get(event.sequence, []))
            page = table[event.logical_index] if event.logical_index < len(table) else None
            if got is not True or page != event.block:
                return Verdict(
                    False,
                    f"{num_blocks} pages of {block_size}: in {where} the engine gave page {event.block} to sequence "
                    f"{event.sequence}.",
                    page,
                    event.block,
                    f"{where}, logical page {event.logical_index} of sequence {event.sequence}",
                )
        elif isinstance(event, ev.BlockReleased) and event.sequence in yours.tables:
            yours.release(event.sequence)
    return Verdict(True, f"{allocated} pages of a real run, all foretold.")
