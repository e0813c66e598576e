"""Lesson 6: the paper's copy-on-write, the graders, and the questions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.course.solutions import solutions
from workbench.course.lessons import lesson06
from workbench.course.verdict import Verdict
from workbench.events.types import Cause
from workbench.memory.eviction import LRU
from workbench.memory.paged import PagedMemory
from workbench.memory.prefix_cache import page_hash

KEY = solutions("06_sharing")
Sharing: Any = KEY.Sharing


def test_the_papers_example_really_runs() -> None:
    llm, timeline, request = lesson06.fig8_engine()
    for _ in range(5):
        llm.step()
    assert list(lesson06.tables_of(timeline.state_at(3), request).values()) == [[7, 1], [7, 1]]
    after = timeline.state_at(4)
    assert list(lesson06.tables_of(after, request).values()) == [[7, 3], [7, 1]]
    assert [after.pages[page].ref_count for page in (7, 1, 3)] == [2, 1, 1]
    assert after.totals.blocks_copied == 1


def test_the_papers_beams_have_its_page_numbers() -> None:
    books = lesson06.fig9_books()
    assert [books.block_table(beam) for beam in range(4)] == [[0, 1, 3, 5], [0, 1, 3, 6], [0, 1, 3, 7], [0, 2, 4, 8]]
    before = set(books.tables().free_blocks)
    books.fork(1, 4, [])
    books.fork(2, 5, [])
    for dropped in (0, 3):
        books.free(dropped, Cause.BEAM_DROPPED)
    assert set(books.tables().free_blocks) - before == {2, 4, 5, 8}
    for beam in (1, 4, 2, 5):
        lesson06.one_page_more(books, beam)
    assert [books.block_table(beam)[3:] for beam in (1, 4, 2, 5)] == [[6, 9], [6, 10], [7, 11], [7, 12]]
    assert not books.moves


def test_beams_save_more_than_samples() -> None:
    _, samples = lesson06.sharing_run(4, output=12)
    _, beams = lesson06.sharing_run(4, beams=True, output=12)
    assert 0 < lesson06.saved(samples) < lesson06.saved(beams) < 75


def test_reference_answers_pass_on_many_seeds() -> None:
    for seed in range(20):
        for verdict in (
            lesson06.grade_fork(KEY.Counting, seed),
            lesson06.grade_append(Sharing, seed),
            lesson06.grade_names(KEY.page_names, seed),
            lesson06.grade_find(KEY.find_prefix, seed),
        ):
            assert verdict.passed, f"{seed}: {verdict}"
    for seed in range(2):
        verdict = lesson06.grade_replay(Sharing, seed)
        assert verdict.passed, f"{seed}: {verdict}"


def test_the_references_are_the_engines() -> None:
    """Names and prefixes as `PagedMemory` finds them, a text that is asked for again as a whole included."""
    memory = PagedMemory(16, 4, 0.0, None, eviction=LRU())
    text = list(range(10, 27))
    memory.allocate(0, text, len(text), 1)
    memory.commit(0, len(text), Cause.PREFILL)
    pages = dict(zip(lesson06.names_of(text, 4), memory.block_table(0)[:4], strict=True))
    memory.free(0, Cause.REQUEST_FINISHED)
    for number, asked in enumerate((text, text[:16], text[:15], [*text[:9], 3, 4, 5, 6], [1, *text]), 1):
        found = memory.allocate(number, asked, len(asked), 1) // 4
        assert memory.block_table(number)[:found] == lesson06.find_prefix(pages, asked, 4)
        memory.free(number, Cause.REQUEST_FINISHED)


class SameList(Sharing):
    """The child's table is the parent's own list."""

    def fork(self, parent: int, child: int) -> None:
        super().fork(parent, child)
        self.tables[child] = self.tables[parent]


class NoCount(Sharing):
    def fork(self, parent: int, child: int) -> None:
        self.tables[child] = list(self.tables[parent])
        self.lengths[child] = self.lengths[parent]


class FreesAll(Sharing):
    """Gives pages back that others still use."""

    def release(self, sequence: int) -> None:
        del self.lengths[sequence]
        for page in reversed(self.tables.pop(sequence)):
            self.refs[page] -= 1
            self.free.append(page)


class InOrder(Sharing):
    def release(self, sequence: int) -> None:
        self.tables[sequence].reverse()
        super().release(sequence)


class NeverCopies(Sharing):
    def append(self, sequence: int) -> None:
        if self.lengths[sequence] % self.block_size == 0:
            self.tables[sequence].append(self.take())
        self.lengths[sequence] += 1


class KeepsReference(Sharing):
    """Copies, but the old page is not told."""

    def append(self, sequence: int) -> Any:
        copy = super().append(sequence)
        if copy:
            self.refs[copy[0]] += 1
        return copy


class CopiesFullPages(Sharing):
    """Copies the last page when a new one is begun, too."""

    def append(self, sequence: int) -> Any:
        table, length = self.tables[sequence], self.lengths[sequence]
        if length % self.block_size == 0 and self.refs[table[-1]] > 1:
            self.refs[table[-1]] -= 1
            table[-1] = self.take()
        return super().append(sequence)


class SaysNothing(Sharing):
    def append(self, sequence: int) -> None:
        super().append(sequence)


def _failures(grade: Callable[[Any, int], Verdict], answer: Any, seeds: int = 8) -> list[Verdict]:
    failed = [verdict for verdict in (grade(answer, seed) for seed in range(seeds)) if not verdict.passed]
    assert failed
    return failed


@pytest.mark.parametrize(
    ("grade", "answer", "words", "place"),
    [
        (lesson06.grade_fork, NoCount, "block tables, but its count is 1", "page "),
        (lesson06.grade_fork, FreesAll, "still uses it", "page "),
        (lesson06.grade_fork, InOrder, "last page comes back first", "of the free list"),
        (lesson06.grade_fork, SameList, "one and the same list", "the table of sequence 1"),
        (lesson06.grade_append, SameList, "one and the same list", "the table of sequence"),
        (lesson06.grade_append, NeverCopies, "writes into page", "logical page"),
        (lesson06.grade_append, KeepsReference, "its count is", "page "),
        (lesson06.grade_append, CopiesFullPages, "where the engine has page", "logical page"),
        (lesson06.grade_append, SaysNothing, "must return the copy", "the result of"),
    ],
)
def test_wrong_books(grade: Any, answer: Any, words: str, place: str) -> None:
    failed = _failures(grade, answer)
    assert any(words in v.message and place in str(v.first_wrong) for v in failed), [v.message for v in failed]


def test_wrong_books_fail_on_the_real_run() -> None:
    verdict = lesson06.grade_replay(NeverCopies, 0)
    assert not verdict.passed
    assert "which others use" in verdict.message
    assert "logical page" in str(verdict.first_wrong)


def test_the_page_that_is_written_by_two_is_named() -> None:
    """The message's page is the first one that differs, and another sequence has it."""
    verdict = _failures(lesson06.grade_append, NeverCopies)[0]
    index = int(str(verdict.first_wrong).split()[2])
    assert verdict.yours[:index] == verdict.expected[:index]
    assert verdict.yours[index] != verdict.expected[index]
    assert f"writes into page {verdict.yours[index]}," in verdict.message


