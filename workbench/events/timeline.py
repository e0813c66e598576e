"""Timeline: the history of a live run, in memory."""

from __future__ import annotations

from collections.abc import Iterator

from workbench.events.bus import EventBus
from workbench.events.history import History
from workbench.events.keyframes import (
    Archive,
    EndedSince,
    KeyframeClock,
    decode_archive,
    encode_archive,
    encode_lean,
    ended_requests,
)
from workbench.events.page_map import PageMap
from workbench.events.types import EventBatch


class Timeline(History):
    """Keeps what a bus delivers from now on, so that a live run can be scrubbed while it goes on.

    Reading is safe from any thread, and holds the engine up for no longer than it takes to copy a list.

    Args:
        max_steps: forget the oldest steps, one keyframe span at a time, so that at least this many are kept.
            None keeps everything.
        keyframe_every: steps between keyframes.
    """

    def __init__(self, bus: EventBus, max_steps: int | None = None, keyframe_every: int = 64) -> None:
        super().__init__()
        if max_steps is not None and (type(max_steps) is not int or max_steps < 1):
            raise ValueError(f"max_steps={max_steps!r}: must be an integer of at least 1, or None")
        self._bus = bus
        self._max_steps = max_steps
        self._every = keyframe_every
        self._batches: list[EventBatch] = []
        self._encoded: list[tuple[int, bytes]] = []  # per keyframe, its step and the lean state
        self._ended: list[Archive] = []  # per keyframe, what ended before it and after the one before
        self._ended_since = EndedSince()
        self._clock = KeyframeClock(keyframe_every, PageMap())
        self._subscription = bus.subscribe(self._on_batch, self._begin)

    def _begin(self, snapshot: PageMap) -> None:
        self._clock = KeyframeClock(self._every, snapshot)
        self._keep(snapshot, ended_requests(snapshot))

    def _keep(self, state: PageMap, ended: Archive) -> None:
        self._keyframes.append(len(self._batches))
        self._encoded.append((state.step, encode_lean(state)))
        self._ended.append(decode_archive(encode_archive(ended)))  # the bus goes on with the originals

    def _on_batch(self, batch: EventBatch) -> None:
        if not batch.events:
            return
        with self._lock:
            self._batches.append(batch)
            self._batch_steps.append(batch.step)
            self._ended_since.note(batch)
            if self._clock.is_due(batch):
                state = self._bus.page_map
                self._keep(state, self._ended_since.take(state))
                self._clock.restart(state)
            if self._max_steps is not None:
                self._forget(self._max_steps)

    def _forget(self, max_steps: int) -> None:
        while len(self._encoded) > 1 and self.last_step - self._encoded[1][0] >= max_steps:
            gone = self._keyframes[1]
            del self._batches[:gone], self._batch_steps[:gone], self._encoded[0], self._keyframes[0]
            self._keyframes = [position - gone for position in self._keyframes]
            self._ended[:2] = [self._ended[0] | self._ended[1]]
            self._states.clear()
            self._generation += 1

    def _iterate(self, start: int, stop: int) -> Iterator[EventBatch]:
        return iter(self._batches[start:stop])  # positions may shift while somebody iterates

    @property
    def first_step(self) -> int:
        with self._lock:
            return self._encoded[0][0]

    def _read_keyframe(self, index: int) -> bytes:
        return self._encoded[index][1]

    def _archives(self, index: int) -> list[Archive] | None:
        return self._ended[: index + 1]

    def _read_batches(self, start: int, stop: int) -> list[EventBatch]:
        return self._batches[start:stop]

    def close(self) -> None:
        """Takes the timeline off the bus; what it holds can still be read."""
        self._subscription.close()

    def __enter__(self) -> Timeline:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
