"""A run that many watch: a teacher shares it, and whoever has the code sees what the teacher sees.

Who watches holds no place among the visitors and no slot of a queue: frames come over a stream of their own, and what
they cost is made once for all who watch. A run goes on while somebody watches, but is closed when its owner has been
away for long. Everybody's own tab "Compare" stays a sandbox beside it.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from workbench.views.delta import diff
from workbench_app.session import Session
from workbench_app.store import SessionStore
from workbench_app.updates import encode

_POLL_SECONDS = 0.05
#: Most who watch one run at once.
MAX_WATCHERS = 200
#: A comment on the stream now and then, so that nothing on the way takes it for dead.
_ALIVE_SECONDS = 15.0
#: Letters and digits that nobody takes for others when they are read out.
_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"


class Broadcast:
    """One shared run. Messages for those who are up to date are made once."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.watchers = 0
        self._lock = threading.Lock()
        self._before: tuple[int, dict] = (0, {})
        self._latest: tuple[int, dict] = (0, {})
        self._patch = ""

    def newest(self) -> int:
        """The newest frame's number. Asking is quick, and keeps the run going."""
        return self.session.frame(touch=False)[0]

    def message(self, seen: int) -> tuple[int, str]:
        """The newest frame's number, and what somebody who has seen frame ``seen`` needs (nothing if that is it)."""
        number, frame = self.session.frame(touch=False)
        name = self.session.name
        with self._lock:
            if number > self._latest[0]:  # another thread may have got a newer one meanwhile
                self._before, self._latest = self._latest, (number, frame)
                patch = diff(self._before[1], frame)
                self._patch = encode({"id": name(number), "base": name(self._before[0]), "patch": patch})
            number, frame = self._latest
            if seen == number:
                return number, ""
            if seen == self._before[0] and seen:
                return number, self._patch
        return number, encode({"id": name(number), "frame": frame})


class Classroom:
    """All runs that are shared now, by their codes."""

    def __init__(self, store: SessionStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._shared: dict[str, Broadcast] = {}

    def share(self, key: str) -> str:
        """The code under which a tab's run can be watched; the same when asked again.

        Raises:
            KeyError: that tab has no run.
        """
        session = self._store.find(key)
        if session is None or session.duel is None:
            raise KeyError("there is no run to share")
        with self._lock:
            self._forget()
            for code, broadcast in self._shared.items():
                if broadcast.session is session:
                    return code
            code = "".join(secrets.choice(_ALPHABET) for _ in range(8))
            self._shared[code] = Broadcast(session)
        session.tell_shared(code)
        return code

    def find(self, code: str) -> Broadcast | None:
        """A shared run by its code."""
        with self._lock:
            self._forget()
            return self._shared.get(code.strip().lower())

    def _forget(self) -> None:
        self._shared = {code: b for code, b in self._shared.items() if not b.session.closed}

    def routes(self) -> list[Route]:
        """``/kvw/watch/{code}``: server-sent events, one message each (see `workbench_app.updates`).

        ``/kvw/watchers/{code}``: JSON ``{"watching": number}``; null if the run is not shared any more.
        """
        return [
            Route("/kvw/watch/{code}", self._watch, methods=["GET"]),
            Route("/kvw/watchers/{code}", self._count, methods=["GET"]),
        ]

    async def _count(self, request: Request) -> Response:
        broadcast = self.find(request.path_params["code"])
        watching = None if broadcast is None else broadcast.watchers
        return JSONResponse({"watching": watching}, headers={"Cache-Control": "no-store"})

    async def _watch(self, request: Request) -> Response:
        code = request.path_params["code"]
        broadcast = self.find(code)
        if broadcast is None:
            words = f"Code: {code[:40]!r} is not known. Allowed is the code of a run that is shared now."
            return JSONResponse({"error": words}, status_code=404)
        if broadcast.watchers >= MAX_WATCHERS:
            words = f"Watchers: {broadcast.watchers + 1} is not possible. At most {MAX_WATCHERS} can watch one run."
            return JSONResponse({"error": words}, status_code=503)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(_stream(request, broadcast), media_type="text/event-stream", headers=headers)


async def _stream(request: Request, broadcast: Broadcast) -> AsyncIterator[str]:
    broadcast.watchers += 1
    seen, quiet = -1, 0.0
    try:
        while not broadcast.session.closed:
            text = ""
            if broadcast.newest() != seen:
                number, text = await asyncio.to_thread(broadcast.message, seen)
            if text:
                yield f"data: {text}\n\n"  # JSON has no line breaks
                seen, quiet = number, 0.0
            elif quiet >= _ALIVE_SECONDS:
                yield ": still here\n\n"
                quiet = 0.0
            await asyncio.sleep(_POLL_SECONDS)
            quiet += _POLL_SECONDS
            if await request.is_disconnected():
                return
        yield "event: over\ndata: {}\n\n"
    finally:
        broadcast.watchers -= 1
