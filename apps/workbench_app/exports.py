"""Files that a visitor can save of a run: made in a temporary file without a name, and sent from there."""

from __future__ import annotations

import io
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, TextIO, cast

from workbench.events.perfetto import write_perfetto
from workbench.events.table_files import event_table, step_table, write_csv, write_parquet
from workbench.events.windows import save_window
from workbench.views.replay_html import replay_html
from workbench_app.limits import ExploreError, too_large
from workbench_app.sources import Source

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_CHUNK = 1 << 18


@dataclass(frozen=True)
class Kind:
    """A file format: how the file's name ends, its media type, and what writes it."""

    ending: str
    media_type: str
    words: str
    write: Callable[[Source, BinaryIO], None]


class _Bounded(io.FileIO):
    """A temporary file without a name that takes no more than ``most`` bytes."""

    def __init__(self, most: int) -> None:
        with tempfile.TemporaryFile(buffering=0) as file:
            super().__init__(os.dup(file.fileno()), "w+b")
        self._most = most

    def write(self, data: ReadableBuffer) -> int:
        size = self.tell() + memoryview(data).nbytes
        if size > self._most:
            raise too_large("Size of the file", size, self._most)
        return super().write(data)


def export(source: Source, kind: str, most: int = 1 << 30) -> tuple[BinaryIO, int]:
    """Makes a file.

    Args:
        most: bytes.

    Returns:
        It, open at its beginning (whoever reads it closes it), and its size.

    Raises:
        ExploreError: there is no such format, or the file would be too large.
        RecordingError: the run is a file that contradicts itself.
    """
    if kind not in KINDS:
        raise ExploreError(404, "Format", kind, f"Allowed are {', '.join(KINDS)}.")
    raw = _Bounded(most)
    file = cast(BinaryIO, io.BufferedRandom(raw))
    try:
        with source.doubted():
            KINDS[kind].write(source, file)
        size = file.seek(0, 2)
        file.seek(0)
    except BaseException:
        raw.close()  # what is still in the buffer is not wanted
        raise
    return file, size


def file_name(source: Source, kind: str) -> str:
    """A name for the file, of letters that every system takes."""
    stem = re.sub(r"\.kvtrace$", "", source.title)
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.") or "run"
    return f"{stem[:80].lower()}{KINDS[kind].ending}"


def read_chunk(file: BinaryIO) -> bytes:
    """The next piece of a file; empty at its end."""
    return file.read(_CHUNK)


def _kvtrace(source: Source, file: BinaryIO) -> None:
    save_window(source.history, file)


def _html(source: Source, file: BinaryIO) -> None:
    file.write(replay_html(source.history, title=source.title).encode("utf-8", "replace"))


def _perfetto(source: Source, file: BinaryIO) -> None:
    with _text(file) as text:
        write_perfetto(source.history, text)


def _csv(source: Source, file: BinaryIO) -> None:
    with _text(file) as text:
        write_csv(*event_table(source.history), text)


def _steps_csv(source: Source, file: BinaryIO) -> None:
    with _text(file) as text:
        write_csv(*step_table(source.history), text)


def _parquet(source: Source, file: BinaryIO) -> None:
    write_parquet(*event_table(source.history), file)


@contextmanager
def _text(file: BinaryIO) -> Iterator[TextIO]:
    """The file for text; it stays open."""
    text = io.TextIOWrapper(file, "utf-8", errors="replace", newline="")
    try:
        yield text
        text.flush()
    finally:
        text.detach()


KINDS: dict[str, Kind] = {
    "kvtrace": Kind(".kvtrace", "application/octet-stream", "Recording (.kvtrace)", _kvtrace),
    "html": Kind(".html", "text/html; charset=utf-8", "Replay, one HTML file for any browser", _html),
    "perfetto": Kind(".perfetto.json", "application/json", "Trace for Perfetto and Chrome (JSON)", _perfetto),
    "csv": Kind(".csv", "text/csv; charset=utf-8", "A row per event as a table (CSV)", _csv),
    "steps": Kind(".steps.csv", "text/csv; charset=utf-8", "A row per step as a table (CSV)", _steps_csv),
    "parquet": Kind(".parquet", "application/vnd.apache.parquet", "A row per event as a table (Parquet)", _parquet),
}
