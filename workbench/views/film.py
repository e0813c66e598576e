"""A film: the frames of a run in compressed chunks, each a whole frame and then what changes from step to step."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from workbench.events import History, PageMap
from workbench.views.delta import diff, patch
from workbench.views.frames import explore_frame

#: Steps in a chunk, unless its text gets longer than this many characters.
CHUNK_STEPS = 64
CHUNK_CHARS = 1_500_000

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Chunk:
    """Neighbouring steps: ``data`` is gzip, in base64, of a JSON list: the first frame, and a patch for each other."""

    first: int
    count: int
    data: str


@dataclass(frozen=True)
class Film:
    """Frames of the steps ``first`` to ``last``; ``is_cut`` if there was no room for all that were asked for."""

    first: int
    last: int
    chunks: list[Chunk]
    is_cut: bool

    @property
    def size(self) -> int:
        """Characters of all chunks."""
        return sum(len(chunk.data) for chunk in self.chunks)


def pack(value: Any) -> str:
    """A JSON value as gzip in base64: letters that can stand in HTML."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
    return base64.b64encode(gzip.compress(text, 9, mtime=0)).decode("ascii")


def unpack(data: str) -> Any:
    """The inverse of `pack`."""
    return json.loads(gzip.decompress(base64.b64decode(data)))


def make_film(
    history: History,
    first: int | None = None,
    last: int | None = None,
    max_chars: int | None = None,
    progress: Progress | None = None,
) -> Film:
    """Films a run from ``first`` to ``last``, both included.

    Args:
        first: None: as far back as the history, and ``max_chars``, allow. Else the film begins there, and where room
            runs out it ends early.
        last: None: the history's last step.
        max_chars: most characters of all chunks together; at least one chunk is made.
        progress: called with the number of steps done, and of all.

    Raises:
        ValueError: ``first`` or ``last`` is not a step of the history, or they are the wrong way round.
        RecordingError: the history is a file that contradicts itself.
    """
    low, high = history.first_step, history.last_step
    begin, end = low if first is None else first, high if last is None else last
    for name, value in (("first", begin), ("last", end)):
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{name}={value!r}: must be a step of the history, from {low} to {high}")
    if begin > end:
        raise ValueError(f"first={begin}: must not be after last={end}")
    chunks: list[Chunk] = []
    room = max_chars
    start, stop = _next_span(begin, end, first is None)
    while start <= stop:
        made = _chunks(history, start, stop)
        size = sum(len(chunk.data) for chunk in made)
        if room is not None and size > room and chunks:
            break
        room = None if room is None else room - size
        if first is None:
            chunks = [*made, *chunks]
            start, stop = _next_span(begin, start - 1, True)
        else:
            chunks += made
            start, stop = _next_span(stop + 1, end, False)
        if progress is not None:
            progress(sum(chunk.count for chunk in chunks), end - begin + 1)
    filmed = (chunks[0].first, chunks[-1].first + chunks[-1].count - 1)
    return Film(*filmed, chunks, filmed != (begin, end))


def _next_span(begin: int, end: int, backwards: bool) -> tuple[int, int]:
    """The steps of the next chunk, of those that are left."""
    if backwards:
        return max(begin, end - CHUNK_STEPS + 1), end
    return begin, min(end, begin + CHUNK_STEPS - 1)


def _chunks(history: History, start: int, stop: int) -> list[Chunk]:
    """One chunk, or several if the frames are large."""
    state = history.state_at(start)
    chunks: list[Chunk] = []
    parts: list[str] = []
    first, size, before = start, 0, None
    for step in range(start, stop + 1):
        frame = _frame(history, state, step, advance=step > start)
        part = _text(frame if before is None else diff(before, frame))
        parts.append(part)
        size, before = size + len(part), frame
        if size > CHUNK_CHARS:
            chunks.append(_chunk(first, parts))
            first, parts, size, before = step + 1, [], 0, None
    if parts:
        chunks.append(_chunk(first, parts))
    return chunks


def _frame(history: History, state: PageMap, step: int, advance: bool) -> dict[str, Any]:
    events = history.events(step)
    if advance:
        for event in events:
            history.apply(state, event)
    frame = explore_frame(state, events)
    frame["step"] = frame["map"]["step"] = step  # a step without events is a step, too
    return frame


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _chunk(first: int, parts: list[str]) -> Chunk:
    text = f"[{','.join(parts)}]".encode("utf-8", "surrogatepass")
    return Chunk(first, len(parts), base64.b64encode(gzip.compress(text, 9, mtime=0)).decode("ascii"))


def read_film(film: Film) -> Iterable[dict[str, Any]]:
    """All frames of a film, in order, as a browser puts them together."""
    for chunk in film.chunks:
        frame: dict[str, Any] = {}
        for position, part in enumerate(unpack(chunk.data)):
            frame = patch(frame, part) if position else part
            yield frame
