"""Who runs what in the Lab: one run at a time per visitor, few at once in all, the others wait in line.

A run has a thread of its own, which does not belong to the request that started it: it ends by itself when nobody has
asked for its progress for a while. While others watch live runs, it rests after each step for as long as the step took.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from workbench_app.lab.measure import Plan, Result, compare_with, run_variant

if TYPE_CHECKING:
    from workbench.models.loading import LoadedModel

log = logging.getLogger(__name__)

#: A run that nobody has asked about for so long is given up.
UNWATCHED_SECONDS = 20.0
#: Finished runs that are kept for each visitor, and visitors whose runs are kept.
KEPT_RUNS = 8
KEPT_VISITORS = 200
_LONGEST_REST = 0.25


class LabError(RuntimeError):
    """The run can't be taken on now. The message says why, and what to do."""


class _EndedError(Exception):
    """Ends a run from inside of a step's callback."""


@dataclass
class LabRun:
    """What has been found out: all of a plan, or its first variants if the run was ended."""

    number: int
    plan: Plan
    results: list[Result]
    note: str = ""

    @property
    def title(self) -> str:
        """For the list of runs."""
        about, s = self.plan.settings.about, self.plan.settings
        details = [f"{s.requests} requests"]
        if "pool_tokens" in about.uses:
            details.append(f"{s.pool_tokens:,} slots")
        if "block_size" in about.uses:
            details.append(f"pages of {s.block_size}")
        return f"Run {self.number}: {about.name} ({', '.join(details)}, seed {s.seed})"


@dataclass
class Ticket:
    """A run from its request to its end.

    Attributes:
        state: "waiting", "running", "done", "cancelled" or "failed".
        variant: how many variants are finished; ``step`` and ``requests_done`` of the one that runs.
    """

    key: str
    plan: Plan
    last_seen: float
    state: str = "waiting"
    note: str = ""
    variant: int = 0
    step: int = 0
    requests_done: int = 0
    stop: threading.Event = field(default_factory=threading.Event)
    run: LabRun | None = None

    @property
    def is_over(self) -> bool:
        return self.state in ("done", "cancelled", "failed")


@dataclass
class _Visitor:
    ticket: Ticket | None = None
    runs: list[LabRun] = field(default_factory=list)
    count: int = 0


