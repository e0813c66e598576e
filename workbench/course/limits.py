"""Limits to what a check may take, so that a student's loop without end does not hang the notebook.

They need a timer that interrupts Python, so they hold in the main thread of a Unix process (Linux, macOS): there a
notebook's cells run. **Elsewhere, on Windows and in other threads, nothing is limited**, and a loop without end must be
interrupted by hand. No timer interrupts a single call of C code: ``sum(itertools.count())`` goes on, and
``[0] * 10**12`` is a `MemoryError` or the end of the process, as the system decides.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from workbench.course.whose import is_library

#: Seconds that one check may take, all of its workloads together; the longest one of the course takes 3 s.
LIMIT_SECONDS = 20.0
#: Bytes by which one check may make the process grow; the lessons' workloads need a few MB.
LIMIT_BYTES = 2 * 2**30
#: Where others take the processor (or the code only waits) the clock says little: then so many times the limit.
_PATIENCE = 3
_TICK_SECONDS = 0.25
#: A strike that some ``except:`` swallowed is repeated, but not before a grader could clean up.
_AGAIN_SECONDS = 2.0


class Stopped(BaseException):
    """Raised in the midst of a check that takes too much. No `Exception`: an answer's ``except Exception`` lets it by.

    Attributes:
        seconds: how long it had run.
        grown: bytes by which the process had grown, if these were too many; else 0.
    """

    def __init__(self, seconds: float, grown: int = 0) -> None:
        super().__init__(f"stopped after {seconds:.0f} s")
        self.seconds, self.grown = seconds, grown


def can_limit() -> bool:
    """Whether limits hold here: see the module."""
    return hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()


@contextlib.contextmanager
def limited(seconds: float | None = LIMIT_SECONDS, num_bytes: int = LIMIT_BYTES) -> Iterator[None]:
    """Within it too much time or memory raises `Stopped`; does nothing where limits can't hold.

    A timer that was set before goes on afterwards, later by as much at most as this took.

    Args:
        seconds: of wall-clock time. If the process has computed for less than half of them, up to three times as many:
            on a busy machine a right answer must not fail. None: no limits.
        num_bytes: by which the process may grow, looked at four times a second.

    Raises:
        ValueError: ``seconds`` is not above 0.
    """
    if seconds is not None and not seconds > 0:
        raise ValueError(f"limit={seconds!r}: allowed are seconds above 0, or None for no limit")
    if seconds is None or not can_limit():
        yield
        return
    watch = _Watch(seconds, num_bytes)
    former = signal.signal(signal.SIGALRM, watch.tick)
    left, interval = signal.setitimer(signal.ITIMER_REAL, _TICK_SECONDS, _TICK_SECONDS)
    try:
        yield
    finally:
        # First, and in one bytecode: from here on a tick must not strike.
        watch.is_over = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        # None: a handler that was not set from Python, which can't be put back from Python either.
        signal.signal(signal.SIGALRM, signal.SIG_DFL if former is None else former)
        watch.stop_tracing()
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(1e-3, left - watch.seconds), interval)


class _Watch:
    """What a check has used since it began."""

    def __init__(self, limit: float, num_bytes: int) -> None:
        self.is_over = False
        self._limit, self._num_bytes = limit, num_bytes
        self._began, self._computed, self._size = time.monotonic(), time.process_time(), _largest_size()
        self._struck: float | None = None
        self._former_trace: list[Any] = []

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def tick(self, number: int, frame: FrameType | None) -> None:
        """Called by the timer, between two steps of the code in ``frame``."""
        now = self.seconds
        if self.is_over or (self._struck is not None and now - self._struck < _AGAIN_SECONDS):
            return
        grown = _largest_size() - self._size
        grown = grown if grown > self._num_bytes else 0
        computed = time.process_time() - self._computed
        is_late = now >= self._limit and (computed >= self._limit / 2 or now >= _PATIENCE * self._limit)
        if not (grown or is_late):
            return
        if self._struck is not None:
            self._strike_twice(frame, Stopped(now, grown))
        self._struck = now
        raise Stopped(now, grown)

    def _strike_twice(self, frame: FrameType | None, stop: Stopped) -> None:
        """Whoever swallows the next exception is struck in the line after: ``except:`` in a loop can't hold that."""

        def trace(frame: FrameType, event: str, argument: Any) -> Any:
            if event == "line" and not self.is_over:
                raise stop
            return trace

        self.stop_tracing()
        self._former_trace.append(sys.gettrace())
        sys.settrace(lambda frame, event, argument: None)
        while frame is not None:
            if not is_library(frame.f_code.co_filename):
                frame.f_trace = trace
            frame = frame.f_back

    def stop_tracing(self) -> None:
        while self._former_trace:
            sys.settrace(self._former_trace.pop())


def _largest_size() -> int:
    """The most bytes of main memory that this process ever had."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
