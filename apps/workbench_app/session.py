"""A visitor's session: one duel of engines, a place in its history, and a thread that moves while it runs.

Gradio copies what lives in `gr.State`, which an engine can't bear, so sessions live here, by the hash of the browser
tab. The thread belongs to the session and not to the request that started it: it stops by itself when nobody has
looked for a while, so a closed tab leaves no engine running.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from workbench_app.duel import Duel
from workbench_app.frame import build_frame
from workbench_app.settings import Settings

if TYPE_CHECKING:
    from workbench.models.loading import LoadedModel

log = logging.getLogger(__name__)

#: Frames are built at most this often while a run goes on; the events of every step are kept all the same.
FRAMES_PER_SECOND = 14.0
#: A run that nobody has looked at for so long pauses.
UNWATCHED_SECONDS = 6.0
_FINISHED = "All requests have ended, so all memory is free again. Drag the bar, or press ←, to look back."


class SessionClosedError(RuntimeError):
    """The session was idle for too long, or its tab was closed."""


class _Worker:
    """A thread that can be told to stop."""

    def __init__(self, work: Callable[[_Worker], None]) -> None:
        self.stopped = threading.Event()
        self._thread = threading.Thread(target=work, args=(self,), name="kv-workbench-run", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Returns when the thread has ended."""
        self.stopped.set()
        if self._thread is not threading.current_thread():
            self._thread.join()


class Session:
    """One visitor's run. All methods may be called from any thread.

    Attributes:
        run_number: counts the runs of this session, so that the page knows when a new one has begun.
        last_used: when somebody last did something or looked, by ``clock``.
    """

    def __init__(self, model: LoadedModel, clock: Callable[[], float] = time.monotonic) -> None:
        self._model = model
        self._clock = clock
        self._lock = threading.RLock()
        self._duel: Duel | None = None
        self._cursor = 0
        self._worker: _Worker | None = None
        self._speed = math.inf
        self._note = ""
        self._failed = False
        self._latest = (0, "")
        self._closed = False
        self.run_number = 0
        self.last_used = clock()

    # -- reading ---------------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        return self._worker is not None

    @property
    def duel(self) -> Duel | None:
        """The engines. Look only while the session is not running."""
        return self._duel

    @property
    def step(self) -> int:
        """The step that is shown."""
        return self._cursor

    @property
    def at_end(self) -> bool:
        """Whether the last step of a finished run is shown: there is nothing left to do."""
        return self._duel is not None and self._duel.done and self._cursor >= self._duel.last_step

    def frame(self) -> tuple[int, str]:
        """The number of the latest frame, and the frame; empty before the first run. Looking keeps a run alive."""
        self.last_used = self._clock()
        return self._latest

    # -- doing -----------------------------------------------------------------------------------------------------

    def prepare(self, settings: Settings) -> bool:
        """Makes sure that a run with these settings is there; keeps the present one if they are the same.

        If the settings turn out to be impossible, the present run stays as it was.

        Returns:
            Whether a new run was made.

        Raises:
            SettingError: the settings don't suit the model.
        """
        self.pause()
        with self._lock:
            self._touch()
            if self._duel is not None and self._duel.settings == settings and not self._failed:
                return False
            duel = Duel(self._model, settings)
            if self._duel is not None:
                self._duel.close()
            self._duel, self._cursor, self._note, self._failed = duel, 0, "", False
            self.run_number += 1
            self._build()
            return True

    def start(self, speed: float = math.inf) -> None:
        """Runs on from the step that is shown: first through what is recorded, then live. At the end, starts over."""
        with self._lock:
            self._touch()
            self._speed = speed
            if self._duel is None or self._worker is not None:
                return
            if self.at_end:
                self._cursor = 0
            worker = _Worker(self._work)
            worker.start()  # it waits for the lock; `pause` may only find a thread that has been started
            self._worker = worker
            self._build()

    def set_speed(self, speed: float) -> None:
        """Steps per second; takes effect at once."""
        self._speed = speed

    def pause(self) -> None:
        """Stops after the present step."""
        if worker := self._worker:
            worker.stop()
        self._touch()

    def forward(self) -> None:
        """One step on: a recorded one if the past is shown, otherwise a new one."""
        self.pause()
        with self._lock:
            self._advance()
            self._build()

    def back(self) -> None:
        """One step back."""
        self.pause()
        self.go_to(self._cursor - 1)

    def go_to(self, step: int) -> None:
        """Shows a step of the past; a step outside the run means its nearest end."""
        self.pause()
        with self._lock:
            if self._duel is not None:
                self._cursor = min(max(0, step), self._duel.last_step)
                self._build()

    def close(self) -> None:
        """Ends the run and gives its memory back. Calling it again does nothing."""
        if worker := self._worker:
            worker.stop()
        with self._lock:
            self._closed = True
            if self._duel is not None:
                self._duel.close()
                self._duel = None

    # -- inside ----------------------------------------------------------------------------------------------------

    def _touch(self) -> None:
        if self._closed:
            raise SessionClosedError("this session is closed")
        self.last_used = self._clock()

    def _advance(self) -> None:
        if self._duel is None:
            return
        if self._cursor >= self._duel.last_step and not self._duel.done:
            self._duel.advance()
        self._cursor = min(self._cursor + 1, self._duel.last_step)

    def _work(self, worker: _Worker) -> None:
        """Steps at the speed that is set, and builds a frame a few times a second."""
        due = time.perf_counter()
        next_frame = 0.0
        try:
            while not worker.stopped.is_set() and not self.at_end:
                with self._lock:
                    self._advance()
                    now = time.perf_counter()
                    if now >= next_frame:
                        self._build()
                        next_frame = now + 1 / FRAMES_PER_SECOND
                if self._clock() - self.last_used > UNWATCHED_SECONDS:
                    break
                due = self._wait(worker, due)
        except Exception as error:
            log.exception("a run failed at step %d", self._cursor)
            self._note = f"The run stopped at step {self._cursor}: {error}"
            self._failed = True
        finally:
            with self._lock:
                self._worker = None
                self._build()

    def _wait(self, worker: _Worker, due: float) -> float:
        """Sleeps until the next step is due; a step that took too long is not caught up with."""
        now = time.perf_counter()
        due = max(due + 1 / self._speed, now)
        while (left := due - time.perf_counter()) > 0 and not worker.stopped.wait(min(left, 0.1)):
            due = min(due, now + 1 / self._speed)  # the speed may have been turned up meanwhile
        return due

    def _build(self) -> None:
        if self._duel is not None:
            frame = build_frame(
                self._duel,
                self._cursor,
                self.run_number,
                self.running,
                self._state_words(),
                self._note or self._end_words(),
            )
            self._latest = (self._latest[0] + 1, frame)

    def _end_words(self) -> str:
        return _FINISHED if self.at_end and not self.running else ""

    def _state_words(self) -> str:
        duel = self._duel
        if duel is None:
            return "Ready"
        if self.running:
            return "Replaying" if self._cursor < duel.last_step else "Running"
        if self._cursor < duel.last_step:
            return "Looking back"
        return "Finished" if duel.done else "Paused"
