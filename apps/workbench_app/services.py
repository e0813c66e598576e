"""What stands behind the page: visitors' engines, recordings, shared runs, metrics, and the film at the beginning."""

from __future__ import annotations

import asyncio
import gzip
import logging
import threading
from dataclasses import dataclass, field

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from workbench.events import Recording
from workbench.metrics import EngineCollector
from workbench_app.classroom import Classroom
from workbench_app.explore import ExploreStore
from workbench_app.gallery import path_of
from workbench_app.recorded import RecordedDuel, make_film
from workbench_app.routes import make_routes
from workbench_app.runs import Registry
from workbench_app.store import SessionStore

log = logging.getLogger(__name__)

#: The gallery's recordings of one burst, on both kinds of memory.
FILM = ("burst-paged", "burst-contiguous")
FILM_URL = "kvw/film"


class Film:
    """The recording that plays until a visitor has a run: made once, when it is first wanted."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._packed: bytes | None = None

    @property
    def exists(self) -> bool:
        """Whether the gallery has its recordings."""
        return all(path_of(name).is_file() for name in FILM)

    def packed(self) -> bytes:
        """As gzip."""
        with self._lock:
            if self._packed is None:
                with Recording.open(path_of(FILM[0])) as paged, Recording.open(path_of(FILM[1])) as contiguous:
                    self._packed = gzip.compress(make_film(RecordedDuel(paged, contiguous)), 6)
            return self._packed

    def make_in_background(self) -> None:
        """So that the first visitor need not wait for it."""
        threading.Thread(target=self.packed, name="kv-workbench-film", daemon=True).start()

    def route(self) -> Route:
        """``/kvw/film``: JSON, see `workbench_app.recorded.make_film`."""

        async def answer(request: Request) -> Response:
            packed = self._packed
            if packed is None and not self.exists:
                return JSONResponse({"error": "the recordings are missing: run `workbench gallery`"}, status_code=404)
            if packed is None:
                packed = await asyncio.to_thread(self.packed)
            headers = {"Content-Encoding": "gzip", "Cache-Control": "no-cache"}
            return Response(packed, media_type="application/json", headers=headers)

        return Route(f"/{FILM_URL}", answer, methods=["GET"])


@dataclass
class Services:
    """All of it. ``sessions`` get the registry that makes their runs known."""

    sessions: SessionStore
    explore: ExploreStore = field(default_factory=ExploreStore)
    collector: EngineCollector = field(default_factory=EngineCollector)
    film: Film = field(default_factory=Film)
    classroom: Classroom = field(init=False)

    def __post_init__(self) -> None:
        self.sessions.registry = Registry(self.explore, self.collector)
        self.classroom = Classroom(self.sessions)

    def routes(self) -> list[Route]:
        """HTTP routes beside Gradio's own, for ``demo.launch(app_kwargs={"routes": ...})``."""
        return [self.film.route(), *self.classroom.routes(), *make_routes(self.sessions, self.explore, self.collector)]

    def close(self) -> None:
        """Ends all runs and closes all recordings."""
        self.sessions.close()
        self.explore.close()
