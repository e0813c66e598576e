"""A part of a history: for exporters, and as a recording of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO

import msgspec

from workbench.events import types as ev
from workbench.events.history import History
from workbench.events.keyframes import EndedSince, KeyframeClock, encode_archive, encode_lean
from workbench.events.kvtrace import ARCHIVE, BATCH, KEYFRAME, TraceWriter
from workbench.events.page_map import PageMap, encode_page_map
from workbench.events.recording import new_header
from workbench.events.types import AnyEvent, EventBatch, Tier

#: Called with the step that was just written.
Progress = Callable[[int], object]


def steps_of(
    history: History, first: int | None, last: int | None, progress: Progress | None = None
) -> tuple[PageMap, Iterator[EventBatch]]:
    """The state before step ``first`` (None: the snapshot) and the batches of steps ``first`` to ``last``.

    Raises:
        IndexError: a step is not in this history.
        ValueError: ``last`` comes before ``first``.
    """
    if first is not None and last is not None and last < first:
        raise ValueError(f"last={last}: must not be before first={first}")
    before = None if first is None or first == history.first_step else first - 1
    if before is not None:
        history.events(first)  # says that the step is not there, if it is not
    state, batches = history.window(before, last)
    return state, batches if progress is None else _telling(batches, progress)


def _telling(batches: Iterator[EventBatch], progress: Progress) -> Iterator[EventBatch]:
    for batch in batches:
        yield batch
        progress(batch.step)


def save_window(
    history: History,
    target: BinaryIO,
    first: int | None = None,
    last: int | None = None,
    *,
    keyframe_every: int = 64,
    progress: Progress | None = None,
) -> None:
    """Writes steps ``first`` to ``last`` of a history as a .kvtrace file, which equals the history at each of them.

    It begins with the state at ``first``; the events in it are those of the steps after. Without ``first`` and ``last``
    it is all that has happened so far. The header names the libraries of this process.

    Args:
        target: a binary file open for writing; it stays open.

    Raises:
        IndexError: a step is not in this history.
        ValueError: ``last`` comes before ``first``.
        RecordingError: the history is a file that contradicts itself.
        OSError: the file can't take it.
    """
    state, batches = history.window(first, last)
    clock, ended, encoder = KeyframeClock(keyframe_every, state), EndedSince(), msgspec.msgpack.Encoder()
    writer = TraceWriter(target, new_header())
    writer.frame(KEYFRAME, state.step, encode_page_map(state))
    for batch in batches:
        writer.frame(BATCH, batch.step, encoder.encode(batch))
        ended.note(batch)
        for event in batch.events:
            history.apply(state, event)
        if clock.is_due(batch):
            writer.frame(ARCHIVE, batch.step, encode_archive(ended.take(state)))
            writer.frame(KEYFRAME, batch.step, encode_lean(state))
            clock.restart(state)
        if progress is not None:
            progress(batch.step)
    writer.finish()


class HostPages:
    """Counts the pages in the host tier from events, without folding the state. ``used`` is the number now."""

    def __init__(self, state: PageMap) -> None:
        self.used = sum(page.ref_count > 0 for page in state.host_pages)

    def note(self, event: AnyEvent) -> None:
        """Takes an event into account."""
        if isinstance(event, ev.BlocksSwappedOut):
            self.used += len(event.pairs)
        elif isinstance(event, ev.BlocksSwappedIn):
            self.used -= len(event.pairs)
        elif isinstance(event, ev.BlockFreed) and event.tier is Tier.HOST:
            self.used -= 1
