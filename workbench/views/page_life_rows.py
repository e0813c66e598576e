"""What a `LifeIndex` gives out: what happened to one page, and what one request had."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum

import numpy as np


class Kind(IntEnum):
    """What happened to a page."""

    SNAPSHOT = 0  #: it was so when the history began
    ALLOCATED = 1
    WRITTEN = 2
    SHARED = 3
    COPIED_FROM = 4
    COPIED_TO = 5
    RELEASED = 6
    FREED = 7
    CACHED = 8
    HIT = 9
    EVICTED = 10
    SWAPPED_OUT = 11
    SWAPPED_IN = 12


#: ``refs`` of a page that nobody uses and whose content is kept.
CACHED = -1


@dataclass(frozen=True)
class PageRows:
    """What happened to one page, in order: one entry per event that concerned it, with the page as it was after it.

    Attributes:
        seq: position of the event in the run; -1 for the snapshot.
        refs: sequences that have it; -1: none, but its content is kept for reuse.
        filled: slots that hold a token.
        request: one that has it, -1: none.
        who: the request that got it or gave it up in this event, -1: none.
    """

    seq: np.ndarray
    step: np.ndarray
    kind: np.ndarray
    refs: np.ndarray
    filled: np.ndarray
    request: np.ndarray
    who: np.ndarray

    def __len__(self) -> int:
        return len(self.seq)

    def requests(self, upto: int) -> set[int]:
        """All that had it, by the first so many entries."""
        return {int(r) for column in (self.request, self.who) for r in column[:upto] if r >= 0}

    def within(self, first: int, last: int) -> PageRows:
        """The entries of these steps; before them, as a snapshot, how the page was when they began."""
        start, stop = self.until(first - 1), self.until(last)
        begin = max(0, start - 1)
        columns = {field.name: getattr(self, field.name)[begin:stop].copy() for field in fields(self)}
        if begin < start:
            columns["step"][0], columns["kind"][0] = first, Kind.SNAPSHOT
        return PageRows(**columns)

    def until(self, step: int) -> int:
        """How many entries lie at or before a step."""
        return int(np.searchsorted(self.step, step, side="right"))


@dataclass(frozen=True)
class RequestRows:
    """What one request had after each step in which that changed."""

    step: np.ndarray
    pages: np.ndarray  #: different pages on the device; contiguous memory: slots of its region
    host_pages: np.ndarray
    tokens: np.ndarray  #: stored, in either tier; those in a shared page once

    def at(self, step: int) -> tuple[int, int, int]:
        """Pages, host pages and tokens after a step."""
        row = int(np.searchsorted(self.step, step, side="right")) - 1
        return (0, 0, 0) if row < 0 else (int(self.pages[row]), int(self.host_pages[row]), int(self.tokens[row]))
