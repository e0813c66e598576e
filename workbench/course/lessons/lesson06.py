"""Lesson 6, sharing: the paper's copy-on-write on the engine; reference counts and prefix names to be written."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from workbench import LLM, EngineConfig, SamplingParams
from workbench.course.exercise import Exercise, Question
from workbench.course.lessons.bundled import random_jobs, tiny
from workbench.course.verdict import Verdict
from workbench.events import PageMap, Timeline
from workbench.events import types as ev
from workbench.events.types import Cause
from workbench.memory.paged import PagedMemory
from workbench.memory.prefix_cache import page_hash
from workbench.views.palette import request_label

#: Seven tokens, as in lesson 3.
FIG8_PROMPT = " score and seven years ago our"
SYSTEM_PROMPT = "You are a careful assistant. Answer in one short sentence, and say so if you do not know the answer. "


def fig8_engine() -> tuple[LLM, Timeline, int]:
    """The pool of lesson 3, whose free list becomes 7, 1, 3, and a request for two samples, last in the queue.

    Returns:
        The engine before its first step, its history, and the request's number.
    """
    llm = LLM(tiny(), EngineConfig(block_size=4, num_blocks=8, watermark=0.0, max_model_len=64))
    timeline = Timeline(llm.bus)
    word = tiny().tokenizer(" the", add_special_tokens=False)["input_ids"][:1]
    for page in range(8):
        output = {7: 1, 1: 2, 3: 3}.get(page, 4)
        llm.add_request(word, SamplingParams(max_tokens=output, temperature=0, ignore_eos=True))
    two = SamplingParams(n=2, max_tokens=5, temperature=1.0, seed=1, ignore_eos=True)
    return llm, timeline, llm.add_request(FIG8_PROMPT, two)


def tables_of(page_map: PageMap, request: int) -> dict[int, list[int]]:
    """The block tables of all sequences of a request that hold pages."""
    held = page_map.sequences.items()
    return {number: list(state.block_table) for number, state in held if state.request == request}


def sharing_run(width: int, beams: bool = False, output: int = 24) -> tuple[LLM, Timeline]:
    """One request with a prompt of 22 tokens and ``width`` samples or beams, to its end, on pages of 4."""
    llm = LLM(tiny(), EngineConfig(block_size=4, num_blocks=128))
    timeline = Timeline(llm.bus)
    prompt = random_jobs(random.Random(6), 1, (22, 22), (1, 1))[0].prompt
    if beams:
        params = SamplingParams(beam_width=width, n=width, temperature=0, max_tokens=output, ignore_eos=True)
    else:
        params = SamplingParams(n=width, temperature=1.0, seed=5, max_tokens=output, ignore_eos=True)
    llm.add_request(prompt, params)
    while llm.has_unfinished:
        llm.step()
    return llm, timeline


def saved(timeline: Timeline) -> float:
    """Pages saved by sharing, in percent of the pages in all block tables, mean over the steps."""
    shares = []
    for step in range(1, timeline.last_step + 1):
        named, different = timeline.state_at(step).sharing()
        if named:
            shares.append(100 * (1 - different / named))
    return sum(shares) / len(shares)


def prefix_engine(caching: bool = True) -> tuple[LLM, Timeline]:
    """An engine with pages of 8 that keeps prefixes, or not."""
    llm = LLM(tiny(), EngineConfig(block_size=8, num_blocks=64, prefix_caching=caching))
    return llm, Timeline(llm.bus)


def ask(llm: LLM, question: str) -> int:
    """Runs the system prompt and a question to the end of 4 tokens; returns the request's number."""
    params = SamplingParams(max_tokens=4, temperature=0, ignore_eos=True)
    request = llm.add_request(SYSTEM_PROMPT + question, params)
    while llm.has_unfinished:
        llm.step()
    return request


