"""Lesson 3, pages: the paper's example on the engine, and a block manager that a student writes."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any

from workbench import LLM, EngineConfig, SamplingParams
from workbench.course.exercise import Exercise, Question
from workbench.course.lessons.bundled import random_jobs, run, tiny
from workbench.course.verdict import Verdict
from workbench.events import PageMap, Timeline
from workbench.events import types as ev
from workbench.events.types import Cause
from workbench.memory.paged import PagedMemory
from workbench.views.palette import request_label

#: Seven tokens of the bundled model's tokenizer. The paper counts words, and begins with "Four".
FIG6_PROMPT = " score and seven years ago our"
#: Requests that hold one page each at first: page -> tokens that they write before they end.
_OCCUPANTS = {page: {7: 1, 1: 2, 3: 3}.get(page, 4) for page in range(8)}


def fig6_engine() -> tuple[LLM, Timeline, int]:
    """An engine with 8 pages of 4 tokens, all soon taken, and the request of the paper's Fig. 6 last in the queue.

    Eight small requests come first. Those on pages 7, 1 and 3 end first, one after the other, so the free list hands
    out these pages next.

    Returns:
        The engine before its first step, its history, and the request's number.
    """
    config = EngineConfig(block_size=4, num_blocks=len(_OCCUPANTS), watermark=0.0, max_model_len=64)
    llm = LLM(tiny(), config)
    timeline = Timeline(llm.bus)
    word = tiny().tokenizer(" the", add_special_tokens=False)["input_ids"][:1]
    for output in _OCCUPANTS.values():
        llm.add_request(word, SamplingParams(max_tokens=output, temperature=0, ignore_eos=True))
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
    wrong = next((t for t in range(length) if type(yours[t]) is not int or yours[t] != expected[t]), None)
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


class _Pair:
    """A student's manager and the engine's own books, on the same calls."""

    def __init__(self, kind: Callable[[int, int], Any], num_blocks: int, block_size: int) -> None:
        self.num_blocks, self.block_size = num_blocks, block_size
        self.yours = kind(num_blocks, block_size)
        self.real = PagedMemory(num_blocks, block_size, 0.0, None)
        self.log: list[str] = []

    def tables(self) -> dict[int, list[int]]:
        return {sequence: list(tables[0][0]) for sequence, tables in self.real.tables().block_tables.items()}

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
            free = len(self.real.tables().free_blocks)
            words = f"it must return {expected}: {free} pages are free after the call"
            return self._wrong(words, got, expected, f"the result of {self.log[-1]}")
        return self.compare()

    def release(self, sequence: int) -> Verdict | None:
        self.log.append(f"release({sequence})")
        self.real.free(sequence, Cause.REQUEST_FINISHED)
        self.yours.release(sequence)
        return self.compare()

    def compare(self) -> Verdict | None:
        """None if both say the same; invariants first, since what breaks one is worse than another page."""
        tables, free = self.yours.tables, list(self.yours.free)
        expected, real_free = self.tables(), self.real.tables().free_blocks
        holders: dict[int, str] = {}
        for sequence, table in tables.items():
            for index, page in enumerate(table):
                place = f"logical page {index} of sequence {sequence}"
                if page in holders:
                    words = f"page {page} is in two places: {holders[page]} and {place}"
                    return self._wrong(words, tables, expected, f"page {page}, {place}")
                holders[page] = place
        for page in free:
            if page in holders:
                words = f"page {page} is on the free list although it is {holders[page]}"
                return self._wrong(words, free, real_free, f"page {page}")
        for sequence, right in expected.items():
            if list(tables.get(sequence, [])) != right:
                return self._wrong_table(sequence, tables, expected)
        if any(table for sequence, table in tables.items() if sequence not in expected):
            extra = next(sequence for sequence, table in tables.items() if table and sequence not in expected)
            words = f"sequence {extra} holds pages that it must not have"
            return self._wrong(words, tables, expected, f"page {tables[extra][0]}, logical page 0 of sequence {extra}")
        if free != real_free:
            return self._wrong_free(free, real_free)
        return None

    def _wrong_table(self, sequence: int, tables: dict[int, list[int]], expected: dict[int, list[int]]) -> Verdict:
        yours, right = list(tables.get(sequence, [])), expected[sequence]
        same = zip(yours, right, strict=False)
        index = next((i for i, (a, b) in enumerate(same) if a != b), min(len(yours), len(right)))
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
        return self._wrong(words, yours, right, f"logical page {index} of sequence {sequence}")

    def _wrong_free(self, free: list[int], real: list[int]) -> Verdict:
        missing = [page for page in real if page not in free]
        if missing:
            return self._wrong(
                f"page {missing[0]} is lost: nobody has it, and it is not free", free, real, f"page {missing[0]}"
            )
        index = next((i for i, (a, b) in enumerate(zip(free, real, strict=False)) if a != b), len(real))
        words = "the free list has the right pages in another order: first in, first out, a table's last page first"
        if len(free) > len(real):
            words = "a page is on the free list twice"
        page = free[index]
        return self._wrong(words, free, real, f"page {page}, place {index} of the free list")

    def _wrong(self, words: str, yours: Any, expected: Any, first: str) -> Verdict:
        calls = self.log[-3:]
        before = f"{len(self.log) - 3} calls before, then " if len(self.log) > 3 else ""
        head = f"{self.num_blocks} pages of {self.block_size}; {before}{', '.join(f'`{c}`' for c in calls)}: "
        return Verdict(False, f"{head}{words}.", yours, expected, f"{first}, call {len(self.log)}")


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
