"""Waste after the fact, in the paper's four categories (Kwon et al., SOSP 2023, Fig. 2), from a history alone.

While a request runs nobody knows how long it gets, so `PageMap.waste` can only say "reserved". When it has given its
memory back, its length is known, and every slot that it held can be judged for every step before:

- *token states*: the slot held the keys and values of a token;
- *reservation*: empty then, but filled before the memory was given back;
- *internal fragmentation*: never filled;
- *external fragmentation* (contiguous memory only): rounding by the buddy allocator, and free slots while a request
  waits because no free region is large enough for it. A page can lie anywhere, so paged memory has none.

With ``n`` tokens stored, ``R`` slots asked for and ``F`` tokens stored at the end, a request counts ``n`` token states,
``min(R, F) - n`` slots of reservation and ``R - min(R, F)`` slots of internal fragmentation.

A *stay* is what is judged. In contiguous memory it is that of a sequence's region, from its reservation to its
release. In paged memory it is that of a physical page on the device: from its allocation, or from the first sequence
that takes it out of the prefix cache or brings it back from the host tier, until no sequence has it there any more.
So a page that several sequences share counts once, and copy-on-write and sliding windows are nothing special. A page
counts as above, with its slots as ``R`` and the tokens in it at the end of its stay as ``F``. The pages of a
preempted request have several stays. Each is judged by itself, because the page went to others in between: ``F`` is
what was stored when the request was preempted, and slots that it had got and not filled by then were wasted on it.
What it had stored counts as token states as long as it was there; that it must be computed again costs time
(`RequestPreempted.tokens_lost`), not memory. A cancelled request is judged by what it had stored when it was
cancelled. A stay that has not ended when the history does can't be judged: its empty slots are reported as
*reserved*.

Pages without references that the prefix cache keeps are *cached*: nobody holds them, so they are not waste, and what
they hold may be of use, so they are not free either.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, fields

import numpy as np

from workbench.events import types as ev
from workbench.events.history import History
from workbench.events.page_map import PageMap


@dataclass(frozen=True)
class WasteSplit:
    """The use of a pool, in slots or as shares of it. The seven numbers add up to the pool."""

    token_states: float = 0
    reservation: float = 0
    internal: float = 0
    external: float = 0
    reserved: float = 0  #: reservation or internal, of requests that had not ended when the history did
    free: float = 0
    cached: float = 0  #: pages that nobody uses, kept because their content may be wanted again

    @property
    def total(self) -> float:
        return sum(getattr(self, field.name) for field in fields(self))

    def scaled(self, factor: float) -> WasteSplit:
        return WasteSplit(*(getattr(self, field.name) * factor for field in fields(self)))

    def without_free(self) -> WasteSplit:
        """Shares of the memory that was held: neither free nor kept by the cache for nobody. All zero if none was."""
        used = self.total - self.free - self.cached
        return WasteSplit(
            *(
                0.0 if used <= 0 or field.name in ("free", "cached") else getattr(self, field.name) / used
                for field in fields(self)
            )
        )


@dataclass(frozen=True)
class StepWaste:
    """The split after one step, in slots. ``running`` and ``waiting`` are numbers of requests."""

    step: int
    running: int
    waiting: int
    slots: WasteSplit


@dataclass(frozen=True)
class WasteReport:
    """Where a run's KV memory went.

    Attributes:
        memory: ``"paged"`` or ``"contiguous"``; empty if the history holds no finished step.
        num_slots: size of the pool.
        shares: average over ``num_averaged`` steps; they add up to 1, or are all 0 if there was no step to average.
        num_averaged: how many steps ``shares`` averages.
        steps: every finished step, whether it is averaged or not.
    """

    memory: str
    num_slots: int
    shares: WasteSplit
    num_averaged: int
    steps: list[StepWaste]


class _Stays:
    """Collects, per step and stay, the slots that are held and empty, and per stay how many were filled in the end."""

    def __init__(self) -> None:
        self._of: dict[int, int] = {}  # page, or sequence with a region -> its stay
        self._empty: dict[int, tuple[int, int]] = {}  # those with empty slots -> slots held, and filled
        self._filled = array("q")  # per stay: at its end, or so far
        self._ended = array("b")
        self._rows = (array("q"), array("q"), array("q"), array("q"))  # step index, stay, slots held, slots filled

    def note(self, holder: int, held: int, filled: int) -> None:
        """Notes what a page or a region holds now; a stay begins if there was none."""
        if holder not in self._of:
            self._of[holder] = len(self._filled)
            self._filled.append(0)
            self._ended.append(0)
        self._filled[self._of[holder]] = filled
        if filled < held:
            self._empty[holder] = held, filled
        else:
            self._empty.pop(holder, None)

    def end(self, holder: int) -> None:
        """Nobody holds it any more."""
        stay = self._of.pop(holder, None)
        if stay is not None:
            self._ended[stay] = 1
            self._empty.pop(holder, None)

    def sample(self, index: int) -> None:
        for holder, (held, filled) in self._empty.items():
            for column, value in zip(self._rows, (index, self._of[holder], held, filled), strict=True):
                column.append(value)

    def split(self, num_steps: int) -> np.ndarray:
        """Sums per step, as int64 ``[num_steps, 3]``: reservation, internal, reserved."""
        step, stay, held, filled = (np.array(column, dtype=np.int64) for column in self._rows)
        final = np.minimum(held, np.array(self._filled, dtype=np.int64)[stay])
        ended = np.array(self._ended, dtype=bool)[stay]
        out = np.zeros((num_steps, 3), dtype=np.int64)
        for column, values in enumerate(((final - filled) * ended, (held - final) * ended, (held - filled) * ~ended)):
            np.add.at(out[:, column], step, values)
        return out


def _follow(stays: _Stays, event: ev.AnyEvent, state: PageMap) -> None:
    """Takes an event into account; ``state`` is the one after it."""
    match event:
        case ev.BlockAllocated() | ev.PrefixHit():
            _note_page(stays, event.block, state)
        case ev.BlockCopied():
            _note_page(stays, event.destination, state)
        case ev.SlotsWritten():
            if event.block is not None:
                _note_page(stays, event.block, state)
            else:
                _note_region(stays, event.sequence, state)
        case ev.BlockReleased():
            if event.tier is ev.Tier.DEVICE and event.ref_count == 0:
                stays.end(event.block)
        case ev.BlocksSwappedOut():
            for block, _ in event.pairs:
                if state.pages[block].ref_count == 0:
                    stays.end(block)
        case ev.BlocksSwappedIn():
            for _, block in event.pairs:
                _note_page(stays, block, state)
        case ev.RegionReserved():
            _note_region(stays, event.sequence, state)
        case ev.RegionReleased():
            stays.end(event.sequence)


def _note_page(stays: _Stays, block: int, state: PageMap) -> None:
    stays.note(block, state.block_size, state.pages[block].filled)


def _note_region(stays: _Stays, sequence: int, state: PageMap) -> None:
    region = state.sequences[sequence].region
    assert region is not None
    stays.note(sequence, region.requested, region.filled)


def measure_waste(history: History, saturated_only: bool = False) -> WasteReport:
    """Judges every slot after every finished step of a history (see the module for the definitions).

    Args:
        saturated_only: average over those steps only after which a request was waiting: memory under load, which is
            what the paper reports. ``WasteReport.steps`` has all steps either way.

    Raises:
        ValueError: the events contradict each other.
    """
    stays = _Stays()
    finished: list[tuple[ev.StepFinished, ev.LiveWaste]] = []
    final = initial = history.initial
    for block, page in enumerate(initial.pages):
        if page.ref_count:
            _note_page(stays, block, initial)
    for sequence, memory in initial.sequences.items():
        if memory.region is not None:
            _note_region(stays, sequence, initial)
    for event, state in history.walk():
        final = state
        if isinstance(event, ev.StepFinished):
            stays.sample(len(finished))
            finished.append((event, state.waste()))
        else:
            _follow(stays, event, state)
    sums = stays.split(len(finished)).tolist()
    steps = [
        StepWaste(
            event.step,
            event.running,
            event.waiting,
            WasteSplit(live.token_states, reservation, internal, live.external, reserved, live.free, live.cached),
        )
        for (event, live), (reservation, internal, reserved) in zip(finished, sums, strict=True)
    ]
    chosen = [step for step in steps if step.waiting > 0 or not saturated_only]
    memory_kind = final.run.memory if final.run is not None and steps else ""
    return WasteReport(memory_kind, final.num_slots, _average(chosen), len(chosen), steps)


def _average(steps: list[StepWaste]) -> WasteSplit:
    if not steps:
        return WasteSplit()
    names = [field.name for field in fields(WasteSplit)]
    sums = {name: sum(getattr(step.slots, name) for step in steps) for name in names}
    return WasteSplit(**sums).scaled(1 / sum(step.slots.total for step in steps))
