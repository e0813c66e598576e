"""The use of a pool's pages and slots, followed from events with a few integers: no `PageMap` is folded for it."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

from workbench.events import PageMap
from workbench.events import types as ev
from workbench.events.kvtrace import RecordingError
from workbench.events.page_map import check_pool_size
from workbench.events.types import Cause, Tier

#: Numbers of pages that went from one state to another in a step: column, from, to, what it means.
FLOWS: tuple[tuple[str, str, str, str], ...] = (
    ("allocated", "free", "allocated", "handed out"),
    ("freed", "allocated", "free", "given back or moved out"),
    ("kept", "allocated", "cached", "given back, kept for reuse"),
    ("reused", "cached", "allocated", "prefix hit"),
    ("evicted", "cached", "free", "eviction"),
    ("swapped_out", "device", "host", "swapped out"),
    ("swapped_in", "host", "device", "swapped in"),
    ("host_freed", "host", "gone", "given up there"),
)

_FREE, _USED, _CACHED = 0, 1, 2


class PoolCounter:
    """Counts of pages and slots now, and of what changed since `start_step`.

    Attributes:
        used, cached, free: device pages (paged memory only).
        host_used: pages of the host tier in use.
        regions: regions of contiguous memory that are reserved now.
        flows: pages that changed state in this step, by the names of `FLOWS`.
        internal: per row, a change of the slots lost to internal fragmentation: add up to get the slots. Only stays
            that have ended are in it (see `workbench.events.waste`).
    """

    def __init__(self, state: PageMap) -> None:
        self.paged = state.is_paged
        self.block_size, self.num_slots = state.block_size, state.num_slots
        self._device = bytearray(len(state.pages))
        self._fill = [page.filled for page in state.pages]
        self._host_fill = {block: page.filled for block, page in enumerate(state.host_pages) if page.ref_count}
        self._since = [0] * len(state.pages)
        self.used = self.cached = self._tokens = 0
        for block, page in enumerate(state.pages):
            if page.ref_count:
                self._device[block], self.used = _USED, self.used + 1
                self._tokens += page.filled
            elif page.hash:
                self._device[block], self.cached = _CACHED, self.cached + 1
        self._regions: dict[int, list[int]] = {}  # sequence -> size, requested, filled, row since
        self._held = self._lost = 0
        for sequence, memory in state.sequences.items():
            if memory.region is not None:
                region = memory.region
                self._regions[sequence] = [region.size, region.requested, region.filled, 0]
                self._held += region.requested
                self._lost += region.size - region.requested
                self._tokens += region.filled
        self.flows = dict.fromkeys((name for name, *_ in FLOWS), 0)
        self.internal = array("q", [0])
        self.row = 0
        self.handlers: dict[type, Callable[[Any], None]] = {
            ev.RunStarted: self._run_started,
            ev.BlockAllocated: self._allocated,
            ev.SlotsWritten: self._written,
            ev.BlockCopied: self._copied,
            ev.BlockFreed: self._freed,
            ev.BlockCached: self._kept,
            ev.PrefixHit: self._hit,
            ev.BlockEvicted: self._evicted,
            ev.BlocksSwappedOut: self._swapped_out,
            ev.BlocksSwappedIn: self._swapped_in,
            ev.RegionReserved: self._reserved,
            ev.RegionReleased: self._region_released,
        }

    @property
    def free(self) -> int:
        return len(self._device) - self.used - self.cached

    @property
    def host_used(self) -> int:
        return len(self._host_fill)

    @property
    def regions(self) -> int:
        return len(self._regions)

    @property
    def is_settled(self) -> bool:
        """Nobody holds memory: every stay has ended, so every slot of the past can be judged."""
        return self.used == 0 and not self._regions

    def start_row(self, row: int) -> None:
        """What comes now belongs to this row; the flows of the row before are forgotten."""
        self.row = row
        self.flows = dict.fromkeys(self.flows, 0)
        self.internal.extend([0] * (row + 1 - len(self.internal)))

    def waste(self, starved: bool) -> tuple[int, int, int, int, int]:
        """Token states, reserved, external, free, cached, in slots: as `PageMap.waste`.

        Args:
            starved: contiguous memory: the head of the queue waits because no free region is large enough.
        """
        if self.paged:
            held, cached = self.used * self.block_size, self.cached * self.block_size
            return self._tokens, held - self._tokens, 0, self.num_slots - held - cached, cached
        lost, free = self._lost, self.num_slots - self._held - self._lost
        if starved:
            lost, free = lost + free, 0
        return self._tokens, self._held - self._tokens, lost, free, 0

    # -- events ----------------------------------------------------------------------------------------------------

    def _run_started(self, event: ev.RunStarted) -> None:
        try:
            check_pool_size(event)  # a stranger's file may claim any size
        except ValueError as error:
            raise RecordingError(f"step {event.step}: the run began with {error}") from error
        self.paged = event.memory == "paged"
        self.block_size, self.num_slots = event.block_size, event.block_size * event.num_blocks
        if self.paged:
            self._device = bytearray(event.num_blocks)
            self._fill, self._since = [0] * event.num_blocks, [0] * event.num_blocks

    def _take(self, block: int, filled: int) -> None:
        self._device[block] = _USED
        self._fill[block] = filled
        self._since[block] = self.row
        self.used += 1
        self._tokens += filled

    def _leave(self, block: int, state: int) -> None:
        filled = self._fill[block]
        self._device[block] = state
        self.used -= 1
        self._tokens -= filled
        self._judge(self._since[block], self.block_size - filled)

    def _judge(self, since: int, never_filled: int) -> None:
        if never_filled:
            self.internal[since] += never_filled
            self.internal[self.row] -= never_filled

    def _allocated(self, event: ev.BlockAllocated) -> None:
        self._take(event.block, 0)
        self.flows["allocated"] += 1

    def _written(self, event: ev.SlotsWritten) -> None:
        self._tokens += event.count
        if event.block is not None:
            self._fill[event.block] += event.count
        else:
            self._regions[event.sequence][2] += event.count

    def _copied(self, event: ev.BlockCopied) -> None:
        self._take(event.destination, event.filled)
        self.flows["allocated"] += 1

    def _freed(self, event: ev.BlockFreed) -> None:
        if event.tier is Tier.HOST:
            del self._host_fill[event.block]
            self.flows["host_freed"] += 1
            return
        self._leave(event.block, _FREE)
        self._fill[event.block] = 0
        self.flows["freed"] += 1

    def _kept(self, event: ev.BlockCached) -> None:
        self._leave(event.block, _CACHED)
        self.cached += 1
        self.flows["kept"] += 1

    def _hit(self, event: ev.PrefixHit) -> None:
        if self._device[event.block] == _CACHED:
            self.cached -= 1
            self._take(event.block, self._fill[event.block])
            self.flows["reused"] += 1

    def _evicted(self, event: ev.BlockEvicted) -> None:
        self._device[event.block] = _FREE
        self._fill[event.block] = 0
        self.cached -= 1
        self.flows["evicted"] += 1

    def _swapped_out(self, event: ev.BlocksSwappedOut) -> None:
        for block, host in event.pairs:  # `BlockFreed` or `BlockCached` follows, unless others use the page, too
            self._host_fill[host] = self._fill[block]
        self.flows["swapped_out"] += len(event.pairs)

    def _swapped_in(self, event: ev.BlocksSwappedIn) -> None:
        for host, block in event.pairs:
            self._take(block, self._host_fill.pop(host))
        self.flows["swapped_in"] += len(event.pairs)

    def _reserved(self, event: ev.RegionReserved) -> None:
        self._regions[event.sequence] = [event.size, event.requested, 0, self.row]
        self._held += event.requested
        self._lost += event.size - event.requested

    def _region_released(self, event: ev.RegionReleased) -> None:
        size, requested, filled, since = self._regions.pop(event.sequence)
        self._held -= requested
        self._lost -= size - requested
        self._tokens -= filled
        self._judge(since, requested - filled)


def is_starved(blocked: Cause | None) -> bool:
    """Whether free slots count as external fragmentation: the head of the queue waits for a larger region."""
    return blocked is Cause.POOL_EXHAUSTED
