"""Lesson 6, sharing: the paper's copy-on-write on the engine; reference counts and prefix names to be written."""

from __future__ import annotations

import random
from collections import deque

from workbench import LLM, EngineConfig, SamplingParams
from workbench.course.exercise import Exercise
from workbench.course.lessons.bundled import random_jobs, tiny
from workbench.course.lessons.paper_beams import fig9_books, one_page_more
from workbench.course.lessons.paper_pool import PAPER_PROMPT, paper_pool
from workbench.course.lessons.prefix_graders import find_prefix, grade_find, grade_names, names_of
from workbench.course.lessons.sharing_graders import grade_append, grade_fork, grade_replay
from workbench.course.lessons.sharing_questions import make_question, tables_of
from workbench.events import Timeline

__all__ = [
    "EXERCISES", "FIG8_PROMPT", "SYSTEM_PROMPT", "SharedBooks", "ask", "fig8_engine", "fig9_books", "find_prefix",
    "grade_append", "grade_find", "grade_fork", "grade_names", "grade_replay", "make_question", "names_of",
    "one_page_more", "prefix_engine", "saved", "sharing_run", "tables_of", "tiny",
]  # fmt: skip

FIG8_PROMPT = PAPER_PROMPT
SYSTEM_PROMPT = "You are a careful assistant. Answer in one short sentence, and say so if you do not know the answer. "


def fig8_engine() -> tuple[LLM, Timeline, int]:
    """The pool of lesson 3, whose free list becomes 7, 1, 3, and a request for two samples, last in the queue.

    Returns:
        The engine before its first step, its history, and the request's number.
    """
    llm, timeline = paper_pool()
    two = SamplingParams(n=2, max_tokens=5, temperature=1.0, seed=1, ignore_eos=True)
    return llm, timeline, llm.add_request(FIG8_PROMPT, two)


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
