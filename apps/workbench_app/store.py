"""All visitors' sessions: found by browser tab, limited in number, closed when idle; and the line of those who wait."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from workbench_app.runs import Registry
from workbench_app.session import Session
from workbench_app.settings import Limits
from workbench_app.worker import Turns

if TYPE_CHECKING:
    from workbench.models.loading import LoadedModel


#: When all places are taken, a visitor who has been idle for so long has to make room.
_EVICT_AFTER_SECONDS = 60.0
#: Who has not asked again for so long has left the line.
_LEFT_LINE_AFTER_SECONDS = 5.0


class ServerFullError(RuntimeError):
    """As many visitors as allowed have engines. ``before`` others wait, too, and asked earlier.

    Whoever is idle for ``idle_seconds`` makes room.
    """

    def __init__(self, places: int, before: int, idle_seconds: float) -> None:
        self.before = before
        line = "You are next" if before == 0 else f"{before} before you"
        super().__init__(
            f"{places} visitor{' is' if places == 1 else 's are'} running engines here, which is all this machine may "
            f"hold. {line}. A place can be had when somebody leaves, or has been idle for "
            f"{idle_seconds:g} seconds."
        )


class SessionStore:
    """All sessions, by the hash of the browser tab. Idle ones are closed by a thread of the store's own.

    Args:
        load_model: makes or returns the shared weights; called once, when they are first needed.
        max_sessions: most visitors with engines at once; others wait in line.
        idle_seconds: close a session that nobody has used for so long.
        limits: what one visitor may ask for.
        registry: what new runs are made known to.
    """

    def __init__(
        self,
        load_model: Callable[[], LoadedModel],
        max_sessions: int = 40,
        idle_seconds: float = 600.0,
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
        registry: Registry | None = None,
    ) -> None:
        if max_sessions < 1 or idle_seconds <= 0:
            raise ValueError(f"max_sessions={max_sessions}, idle_seconds={idle_seconds}: must be above 0")
        self._load_model = load_model
        self._model: LoadedModel | None = None
        self._clock = clock
        self._sessions: dict[str, Session] = {}
        self._line: dict[str, float] = {}  # who waits, in order, and when they last asked
        self._lock = threading.Lock()
        self._model_lock = threading.Lock()
        self._reaper: threading.Thread | None = None
        self._stop = threading.Event()
        self._turns = Turns()
        self.limits = limits or Limits()
        self.max_sessions = max_sessions
        self.idle_seconds = idle_seconds
        self.registry = registry

    @property
    def model(self) -> LoadedModel:
        """The shared weights, loaded on first use."""
        with self._model_lock:
            if self._model is None:
                self._model = self._load_model()
            return self._model

    @property
    def has_model(self) -> bool:
        """Whether the weights are loaded."""
        return self._model is not None

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def any_running(self) -> bool:
        """Whether somebody's run is going on now."""
        return any(session.running for session in self.sessions())

    def sessions(self) -> list[Session]:
        """All that are open now."""
        with self._lock:
            return list(self._sessions.values())

    @property
    def waiting(self) -> int:
        """Visitors in line."""
        with self._lock:
            self._forget_who_left()
            return len(self._line)

    def find(self, key: str | None) -> Session | None:
        """The session of a browser tab, if it has one."""
        with self._lock:
            return self._sessions.get(key or "")

    def get(self, key: str | None) -> Session:
        """The session of a browser tab, made if need be.

        Raises:
            ServerFullError: too many visitors. The tab has a place in the line now, and keeps it if it asks again
                within a few seconds.
        """
        key = key or ""
        model = self.model
        with self._lock:
            session = self._sessions.get(key)
            if session is None:
                self._wait_in_line(key)
                session = Session(model, self._clock, self.limits, self._turns, self.registry)
                self._sessions[key] = session
                self._start_reaper()
            return session

    @contextmanager
    def asking(self, key: str) -> Iterator[None]:
        """Around a call of `get`: a tab that has a place in the line keeps it, however long it waits for a thread."""
        self._stay_in_line(key, math.inf)
        try:
            yield
        finally:
            self._stay_in_line(key, self._clock())

    def _stay_in_line(self, key: str, until: float) -> None:
        with self._lock:
            if key in self._line:
                self._line[key] = until

    def _wait_in_line(self, key: str) -> None:
        """Returns if there is a place for this tab. The lock is held."""
        self._forget_who_left()
        others = [name for name in self._line if name != key]
        before = list(self._line).index(key) if key in self._line else len(others)
        has_place = before == 0 and (len(self._sessions) < self.max_sessions or self._evict())
        if has_place:
            self._line.pop(key, None)
            return
        self._line[key] = self._clock()
        raise ServerFullError(self.max_sessions, before, min(_EVICT_AFTER_SECONDS, self.idle_seconds))

    def _forget_who_left(self) -> None:
        now = self._clock()
        self._line = {name: at for name, at in self._line.items() if now - at < _LEFT_LINE_AFTER_SECONDS}

    def _evict(self) -> bool:
        """Gives up the place of whoever has been idle for longest, if that is long enough. The lock is held."""
        idle = [(s.last_used, key) for key, s in self._sessions.items() if not s.running]
        if not idle or self._clock() - min(idle)[0] < _EVICT_AFTER_SECONDS:
            return False
        self._sessions.pop(min(idle)[1]).close()
        return True

    def drop(self, key: str | None) -> None:
        """Closes a session and forgets it, or leaves the line. Nothing happens if there is neither."""
        with self._lock:
            self._line.pop(key or "", None)
            session = self._sessions.pop(key or "", None)
        if session is not None:
            session.close()

    def reap(self) -> int:
        """Closes the sessions that have been idle for too long, and says how many."""
        now = self._clock()
        with self._lock:
            idle = [key for key, s in self._sessions.items() if now - s.last_used > self.idle_seconds]
        for key in idle:
            self.drop(key)
        return len(idle)

    def close(self) -> None:
        """Closes all sessions and stops the reaper."""
        self._stop.set()
        for key in list(self._sessions):
            self.drop(key)

    def _start_reaper(self) -> None:
        if self._reaper is None or not self._reaper.is_alive():
            self._reaper = threading.Thread(target=self._reap_forever, name="kv-workbench-reaper", daemon=True)
            self._reaper.start()

    def _reap_forever(self) -> None:
        while not self._stop.wait(min(30.0, self.idle_seconds / 4)):
            self.reap()
