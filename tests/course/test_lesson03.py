"""Lesson 3: the paper's example, the graders, and the questions."""

from __future__ import annotations

from typing import Any

import numpy
import pytest

from workbench.course import check
from workbench.course.lessons import lesson03
from workbench.course.lessons.lesson03 import Books

SEEDS = range(40)


def slot(table: list[int], position: int, block_size: int) -> int:
    logical, offset = divmod(position, block_size)
    return table[logical] * block_size + offset


class Growing(Books):
    def grow(self, sequence: int, num_tokens: int) -> bool:
        table = self.tables.get(sequence, [])
        missing = -(-num_tokens // self.block_size) - len(table)
        if missing > len(self.free):
            return False
        self.tables[sequence] = table + [self.free.popleft() for _ in range(missing)]
        return True


class BlockManager(Growing):
    def release(self, sequence: int) -> None:
        self.free.extend(reversed(self.tables.pop(sequence)))


def test_the_papers_example_really_runs() -> None:
    llm, timeline, request = lesson03.fig6_engine()
    tables = []
    while llm.has_unfinished:
        llm.step()
        tables.append(lesson03.table_of(llm.page_map, request))
    assert tables[:6] == [[], [], [7, 1], [7, 1], [7, 1, 3], [7, 1, 3]]
    state = timeline.state_at(5)
    assert state.requests[request].prompt_tokens == 7
    assert [state.pages[page].filled for page in (7, 1, 3)] == [4, 4, 1]


def test_reference_answers_pass_on_many_seeds() -> None:
    for seed in SEEDS:
        for verdict in (
            lesson03.grade_slot(slot, seed),
            lesson03.grade_grow(Growing, seed),
            lesson03.grade_manager(BlockManager, seed),
        ):
            assert verdict.passed, f"{seed}: {verdict}"
    for seed in range(4):
        verdict = lesson03.grade_replay(BlockManager, seed)
        assert verdict.passed, f"{seed}: {verdict}"


class TooEarly(BlockManager):
    """Takes the next page when the last one has just become full."""

    def grow(self, sequence: int, num_tokens: int) -> bool:
        return super().grow(sequence, num_tokens // self.block_size * self.block_size + 1)


class LastInFirstOut(BlockManager):
    def grow(self, sequence: int, num_tokens: int) -> bool:
        self.free.reverse()
        done = super().grow(sequence, num_tokens)
        self.free.reverse()
        return done


class Halfway(BlockManager):
    """Takes what there is, and only then finds out that it is not enough."""

    def grow(self, sequence: int, num_tokens: int) -> bool:
        table = self.tables.setdefault(sequence, [])
        while len(table) * self.block_size < num_tokens:
            if not self.free:
                return False
            table.append(self.free.popleft())
        return True


class LeavesTable(BlockManager):
    """Makes the table before it knows whether there are enough pages."""

    def grow(self, sequence: int, num_tokens: int) -> bool:
        table = self.tables.setdefault(sequence, [])
        missing = -(-num_tokens // self.block_size) - len(table)
        if missing > len(self.free):
            return False
        table.extend(self.free.popleft() for _ in range(missing))
        return True


class Leaks(BlockManager):
    def release(self, sequence: int) -> None:
        del self.tables[sequence]


class KeepsTable(BlockManager):
    def release(self, sequence: int) -> None:
        self.free.extend(reversed(self.tables[sequence]))


class EmptiesTable(BlockManager):
    def release(self, sequence: int) -> None:
        while self.tables[sequence]:
            self.free.append(self.tables[sequence].pop())


class InOrder(BlockManager):
    def release(self, sequence: int) -> None:
        self.free.extend(self.tables.pop(sequence))


@pytest.mark.parametrize(
    ("answer", "words", "place"),
    [
        (TooEarly, "need", "logical page"),
        (LastInFirstOut, "first page of the free list", "logical page 0 of sequence 0, call 1"),
        (Halfway, "holds pages that it must not have", "logical page 0"),
        (LeavesTable, "now has an empty table", "the table of sequence"),
    ],
)
def test_wrong_ways_to_grow(answer: Any, words: str, place: str) -> None:
    verdicts = [lesson03.grade_grow(answer, seed) for seed in range(5)]
    failed = [verdict for verdict in verdicts if not verdict.passed]
    assert failed
    assert any(words in verdict.message and place in str(verdict.first_wrong) for verdict in failed), failed


@pytest.mark.parametrize(
    ("answer", "words", "place"),
    [
        (Leaks, "is lost", "page "),
        (KeepsTable, "is on the free list although", "page "),
        (InOrder, "in another order", "of the free list"),
        (EmptiesTable, "still has a table, an empty one", "the table of sequence"),
    ],
)
def test_wrong_ways_to_release(answer: Any, words: str, place: str) -> None:
    for seed in range(5):
        verdict = lesson03.grade_manager(answer, seed)
        assert not verdict.passed
        if words in verdict.message and place in str(verdict.first_wrong):
            return
    raise AssertionError(verdict)


def test_check_finds_the_empty_tables() -> None:
    for number, answer in (("3.2", LeavesTable), ("3.3", EmptiesTable)):
        verdict = check(number, answer)
        assert not verdict.passed
        assert "empty" in verdict.message
        assert check(number, BlockManager).passed


def test_the_first_wrong_page_is_named() -> None:
    verdict = lesson03.grade_slot(lambda table, position, size: position, 1)
    assert not verdict.passed
    assert verdict.first_wrong is not None
    first = int(verdict.first_wrong.split()[1])
    assert verdict.yours[:first] == verdict.expected[:first]
    assert verdict.yours[first] != verdict.expected[first]
    assert not lesson03.grade_slot(lambda table, position, size: table[position // size], 1).passed
    assert not lesson03.grade_slot(lambda table, position, size: table[position % len(table)] * size, 1).passed
    for same in (float, numpy.int64):
        assert lesson03.grade_slot(lambda table, position, size, kind=same: kind(slot(table, position, size)), 1).passed
    assert not lesson03.grade_slot(lambda table, position, size: True, 1).passed
    assert not lesson03.grade_slot(lambda table, position, size: str(slot(table, position, size)), 1).passed
    early = lesson03.grade_replay(LastInFirstOut, 0)
    assert "logical page 0" in str(early.first_wrong)


def test_questions_have_right_answers() -> None:
    seen = set()
    for seed in range(8):
        question = lesson03.make_question(seed)
        assert question.answer(question.expected).passed
        assert not question.answer(question.expected + 1).passed
        seen.add(question.question)
    assert len(seen) == 8
    assert lesson03.make_question(3) == lesson03.make_question(3)
