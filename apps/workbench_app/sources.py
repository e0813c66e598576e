"""One run that visitors look at, with what was found out about it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager

from workbench.events import History, Recording
from workbench.events.jumps import JumpIndex
from workbench.events.kvtrace import RecordingError
from workbench.views.series import RunSeries


class ByteCache:
    """Least recently used values, bounded by the sum of their sizes. Thread-safe."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._items: OrderedDict[Hashable, tuple[object, int]] = OrderedDict()
        self.bytes = 0

    def get(self, key: Hashable) -> object | None:
        """The value, or None."""
        with self._lock:
            if key not in self._items:
                return None
            self._items.move_to_end(key)
            return self._items[key][0]

    def put(self, key: Hashable, value: object, size: int) -> None:
        """Keeps a value, and lets go of old ones; one larger than the whole cache is not kept."""
        with self._lock:
            if key in self._items:
                self.bytes -= self._items.pop(key)[1]
            if size > self._most:
                return
            self._items[key] = value, size
            self.bytes += size
            while self.bytes > self._most:
                self.bytes -= self._items.popitem(last=False)[1][1]

    def clear(self) -> None:
        with self._lock:
            self._items.clear()
            self.bytes = 0


class Source:
    """One run to look at, with everything that was found out about it.

    Attributes:
        kind: ``"upload"``, ``"gallery"``, ``"file"`` (given when the app was started) or ``"live"``.
        owner: the visitor who opened it; empty if it is everybody's.
        file_bytes: size of the recording; 0 for a live run.
        frames, views: what was sent lately.
    """

    def __init__(
        self, history: History, title: str, kind: str, owner: str, file_bytes: int, cache_bytes: int, now: float
    ) -> None:
        self.history = history
        self.title = title
        self.kind = kind
        self.owner = owner
        self.file_bytes = file_bytes
        self.last_used = now
        self.frames = ByteCache(cache_bytes)
        self.views = ByteCache(cache_bytes)
        self.closed = False
        self.lock = threading.RLock()  # for whoever reads series and jumps
        self._series: RunSeries | None = None
        self._jumps: JumpIndex | None = None

    @contextmanager
    def doubted(self) -> Iterator[None]:
        """Whatever a visitor's file trips over is the file's fault: some readers count without folding the states.

        Raises:
            RecordingError: the events of the file contradict each other.
        """
        try:
            yield
        except RecordingError:
            raise
        except (LookupError, ValueError, ArithmeticError) as error:
            if self.kind != "upload" or self.closed:
                raise
            words = f"{self.title}: the recorded events contradict each other: {error!r}"
            raise RecordingError(words) from error

    def series(self) -> RunSeries:
        """The numbers of the run, as far as it goes. Hold ``lock`` while using them.

        Raises:
            RecordingError: the run is a visitor's file whose events contradict each other.
        """
        with self.lock:
            series = self._series  # `close` may take it away
            with self.doubted():
                if series is None or not series.update(self.history):
                    series = self._series = RunSeries.of(self.history)
            return series

    def jumps(self) -> JumpIndex:
        """The steps worth jumping to, as far as the run goes. Hold ``lock`` while using them."""
        with self.lock:
            jumps = self._jumps
            if jumps is None:
                jumps = self._jumps = JumpIndex(self.history)
            else:
                jumps.update(self.history)
            return jumps

    def trim(self) -> None:
        """Gives back what can be worked out again."""
        self.frames.clear()
        self.views.clear()
        self.history.forget_states()

    def close(self) -> None:
        """Closes a recording's file and forgets everything. A live run is left alone. Waits for nobody who reads it."""
        self.closed = True
        self.frames.clear()
        self.views.clear()
        if isinstance(self.history, Recording):
            self.history.close()  # whoever reads on gets an error, and lets go of the lock
        self._series = self._jumps = None
