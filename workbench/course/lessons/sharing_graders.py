"""Lesson 6's graders of 6.1 to 6.3: a student's reference counts beside the engine's, and real samples and beams."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from workbench import LLM, EngineConfig, SamplingParams
from workbench.course.lessons.books_pair import BooksPair, first_difference
from workbench.course.lessons.bundled import random_jobs, tiny
from workbench.course.verdict import Verdict
from workbench.events import Timeline
from workbench.events import types as ev
from workbench.events.types import Cause

# -- 6.1 and 6.2: your books beside the engine's -----------------------------------------------------------------------


class _Pair(BooksPair):
    """A student's books and the engine's, on the same calls."""

    def __init__(self, kind: Callable[[int, int], Any], num_blocks: int, block_size: int) -> None:
        super().__init__(kind, num_blocks, block_size)
        self._coming = 0

    def lengths(self) -> dict[int, int]:
        return {sequence: self.real.num_stored(sequence) for sequence in self.tables()}

    def begin(self, num_tokens: int) -> Verdict | None:
        sequence = self._number()
        self.log.append(f"begin({sequence}, {num_tokens})")
        self.real.allocate(sequence, [0] * num_tokens, num_tokens, 1)
        self.real.commit(sequence, num_tokens, Cause.PREFILL)
        self.yours.begin(sequence, num_tokens)
        return self.compare()

    def fork(self, parent: int) -> Verdict | None:
        child = self._number()
        self.log.append(f"fork({parent}, {child})")
        self.real.fork(parent, child, [])
        self.yours.fork(parent, child)
        tables = self.yours.tables
        if child in tables and tables[child] is tables.get(parent):
            words = "parent and child have one and the same list, so what one does to it happens to the other: copy it"
            return self.wrong(words, tables[child], self.tables()[child], f"the table of sequence {child}")
        return self.compare()

    def append(self, sequence: int) -> Verdict | None:
        self.log.append(f"append({sequence})")
        self.real.try_append(sequence, self.real.num_stored(sequence) + 1)
        expected = [pair for move in self.real.moves for pair in move.pairs]
        self.real.moves.clear()
        self.real.commit(sequence, 1, Cause.DECODE)
        got = self.yours.append(sequence)
        wrong = self.compare()
        if wrong is not None:
            return wrong
        if _copy(got) != (tuple(expected[0]) if expected else None):
            copy = f"it must return the copy {tuple(expected[0])}" if expected else "nothing is copied: return None"
            return self.wrong(copy, got, tuple(expected[0]) if expected else None, f"the result of {self.log[-1]}")
        return None

    def _number(self) -> int:
        self._coming += 1
        return self._coming - 1

    def compare(self) -> Verdict | None:
        yours, tables = self.yours, self.tables()
        mine = {sequence: list(table) for sequence, table in yours.tables.items()}
        users = [0] * self.num_blocks
        for table in mine.values():
            for page in table:
                users[page] += 1
        for page in yours.free:
            if users[page]:
                users_of = [sequence for sequence, table in mine.items() if page in table]
                words = f"page {page} is on the free list, but sequence {users_of[0]} still uses it"
                return self.wrong(words, list(yours.free), self.free, f"page {page}")
        for sequence in [*tables, *(s for s in mine if s not in tables)]:
            if mine.get(sequence) != tables.get(sequence):
                return self._wrong_table(sequence, mine.get(sequence), tables.get(sequence))
        refs = list(yours.refs)
        for page, count in enumerate(users):
            if refs[page] != count:
                words = f"page {page} is in {count} block tables, but its count is {refs[page]}"
                return self.wrong(words, refs, users, f"page {page}")
        lengths = self.lengths()
        if dict(yours.lengths) != lengths:
            keys = [*lengths, *(s for s in yours.lengths if s not in lengths)]
            number = next(s for s in keys if yours.lengths.get(s) != lengths.get(s))
            words = f"the length of sequence {number} is wrong"
            return self.wrong(words, dict(yours.lengths), lengths, f"sequence {number}")
        return self.compare_free()

    def _wrong_table(self, sequence: int, yours: list[int] | None, right: list[int] | None) -> Verdict:
        if yours is None or right is None:
            words = f"sequence {sequence} has {'no' if yours is None else 'still a'} block table"
            return self.wrong(words, yours, right, f"sequence {sequence}")
        index = first_difference(yours, right)
        words = f"the block table of sequence {sequence} is wrong"
        if len(yours) == len(right):
            shared = [s for s, table in self.yours.tables.items() if s != sequence and yours[index] in table]
            if shared:
                words = f"sequence {sequence} writes into page {yours[index]}, which sequence {shared[0]} uses, too"
            else:
                words = f"sequence {sequence} has page {yours[index]} where the engine has page {right[index]}"
        return self.wrong(words, yours, right, f"logical page {index} of sequence {sequence}")


def _copy(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def grade_fork(answer: Callable[[int, int], Any], seed: int) -> Verdict:
    """Only `fork` and `release`: sequences begin, split, and end."""
    return _random_life(answer, random.Random(seed), appends=0.0)


def grade_append(answer: Callable[[int, int], Any], seed: int) -> Verdict:
    """The same with `append`; tokens come, and shared pages are copied."""
    return _random_life(answer, random.Random(1000 + seed), appends=0.7)


def _random_life(answer: Callable[[int, int], Any], rng: random.Random, appends: float) -> Verdict:
    pair = _Pair(answer, rng.randint(12, 30), rng.choice((2, 3, 4, 8)))
    for _ in range(120):
        lengths = pair.lengths()
        wanted = rng.randint(1, 3 * pair.block_size)
        can_append = bool(lengths) and len(pair.free) > 0
        if can_append and rng.random() < appends:
            wrong = pair.append(rng.choice(list(lengths)))
        elif lengths and (rng.random() < 0.4 or len(pair.free) < 3):
            wrong = pair.release(rng.choice(list(lengths)))
        elif lengths and len(lengths) < 8 and rng.random() < 0.7:
            wrong = pair.fork(rng.choice(list(lengths)))
        elif -(-wanted // pair.block_size) <= len(pair.free):
            wrong = pair.begin(wanted)
        else:
            continue
        if wrong is not None:
            return wrong
    return Verdict(True, f"{len(pair.log)} calls, the same tables, counts and free list as the engine's.")


# -- 6.3: real samples and beams, foretold -----------------------------------------------------------------------------


def _sharing_events(seed: int) -> tuple[int, int, Timeline]:
    """Pool size, block size and history of a real run with samples and beams."""
    rng = random.Random(2000 + seed)
    block_size, num_blocks = rng.choice((2, 4)), 96
    llm = LLM(tiny(), EngineConfig(block_size=block_size, num_blocks=num_blocks))
    timeline = Timeline(llm.bus)
    for index, job in enumerate(random_jobs(rng, 3, (3, 14), (5, 10))):
        width = rng.randint(2, 4)
        if index == 0:
            params = SamplingParams(n=width, temperature=1.0, seed=seed, max_tokens=job.output, ignore_eos=True)
        else:
            params = SamplingParams(beam_width=width, n=width, temperature=0, max_tokens=job.output, ignore_eos=True)
        llm.add_request(job.prompt, params)
    while llm.has_unfinished:
        llm.step()
    return num_blocks, block_size, timeline


def grade_replay(answer: Callable[[int, int], Any], seed: int) -> Verdict:
    """The books get the calls of a real run with samples and beams; every page that is written must be the same."""
    num_blocks, block_size, timeline = _sharing_events(seed)
    yours = answer(num_blocks, block_size)
    prompts = {
        event.sequence: event.prompt_tokens for event in timeline.events() if isinstance(event, ev.RequestQueued)
    }
    has_room: set[int] = set()
    writes = copies = 0
    for event in timeline.events():
        where = f"step {event.step}"
        if isinstance(event, ev.BlockAllocated) and event.cause is Cause.ADMISSION:
            if event.sequence not in yours.tables:
                yours.begin(event.sequence, prompts[event.sequence])
                has_room.add(event.sequence)
        elif isinstance(event, ev.SequenceForked):
            yours.fork(event.parent, event.child)
        elif isinstance(event, ev.BlockCopied):
            copies += 1
            got = _copy(yours.append(event.sequence))
            has_room.add(event.sequence)
            if got != (event.source, event.destination):
                words = f"in {where} sequence {event.sequence} writes to page {event.source}, which others use"
                first = f"{where}, logical page {event.logical_index} of sequence {event.sequence}"
                return Verdict(False, f"{words}; the copy is page {event.destination}.", got,
                               (event.source, event.destination), first)  # fmt: skip
        elif isinstance(event, ev.BlockAllocated):
            yours.append(event.sequence)
            has_room.add(event.sequence)
        elif isinstance(event, ev.SlotsWritten):
            if event.sequence not in has_room:
                yours.append(event.sequence)
            writes += 1
            if event.block not in yours.tables[event.sequence]:
                words = f"in {where} the engine writes a token of sequence {event.sequence} into page {event.block}"
                return Verdict(False, f"{words}, which is not in your table.", list(yours.tables[event.sequence]),
                               list(timeline.state_at(event.step).sequences[event.sequence].block_table)
                               if event.sequence in timeline.state_at(event.step).sequences else [event.block],
                               f"page {event.block}, {where}, sequence {event.sequence}")  # fmt: skip
        elif isinstance(event, ev.BlockReleased) and event.sequence in yours.tables:
            yours.release(event.sequence)
        elif isinstance(event, ev.StepFinished):
            has_room.clear()
    return Verdict(True, f"{writes} writes and {copies} copies of real samples and beams, all foretold.")
