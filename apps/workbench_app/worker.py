"""Threads that step engines: one for each run, and whose turn it is when there are more of them than cores."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable


class Worker:
    """A thread that can be told to stop."""

    def __init__(self, work: Callable[[Worker], None]) -> None:
        self.stopped = threading.Event()
        self._thread = threading.Thread(target=work, args=(self,), name="kv-workbench-run", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when the thread has ended."""
        self.stopped.set()
        if self._thread is not threading.current_thread():
            self._thread.join()

    def wait(self, due: float, speed: Callable[[], float]) -> float:
        """Sleeps until the next step is due, and says when that was; what took too long is not caught up with."""
        now = time.perf_counter()
        due = max(due + 1 / speed(), now)
        while (left := due - time.perf_counter()) > 0 and not self.stopped.wait(min(left, 0.1)):
            due = min(due, now + 1 / speed())  # the speed may have been turned up meanwhile
        return due


class Turns:
    """Lets a few threads at once do a step, in the order in which they asked: nobody's run starves another's.

    A context manager around one step. Without it, thirty runs on two cores would be woken in any order.
    """

    def __init__(self, at_once: int | None = None) -> None:
        self._free = at_once or max(1, os.cpu_count() or 1)
        self._lock = threading.Lock()
        self._line: deque[threading.Event] = deque()

    def __enter__(self) -> None:
        with self._lock:
            if self._free and not self._line:
                self._free -= 1
                return
            turn = threading.Event()
            self._line.append(turn)
        turn.wait()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._line:
                self._line.popleft().set()  # the place goes straight to whoever is next
            else:
                self._free += 1
