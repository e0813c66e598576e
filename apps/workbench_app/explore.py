"""What the Explore tab looks at: recordings that visitors opened, bundled ones, and live runs, by unguessable keys."""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from workbench.events import History, Recording
from workbench_app.limits import ExploreError, Limits, gone, too_large
from workbench_app.sources import Source
from workbench_app.upload_checks import clean_name, open_recording


@dataclass(frozen=True, eq=False)
class Ticket:
    """Room that is kept for an upload while it is being sent."""

    length: int
    owner: str


class ExploreStore:
    """All sources. All methods may be called from any thread.

    A thread of the store's own closes idle uploads, and trims what else is idle.

    Args:
        limits: what visitors may use.
        gallery: folder of the bundled recordings; None is the one that comes with the app.
    """

    def __init__(
        self,
        limits: Limits | None = None,
        gallery: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits or Limits()
        self.gallery = gallery
        self._clock = clock
        self._lock = threading.Lock()
        self._sources: dict[str, Source] = {}
        self._bundled: dict[str, str] = {}  # name -> key
        self._arriving: dict[Ticket, None] = {}
        self._reaper: threading.Thread | None = None
        self._stop = threading.Event()

    # -- opening ---------------------------------------------------------------------------------------------------

    def reserve(self, length: int, owner: str) -> Ticket:
        """Keeps room for an upload of at most ``length`` bytes until it is opened or `release` is called.

        Nothing of this visitor's is closed yet.

        Raises:
            ExploreError: it is too large, or there is no room for it.
        """
        if length > self.limits.upload_bytes:
            raise too_large("File size", length, self.limits.upload_bytes)
        ticket = Ticket(length, owner)
        with self._lock:
            if len(self._arriving) >= self.limits.uploads_at_once:
                raise ExploreError(
                    503,
                    "Uploads under way",
                    len(self._arriving) + 1,
                    f"At most {self.limits.uploads_at_once} are taken at once. Please try again in a minute.",
                )
            self._make_room(length, owner)
            self._arriving[ticket] = None
        return ticket

    def release(self, ticket: Ticket) -> None:
        """Gives back the room of an upload that did not arrive. Nothing happens if it was opened."""
        with self._lock:
            self._arriving.pop(ticket, None)

    def open_upload(self, file: BinaryIO, name: str, owner: str, ticket: Ticket | None = None) -> str:
        """Opens a visitor's recording. The store closes ``file``, whatever happens.

        Args:
            ticket: the room that was reserved for it; None: it is asked for now.

        Returns:
            Its key.

        Raises:
            ExploreError: it is damaged, too large, or there is no room.
        """
        name = clean_name(name)
        try:
            length = file.seek(0, 2)
            ticket = ticket or self.reserve(length, owner)
            recording = open_recording(file, name, self.limits)
        except BaseException:
            if ticket is not None:
                self.release(ticket)
            file.close()
            raise
        source = self._source(recording, name, "upload", owner, length)
        with self._lock:
            self._arriving.pop(ticket, None)
            own = sorted((s.last_used, key) for key, s in self._uploads().items() if s.owner == owner)
            for _, key in own[: len(own) - self.limits.per_visitor + 1]:
                self._sources.pop(key).close()
            return self._add(source)

    def open_bundled(self, name: str) -> str:
        """The key of a bundled recording, which all visitors share.

        Raises:
            ExploreError: there is none with this name.
        """
        from workbench_app.gallery import ITEMS, path_of

        if name not in ITEMS:
            raise ExploreError(404, "Gallery", name, f"Allowed are {', '.join(ITEMS)}.")
        with self._lock:
            if (key := self._bundled.get(name)) is not None:
                return key
        path = path_of(name, self.gallery)
        try:
            recording = Recording.open(path)
        except OSError as error:
            raise ExploreError(404, "Gallery", name, "Its file is missing: run `workbench gallery`.") from error
        source = self._source(recording, ITEMS[name].title, "gallery", "", path.stat().st_size)
        with self._lock:
            if (key := self._bundled.get(name)) is None:
                key = self._bundled[name] = self._add(source)
                return key
        source.close()  # somebody was quicker
        return key

    def open_path(self, path: str | os.PathLike[str]) -> str:
        """Opens a file that was named when the app was started; never call it with anything that a visitor sent.

        Raises:
            OSError: it can't be read.
            RecordingError: it is not a recording.
        """
        recording = Recording.open(path)
        length = os.stat(path).st_size
        with self._lock:
            return self._add(self._source(recording, os.path.basename(path), "file", "", length))

    def register_live(self, history: History, title: str, owner: str) -> str:
        """Lets a run be explored that may still be growing. Whoever registers it calls `drop` when it is gone."""
        with self._lock:
            return self._add(self._source(history, title, "live", owner, 0))

    def _source(self, history: History, title: str, kind: str, owner: str, file_bytes: int) -> Source:
        return Source(history, title, kind, owner, file_bytes, self.limits.cache_bytes, self._clock())

    def _add(self, source: Source) -> str:
        key = secrets.token_urlsafe(18)
        self._sources[key] = source
        self._start_reaper()
        return key

    # -- finding ---------------------------------------------------------------------------------------------------

    def get(self, key: str) -> Source:
        """The source with this key, which counts as used now.

        Raises:
            ExploreError: there is none.
        """
        with self._lock:
            source = self._sources.get(key)
            if source is None:
                raise gone(key)
            source.last_used = self._clock()
            return source

    def __contains__(self, key: str) -> bool:
        with self._lock:
            return key in self._sources

    def __len__(self) -> int:
        return len(self._sources)

    # -- closing ---------------------------------------------------------------------------------------------------

    def drop(self, key: str) -> None:
        """Closes a source and forgets it. Nothing happens if there is none."""
        with self._lock:
            source = self._sources.pop(key, None)
            self._bundled = {name: other for name, other in self._bundled.items() if other != key}
        if source is not None:
            source.close()

    def drop_upload(self, key: str, owner: str) -> None:
        """Closes a visitor's upload.

        Raises:
            ExploreError: there is none with this key, or it is not this visitor's.
        """
        source = self.get(key)
        if source.kind != "upload" or source.owner != owner:
            raise gone(key)
        self.drop(key)

    def _uploads(self) -> dict[str, Source]:
        return {key: source for key, source in self._sources.items() if source.kind == "upload"}

    def _make_room(self, length: int, owner: str) -> None:
        """Closes others' idle uploads, as many as it takes for one more to fit. The lock is held.

        This visitor's own are left alone: what is being sent may turn out to be damaged.

        Raises:
            ExploreError: there is no room.
        """
        limits, now, uploads = self.limits, self._clock(), self._uploads()
        arriving = sum(ticket.length for ticket in self._arriving)
        own = sum(source.owner == owner for source in uploads.values())
        own_arriving = sum(ticket.owner == owner for ticket in self._arriving)
        leaving = min(own, max(0, own + own_arriving + 1 - limits.per_visitor))  # when all that is sent is opened
        while True:
            used = sum(source.file_bytes for source in uploads.values()) + arriving
            count = len(uploads) + len(self._arriving) - leaving
            if count < limits.sources and used + length <= limits.total_bytes:
                return
            spare = [
                (source.last_used, key)
                for key, source in uploads.items()
                if source.owner != owner and now - source.last_used > limits.spare_seconds
            ]
            if not spare:
                raise ExploreError(
                    503,
                    "Open recordings",
                    count + 1,
                    f"This server keeps at most {limits.sources} of them, and {limits.total_bytes >> 20} MiB in all. "
                    "Please try again in a minute, or open your file with `workbench app` on your own machine.",
                )
            key = min(spare)[1]
            del uploads[key]
            self._sources.pop(key).close()

    def reap(self) -> int:
        """Closes the uploads that nobody has used for too long, and says how many; others give back their caches."""
        now = self._clock()
        with self._lock:
            idle = [(k, s) for k, s in self._sources.items() if now - s.last_used > self.limits.idle_seconds]
        for key, source in idle:
            if source.kind == "upload":
                self.drop(key)
            else:
                source.trim()
        return sum(source.kind == "upload" for _, source in idle)

    def close(self) -> None:
        """Closes all sources and stops the reaper."""
        self._stop.set()
        for key in list(self._sources):
            self.drop(key)

    def _start_reaper(self) -> None:
        if self._reaper is None or not self._reaper.is_alive():
            self._reaper = threading.Thread(target=self._reap_forever, name="kv-workbench-explore", daemon=True)
            self._reaper.start()

    def _reap_forever(self) -> None:
        while not self._stop.wait(min(30.0, self.limits.idle_seconds / 4)):
            self.reap()
