"""The app's HTTP side beside Gradio: recordings in, frames, pictures and files out, and metrics.

Gradio's server takes these routes through ``demo.launch(app_kwargs={"routes": make_routes(...)})``. All answers are
JSON but for files and metrics; an error is ``{"error", "field", "value", "allowed"}`` with a 4xx or 5xx status. What is
slow is done in threads of the routes' own, so that neither the event loop nor Gradio's threads wait.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import re
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, TypeVar, cast
from urllib.parse import quote, urlsplit
from weakref import WeakSet

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from workbench.events.kvtrace import RecordingError
from workbench.metrics import PREFIX, EngineCollector
from workbench_app import exports
from workbench_app.explore import ExploreStore
from workbench_app.explore_answers import frame_answer, gallery_answer, meta_answer, view_answer
from workbench_app.limits import ExploreError, gone, too_large
from workbench_app.store import SessionStore

log = logging.getLogger(__name__)

T = TypeVar("T")
_THREADS = 4
#: Files to save take long: nobody's pictures wait for them.
_EXPORT_THREADS = 2
#: Files on their way to visitors at once; a slow reader's stays on this machine's disk for as long.
_MAX_EXPORTS = 16
_VISITOR = re.compile(r"[A-Za-z0-9_-]{8,64}")
#: Smaller answers are not worth the work.
_MIN_GZIP = 1024
_GZIP_LEVEL = 5


class ExploreRoutes:
    """The handlers. ``collector`` has what ``/metrics`` shows."""

    def __init__(self, visitors: SessionStore | None, store: ExploreStore, collector: EngineCollector) -> None:
        self._visitors = visitors
        self._store = store
        self._collector = collector
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="kv-workbench-explore")
        self._export_threads = ThreadPoolExecutor(_EXPORT_THREADS, thread_name_prefix="kv-workbench-export")
        self._exported: WeakSet[BinaryIO] = WeakSet()

    def routes(self) -> list[Route]:
        """All routes."""

        def route(path: str, handler: Callable[[Request], Awaitable[Response]], method: str = "GET") -> Route:
            return Route(path, self._guarded(handler), methods=[method])

        return [
            Route("/metrics", self._metrics, methods=["GET"]),
            route("/kvw/upload", self._upload, "POST"),
            route("/kvw/gallery", self._gallery),
            route("/kvw/gallery/{name}", self._open_bundled, "POST"),
            route("/kvw/{key}", self._close, "DELETE"),
            route("/kvw/{key}/meta", self._meta),
            route("/kvw/{key}/frame", self._frame),
            route("/kvw/{key}/view/{name}", self._view),
            route("/kvw/{key}/export/{kind}", self._export),
        ]

    async def _in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    def _guarded(self, handler: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            try:
                _check_origin(request)
                return await handler(request)
            except ExploreError as error:
                return _json(error.to_json(), status=error.status)
            except RecordingError as error:
                damage = ExploreError(422, "Recording", "damaged", f"{error}.")
                return _json(damage.to_json(), status=damage.status)
            except ClientDisconnect:
                return Response(status_code=400)
            except Exception as error:
                key = request.path_params.get("key")
                if key is not None and key not in self._store:  # it was closed while it was being read
                    return _json(gone(key).to_json(), status=404)
                log.exception("%s %s failed", request.method, request.url.path)
                failure = ExploreError(500, "Answer", type(error).__name__, "This is an error of the app.")
                return _json(failure.to_json(), status=failure.status)

        return answer

    # -- recordings in ---------------------------------------------------------------------------------------------

    async def _upload(self, request: Request) -> Response:
        owner, name = _visitor(request), request.query_params.get("name", "")
        claimed, limits = request.headers.get("content-length", ""), self._store.limits
        room = int(claimed) if claimed.isdecimal() and len(claimed) < 20 else limits.upload_bytes
        ticket = self._store.reserve(room, owner)  # quick, and no thread may keep it after a request that was cancelled
        try:
            file = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 - the store closes it
            try:
                async with asyncio.timeout(limits.upload_seconds):
                    await self._receive(request, file, room)
            except TimeoutError:
                file.close()
                allowed = f"A file must have arrived after {limits.upload_seconds:g} s. Please try again."
                raise ExploreError(408, "Upload", "not complete", allowed) from None
            except BaseException:
                file.close()
                raise
            key = await self._in_thread(self._store.open_upload, file, name, owner, ticket)
        finally:
            self._store.release(ticket)
        return _json({"key": key}, status=201)

    async def _receive(self, request: Request, file: BinaryIO, room: int) -> None:
        length = 0
        async for chunk in request.stream():
            length += len(chunk)
            if length > room:
                raise too_large("File size", length, room)
            await self._in_thread(file.write, chunk)

    async def _gallery(self, request: Request) -> Response:
        return _json(await self._in_thread(gallery_answer, self._store))

    async def _open_bundled(self, request: Request) -> Response:
        return _json({"key": await self._in_thread(self._store.open_bundled, request.path_params["name"])})

    async def _close(self, request: Request) -> Response:
        await self._in_thread(self._store.drop_upload, request.path_params["key"], _visitor(request))
        return Response(status_code=204)

    # -- answers ---------------------------------------------------------------------------------------------------

    async def _meta(self, request: Request) -> Response:
        source = self._store.get(request.path_params["key"])
        return await self._packed(request, await self._in_thread(meta_answer, source))

    async def _frame(self, request: Request) -> Response:
        source = self._store.get(request.path_params["key"])
        return await self._packed(request, await self._in_thread(frame_answer, source, request.query_params))

    async def _view(self, request: Request) -> Response:
        source = self._store.get(request.path_params["key"])
        answer = await self._in_thread(view_answer, source, request.path_params["name"], request.query_params)
        return await self._packed(request, answer)

    async def _packed(self, request: Request, body: bytes) -> Response:
        headers = {"Cache-Control": "no-store", "Vary": "Accept-Encoding"}
        if len(body) >= _MIN_GZIP and "gzip" in request.headers.get("accept-encoding", ""):
            body = await self._in_thread(gzip.compress, body, _GZIP_LEVEL)
            headers["Content-Encoding"] = "gzip"
        return Response(body, media_type="application/json", headers=headers)

    async def _export(self, request: Request) -> Response:
        source, kind = self._store.get(request.path_params["key"]), request.path_params["kind"]
        under_way = sum(not file.closed for file in self._exported)
        if under_way >= _MAX_EXPORTS:
            allowed = f"At most {_MAX_EXPORTS} are sent at once. Please try again in a minute."
            raise ExploreError(503, "Files under way", under_way, allowed)
        loop = asyncio.get_running_loop()
        most = self._store.limits.export_bytes
        file, size = await loop.run_in_executor(self._export_threads, exports.export, source, kind, most)
        self._exported.add(file)
        name = exports.file_name(source, kind)
        return StreamingResponse(
            self._pieces(file),
            media_type=exports.KINDS[kind].media_type,
            headers={
                "Content-Disposition": f"attachment; filename=\"{name}\"; filename*=UTF-8''{quote(name)}",
                "Content-Length": str(size),
                "Cache-Control": "no-store",
                "X-Content-Type-Options": "nosniff",
            },
        )

    async def _pieces(self, file: BinaryIO) -> AsyncIterator[bytes]:
        try:
            while piece := await self._in_thread(exports.read_chunk, file):
                yield piece
        finally:
            file.close()

    async def _metrics(self, request: Request) -> Response:
        text = await self._in_thread(self._collector.exposition)
        for name, words, value in (
            ("app_visitors", "Visitors of the app with engines.", len(self._visitors or ())),
            ("app_explored_runs", "Recordings and live runs that can be explored.", len(self._store)),
        ):
            text += f"# HELP {PREFIX}{name} {words}\n# TYPE {PREFIX}{name} gauge\n{PREFIX}{name} {value}\n".encode()
        return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def make_routes(
    store: SessionStore | None, explore_store: ExploreStore, collector: EngineCollector | None = None
) -> list[Route]:
    """The routes of an app.

    Args:
        store: whose visitors `/metrics` counts; None: of nobody.
        collector: the engines that `/metrics` shows; None: none.
    """
    return ExploreRoutes(store, explore_store, collector or EngineCollector()).routes()


def _json(value: Any, status: int = 200) -> Response:
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    return Response(body, status, {"Cache-Control": "no-store"}, "application/json")


def _visitor(request: Request) -> str:
    """Who asks, as far as limits are concerned: a random name of the browser tab, or the address."""
    named = request.headers.get("x-kvw-visitor", "")
    if named:
        if not _VISITOR.fullmatch(named):
            raise ExploreError(400, "X-KVW-Visitor", named, "Allowed are 8 to 64 letters, digits, - and _.")
        return f"tab {named}"
    return f"address {request.client.host if request.client else ''}"


def _check_origin(request: Request) -> None:
    """Other sites' pages may not ask in a visitor's name."""
    origin = request.headers.get("origin")
    host = request.headers.get("x-forwarded-host") or request.headers.get("host", "")
    if origin is not None and urlsplit(origin).netloc not in (host, request.headers.get("host", "")):
        raise ExploreError(403, "Origin", origin, "Only this app's own pages may ask.")
    if request.headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        raise ExploreError(
            403, "Sec-Fetch-Site", request.headers["sec-fetch-site"], "Only this app's own pages may ask."
        )
