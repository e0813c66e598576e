"""The event bus: the engine emits, subscribers get each step's events as one batch at its end.

A subscriber can not slow the engine down by being slow (use `EventBus.queue`) and can not break it by raising.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from workbench.events.page_map import PageMap
from workbench.events.types import AnyEvent, EventBatch

log = logging.getLogger(__name__)

Subscriber = Callable[[EventBatch], None]

#: Batches that may wait to be folded into the state.
_FOLD_AT_LEAST_EVERY = 64


@dataclass
class Subscription:
    """A callback's place on the bus.

    Attributes:
        deferred: whether batches may come later than at the end of their step (see `EventBus.subscribe`).
        errors: how many batches made the callback raise.
        last_error: the latest of these exceptions.
    """

    callback: Subscriber
    deferred: bool = False
    errors: int = 0
    last_error: Exception | None = None
    _bus: EventBus | None = field(default=None, repr=False)
    _held: EventBatch | None = field(default=None, repr=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def close(self) -> None:
        """Takes the callback off the bus, after what was held back for it. Calling it again does nothing."""
        if self._bus is not None:
            self._bus._remove(self)
            self._bus = None
            self._deliver_held()

    def _deliver_held(self) -> None:
        with self._lock:  # whoever closes from another thread must not overtake the engine
            batch, self._held = self._held, None
            if batch is not None:
                self._deliver(batch)

    def _deliver(self, batch: EventBatch) -> None:
        try:
            self.callback(batch)
        except Exception as error:
            self.errors += 1
            self.last_error = error
            log.exception("event subscriber %r failed on step %d", self.callback, batch.step)

    def __enter__(self) -> Subscription:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class Gap:
    """Stands for ``count`` batches that a queue had no room for. ``snapshot`` is the state after them."""

    count: int
    snapshot: PageMap


class QueuedSubscription:
    """A bounded queue between the engine and a slower reader in another thread.

    The first thing in it is a snapshot (a `Gap` of 0 batches). When the reader falls more than ``capacity`` batches
    behind, the whole backlog gives way to one `Gap` with the number of lost batches and the state after them: the
    reader knows that it missed something, and can go on from there.
    """

    def __init__(self, bus: EventBus, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity={capacity}: must be at least 1")
        self._bus = bus
        self._capacity = capacity
        self._ready = threading.Condition()
        self._items: deque[EventBatch] = deque()
        self._gap: Gap | None = None
        self.dropped = 0
        self._subscription = bus.subscribe(self._push, self._begin)

    def _begin(self, snapshot: PageMap) -> None:
        self._gap = Gap(0, snapshot)

    def _push(self, batch: EventBatch) -> None:
        with self._ready:
            if len(self._items) < self._capacity:
                self._items.append(batch)
            else:
                lost = len(self._items) + 1 + (self._gap.count if self._gap else 0)
                self.dropped += len(self._items) + 1
                self._items.clear()
                self._gap = Gap(lost, self._bus.page_map.copy())
            self._ready.notify()

    def get(self, timeout: float | None = None) -> EventBatch | Gap | None:
        """The next batch or gap, oldest first; None if nothing came within ``timeout`` seconds."""
        with self._ready:
            if not self._ready.wait_for(lambda: self._gap is not None or self._items, timeout):
                return None
            if self._gap is not None:
                gap, self._gap = self._gap, None
                return gap
            return self._items.popleft()

    def close(self) -> None:
        """Takes the queue off the bus; what it holds can still be read."""
        self._subscription.close()


class EventBus:
    """In-process event bus of one engine. Emitting and flushing belong to the engine's thread.

    Attributes:
        flush_ns: time spent delivering batches so far at the ends of steps, subscribers included.
        caught_up_ns: time spent so far on what was held back then.
    """

    def __init__(self) -> None:
        self.flush_ns = self.caught_up_ns = 0
        self._page_map = PageMap()
        self._unfolded: list[EventBatch] = []
        self._pending: list[AnyEvent] = []
        self._subscriptions: list[Subscription] = []
        self._holds = False
        self._lock = threading.RLock()
        self._started_ns = time.perf_counter_ns()
        self._step = 0
        self._next_seq = 0

    @property
    def page_map(self) -> PageMap:
        """The state after the last flushed batch, kept by the bus so that anybody can join late.

        Read it anew after every step; to keep a state, copy it. Batches are folded into it when somebody looks, and
        now and then so that they don't pile up: a step in which nobody looks pays nothing for it.
        """
        with self._lock:
            while self._unfolded:
                self._page_map.apply_all(self._unfolded.pop(0).events)
            return self._page_map

    def emit(self, event: AnyEvent) -> None:
        """Stamps an event and keeps it for the end of the step."""
        event.seq = self._next_seq
        event.step = self._step
        event.t_ns = time.perf_counter_ns() - self._started_ns
        self._next_seq += 1
        self._pending.append(event)

    def begin_step(self, step: int) -> None:
        """From here on events belong to ``step``; so do those that were emitted since the last flush."""
        self._step = step
        for event in self._pending:
            event.step = step

    def emit_many(self, events: list[AnyEvent]) -> None:
        """`emit` for events that happen at the same moment."""
        t_ns = time.perf_counter_ns() - self._started_ns
        step, seq = self._step, self._next_seq
        for seq, event in enumerate(events, seq):  # noqa: B020 - the counter goes on from where it is
            event.seq = seq
            event.step = step
            event.t_ns = t_ns
        self._next_seq += len(events)
        self._pending += events

    def flush(self, hold: bool = False) -> EventBatch:
        """Hands the step's events to every subscriber, and returns them.

        Args:
            hold: deferred subscribers get them at the next `catch_up` or `flush`, whatever comes first.
        """
        self.catch_up()
        started = time.perf_counter_ns()
        batch = EventBatch(self._step, self._pending)
        self._pending = []
        # One critical section: whoever joins from another thread gets either the snapshot without this batch and then
        # the batch, or the snapshot with it; never a hole between the two.
        with self._lock:
            self._unfolded.append(batch)
            if len(self._unfolded) >= _FOLD_AT_LEAST_EVERY:
                _ = self.page_map
            subscriptions = list(self._subscriptions)
            if hold:
                self._holds = True
                for subscription in subscriptions:
                    if subscription.deferred:
                        subscription._held = batch
        for subscription in subscriptions:
            if not (hold and subscription.deferred):
                subscription._deliver(batch)
        self.flush_ns += time.perf_counter_ns() - started
        return batch

    def catch_up(self) -> None:
        """Does what the last flush held back, and folds its batch into the state: work for idle moments.

        Nothing at all if that flush held nothing back.
        """
        if not self._holds:
            return
        started = time.perf_counter_ns()
        self._holds = False
        with self._lock:
            _ = self.page_map
            subscriptions = list(self._subscriptions)
        waiting = [subscription for subscription in subscriptions if subscription._held is not None]
        try:
            while waiting:
                waiting.pop(0)._deliver_held()
        finally:
            # An interruption in one of them must not make a hole for the others: they come with the next flush.
            self._holds = bool(waiting)
        self.caught_up_ns += time.perf_counter_ns() - started

    def subscribe(
        self, callback: Subscriber, on_snapshot: Callable[[PageMap], None] | None = None, deferred: bool = False
    ) -> Subscription:
        """Calls ``callback(batch)`` at the end of every step, in the engine's thread.

        A late subscriber needs to know what happened before: ``on_snapshot`` is called once, now, with a copy of the
        state that the first batch will build on.

        ``deferred`` lets an engine whose GPU works by itself deliver a step's batch during the next step, when the host
        would only wait. Batches still come one by one, and the state is the one after the batch. Nothing is held back
        when the engine runs out of work, and closing the subscription delivers first.
        """
        subscription = Subscription(callback, deferred, _bus=self)
        with self._lock:
            if on_snapshot is not None:
                on_snapshot(self.page_map.copy())
            self._subscriptions.append(subscription)
        return subscription

    def queue(self, capacity: int = 256) -> QueuedSubscription:
        """A bounded queue for a reader in another thread (see `QueuedSubscription`)."""
        return QueuedSubscription(self, capacity)

    def _remove(self, subscription: Subscription) -> None:
        with self._lock:
            if subscription in self._subscriptions:
                self._subscriptions.remove(subscription)
