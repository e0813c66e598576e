"""Who had every page when: one pass over a history's events, kept so that a second page or request is quick."""

from __future__ import annotations

import threading
import weakref
from array import array
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from workbench.events import EventBatch, History, PageMap
from workbench.events import types as ev
from workbench.events.kvtrace import RecordingError
from workbench.events.state import RequestState
from workbench.events.types import Tier
from workbench.views.page_life_rows import CACHED, Kind, PageRows, RequestRows
from workbench.views.read_on import read_on
from workbench.views.series_requests import RequestTracker


class _Page:
    """A page as it is now. ``holders``: sequences that have it."""

    __slots__ = ("filled", "group", "holders", "is_cached")

    def __init__(self) -> None:
        self.holders: set[int] = set()
        self.filled = 0
        self.group = 0
        self.is_cached = False


class LifeIndex:
    """Everything about single pages and single requests that a history tells. Safe to use from any thread.

    In contiguous memory a "page" is the smallest piece that the buddy allocator gives out: ``block_size`` slots.
    """

    def __init__(self, initial: PageMap) -> None:
        self._lock = threading.RLock()
        self._tracker = RequestTracker(initial)
        self._request_of: dict[int, int] = dict(initial.request_ids)
        self._pages: tuple[dict[int, _Page], dict[int, _Page]] = ({}, {})
        self._rows = (array("q"), array("q"))  # per tier, one after the other: what `PageRows` has
        self._forks: set[int] = set()  # requests with more than one sequence
        self._held: dict[int, tuple[int, int]] = {}
        self._tokens: dict[int, dict[int, int]] = {}  # request -> layer group -> tokens stored
        self._changed: set[int] = set()
        self._request_rows = array("q")  # request, step, pages, host pages, tokens
        self._story = array("q")  # request, seq, step
        self._regions: dict[int, tuple[int, int]] = {}  # sequence -> start, size
        self.run = initial.run
        self.paged = initial.is_paged
        self._next_seq, self._step, self._seq = initial.next_seq, initial.step, -1
        self._begin(initial)
        self._handlers: dict[type, Callable[[Any], None]] = {
            ev.RunStarted: self._run_started,
            ev.RequestQueued: self._queued,
            ev.SequenceForked: self._forked,
            ev.BlockAllocated: self._allocated,
            ev.SlotsWritten: self._written,
            ev.BlockShared: self._shared,
            ev.BlockCopied: self._copied,
            ev.BlockReleased: self._released,
            ev.BlockFreed: self._freed,
            ev.BlockCached: self._kept,
            ev.PrefixHit: self._hit,
            ev.BlockEvicted: self._evicted,
            ev.BlocksSwappedOut: self._swapped_out,
            ev.BlocksSwappedIn: self._swapped_in,
            ev.RegionReserved: self._reserved,
            ev.RegionReleased: self._region_released,
        }

    # -- building --------------------------------------------------------------------------------------------------

    def update(self, history: History) -> bool:
        """Reads what the history has got since. False if it has forgotten what was not read yet."""
        with self._lock:
            if self._seq < 0:
                return all(self.extend(batch) for batch in history.batches())
            return read_on(history, self._step, self.extend)

    def extend(self, batch: EventBatch) -> bool:
        """Takes a batch into account; False, and nothing done, if events before it are missing."""
        events = [event for event in batch.events if event.seq >= self._next_seq]
        if not events:
            return True
        if events[0].seq != self._next_seq:
            return False
        with self._lock:
            self._step = batch.step
            tracked = self._tracker.handlers
            for event in events:
                self._seq = event.seq
                handler = self._handlers.get(type(event))
                if handler is not None:
                    handler(event)
                follow = tracked.get(type(event))
                if follow is not None:
                    follow(event)
                if type(event) in _STORY:
                    self._tell(event)
            self._next_seq = self._seq + 1
            for request in self._changed:
                self._note_request(request)
            self._changed.clear()
        return True

    def _begin(self, state: PageMap) -> None:
        for name, sequence in state.sequences.items():
            for table in sequence.tables:
                for tier, blocks in ((Tier.DEVICE, table.blocks), (Tier.HOST, table.host.values())):
                    for block in blocks:
                        if block >= 0:
                            stored = (state.pages if tier is Tier.DEVICE else state.host_pages)[block]
                            self._join(tier, block, name, stored.filled, stored.group)
            if sequence.region is not None:
                region = sequence.region
                self._lay(name, region.start, region.size)
                self._fill_arena(name, region.start, region.filled)
        for block, stored in enumerate(state.pages):
            if stored.is_cached:
                page = self._page(Tier.DEVICE, block)
                page.filled, page.is_cached = stored.filled, True
        for tier in Tier:
            for block in self._pages[tier is Tier.HOST]:
                self._note(tier, block, Kind.SNAPSHOT)
        for request in self._changed:
            self._note_request(request)
        self._changed.clear()

    def _page(self, tier: Tier, block: int) -> _Page:
        pages = self._pages[tier is Tier.HOST]
        if block not in pages:
            pages[block] = _Page()
        return pages[block]

    def _note(self, tier: Tier, block: int, kind: Kind, who: int = -1) -> None:
        """One entry: what happened to the page; ``who`` is the request that got it or gave it up."""
        page = self._page(tier, block)
        refs = len(page.holders) or (CACHED if page.is_cached else 0)
        owner = self._request_of.get(min(page.holders), -1) if page.holders else -1
        self._rows[tier is Tier.HOST].extend((block, self._seq, self._step, kind, refs, page.filled, owner, who))

    def _join(self, tier: Tier, block: int, sequence: int, filled: int, group: int) -> None:
        """A sequence has the page, with so much in it."""
        page, request = self._page(tier, block), self._request_of.get(sequence, -1)
        is_new = not any(self._request_of.get(other) == request for other in page.holders)
        page.holders.add(sequence)
        page.filled, page.group, page.is_cached = filled, group, False
        if is_new:
            self._count(request, tier, 1, filled, group)

    def _quit(self, tier: Tier, block: int, sequence: int) -> None:
        page, request = self._page(tier, block), self._request_of.get(sequence, -1)
        page.holders.discard(sequence)
        if not any(self._request_of.get(other) == request for other in page.holders):
            self._count(request, tier, -1, -page.filled, page.group)

    def _count(self, request: int, tier: Tier, pages: int, tokens: int, group: int) -> None:
        device, host = self._held.get(request, (0, 0))
        self._held[request] = (device, host + pages) if tier is Tier.HOST else (device + pages, host)
        groups = self._tokens.setdefault(request, {})
        groups[group] = groups.get(group, 0) + tokens
        self._changed.add(request)

    def _note_request(self, request: int) -> None:
        device, host = self._held.get(request, (0, 0))
        tokens = max(self._tokens.get(request, {0: 0}).values())
        self._request_rows.extend((request, self._step, device, host, tokens))

    def _tell(self, event: Any) -> None:
        request = getattr(event, "request", None)
        if request is None:
            request = self._request_of.get(event.sequence, -1)
        self._story.extend((request, event.seq, event.step))

    # -- events ----------------------------------------------------------------------------------------------------

    def _run_started(self, event: ev.RunStarted) -> None:
        self.run, self.paged = event, event.memory == "paged"

    def _queued(self, event: ev.RequestQueued) -> None:
        self._request_of[event.sequence] = event.request

    def _forked(self, event: ev.SequenceForked) -> None:
        self._request_of[event.child] = event.request
        self._forks.add(event.request)

    def _allocated(self, event: ev.BlockAllocated) -> None:
        self._join(event.tier, event.block, event.sequence, 0, event.group)
        self._note(event.tier, event.block, Kind.ALLOCATED, self._request_of.get(event.sequence, -1))

    def _written(self, event: ev.SlotsWritten) -> None:
        if event.block is None:
            self._fill_arena(event.sequence, event.first, event.count, True)
            return
        page = self._page(Tier.DEVICE, event.block)
        page.filled += event.count
        self._count(self._request_of.get(event.sequence, -1), Tier.DEVICE, 0, event.count, event.group)
        self._note(Tier.DEVICE, event.block, Kind.WRITTEN)

    def _shared(self, event: ev.BlockShared) -> None:
        page = self._page(event.tier, event.block)
        self._join(event.tier, event.block, event.sequence, page.filled, page.group)
        self._note(event.tier, event.block, Kind.SHARED, self._request_of.get(event.sequence, -1))

    def _copied(self, event: ev.BlockCopied) -> None:
        self._quit(Tier.DEVICE, event.source, event.sequence)
        self._join(Tier.DEVICE, event.destination, event.sequence, event.filled, event.group)
        self._note(Tier.DEVICE, event.source, Kind.COPIED_FROM)
        self._note(Tier.DEVICE, event.destination, Kind.COPIED_TO, self._request_of.get(event.sequence, -1))

    def _released(self, event: ev.BlockReleased) -> None:
        self._quit(event.tier, event.block, event.sequence)
        self._note(event.tier, event.block, Kind.RELEASED, self._request_of.get(event.sequence, -1))

    def _freed(self, event: ev.BlockFreed) -> None:
        page = self._page(event.tier, event.block)
        page.filled = 0
        self._note(event.tier, event.block, Kind.FREED)

    def _kept(self, event: ev.BlockCached) -> None:
        self._page(Tier.DEVICE, event.block).is_cached = True
        self._note(Tier.DEVICE, event.block, Kind.CACHED)

    def _hit(self, event: ev.PrefixHit) -> None:
        self._join(Tier.DEVICE, event.block, event.sequence, self._page(Tier.DEVICE, event.block).filled, 0)
        self._note(Tier.DEVICE, event.block, Kind.HIT, self._request_of.get(event.sequence, -1))

    def _evicted(self, event: ev.BlockEvicted) -> None:
        page = self._page(Tier.DEVICE, event.block)
        page.filled, page.is_cached = 0, False
        self._note(Tier.DEVICE, event.block, Kind.EVICTED)

    def _swapped_out(self, event: ev.BlocksSwappedOut) -> None:
        self._move(event.request, event.pairs, Tier.DEVICE, Tier.HOST, Kind.SWAPPED_OUT)

    def _swapped_in(self, event: ev.BlocksSwappedIn) -> None:
        self._move(event.request, event.pairs, Tier.HOST, Tier.DEVICE, Kind.SWAPPED_IN)

    def _move(self, request: int, pairs: Iterable[tuple[int, int]], source: Tier, to: Tier, kind: Kind) -> None:
        for block, new in pairs:
            page = self._page(source, block)
            for sequence in [s for s in page.holders if self._request_of.get(s) == request]:
                self._quit(source, block, sequence)
                self._join(to, new, sequence, page.filled, page.group)
            if source is Tier.HOST:
                page.filled = 0  # of the device's pages `BlockFreed` or `BlockCached` tells
            self._note(source, block, kind, request)
            self._note(to, new, kind, request)

    def _reserved(self, event: ev.RegionReserved) -> None:
        for block in self._lay(event.sequence, event.start, event.size):
            self._note(Tier.DEVICE, block, Kind.ALLOCATED, self._request_of.get(event.sequence, -1))

    def _lay(self, sequence: int, start: int, size: int) -> range:
        assert self.run is not None
        self._regions[sequence] = start, size
        pieces = range(start // self.run.block_size, -(-(start + size) // self.run.block_size))
        for block in pieces:
            self._join(Tier.DEVICE, block, sequence, 0, 0)
        return pieces

    def _fill_arena(self, sequence: int, first: int, count: int, note: bool = False) -> None:
        assert self.run is not None
        block_size = self.run.block_size
        while count > 0:
            block, offset = divmod(first, block_size)
            part = min(count, block_size - offset)
            self._page(Tier.DEVICE, block).filled += part
            self._count(self._request_of.get(sequence, -1), Tier.DEVICE, 0, part, 0)
            if note:
                self._note(Tier.DEVICE, block, Kind.WRITTEN)
            first, count = first + part, count - part

    def _region_released(self, event: ev.RegionReleased) -> None:
        assert self.run is not None
        start, size = self._regions.pop(event.sequence, (event.start, event.size))
        for block in range(start // self.run.block_size, -(-(start + size) // self.run.block_size)):
            self._quit(Tier.DEVICE, block, event.sequence)
            self._page(Tier.DEVICE, block).filled = 0
            self._note(Tier.DEVICE, block, Kind.RELEASED)

    # -- reading ---------------------------------------------------------------------------------------------------

    @property
    def tracker(self) -> RequestTracker:
        """The requests' phases and preemptions."""
        return self._tracker

    def names(self, requests: Iterable[int]) -> PageMap:
        """As much of a state as `workbench.events.words.describe` needs to name these requests and their sequences.

        A whole state of a long run holds all its requests, and takes as long to copy.
        """
        tracks = self._tracker.tracks
        known = {
            request: RequestState("", 0, 0, -1, max(tracks[request].width, 1 + (request in self._forks)))
            for request in requests
            if request in tracks
        }
        return PageMap(run=self.run, request_ids=self._request_of, requests=known)

    def page_rows(self, block: int, tier: Tier = Tier.DEVICE) -> PageRows:
        """What happened to one page. Empty if nothing did."""
        return PageRows(*self._of(self._rows[tier is Tier.HOST], 8, block).T)

    def request_rows(self, request: int) -> RequestRows:
        """What one request had over the steps; contiguous memory: slots instead of pages."""
        rows = self._of(self._request_rows, 5, request)
        last_of_step = np.ones(len(rows), dtype=bool)
        last_of_step[:-1] = rows[1:, 0] != rows[:-1, 0]
        rows = rows[last_of_step]
        step, pages, host_pages, tokens = rows.T
        if not self.paged and self.run is not None:
            pages = pages * self.run.block_size
        return RequestRows(step, pages, host_pages, tokens)

    def story(self, request: int) -> list[tuple[int, int]]:
        """Positions (seq, step) of the events that tell a request's life, without its single tokens."""
        return [(int(seq), int(step)) for seq, step in self._of(self._story, 3, request)]

    def _of(self, rows: array[int], width: int, key: int) -> np.ndarray:
        """The rows that begin with a number, without it."""
        with self._lock:
            table = np.frombuffer(rows, dtype=np.int64) if rows else np.zeros(0, dtype=np.int64)
            table = table.reshape(-1, width)
            found = table[table[:, 0] == key, 1:]
            del table  # an array that is looked into can't grow
        return found


_STORY = {
    *(ev.RequestQueued, ev.RequestAdmitted, ev.AdmissionBlocked, ev.RequestPreempted, ev.RequestResumed),
    *(ev.PreemptionSettled, ev.SequenceForked, ev.SequenceFinished, ev.OutputsChosen, ev.RequestFinished),
    *(ev.RequestRejected, ev.BlockAllocated, ev.PrefixHit, ev.BlockCopied, ev.BlocksSwappedOut, ev.BlocksSwappedIn),
    *(ev.RegionReserved, ev.RegionReleased),
}

_KNOWN: weakref.WeakKeyDictionary[History, LifeIndex] = weakref.WeakKeyDictionary()
_LOCK = threading.Lock()


def life_index(history: History) -> LifeIndex:
    """The index of a history as it is now. Made once, then only what is new is read.

    Raises:
        RecordingError: events are missing from it.
    """
    with _LOCK:
        index = _KNOWN.get(history)
    tried = -1
    while index is None or not index.update(history):
        initial = history.initial
        if initial.next_seq == tried:  # it has not forgotten anything meanwhile
            raise RecordingError(f"events are missing between step {history.first_step} and {history.last_step}")
        tried, index = initial.next_seq, LifeIndex(initial)
    with _LOCK:
        _KNOWN[history] = index
    return index
