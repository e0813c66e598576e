"""History: a run that can be read at any step, from a snapshot, keyframes and the batches between them.

`Recording` (a file) and `Timeline` (in memory, still growing) are both histories: whatever reads one reads the other.
"""

from __future__ import annotations

import operator
import threading
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from typing import TYPE_CHECKING, overload

from workbench.events.page_map import PageMap, decode_page_map
from workbench.events.types import AnyEvent, EventBatch

if TYPE_CHECKING:
    import pandas as pd

#: Rough bytes of an event, and of the parts of a snapshot: only their ratio matters (see `KeyframeClock`).
_EVENT, _PAGE, _REQUEST, _TOKEN = 100, 80, 300, 8


class KeyframeClock:
    """Says when the next keyframe is due: every so many steps, but not before the events weigh half a keyframe.

    The second condition keeps a long run's recording linear in its length: a snapshot holds all requests so far, so
    keyframes at fixed distances would grow with the square. It counts things, not bytes: bytes depend on times, and the
    same seed must place the same keyframes.
    """

    def __init__(self, keyframe_every: int, snapshot: PageMap) -> None:
        if type(keyframe_every) is not int or keyframe_every < 1:
            raise ValueError(f"keyframe_every={keyframe_every!r}: must be an integer of at least 1")
        self._every = keyframe_every
        self.restart(snapshot)

    def restart(self, snapshot: PageMap) -> None:
        """Counts from here: ``snapshot`` is being kept."""
        self._step = snapshot.step
        self._events = 0
        tokens = snapshot.totals.generated_tokens
        weight = _PAGE * len(snapshot.pages) + _REQUEST * len(snapshot.requests) + _TOKEN * tokens
        self._enough = weight / 2 / _EVENT

    def is_due(self, batch: EventBatch) -> bool:
        """Whether the state after ``batch`` should be kept. Call it once per batch."""
        self._events += len(batch.events)
        return batch.step - self._step >= self._every and self._events >= self._enough


class History(ABC):
    """A run between two steps, both included.

    Steps are the engine's own numbers. Several batches may carry the same step (what comes after the last step has its
    number): a step's events are those of all of them, and its state is the one after all of them.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._batch_steps: list[int] = []  # per batch, its step
        self._keyframes: list[int] = []  # per keyframe, how many batches lie before it; the first is the snapshot
        self._cache: tuple[int, PageMap] | None = None  # batches before it, state
        self._generation = 0  # goes up when positions shift

    @abstractmethod
    def _read_keyframe(self, index: int) -> bytes:
        """An encoded keyframe. Called under the lock."""

    @abstractmethod
    def _read_batches(self, start: int, stop: int) -> list[EventBatch]:
        """Batches by position. Called under the lock."""

    @property
    @abstractmethod
    def first_step(self) -> int:
        """The step of the snapshot with which this history begins."""

    def _decode_keyframe(self, data: bytes, index: int) -> PageMap:
        return decode_page_map(data)

    def _apply(self, state: PageMap, event: AnyEvent) -> None:
        state.apply(event)

    # -- reading ---------------------------------------------------------------------------------------------------

    @property
    def last_step(self) -> int:
        """The last step whose events are here."""
        with self._lock:
            return self._batch_steps[-1] if self._batch_steps else self.first_step

    @property
    def num_steps(self) -> int:
        """Steps after the snapshot: ``last_step - first_step``."""
        with self._lock:
            return self.last_step - self.first_step

    @property
    def initial(self) -> PageMap:
        """The snapshot that the first batch builds on."""
        with self._lock:
            data = self._read_keyframe(0)
        return self._decode_keyframe(data, 0)

    def _check_step(self, step: int) -> int:
        try:
            step = operator.index(step)
        except TypeError:
            raise TypeError(f"step={step!r}: must be an integer") from None
        if not self.first_step <= step <= self.last_step:
            raise IndexError(f"step={step}: this history goes from step {self.first_step} to step {self.last_step}")
        return step

    def state_at(self, step: int) -> PageMap:
        """The state after a step, as a copy of your own. At ``first_step`` this is the snapshot.

        Raises:
            IndexError: the step is not between ``first_step`` and ``last_step``.
        """
        with self._lock:
            stop = bisect_right(self._batch_steps, self._check_step(step))
            keyframe = bisect_right(self._keyframes, stop) - 1
            start, cache, generation = self._keyframes[keyframe], self._cache, self._generation
            if cache is not None and start <= cache[0] <= stop:  # stepping forward costs one step, not up to 64
                start, data = cache[0], None
            else:
                cache, data = None, self._read_keyframe(keyframe)
            batches = self._read_batches(start, stop)
        state = cache[1].copy() if cache is not None else self._decode_keyframe(data or b"", keyframe)
        for batch in batches:
            for event in batch.events:
                self._apply(state, event)
        with self._lock:
            if generation == self._generation:
                self._cache = (stop, state)
        return state.copy()

    @overload
    def events(self, step: int) -> list[AnyEvent]: ...

    @overload
    def events(self, step: None = None) -> Iterator[AnyEvent]: ...

    def events(self, step: int | None = None) -> list[AnyEvent] | Iterator[AnyEvent]:
        """The events of one step, as a list, or without an argument all events, as an iterator.

        Raises:
            IndexError: the step is not between ``first_step`` and ``last_step``.
        """
        if step is None:
            return (event for batch in self.batches() for event in batch.events)
        with self._lock:
            step = self._check_step(step)
            start, stop = bisect_left(self._batch_steps, step), bisect_right(self._batch_steps, step)
            return [event for batch in self._read_batches(start, stop) for event in batch.events]

    def batches(self) -> Iterator[EventBatch]:
        """All batches, oldest first. A growing history yields those that were there when the iteration began."""
        with self._lock:
            count = len(self._batch_steps)
        for position in range(count):
            with self._lock:
                batches = self._read_batches(position, position + 1)
            yield from batches

    def walk(self) -> Iterator[tuple[AnyEvent, PageMap]]:
        """Every event with the state after it. The state is one object that goes along: copy it to keep it."""
        state, batches = self._start()
        for batch in batches:
            for event in batch.events:
                self._apply(state, event)
                yield event, state

    def _start(self) -> tuple[PageMap, Iterator[EventBatch]]:
        return self.initial, self.batches()

    def to_pandas(self) -> pd.DataFrame:
        """One row per event: ``type``, ``seq``, ``step``, ``t_ns`` and the fields of all types of event that occur.

        A struct within an event becomes one column per field, named ``waste.token_states`` and so on.
        """
        from workbench.events.table import events_to_pandas

        return events_to_pandas(self.events())
