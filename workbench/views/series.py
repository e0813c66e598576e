"""RunSeries: the numbers of a whole run, step by step, collected in one pass and extended while the run goes on."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable
from typing import Any

import numpy as np

from workbench.events import EventBatch, History, PageMap
from workbench.events import types as ev
from workbench.events.kvtrace import RecordingError
from workbench.views.read_on import read_on
from workbench.views.series_pool import FLOWS, PoolCounter, is_starved
from workbench.views.series_requests import RequestTrack, RequestTracker

#: Numbers after each step.
_STATES = ("running", "waiting", "swapped", "used", "cached", "free", "host_used", "regions")
#: Slots after each step, as in `LiveWaste`.
WASTE = ("token_states", "reserved", "external", "free_slots", "cached_slots")
#: Numbers of each step.
_COUNTS = (
    *("sequences", "prefill_tokens", "decode_tokens", "generated", "busy_ns", "copy_ns", "swap_ns"),
    *("bytes_out", "bytes_in", "bytes_streamed", "swaps", "copies", "prefix_hits"),
    *("preemptions", "finishes", "starved"),
)
_FLOW_NAMES = tuple(name for name, *_ in FLOWS)

COLUMNS: tuple[str, ...] = (*_STATES, *WASTE, *_COUNTS, *_FLOW_NAMES)


class RunSeries:
    """What a run's charts need. Not safe for several threads at once: the caller locks.

    One row per step, the first for the snapshot with which the history begins. `column` gives the numbers by name:

    - after the step: ``running``, ``waiting``, ``swapped`` requests; device pages ``used``, ``cached``, ``free``; pages
      ``host_used`` in the host tier; ``regions`` of contiguous memory; the use of the slots as in `LiveWaste`
      (``token_states``, ``reserved``, ``external``, ``free_slots``, ``cached_slots``);
    - in the step: ``sequences`` computed (the batch size), ``prefill_tokens``, ``decode_tokens``, ``generated`` tokens;
      measured nanoseconds ``busy_ns`` (schedule, forward, sample), ``copy_ns``, ``swap_ns``; bytes swapped out
      (``bytes_out``), in, and ``bytes_streamed``; ``swaps``, ``copies``, ``prefix_hits``, ``preemptions``,
      ``finishes``; ``starved``: signs of too little memory; and the flows of pages by the names of
      `workbench.views.series_pool.FLOWS`.

    Attributes:
        run: the `RunStarted` event, or None before it.
        is_finished: the run has ended.
    """

    def __init__(self, initial: PageMap) -> None:
        self.run = initial.run
        self.is_finished = False
        self._next_seq = initial.next_seq
        self._steps = array("q", [initial.step])
        self._columns = {name: array("q", [0]) for name in COLUMNS}
        self._pool = PoolCounter(initial)
        self._requests = RequestTracker(initial)
        self._counts = dict.fromkeys(_COUNTS, 0)
        self._computed: set[int] = set()
        handlers: dict[type, Callable[[Any], None]] = {
            ev.RunStarted: self._run_started,
            ev.RunFinished: self._run_finished,
            ev.StepFinished: self._step_finished,
            ev.SlotsWritten: self._written,
            ev.TokenGenerated: self._token,
            ev.BlocksSwappedOut: self._swapped_out,
            ev.BlocksSwappedIn: self._swapped_in,
            ev.BlocksStreamed: self._streamed,
            ev.BlockCopied: self._copied,
            ev.PrefixHit: self._hit,
        }
        self._handlers: dict[type, list[Callable[[Any], None]]] = {}
        for table in (handlers, self._pool.handlers, self._requests.handlers):
            for kind, handler in table.items():
                self._handlers.setdefault(kind, []).append(handler)
        self._write_row()

    @classmethod
    def of(cls, history: History) -> RunSeries:
        """The series of a whole history, as far as it goes.

        Raises:
            RecordingError: events are missing from it, or contradict each other.
        """
        tried = -1
        while True:
            series = cls(history.initial)
            begin = series._next_seq
            if begin == tried:
                raise RecordingError(f"events are missing between step {history.first_step} and {history.last_step}")
            tried = begin
            for batch in history.batches():
                if not series.extend(batch):
                    break  # a live history forgot its beginning between the two calls: begin anew
            else:
                return series

    # -- building --------------------------------------------------------------------------------------------------

    def extend(self, batch: EventBatch) -> bool:
        """Takes a batch into account; what was seen before is skipped.

        Returns:
            False if events before it are missing; then nothing was done.
        """
        events = batch.events
        if not events or events[-1].seq < self._next_seq:
            return True
        if events[0].seq > self._next_seq:
            return False
        if events[0].seq < self._next_seq:
            events = [event for event in events if event.seq >= self._next_seq]
        if batch.step != self._steps[-1]:
            self._steps.append(batch.step)
            for column in self._columns.values():
                column.append(0)
            self._pool.start_row(len(self._steps) - 1)
            self._requests.start_row()
            self._counts = dict.fromkeys(_COUNTS, 0)
            self._computed.clear()
        handlers = self._handlers
        for event in events:
            for handler in handlers.get(type(event), ()):
                handler(event)
        self._next_seq = events[-1].seq + 1
        self._write_row()
        return True

    def update(self, history: History) -> bool:
        """Reads what a growing history has got since; only that.

        Returns:
            False if the history has forgotten steps that this series has not seen: collect a new one.
        """
        return read_on(history, self.last_step, self.extend)

    def _write_row(self) -> None:
        columns, pool, requests, counts = self._columns, self._pool, self._requests, self._counts
        counts["sequences"] = len(self._computed)
        counts["preemptions"], counts["finishes"] = requests.preempted, requests.finished
        counts["starved"] = requests.starved
        queues = (requests.running, requests.waiting, requests.swapped)
        states = (*queues, pool.used, pool.cached, pool.free, pool.host_used, pool.regions)
        for name, value in zip(_STATES, states, strict=True):
            columns[name][-1] = value
        for name, value in zip(WASTE, pool.waste(is_starved(requests.blocked)), strict=True):
            columns[name][-1] = value
        for name, value in counts.items():
            columns[name][-1] = value
        for name, value in pool.flows.items():
            columns[name][-1] = value

    def _run_started(self, event: ev.RunStarted) -> None:
        self.run = event

    def _run_finished(self, event: ev.RunFinished) -> None:
        self.is_finished = True

    def _step_finished(self, event: ev.StepFinished) -> None:
        counts = self._counts
        counts["prefill_tokens"] += event.prefill_tokens
        counts["decode_tokens"] += event.decode_tokens
        counts["busy_ns"] += event.schedule_ns + event.forward_ns + event.sample_ns
        counts["copy_ns"] += event.copy_ns
        counts["swap_ns"] += event.swap_ns

    def _written(self, event: ev.SlotsWritten) -> None:
        self._computed.add(event.sequence)

    def _token(self, event: ev.TokenGenerated) -> None:
        self._counts["generated"] += 1

    def _swapped_out(self, event: ev.BlocksSwappedOut) -> None:
        self._counts["swaps"] += 1
        self._counts["bytes_out"] += event.bytes

    def _swapped_in(self, event: ev.BlocksSwappedIn) -> None:
        self._counts["swaps"] += 1
        self._counts["bytes_in"] += event.bytes

    def _streamed(self, event: ev.BlocksStreamed) -> None:
        self._counts["bytes_streamed"] += event.bytes

    def _copied(self, event: ev.BlockCopied) -> None:
        self._counts["copies"] += 1

    def _hit(self, event: ev.PrefixHit) -> None:
        self._counts["prefix_hits"] += 1

    # -- reading ---------------------------------------------------------------------------------------------------

    @property
    def first_step(self) -> int:
        return self._steps[0]

    @property
    def last_step(self) -> int:
        return self._steps[-1]

    def __len__(self) -> int:
        """Rows: steps, and the snapshot before them."""
        return len(self._steps)

    @property
    def steps(self) -> np.ndarray:
        """The step of each row, int64."""
        return np.array(self._steps, dtype=np.int64)

    def column(self, name: str) -> np.ndarray:
        """One number per row, int64.

        Raises:
            KeyError: names the column and those that there are.
        """
        if name not in self._columns:
            raise KeyError(f"column {name!r}: must be one of {', '.join(COLUMNS)}")
        return np.array(self._columns[name], dtype=np.int64)

    def row_of(self, step: int) -> int:
        """The row with the state after a step: the last one that is not later; the first one for what lies before."""
        return max(0, bisect_right(self._steps, step) - 1)

    def value(self, name: str, step: int) -> int:
        """One number after, or in, a step."""
        return self._columns[name][self.row_of(step)]

    def at(self, step: int) -> dict[str, int]:
        """All numbers after, or in, a step."""
        row = self.row_of(step)
        return {name: column[row] for name, column in self._columns.items()}

    def steps_with(self, name: str) -> list[int]:
        """The steps in which something was counted, e.g. ``preemptions``."""
        return self.steps[self.column(name) > 0].tolist()

    @property
    def requests(self) -> dict[int, RequestTrack]:
        """All requests that were there, in the order of their arrival."""
        return self._requests.tracks

    @property
    def num_pages(self) -> int:
        return self.run.num_blocks if self.run is not None and self.is_paged else 0

    @property
    def num_slots(self) -> int:
        return self._pool.num_slots

    @property
    def is_paged(self) -> bool:
        return self._pool.paged

    def tokens_per_second(self) -> np.ndarray:
        """Tokens generated in each step over the time that the step took, measured; nan where none was measured."""
        busy = self.column("busy_ns").astype(float)
        busy[busy == 0] = np.nan
        return self.column("generated") / busy * 1e9

    def split(self) -> tuple[np.ndarray, np.ndarray] | None:
        """``reserved`` split into reservation and internal fragmentation (Fig. 2), in slots per row.

        Both are known only of memory that has been given back: None while anybody still holds some.
        """
        if not self._pool.is_settled:
            return None
        internal = np.cumsum(np.array(self._pool.internal, dtype=np.int64))
        internal = np.pad(internal, (0, len(self) - len(internal)), mode="edge")
        return self.column("reserved") - internal, internal
