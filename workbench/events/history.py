"""History: a run that can be read at any step, from a snapshot, keyframes and the batches between them.

`Recording` (a file) and `Timeline` (in memory, still growing) are both histories: whatever reads one reads the other.
"""

from __future__ import annotations

import operator
import threading
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

from workbench.events.keyframes import Archive, complete, copy_sharing, own_request
from workbench.events.page_map import PageMap, decode_page_map
from workbench.events.state_cache import StateCache
from workbench.events.types import AnyEvent, EventBatch

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class _Plan:
    """What it takes to build a state: another one or a keyframe, and the batches after it."""

    start: int
    stop: int
    state: PageMap | None
    is_own: bool
    keyframe: int
    data: bytes
    archives: list[Archive] | None
    batches: list[EventBatch]
    marks: range
    is_step_back: bool
    generation: int


class History(ABC):
    """A run between two steps, both included.

    Steps are the engine's own numbers. Several batches may carry the same step (what comes after the last step has its
    number): a step's events are those of all of them, and its state is the one after all of them.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._batch_steps: list[int] = []  # per batch, its step
        self._keyframes: list[int] = []  # per keyframe, how many batches lie before it; the first is the snapshot
        self._states = StateCache()
        self._generation = 0  # goes up when positions shift

    @abstractmethod
    def _read_keyframe(self, index: int) -> bytes:
        """An encoded keyframe. Called under the lock."""

    @abstractmethod
    def _archives(self, index: int) -> list[Archive] | None:
        """What a lean keyframe leaves out, oldest first; None: it is not lean. Called under the lock."""

    @abstractmethod
    def _read_batches(self, start: int, stop: int) -> list[EventBatch]:
        """Batches by position. Called under the lock."""

    @property
    @abstractmethod
    def first_step(self) -> int:
        """The step of the snapshot with which this history begins."""

    def _iterate(self, start: int, stop: int) -> Iterator[EventBatch]:
        """Batches by position, one at a time. Called under the lock, and iterated without it."""
        for position in range(start, stop):
            with self._lock:
                batches = self._read_batches(position, position + 1)
            yield from batches

    def _decode_keyframe(self, data: bytes, archives: list[Archive] | None, index: int) -> PageMap:
        state = decode_page_map(data)
        return state if archives is None else complete(state, archives)

    def apply(self, state: PageMap, event: AnyEvent) -> None:
        """Takes an event of this history into account, in one of its states.

        Ended requests are shared between states and stay as they are.

        Raises:
            RecordingError: the history is a file that contradicts itself.
        """
        own_request(state, event)
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
    def num_batches(self) -> int:
        """Batches that are here. A growing history may get more that carry its last step."""
        with self._lock:
            return len(self._batch_steps)

    @property
    def initial(self) -> PageMap:
        """The snapshot that the first batch builds on."""
        with self._lock:
            data, archives = self._read_keyframe(0), self._archives(0)
        return self._decode_keyframe(data, archives, 0)

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

        Requests that have ended never change again: all states of a history share them. Leave those as they are;
        everything else in the state can be changed at will.

        Raises:
            IndexError: the step is not between ``first_step`` and ``last_step``.
        """
        with self._lock:
            plan = self._plan(bisect_right(self._batch_steps, self._check_step(step)))
        return self._build(plan)

    def window(self, first: int | None = None, last: int | None = None) -> tuple[PageMap, Iterator[EventBatch]]:
        """The state after step ``first`` (None: the snapshot) and the batches after it, up to those of step ``last``.

        A growing history yields those that are there now.

        Raises:
            IndexError: a step is not in this history.
            ValueError: ``last`` comes before ``first``.
        """
        with self._lock:
            first = self._check_step(self.first_step if first is None else first)
            last = self._check_step(self.last_step if last is None else last)
            if last < first:
                raise ValueError(f"last={last}: must not be before first={first}")
            start = 0 if first == self.first_step else bisect_right(self._batch_steps, first)
            plan, batches = self._plan(start), self._iterate(start, bisect_right(self._batch_steps, last))
        return self._build(plan), batches

    def _plan(self, stop: int) -> _Plan:
        """How to build the state after so many batches. Called under the lock."""
        keyframe = bisect_right(self._keyframes, stop) - 1
        start = self._keyframes[keyframe]
        marks, is_step_back = self._states.wanted_marks(start, stop), self._states.is_step_back(stop)
        state, is_own, data, archives = None, True, b"", None
        known = self._states.take(start, stop)
        if known is not None:
            start, state, is_own = known
        else:
            data, archives = self._read_keyframe(keyframe), self._archives(keyframe)
        batches = self._read_batches(start, stop)
        return _Plan(
            start, stop, state, is_own, keyframe, data, archives, batches, marks, is_step_back, self._generation
        )

    def _build(self, plan: _Plan) -> PageMap:
        state = plan.state
        if state is None:
            state = self._decode_keyframe(plan.data, plan.archives, plan.keyframe)
        elif not plan.is_own and plan.batches:
            state = copy_sharing(state)
        marks: dict[int, PageMap] = {}
        for position, batch in enumerate(plan.batches, plan.start + 1):
            for event in batch.events:
                self.apply(state, event)
            if position in plan.marks:
                marks[position] = copy_sharing(state)
        is_kept_already = state is plan.state and not plan.is_own
        # Who walks back has no use for this state on the next step: it need not be kept, and so not be copied either.
        is_given_away = plan.is_step_back and not is_kept_already
        with self._lock:
            if plan.generation == self._generation:
                num_pages = len(state.pages) + len(state.host_pages)
                kept = None if is_kept_already or is_given_away else state
                self._states.put(plan.stop, kept, marks, num_pages)
        return state if is_given_away else copy_sharing(state)

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

    def batches(self, first: int | None = None, last: int | None = None) -> Iterator[EventBatch]:
        """Batches, oldest first: all, or those of steps ``first`` to ``last``, both included.

        A growing history yields those that are there now.

        Raises:
            IndexError: a step is not in this history.
        """
        with self._lock:
            start = 0 if first is None else bisect_left(self._batch_steps, self._check_step(first))
            steps = self._batch_steps
            stop = len(steps) if last is None else bisect_right(steps, self._check_step(last))
            return self._iterate(start, stop)

    def forget_states(self) -> None:
        """Gives back the memory of states that were kept for the next read."""
        with self._lock:
            self._states.clear()

    def walk(self) -> Iterator[tuple[AnyEvent, PageMap]]:
        """Every event with the state after it. The state is one object that goes along: copy it to keep it."""
        state, batches = self.window()
        for batch in batches:
            for event in batch.events:
                self.apply(state, event)
                yield event, state

    def to_pandas(self) -> pd.DataFrame:
        """One row per event: ``type``, ``seq``, ``step``, ``t_ns`` and the fields of all types of event that occur.

        A struct within an event becomes one column per field, named ``waste.token_states`` and so on.
        """
        from workbench.events.table import events_to_pandas

        return events_to_pandas(self.events())