class LabDesk:
    """Takes runs on, starts them in their turn, and keeps what they found. All methods may be called by any thread.

    Args:
        model: gives the shared weights.
        max_running: runs at once, of all visitors.
        max_waiting: most runs in line.
        max_seconds: a run is ended after so long; what it has found by then is kept.
        others_busy: whether somebody's live run is going on, so that the Lab should leave room.
    """

    def __init__(
        self,
        model: Callable[[], LoadedModel],
        max_running: int = 1,
        max_waiting: int = 24,
        max_seconds: float = 180.0,
        others_busy: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._model = model
        self._max_running, self._max_waiting, self._max_seconds = max_running, max_waiting, max_seconds
        self._others_busy = others_busy
        self._clock = clock
        self._lock = threading.Lock()
        self._waiting: list[Ticket] = []
        self._running: list[Ticket] = []
        self._visitors: OrderedDict[str, _Visitor] = OrderedDict()

    # -- asking ----------------------------------------------------------------------------------------------------

    def submit(self, key: str, plan: Plan) -> Ticket:
        """Puts a run in line, and starts it if it is its turn.

        Raises:
            LabError: this visitor's run is still going on, or too many are waiting.
        """
        with self._lock:
            visitor = self._visitor(key)
            if visitor.ticket is not None and not visitor.ticket.is_over:
                raise LabError("Your run is still going on. Wait for its end, or press Cancel first.")
            self._give_up_unwatched()
            if len(self._waiting) >= self._max_waiting:
                raise LabError(f"{self._max_waiting} runs are waiting, which is all that may. Try again in a minute.")
            ticket = visitor.ticket = Ticket(key, plan, self._clock())
            self._waiting.append(ticket)
            self._start_next()
            return ticket

    def look(self, ticket: Ticket) -> int:
        """Notes that somebody watches, and says how many runs are before this one: 0 when it runs or is over."""
        with self._lock:
            ticket.last_seen = self._clock()
            self._give_up_unwatched()
            self._start_next()
            if ticket not in self._waiting:
                return 0
            return len(self._running) + self._waiting.index(ticket)

    def cancel(self, key: str) -> bool:
        """Ends this visitor's run after its present step, or takes it out of the line. Says if there was one."""
        with self._lock:
            visitor = self._visitors.get(key)
            ticket = visitor.ticket if visitor is not None else None
            if ticket is None or ticket.is_over:
                return False
            if ticket in self._waiting:
                self._waiting.remove(ticket)
                ticket.state, ticket.note = "cancelled", "Cancelled while it waited."
            ticket.stop.set()
            return True

    def runs(self, key: str) -> list[LabRun]:
        """What this visitor's runs found, oldest first."""
        with self._lock:
            visitor = self._visitors.get(key)
            return list(visitor.runs) if visitor is not None else []

    def drop(self, key: str) -> None:
        """The visitor has gone: ends the run and forgets the results."""
        self.cancel(key)
        with self._lock:
            self._visitors.pop(key, None)

    def close(self) -> None:
        """Ends all runs, after their present step."""
        for key in list(self._visitors):
            self.cancel(key)

    @property
    def is_quiet(self) -> bool:
        """Whether nothing runs or waits."""
        return not self._running and not self._waiting

    # -- inside: the lock is held -----------------------------------------------------------------------------------

    def _visitor(self, key: str) -> _Visitor:
        visitor = self._visitors.setdefault(key, _Visitor())
        self._visitors.move_to_end(key)
        for old in list(self._visitors):
            if len(self._visitors) <= KEPT_VISITORS:
                break
            ticket = self._visitors[old].ticket
            if ticket is None or ticket.is_over:
                del self._visitors[old]
        return visitor

    def _give_up_unwatched(self) -> None:
        for ticket in [t for t in self._waiting if self._is_unwatched(t)]:
            self._waiting.remove(ticket)
            ticket.state, ticket.note = "cancelled", "Nobody was looking any more."

    def _is_unwatched(self, ticket: Ticket) -> bool:
        return self._clock() - ticket.last_seen > UNWATCHED_SECONDS

    def _start_next(self) -> None:
        while self._waiting and len(self._running) < self._max_running:
            ticket = self._waiting.pop(0)
            ticket.state = "running"
            self._running.append(ticket)
            threading.Thread(target=self._work, args=(ticket,), name="kv-workbench-lab", daemon=True).start()

    # -- inside: the run's own thread -------------------------------------------------------------------------------

    def _work(self, ticket: Ticket) -> None:
        results: list[Result] = []
        state, note = "done", ""
        try:
            model, end = self._model(), self._clock() + self._max_seconds
            for variant in ticket.plan.variants:
                tick = self._ticker(ticket, end)
                result = run_variant(model, variant, ticket.plan.settings.repetitions, tick)
                results.append(compare_with(results[0] if results else result, result))
                ticket.variant, ticket.step, ticket.requests_done = len(results), 0, 0
        except _EndedError as ended:
            state, note = "cancelled", str(ended)
        except Exception as error:
            log.exception("a run of the Lab failed")
            state, note = "failed", f"The run stopped: {error}"
        if state != "done" and results:
            note += f" {len(results)} of {len(ticket.plan.variants)} variants were finished."
        for result in results[1:]:
            result.outputs = []  # they have been compared, and would fill memory
        if results:
            results[0].outputs = []
        with self._lock:
            visitor = self._visitors.get(ticket.key)
            if results and visitor is not None and visitor.ticket is ticket:
                visitor.count += 1
                ticket.run = LabRun(visitor.count, ticket.plan, results, note)
                visitor.runs = [*visitor.runs, ticket.run][-KEPT_RUNS:]
            self._running.remove(ticket)
            ticket.note, ticket.state = note, state
            self._start_next()

    def _ticker(self, ticket: Ticket, end: float) -> Callable[[int, int, float], None]:
        def tick(step: int, done: int, seconds: float) -> None:
            ticket.step, ticket.requests_done = step, done
            if ticket.stop.is_set():
                raise _EndedError("Cancelled.")
            if self._clock() > end:
                raise _EndedError(f"Ended after {self._max_seconds:.0f} seconds, the most that a run may take.")
            if self._is_unwatched(ticket):
                raise _EndedError("Nobody was looking any more.")
            # Also lets other Python threads have their turn.
            time.sleep(min(seconds, _LONGEST_REST) if self._others_busy() else 0)

        return tick
