"""Recordings of strangers: what reading a step may take is bounded, and found out before anything is decoded."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

import msgspec

from workbench.events import PageMap, Recording
from workbench.events import types as ev
from workbench.events.keyframes import Archive
from workbench.events.kvtrace import ARCHIVE, KEYFRAME, RecordingError, TraceReader
from workbench.events.kvtrace_weight import weigh
from workbench.events.page_map import encode_page_map
from workbench.events.state_cache import StateCache
from workbench.events.types import AnyEvent, RunStarted
from workbench.events.words import size
from workbench_app.limits import ExploreError, Limits, too_large

#: Up to sixteen states of this size are kept for whoever walks back; larger ones are built anew.
_MARK_BYTES = 24 << 20
#: An event takes at least so many times as much as what is left of it in the state.
_EVENT_TO_STATE = 4


class _States(StateCache):
    """Keeps fewer states if they are large beside their pages."""

    state_bytes = 0

    def wanted_marks(self, start: int, stop: int) -> range:
        return range(0) if self.state_bytes > _MARK_BYTES else super().wanted_marks(start, stop)

    def put(self, position: int, state: PageMap | None, marks: dict[int, PageMap], num_pages: int) -> None:
        super().put(position, state, marks, max(num_pages, self.state_bytes >> 9))


class StrangersRecording(Recording):
    """A recording that is not trusted: its frames are weighed, and its states may not grow without limit.

    Attributes:
        run: its `RunStarted` event, which comes first or is in the snapshot.

    Raises:
        ExploreError: it has no run, or reading one of its steps could take more than ``limits.memory_bytes``, or
            all of them ``limits.decoded_bytes``.
    """

    def __init__(self, reader: TraceReader, limits: Limits) -> None:
        super().__init__(reader)
        self.limits = limits
        self._states: _States = _States()
        self._span_bytes = array("q")  # per keyframe, of the batches after it
        self._forks, self._tokens, self._shares, self._allocations = (array("q") for _ in range(4))
        self._weigh()
        self.run = self._first_run()

    def _weigh(self) -> None:
        most, total, archived, key, step, of_step = self.limits.memory_bytes, 0, 0, 0, -1, 0
        has_archives = any(frame.kind == ARCHIVE for frame in self._reader.frames)
        before = -1
        for frame in self._reader.frames:
            try:
                data = self._reader.read(frame)
            except RecordingError:  # whoever reads it is told
                data = b""
            weight = weigh(data, most)
            total += weight
            if frame.kind == KEYFRAME:
                key = weight
                if has_archives and before != ARCHIVE:  # the requests of one that is not lean are kept, too
                    archived += weight
                for per_keyframe in (self._span_bytes, self._forks, self._tokens, self._shares, self._allocations):
                    per_keyframe.append(0)
            elif frame.kind == ARCHIVE:
                archived += weight
            else:
                of_step = (of_step if step == frame.step else 0) + weight
                step = frame.step
                self._count(data, weight)
            before, span = frame.kind, self._span_bytes[-1]
            # One state is handed out and one is kept; a step's events become words, and those become JSON.
            needed = max(2 * key + archived + span, 3 * of_step)
            if needed > most:
                raise _too_much(f"Memory to read step {frame.step}", most)
            if total > self.limits.decoded_bytes:
                raise _too_much("Memory to read all steps", self.limits.decoded_bytes)

    def _count(self, batch: bytes, weight: int) -> None:
        self._span_bytes[-1] += weight
        self._forks[-1] += batch.count(b"SequenceForked")
        self._tokens[-1] += batch.count(b"TokenGenerated")
        self._shares[-1] += batch.count(b"BlockShared") + batch.count(b"PrefixHit")
        self._allocations[-1] += batch.count(b"BlockAllocated")

    def _first_run(self) -> RunStarted:
        snapshot = super()._decode_keyframe(self._read_keyframe(0), None, 0)
        run = snapshot.run or next((event for event in self.events() if isinstance(event, RunStarted)), None)
        if run is None:
            raise ExploreError(422, "Recording", "empty", "It holds no run: nothing was recorded.")
        length = len(msgspec.msgpack.encode(run))
        if length > self.limits.run_bytes:
            raise too_large("RunStarted, with the engine's configuration", length, self.limits.run_bytes)
        self._check_growth(snapshot, run, 0)
        return run

    def _decode_keyframe(self, data: bytes, archives: list[Archive] | None, index: int) -> PageMap:
        state = super()._decode_keyframe(data, archives, index)
        if state.run not in (None, self.run):
            raise self._reader.error(self._keyframe_frames[index], ValueError("it is of another run"))
        growth = self._check_growth(state, self.run, index)
        self._states.state_bytes = _live_bytes(state) + growth + self._span_bytes[index] // _EVENT_TO_STATE
        return state

    def _check_growth(self, state: PageMap, run: RunStarted, index: int) -> int:
        """How much a state can grow by events that copy a list, or fill one up, until the next keyframe."""
        forks, shares, growth = self._forks[index], self._shares[index], 0
        if forks:
            outputs = (output for request in state.requests.values() for output in request.outputs.values())
            longest = max((len(output.token_ids) + len(output.ends) for output in outputs), default=0)
            growth += 8 * forks * (longest + 2 * self._tokens[index])
        if shares and any(run.group_windows):
            pages = (*state.pages, *state.host_pages)
            longest = max((page.logical_index for page in pages), default=0)
            growth += 8 * shares * (longest + self._allocations[index])
        if growth > (most := self.limits.memory_bytes):
            words = f"{forks} forks and {shares} shared pages after it could take {size(growth)}"
            error = ValueError(f"{words}; at most {size(most)} are allowed")
            raise self._reader.error(self._keyframe_frames[index], error)
        return growth

    def apply(self, state: PageMap, event: AnyEvent) -> None:
        kind = type(event)
        if kind in _CHECKS:
            try:
                _CHECKS[kind](self, state, event)
            except ValueError as error:
                raise RecordingError(f"step {event.step}: event {event.seq}, {kind.__name__}: {error}") from error
        super().apply(state, event)


def _too_much(field: str, most: int) -> ExploreError:
    return ExploreError(413, field, f"more than {size(most)}", f"At most {size(most)} are allowed.")


def _live_bytes(state: PageMap) -> int:
    """What a copy of a state takes, beside its pages and the requests that have ended, which copies share."""
    live = {*state.running, *state.waiting}
    small = PageMap(*(getattr(state, name) for name in PageMap.__struct_fields__))
    small.pages, small.host_pages = [], []
    small.requests = {number: request for number, request in state.requests.items() if number in live}
    return weigh(encode_page_map(small), 1 << 40)


def _check_run(recording: StrangersRecording, state: PageMap, event: RunStarted) -> None:
    if event != recording.run:
        raise ValueError("another run began before")


def _check_gap(recording: StrangersRecording, state: PageMap, event: ev.BlockShared | ev.PrefixHit) -> None:
    """Only behind a sliding window are pages gone that others still have."""
    group = event.group if isinstance(event, ev.BlockShared) else 0
    windows = state.run.group_windows if state.run is not None else []
    if 0 <= group < len(windows) and windows[group] == 0:
        sequence = state.sequences.get(event.sequence)
        known = len(sequence.tables[group].blocks) if sequence is not None and group < len(sequence.tables) else 0
        if event.logical_index > known:
            raise ValueError(f"logical_index={event.logical_index}: sequence {event.sequence} has {known} pages")


def _check_text(recording: StrangersRecording, state: PageMap, event: ev.TokenGenerated) -> None:
    request = state.requests.get(event.request)
    output = request.outputs.get(event.sequence) if request is not None else None
    if output is not None and len(output.text) > recording.limits.text_chars:  # each token copies it
        most = recording.limits.text_chars
        raise ValueError(
            f"text: sequence {event.sequence} has {len(output.text)} characters; at most {most} are allowed"
        )


_CHECKS: dict[type, Callable[[StrangersRecording, PageMap, Any], None]] = {
    RunStarted: _check_run,
    ev.BlockShared: _check_gap,
    ev.PrefixHit: _check_gap,
    ev.TokenGenerated: _check_text,
}
