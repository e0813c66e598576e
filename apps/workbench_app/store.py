"""All visitors' sessions: found by browser tab, limited in number, closed when idle."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from workbench_app.session import Session

if TYPE_CHECKING:
    from workbench.models.loading import LoadedModel


#: When all places are taken, a visitor who has been idle for so long has to make room.
_EVICT_AFTER_SECONDS = 60.0


class ServerFullError(RuntimeError):
    """As many visitors as allowed have engines."""


class SessionStore:
    """All sessions, by the hash of the browser tab. Idle ones are closed by a thread of the store's own.

    Args:
        load_model: makes or returns the shared weights; called once, when the first session needs them.
        max_sessions: most visitors with engines at once.
        idle_seconds: close a session that nobody has used for so long.
    """

    def __init__(
        self,
        load_model: Callable[[], LoadedModel],
        max_sessions: int = 40,
        idle_seconds: float = 600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load_model = load_model
        self._model: LoadedModel | None = None
        self._clock = clock
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()
        self._model_lock = threading.Lock()
        self._reaper: threading.Thread | None = None
        self._stop = threading.Event()
        self.max_sessions = max_sessions
        self.idle_seconds = idle_seconds

    @property
    def model(self) -> LoadedModel:
        """The shared weights, loaded on first use."""
        with self._model_lock:
            if self._model is None:
                self._model = self._load_model()
            return self._model

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def any_running(self) -> bool:
        """Whether somebody's run is going on now."""
        with self._lock:
            return any(session.running for session in self._sessions.values())

    def find(self, key: str | None) -> Session | None:
        """The session of a browser tab, if it has one."""
        with self._lock:
            return self._sessions.get(key or "")

    def get(self, key: str | None) -> Session:
        """The session of a browser tab, made if need be.

        Raises:
            ServerFullError: too many visitors.
        """
        model = self.model
        with self._lock:
            session = self._sessions.get(key or "")
            if session is None:
                if len(self._sessions) >= self.max_sessions and not self._evict():
                    raise ServerFullError(
                        f"{self.max_sessions} visitors are running engines here, which is all this machine may hold. "
                        f"A place can be had when somebody has been idle for {_EVICT_AFTER_SECONDS:.0f} seconds: "
                        "try again soon."
                    )
                session = self._sessions[key or ""] = Session(model, self._clock)
                self._start_reaper()
            return session

    def _evict(self) -> bool:
        """Gives up the place of whoever has been idle for longest, if that is long enough. The lock is held."""
        idle = [(s.last_used, key) for key, s in self._sessions.items() if not s.running]
        if not idle or self._clock() - min(idle)[0] < _EVICT_AFTER_SECONDS:
            return False
        self._sessions.pop(min(idle)[1]).close()
        return True

    def drop(self, key: str | None) -> None:
        """Closes a session and forgets it. Nothing happens if there is none."""
        with self._lock:
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