class SharedBooks:
    """Lesson 3's books, with reference counts.

    Attributes:
        free: the free list, the next page first.
        refs: per page, in how many block tables it is.
        tables, lengths: per sequence, its pages and how many tokens lie in them.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.block_size = block_size
        self.free = deque(range(num_blocks))
        self.refs = [0] * num_blocks
        self.tables: dict[int, list[int]] = {}
        self.lengths: dict[int, int] = {}

    def take(self) -> int:
        """The first page of the free list, now with one reference."""
        page = self.free.popleft()
        self.refs[page] = 1
        return page

    def begin(self, sequence: int, num_tokens: int) -> None:
        """A new sequence with so many tokens."""
        self.tables[sequence] = [self.take() for _ in range(-(-num_tokens // self.block_size))]
        self.lengths[sequence] = num_tokens


# -- 6.1 and 6.2: your books beside the engine's -----------------------------------------------------------------------


class _Pair:
    """A student's books and the engine's, on the same calls."""

    def __init__(self, kind: Callable[[int, int], Any], num_blocks: int, block_size: int) -> None:
        self.num_blocks, self.block_size = num_blocks, block_size
        self.yours = kind(num_blocks, block_size)
        self.real = PagedMemory(num_blocks, block_size, 0.0, None)
        self.log: list[str] = []
        self._coming = 0

    def lengths(self) -> dict[int, int]:
        return {sequence: self.real.num_stored(sequence) for sequence in self.real.tables().block_tables}

    @property
    def num_free(self) -> int:
        return len(self.real.tables().free_blocks)

    def begin(self, num_tokens: int) -> Verdict | None:
        sequence = self._number()
        self.log.append(f"begin({sequence}, {num_tokens})")
        self.real.allocate(sequence, [0] * num_tokens, num_tokens, 1)
        self.real.commit(sequence, num_tokens, Cause.PREFILL)
        self.yours.begin(sequence, num_tokens)
        return self._compare()

    def fork(self, parent: int) -> Verdict | None:
        child = self._number()
        self.log.append(f"fork({parent}, {child})")
        self.real.fork(parent, child, [])
        self.yours.fork(parent, child)
        return self._compare()

    def append(self, sequence: int) -> Verdict | None:
        self.log.append(f"append({sequence})")
        self.real.try_append(sequence, self.real.num_stored(sequence) + 1)
        expected = [pair for move in self.real.moves for pair in move.pairs]
        self.real.moves.clear()
        self.real.commit(sequence, 1, Cause.DECODE)
        got = self.yours.append(sequence)
        wrong = self._compare()
        if wrong is not None:
            return wrong
        if _copy(got) != (tuple(expected[0]) if expected else None):
            copy = f"it must return the copy {tuple(expected[0])}" if expected else "nothing is copied: return None"
            return self._wrong(copy, got, tuple(expected[0]) if expected else None, f"the result of {self.log[-1]}")
        return None

    def release(self, sequence: int) -> Verdict | None:
        self.log.append(f"release({sequence})")
        self.real.free(sequence, Cause.REQUEST_FINISHED)
        self.yours.release(sequence)
        return self._compare()

    def _number(self) -> int:
        self._coming += 1
        return self._coming - 1

    def _compare(self) -> Verdict | None:
        """None if both say the same. What breaks an invariant comes first: it is worse than another order."""
        yours, books = self.yours, self.real.tables()
        tables = {sequence: list(groups[0][0]) for sequence, groups in books.block_tables.items()}
        mine = {sequence: list(table) for sequence, table in yours.tables.items()}
        users = [0] * self.num_blocks
        for table in mine.values():
            for page in table:
                users[page] += 1
        for page in yours.free:
            if users[page]:
                users_of = [sequence for sequence, table in mine.items() if page in table]
                words = f"page {page} is on the free list, but sequence {users_of[0]} still uses it"
                return self._wrong(words, list(yours.free), books.free_blocks, f"page {page}")
        for sequence in [*tables, *(s for s in mine if s not in tables)]:
            if mine.get(sequence) != tables.get(sequence):
                return self._wrong_table(sequence, mine.get(sequence), tables.get(sequence))
        refs = list(yours.refs)
        for page, count in enumerate(users):
            if refs[page] != count:
                words = f"page {page} is in {count} block tables, but its count is {refs[page]}"
                return self._wrong(words, refs, users, f"page {page}")
        lengths = self.lengths()
        if dict(yours.lengths) != lengths:
            keys = [*lengths, *(s for s in yours.lengths if s not in lengths)]
            number = next(s for s in keys if yours.lengths.get(s) != lengths.get(s))
            words = f"the length of sequence {number} is wrong"
            return self._wrong(words, dict(yours.lengths), lengths, f"sequence {number}")
        free = list(yours.free)
        if free != books.free_blocks:
            return self._wrong_free(free, books.free_blocks)
        return None

    def _wrong_table(self, sequence: int, yours: list[int] | None, right: list[int] | None) -> Verdict:
        if yours is None or right is None:
            words = f"sequence {sequence} has {'no' if yours is None else 'still a'} block table"
            return self._wrong(words, yours, right, f"sequence {sequence}")
        same = zip(yours, right, strict=False)
        index = next((i for i, (a, b) in enumerate(same) if a != b), min(len(yours), len(right)))
        words = f"the block table of sequence {sequence} is wrong"
        if len(yours) == len(right):
            shared = [s for s, table in self.yours.tables.items() if s != sequence and yours[index] in table]
            if shared:
                words = f"sequence {sequence} writes into page {yours[index]}, which sequence {shared[0]} uses, too"
            else:
                words = f"sequence {sequence} has page {yours[index]} where the engine has page {right[index]}"
        return self._wrong(words, yours, right, f"logical page {index} of sequence {sequence}")

    def _wrong_free(self, free: list[int], real: list[int]) -> Verdict:
        missing = [page for page in real if page not in free]
        if missing:
            words = f"page {missing[0]} is lost: in no block table, and not free"
            return self._wrong(words, free, real, f"page {missing[0]}")
        index = next((i for i, (a, b) in enumerate(zip(free, real, strict=False)) if a != b), len(real))
        words = "the free list has another order: a table's last page comes back first"
        if len(free) > len(real):
            words = "a page is on the free list twice"
        return self._wrong(words, free, real, f"page {free[index]}, place {index} of the free list")

    def _wrong(self, words: str, yours: Any, expected: Any, first: str) -> Verdict:
        calls = self.log[-4:]
        before = f"{len(self.log) - 4} calls before, then " if len(self.log) > 4 else ""
        head = f"{self.num_blocks} pages of {self.block_size}; {before}{', '.join(f'`{c}`' for c in calls)}: "
        return Verdict(False, f"{head}{words}.", yours, expected, f"{first}, call {len(self.log)}")


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
        can_append = bool(lengths) and pair.num_free > 0
        if can_append and rng.random() < appends:
            wrong = pair.append(rng.choice(list(lengths)))
        elif lengths and (rng.random() < 0.4 or pair.num_free < 3):
            wrong = pair.release(rng.choice(list(lengths)))
        elif lengths and len(lengths) < 8 and rng.random() < 0.7:
            wrong = pair.fork(rng.choice(list(lengths)))
        elif -(-wanted // pair.block_size) <= pair.num_free:
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


# -- 6.4 and 6.5: names of pages ---------------------------------------------------------------------------------------


def names_of(token_ids: Sequence[int], block_size: int) -> list[bytes]:
    """The names that the engine gives to the full pages of a text."""
    names: list[bytes] = []
    for start in range(0, len(token_ids) // block_size * block_size, block_size):
        names.append(page_hash(names[-1] if names else b"", token_ids[start : start + block_size]))
    return names


def _short(names: Any) -> Any:
    return [name.hex()[:8] if isinstance(name, bytes) else name for name in names] if isinstance(names, list) else names


def grade_names(answer: Callable[[list[int], int], list[bytes]], seed: int) -> Verdict:
    """Two texts with equal tokens in one page, once behind the same beginning and once behind another."""
    rng = random.Random(3000 + seed)
    size = rng.choice((2, 4, 8))
    pages = rng.randint(3, 6)
    text = [rng.randrange(1, 1000) for _ in range(pages * size + rng.randrange(size))]
    other = list(text)
    changed = rng.randrange(pages - 1)
    other[changed * size] = 1000 + text[changed * size]
    first, second = answer(list(text), size), answer(list(other), size)
    right = names_of(text, size)
    about = f"{len(text)} tokens in pages of {size}"
    if not isinstance(first, list) or len(first) != len(right):
        words = f"{about}: {pages} pages are full, and only full pages have a name"
        yours = f"{len(first)} names" if isinstance(first, list) else first
        count = len(first) if isinstance(first, list) else 0
        return Verdict(False, f"{words}.", yours, f"{pages} names", f"page {min(count, pages)}")
    for index in range(pages):
        if (first[index] == second[index]) != (index < changed):
            if index < changed:
                words = f"two texts that are equal up to page {index} must have the same name for it"
            else:
                words = (
                    f"two texts differ in page {changed}; then page {index} must not have the same name in both, "
                    "even if its own tokens are equal: its keys and values depend on all tokens before"
                )
            return Verdict(False, f"{about}: {words}.", _short(second), _short(names_of(other, size)), f"page {index}")
    for index, name in enumerate(right):
        if first[index] != name:
            words = "the names tell texts apart, but are not the engine's: `page_hash(name before, tokens of the page)`"
            return Verdict(False, f"{about}: {words}.", _short(first), _short(right), f"page {index}")
    return Verdict(True, "Every full page has the engine's name.")


def find_prefix(pages: dict[bytes, int], token_ids: Sequence[int], block_size: int) -> list[int]:
    """The reference: pages that hold the beginning of a text, its last token excepted."""
    found: list[int] = []
    for name in names_of(token_ids[:-1], block_size):
        if name not in pages:
            break
        found.append(pages[name])
    return found


def grade_find(answer: Callable[[dict[bytes, int], list[int], int], list[int]], seed: int) -> Verdict:
    """Texts that begin like one that was seen; some of its pages have been evicted."""
    rng = random.Random(4000 + seed)
    size = rng.choice((2, 4, 8))
    for _ in range(12):
        seen = [rng.randrange(1, 1000) for _ in range(size * rng.randint(2, 7))]
        names = names_of(seen, size)
        numbers = rng.sample(range(40), len(names))
        pages = dict(zip(names, numbers, strict=True))
        evicted = rng.randrange(1, len(names)) if rng.random() < 0.4 and len(names) > 1 else None
        if evicted is not None:
            del pages[names[evicted]]
        same = rng.choice((len(seen), rng.randint(1, len(seen))))
        asked = seen[:same] + [2000 + rng.randrange(9) for _ in range(rng.choice((0, 0, 1, size)))]
        expected = find_prefix(pages, asked, size)
        yours = answer(dict(pages), list(asked), size)
        if yours == expected:
            continue
        about = f"{len(asked)} tokens in pages of {size}, the first {same} as in a text that was stored before"
        if evicted is not None:
            about += f", whose page {evicted} has been evicted"
        words, index = "the pages are others", 0
        if isinstance(yours, list):
            pairs = zip(yours, expected, strict=False)
            index = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(yours), len(expected)))
            if evicted is not None and len(yours) > len(expected) and index >= evicted:
                words = f"pages behind page {evicted} are of no use: its tokens would be missing between them"
            elif len(yours) > len(expected) and len(asked) == len(expected) * size + size:
                words = "one token must be left to compute, or there is nothing to take the next token from"
            elif len(yours) < len(expected):
                words = f"page {index} holds the right tokens, too"
        return Verdict(False, f"{about}: {words}.", yours, expected, f"page {index}")
    return Verdict(True, "12 texts, the same pages as the engine would take.")


# -- the register ------------------------------------------------------------------------------------------------------

EXERCISES = {
    "6.1": Exercise(
        "Fork and release: count references",
        grade_fork,
        (
            "A fork copies the block table, not the pages. What must be true of a page's count at any time?",
            "`list(self.tables[parent])` is a new list; each page in it has one reference more. Copy the length, too.",
            "Release: take one reference from each page, the last page first; only a page whose count is 0 is free.",
            "`for page in reversed(self.tables.pop(sequence)): ...`, and take the sequence out of `self.lengths`.",
        ),
    ),
    "6.2": Exercise(
        "Append: copy on write",
        grade_append,
        (
            "Where does the next token go? `index, offset = divmod(self.lengths[sequence], self.block_size)`.",
            "There are three cases: the page does not exist yet; it is the sequence's own; others use it, too.",
            "If the offset is 0, no page has been begun: `table.append(self.take())`. Nothing is copied.",
            "If `self.refs[table[index]] > 1`: take a page for the table, and one reference from the old one.",
        ),
    ),
    "6.3": Exercise(
        "Foretell real samples and beams",
        grade_replay,
        ("This needs no new code: it is your class of 6.2 on the calls of a real run with samples and beams.",),
        seeds=(0, 1, 2),
    ),
    "6.4": Exercise(
        "Names for pages",
        grade_names,
        (
            "How many pages are full? The last one has a name only if it is.",
            'Go through the full pages in order, and remember the name of the page before; it is `b""` at first.',
            "`name = page_hash(name, token_ids[start : start + block_size])`, and append it to the list.",
        ),
    ),
    "6.5": Exercise(
        "Find a prefix",
        grade_find,
        (
            "Which tokens may come from the cache at most? Somebody must compute the last one.",
            "`page_names(token_ids[:-1], block_size)` are the names to look for, in order.",
            "Stop at the first name that is not in `pages`: what comes after a gap is of no use.",
        ),
    ),
}


def make_question(seed: int) -> Question:
    """About one step of a real run with samples or beams: counts, a copy, what is saved; or a prefix."""
    rng = random.Random(seed)
    block_size = rng.choice((4, 8))
    width = rng.randint(2, 4)
    kind = rng.choice(("refs", "pages", "copies", "prefix"))
    prompt = random_jobs(rng, 1, (block_size + 1, 5 * block_size), (1, 1))[0].prompt
    length = len(prompt)
    if kind == "prefix":
        return _prefix_question(rng, prompt, block_size)
    llm = LLM(tiny(), EngineConfig(block_size=block_size, num_blocks=64))
    params = SamplingParams(n=width, temperature=1.0, seed=seed, max_tokens=30, ignore_eos=True)
    request = llm.add_request(prompt, params)
    batch = [llm.step(), llm.step()][-1]
    facts = f"A request of {length} prompt tokens asks for {width} samples; pages have {block_size} tokens."
    if kind == "copies":
        copies = sum(isinstance(event, ev.BlockCopied) for event in batch.events)
        why = (
            "The prompt's last page is full, so every sample begins a page of its own."
            if length % block_size == 0
            else f"Its last page is not full, and {width} samples write into it: all but the last one need a copy."
        )
        return Question(f"{facts} How many pages are copied when each sample stores its first token?", copies, why)
    for _ in range(rng.randint(0, 2 * block_size)):
        llm.step()
    state = llm.page_map
    tables = tables_of(state, request)
    facts = f"{facts} Step {state.step}; the block tables are {', '.join(str(table) for table in tables.values())}."
    if kind == "refs":
        page = rng.choice(sorted({page for table in tables.values() for page in table}))
        return Question(
            f"{facts} What is the reference count of page {page}?",
            state.pages[page].ref_count,
            "It is the number of block tables in which the page is.",
        )
    named, different = state.sharing()
    return Question(
        f"{facts} How many pages does sharing save?",
        named - different,
        f"The tables name {named} pages, {different} of them are different.",
    )


def _prefix_question(rng: random.Random, prompt: list[int], block_size: int) -> Question:
    llm = LLM(tiny(), EngineConfig(block_size=block_size, num_blocks=64, prefix_caching=True))
    params = SamplingParams(max_tokens=1, temperature=0, ignore_eos=True)
    llm.generate(prompt, params)
    same = rng.choice((len(prompt), rng.randint(1, len(prompt))))
    asked = list(prompt)
    if same < len(prompt):
        another = prompt[same] + 1 if prompt[same] < 100 else prompt[same] - 1
        asked = prompt[:same] + [another] * rng.randint(1, block_size)
    timeline = Timeline(llm.bus)
    request = llm.add_request(asked, params)
    llm.step()
    hits = sum(isinstance(event, ev.PrefixHit) for event in timeline.events())
    computed = len(asked) - hits * block_size
    return Question(
        f"Prefixes are kept; pages have {block_size} tokens. A prompt of {len(prompt)} tokens was computed. Request "
        f"{request_label(request)} has {len(asked)} prompt tokens, the first {same} of them are the same"
        f"{' (it is the same prompt)' if asked == prompt else ''}. How many of its prompt tokens must be computed?",
        computed,
        f"{hits} full pages can be found, {hits * block_size} tokens; the rest, at least the last token, is computed.",
    )