def unchained(tokens: list[int], size: int) -> list[bytes]:
    return [page_hash(b"", tokens[i : i + size]) for i in range(0, len(tokens) // size * size, size)]


def with_partial(tokens: list[int], size: int) -> list[bytes]:
    padded = tokens + [0] * (-len(tokens) % size)
    return list(KEY.page_names(padded, size))


def from_the_start(tokens: list[int], size: int) -> list[bytes]:
    return [page_hash(b"", tokens[: i + size]) for i in range(0, len(tokens) // size * size, size)]


def test_a_tuple_of_names_will_do() -> None:
    for seed in range(5):
        assert lesson06.grade_names(lambda tokens, size: tuple(KEY.page_names(tokens, size)), seed).passed
    failed = _failures(lesson06.grade_names, lambda tokens, size: tuple(unchained(tokens, size)))
    assert "depend on all tokens before" in failed[0].message


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (unchained, "depend on all tokens before"),
        (with_partial, "only full pages have a name"),
        (from_the_start, "tell texts apart, but are not the engine's"),
    ],
)
def test_wrong_names(answer: Any, words: str) -> None:
    failed = _failures(lesson06.grade_names, answer)
    assert words in failed[0].message
    assert str(failed[0].first_wrong).startswith("page ")


def whole_text(pages: dict[bytes, int], tokens: list[int], size: int) -> list[int]:
    return lesson06.find_prefix(pages, [*tokens, 0], size)


def over_gaps(pages: dict[bytes, int], tokens: list[int], size: int) -> list[int]:
    return [pages[name] for name in lesson06.names_of(tokens[:-1], size) if name in pages]


def first_only(pages: dict[bytes, int], tokens: list[int], size: int) -> list[int]:
    return lesson06.find_prefix(pages, tokens, size)[:1]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (whole_text, "one token must be left"),
        (over_gaps, "are of no use"),
        (first_only, "holds the right tokens, too"),
    ],
)
def test_wrong_prefixes(answer: Any, words: str) -> None:
    failed = _failures(lesson06.grade_find, answer)
    assert any(words in verdict.message for verdict in failed), [verdict.message for verdict in failed]
    first = int(str(failed[0].first_wrong).split()[1])
    assert failed[0].yours[:first] == failed[0].expected[:first]


def test_questions_have_right_answers() -> None:
    questions = [lesson06.make_question(seed) for seed in range(6)]
    for question in questions:
        assert question.answer(question.expected).passed
        assert not question.answer(question.expected + 1).passed
    assert len({question.question for question in questions}) == 6
    assert lesson06.make_question(3) == questions[3]
