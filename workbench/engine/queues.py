"""Who runs and who waits, both in the order of their arrival."""

from __future__ import annotations

import bisect
from collections import deque

from workbench.engine.request import Debt, Request
from workbench.events.bus import EventBus
from workbench.events.types import AdmissionBlocked, Cause, PreemptionMode
from workbench.memory.protocol import Shortfall


class Queues:
    """Running and waiting requests, and why the head of the queue has to wait.

    Attributes:
        freed: sequences whose memory was taken back, or changed by more than growing, since the last plan.
        owing: unfinished requests that were preempted and are not back where they were, by number.
    """

    def __init__(self, bus: EventBus | None) -> None:
        self._bus = bus
        self.running: list[Request] = []
        self.waiting: deque[Request] = deque()
        self.freed: list[int] = []
        self.owing: dict[int, Request] = {}
        self._blocked: tuple[int, Shortfall] | None = None

    @property
    def num_swapped(self) -> int:
        """Waiting requests with pages in the host tier."""
        return sum(request.preempted is PreemptionMode.SWAP for request in self.waiting)

    @property
    def head_waits_for_memory(self) -> bool:
        """Whether the head of the queue waits because no page or region is large enough."""
        return self._blocked is not None and self._blocked[1].cause is Cause.POOL_EXHAUSTED

    def find(self, request: int) -> Request | None:
        """An unfinished request by its number."""
        return next((r for r in (*self.running, *self.waiting) if r.request == request), None)

    def start(self, request: Request) -> None:
        """A request that was at the head of the queue runs."""
        bisect.insort(self.running, request, key=lambda r: r.request)
        self._blocked = None
        if request.debt is not None:
            request.debt.is_resumed = True

    def put_back(self, request: Request) -> None:
        """A running request waits again, at its place."""
        self.running.remove(request)
        index = bisect.bisect_left(self.waiting, request.request, key=lambda r: r.request)
        self.waiting.insert(index, request)
        self._blocked = None

    def leave(self, request: Request) -> None:
        """A request is neither running nor waiting any more."""
        self.owing.pop(request.request, None)
        if request in self.running:
            self.running.remove(request)
            # There is room now; whether it is enough for the head of the queue, the next step finds out.
            self._blocked = None
            return
        self.waiting.remove(request)
        if self._blocked is not None and self._blocked[0] == request.request:
            self._blocked = None

    def owe(self, request: Request, debt: Debt) -> None:
        """A request was preempted: what that costs will be seen."""
        request.debt = debt
        self.owing[request.request] = request

    def settle(self, request: Request) -> Debt | None:
        """It is where it was; returns what that took."""
        self.owing.pop(request.request, None)
        debt, request.debt = request.debt, None
        return debt

    def block(self, shortfall: Shortfall) -> None:
        """The head of the queue has to wait. Told when anything about that changes."""
        request = self.waiting[0].request
        if self._blocked == (request, shortfall):
            return
        self._blocked = (request, shortfall)
        if self._bus is not None:
            self._bus.emit(AdmissionBlocked(request, shortfall.cause, shortfall.needed, shortfall.available))
