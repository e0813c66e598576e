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

A *stay* is what is judged: from a sequence's first page or region until it has given back the last. A preempted request
has several. Each is judged by itself, because its pages went to others in between: ``F`` is what was stored when it was
preempted, and slots that it had got and not filled by then were wasted on it. What it had stored counts as token states
as long as it was there; that it must be computed again costs time (`RequestPreempted.tokens_lost`), not memory.
A cancelled request is judged by what it had stored when it was cancelled. A stay that has not ended when the history
does can't be judged: its empty slots are reported as *reserved*.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, fields

import numpy as np

from workbench.events import types as ev
from workbench.events.history import History
from workbench.events.page_map import PageMap
from workbench.events.state import SequenceState


@dataclass(frozen=True)
class WasteSplit:
    """The use of a pool, in slots or as shares of it. The six numbers add up to the pool."""

    token_states: float = 0
    reservation: float = 0
    internal: float = 0
    external: float = 0
    reserved: float = 0  #: reservation or internal, of requests that had not ended when the history did
    free: float = 0

    @property
    def total(self) -> float:
        return sum(getattr(self, field.name) for field in fields(self))

    def scaled(self, factor: float) -> WasteSplit:
        return WasteSplit(*(getattr(self, field.name) * factor for field in fields(self)))

    def without_free(self) -> WasteSplit:
        """Shares of the memory that was not free; all zero if everything was."""
        used = self.total - self.free
        return WasteSplit(
            *(0.0 if used <= 0 or field.name == "free" else getattr(self, field.name) / used for field in fields(self))
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
    """Collects, per step and stay, what was held, and per stay how much was stored in the end."""

    def __init__(self) -> None:
        self._of: dict[int, int] = {}  # sequence -> its stay
        self._stored = array("q")  # per stay: tokens at its end, or so far
        self._ended = array("b")
        self._rows = (array("q"), array("q"), array("q"), array("q"))  # step index, stay, tokens, slots asked for

    def follow(self, sequence: int, state: SequenceState | None) -> None:
        """Notes what a sequence holds now; None: it has given everything back."""
        if state is None:
            stay = self._of.pop(sequence, None)
            if stay is not None:
                self._ended[stay] = 1
            return
        if sequence not in self._of:
            self._of[sequence] = len(self._stored)
            self._stored.append(0)
            self._ended.append(0)
        self._stored[self._of[sequence]] = state.num_computed_tokens

    def sample(self, index: int, state: PageMap) -> None:
        for sequence, memory in state.sequences.items():
            asked = memory.region.requested if memory.region else len(memory.block_table) * state.block_size
            row = (index, self._of[sequence], memory.num_computed_tokens, asked)
            for column, value in zip(self._rows, row, strict=True):
                column.append(value)

    def split(self, num_steps: int) -> np.ndarray:
        """Sums per step, as int64 ``[num_steps, 4]``: token states, reservation, internal, reserved."""
        step, stay, tokens, asked = (np.array(column, dtype=np.int64) for column in self._rows)
        final = np.array(self._stored, dtype=np.int64)[stay]
        ended = np.array(self._ended, dtype=bool)[stay]
        used = np.minimum(asked, final)
        out = np.zeros((num_steps, 4), dtype=np.int64)
        for column, values in enumerate((tokens, (used - tokens) * ended, (asked - used) * ended)):
            np.add.at(out[:, column], step, values)
        np.add.at(out[:, 3], step, (asked - tokens) * ~ended)
        return out


_MEMORY_EVENTS = (ev.BlockAllocated, ev.SlotsWritten, ev.BlockReleased, ev.RegionReserved, ev.RegionReleased)


def measure_waste(history: History, saturated_only: bool = False) -> WasteReport:
    """Judges every slot after every finished step of a history (see the module for the definitions).

    Args:
        saturated_only: average over those steps only after which a request was waiting: memory under load, which is
            what the paper reports. ``WasteReport.steps`` has all steps either way.

    Raises:
        ValueError: the events contradict each other.
    """
    stays = _Stays()
    finished: list[tuple[ev.StepFinished, int, int]] = []  # with external and free slots
    final = initial = history.initial
    for sequence, memory in initial.sequences.items():
        stays.follow(sequence, memory)
    for event, state in history.walk():
        final = state
        if isinstance(event, _MEMORY_EVENTS):
            stays.follow(event.sequence, state.sequences.get(event.sequence))
        elif isinstance(event, ev.StepFinished):
            live = state.waste()
            stays.sample(len(finished), state)
            finished.append((event, live.external, live.free))
    sums = stays.split(len(finished)).tolist()
    steps = [
        StepWaste(
            event.step,
            event.running,
            event.waiting,
            WasteSplit(tokens, reservation, internal, external, reserved, free),
        )
        for (event, external, free), (tokens, reservation, internal, reserved) in zip(finished, sums, strict=True)
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
