"""A visitor's session: one duel of engines, the step that is shown, and a thread that moves while it runs.

Gradio copies what lives in `gr.State`, which an engine can't bear, so sessions live here, by the hash of the browser
tab. The thread belongs to the session and not to the request that started it: it stops by itself when nobody has
looked for a while, so a closed tab leaves no engine running.

Looking back does not hold the run up: the step that is shown either follows the run or stays where the visitor put it.
"""

from __future__ import annotations

import logging
import math
import secrets
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from workbench.events.jumps import KINDS, JumpIndex
from workbench_app.duel import Duel
from workbench_app.frame import build_frame
from workbench_app.links import link_to
from workbench_app.runs import End, Registry
from workbench_app.settings import Limits, Settings
from workbench_app.updates import Updates
from workbench_app.worker import Turns, Worker

if TYPE_CHECKING:
    from workbench.models.loading import LoadedModel

log = logging.getLogger(__name__)

#: Frames are built at most this often while a run goes on; the events of every step are kept all the same.
FRAMES_PER_SECOND = 20.0
#: The same while the past is shown and only the length of the run changes.
_FRAMES_WHILE_LOOKING_BACK = 4.0
#: A run that nobody has looked at for so long pauses.
UNWATCHED_SECONDS = 6.0
_FINISHED = "All requests have ended, so all memory is free again. Drag the bar, or press ←, to look back."
#: Frames without a run have this number.
NO_FRAME: tuple[int, dict[str, Any]] = (0, {})


class SessionClosedError(RuntimeError):
    """The session was idle for too long, or its tab was closed."""


class Session:
    """One visitor's run. All methods may be called from any thread.

    Attributes:
        run_number: counts the runs of this session, so that the page knows when a new one has begun.
        last_used: when this visitor last did something or looked, by ``clock``.
        last_watched: when somebody else last looked.
        preset: the preset that the settings came from, for links.
    """

    def __init__(
        self,
        model: LoadedModel,
        clock: Callable[[], float] = time.monotonic,
        limits: Limits | None = None,
        turns: Turns | None = None,
        registry: Registry | None = None,
    ) -> None:
        self._model = model
        self._clock = clock
        self._limits = limits or Limits()
        self._turns = turns or Turns()
        self._registry = registry
        self._end: End | None = None
        self._lock = threading.RLock()
        self._duel: Duel | None = None
        self._jumps: tuple[JumpIndex, ...] = ()
        self._cursor = 0
        self._follows = True
        self._stop_at = math.inf
        self._worker: Worker | None = None
        self._ends = False  # the last frame of a run is being built
        self._speed = math.inf
        self._note = ""
        self._failed = False
        self._latest = NO_FRAME
        self._closed = False
        self._about: dict[str, Any] = {}
        self._shared = ""
        self._updates = Updates()
        self._epoch = secrets.token_hex(4)
        self.preset = ""
        self.run_number = 0
        self.last_used = self.last_watched = clock()

    # -- reading ---------------------------------------------------------------------------------------------------

    @property
    def running(self) -> bool:
        """Whether a run goes on. When it is over, its last frame is there."""
        return self._moves or self._ends

    @property
    def closed(self) -> bool:
        return self._closed

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

    def frame(self, touch: bool = True) -> tuple[int, dict[str, Any]]:
        """The number of the latest frame, and the frame; empty before the first run.

        Looking keeps a run going.

        Args:
            touch: it is this visitor who looks. Others do not keep the session from being closed as idle.
        """
        self.last_watched = self._clock()
        if touch:
            self.last_used = self.last_watched
        return self._latest

    def message(self, whole: bool = False) -> str:
        """The latest frame for this session's own tab: what has changed since the last call, or all of it."""

        def latest() -> tuple[str, dict[str, Any]]:
            number, frame = self.frame()
            return self.name(number), frame

        return self._updates.message(latest, whole)

    def name(self, number: int) -> str:
        """A name for a frame that no frame of any session has."""
        return f"{self._epoch}-{number}"

    # -- doing -----------------------------------------------------------------------------------------------------

    def prepare(self, settings: Settings, preset: str = "") -> bool:
        """Makes sure that a run with these settings is there; keeps the present one if they are the same.

        If the settings turn out to be impossible, the present run stays as it was.

        Returns:
            Whether a new run was made.

        Raises:
            SettingError: the settings don't suit the model.
        """
        with self._lock:
            self._touch()
            if self._duel is not None and self._duel.settings == settings and not self._failed:
                return False
        self.pause()
        with self._lock:
            self._touch()
            duel = Duel(self._model, settings, self._registry.watch if self._registry is not None else None)
            self._drop_duel()
            self._duel, self._cursor, self._note, self._failed = duel, 0, "", False
            self._follows, self._stop_at = True, math.inf
            self._jumps = tuple(JumpIndex() for _ in duel.sides)
            self.preset = preset
            self.run_number += 1
            if self._registry is not None:
                self._about, self._end = self._registry.begin(duel)
            self._build()
            return True

    def start(self, speed: float = math.inf, stop_at: float = math.inf) -> None:
        """Runs on from the step that is shown: first through what is recorded, then live. At the end, starts over.

        While a run goes on, this shows its newest step again.

        Args:
            speed: steps per second.
            stop_at: pause at this step.
        """
        with self._lock:
            self._touch()
            self._speed = speed
            if self._duel is None:
                return
            if self._worker is not None:
                self._follow()
                return
            if self.at_end:
                self._cursor = 0
            self._follows, self._stop_at = True, stop_at
            worker = Worker(self._work)
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
        """One step on: a recorded one if the past is shown, otherwise a new one. A run that goes on does so."""
        with self._lock:
            self._touch()
            if self._duel is None:
                return
            if self.running:
                if not self._follows:
                    self._show(self._cursor + 1)
                return
            self._advance()
            self._is_spent()
            self._build()

    def back(self) -> None:
        """One step back. A run that goes on does so."""
        with self._lock:
            self._touch()
            self._show(self._cursor - 1)

    def go_to(self, step: int) -> None:
        """Shows a step of the past; a step outside the run means its nearest end."""
        with self._lock:
            self._touch()
            self._show(step)

    def jump(self, kind: str, direction: int) -> bool:
        """Shows the next (or, with -1, the previous) step at which something of a kind happened, on either side.

        Returns:
            Whether there is one.

        Raises:
            ValueError: an unknown kind.
        """
        if kind not in KINDS:
            raise ValueError(f"kind={kind!r}: must be one of {', '.join(KINDS)}")
        with self._lock:
            self._touch()
            if self._duel is None:
                return False
            self._read_jumps()
            found = [
                index.next(self._cursor, kind) if direction > 0 else index.previous(self._cursor, kind)
                for index in self._jumps
            ]
            steps = [step for step in found if step is not None]
            if steps:
                self._show(min(steps) if direction > 0 else max(steps))
            return bool(steps)

    def live(self) -> None:
        """Shows the newest step, and follows the run from there."""
        with self._lock:
            self._touch()
            self._follow()

    def tell_shared(self, code: str) -> None:
        """Frames say from now on under which code others can watch."""
        with self._lock:
            self._shared = code
            self._build()

    def close(self) -> None:
        """Ends the run and gives its memory back. Calling it again does nothing."""
        with self._lock:
            self._closed = True  # from here on nothing can be started
        if worker := self._worker:
            worker.stop()
        with self._lock:
            self._jumps = ()
            self._drop_duel()

    # -- inside ----------------------------------------------------------------------------------------------------

    @property
    def _moves(self) -> bool:
        return self._worker is not None

    def _touch(self) -> None:
        if self._closed:
            raise SessionClosedError("this session is closed")
        self.last_used = self._clock()

    def _drop_duel(self) -> None:
        if self._end is not None:
            self._end()
            self._end = None
        if self._duel is not None:
            self._duel.close()
            self._duel = None

    def _follow(self) -> None:
        if self._duel is not None:
            self._follows, self._cursor = True, self._duel.last_step
            self._build()

    def _show(self, step: int) -> None:
        if self._duel is not None:
            self._cursor = min(max(0, step), self._duel.last_step)
            self._follows = self.running and self._cursor == self._duel.last_step
            self._build()

    def _advance(self) -> None:
        """The step that is shown moves on by one, and the run with it if that is its last."""
        if self._duel is None:
            return
        if self._cursor >= self._duel.last_step and not self._duel.done:
            self._duel.advance()
        self._cursor = min(self._cursor + 1, self._duel.last_step)

    def _move(self) -> None:
        """What a running session does in one step."""
        assert self._duel is not None
        if self._follows:
            self._advance()
        elif not self._duel.done:
            self._duel.advance()

    def _has_more(self) -> bool:
        if self._duel is None or (self._duel.last_step >= self._stop_at and self._follows):
            return False
        return not self._duel.done or (self._follows and not self.at_end)

    def _work(self, worker: Worker) -> None:
        """Steps at the speed that is set, and builds a frame a few times a second."""
        due = time.perf_counter()
        next_frame = 0.0
        try:
            while not worker.stopped.is_set() and self._has_more():
                with self._turns, self._lock:
                    self._move()
                    now = time.perf_counter()
                    if now >= next_frame:
                        self._build()
                        next_frame = now + 1 / (FRAMES_PER_SECOND if self._follows else _FRAMES_WHILE_LOOKING_BACK)
                seen = max(self.last_used, self.last_watched)
                if self._clock() - seen > UNWATCHED_SECONDS or self._is_spent():
                    break
                due = worker.wait(due, lambda: self._speed)
        except Exception as error:
            log.exception("a run failed at step %d", self._cursor)
            self._note = f"The run stopped at step {self._cursor}: {error}"
            self._failed = True
        finally:
            with self._lock:
                self._ends, self._worker = True, None
                try:
                    self._build()
                finally:
                    self._ends = False

    def _is_spent(self) -> bool:
        """Whether the run has used all the computing that a visitor may; says so."""
        with self._lock:
            if self._duel is None or self._duel.done or self._duel.seconds < self._limits.seconds:
                return False
            self._note = (
                f"Seconds of computing: {self._duel.seconds:.0f}. Allowed are {self._limits.seconds:.0f} in one run, "
                "so it was stopped here. What happened until now can be looked at and saved."
            )
            is_last = self._cursor >= self._duel.last_step
            self._duel.give_up()
            if is_last:
                self._cursor = self._duel.last_step
            return True

    def _read_jumps(self) -> None:
        assert self._duel is not None
        for index, side in zip(self._jumps, self._duel.sides, strict=True):
            index.update(side.history)

    def _build(self) -> None:
        duel = self._duel
        if duel is None:
            return
        self._read_jumps()
        frame = build_frame(
            duel,
            self._cursor,
            run=self.run_number,
            running=self._moves,
            live=self._follows and self._moves,
            state=self._state_words(),
            note=self._note or self._end_words(),
            link=link_to(duel.settings, self.preset, self._cursor),
            shared=self._shared,
            jumps={kind: sorted({s for index in self._jumps for s in index.steps(kind)}) for kind in KINDS},
            **self._about,
        )
        self._latest = (self._latest[0] + 1, frame)

    def _end_words(self) -> str:
        return _FINISHED if self.at_end and not self._moves else ""

    def _state_words(self) -> str:
        duel = self._duel
        if duel is None:
            return "Ready"
        if self._moves:
            if not self._follows:
                return "Looking back; the run goes on"
            return "Replaying" if self._cursor < duel.last_step else "Running"
        if self._cursor < duel.last_step:
            return "Looking back"
        return "Finished" if duel.done else "Paused"
