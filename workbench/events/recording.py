"""Recorder and Recording: a run on disk, and the same run read back at any step."""

from __future__ import annotations

import functools
import importlib.metadata
import io
import logging
import os
import platform
import threading
from typing import BinaryIO, cast

import msgspec

from workbench.events.bus import EventBus, Subscription
from workbench.events.history import History
from workbench.events.keyframes import (
    Archive,
    EndedSince,
    KeyframeClock,
    complete,
    decode_archive,
    encode_archive,
    encode_lean,
    ended_requests,
)
from workbench.events.kvtrace import ARCHIVE, BATCH, KEYFRAME, Frame, Header, RecordingError, TraceReader, TraceWriter
from workbench.events.page_map import PageMap, encode_page_map
from workbench.events.snapshots import check_snapshot, decode_snapshot
from workbench.events.types import SCHEMA_VERSION, AnyEvent, EventBatch

log = logging.getLogger(__name__)

_DISTRIBUTIONS = ("kv-workbench", "msgspec", "numpy", "torch", "transformers", "triton")


@functools.cache
def new_header() -> Header:
    """The header of a recording that is made by this process."""
    versions = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return Header(SCHEMA_VERSION, versions)


class Recorder:
    """Writes what a bus delivers to a .kvtrace file, as a context manager.

        with Recorder(llm.bus, "run.kvtrace"):
            llm.generate(...)

    It begins with a snapshot, so it may join a run at any time. Every batch is handed to the operating system at once
    (on a GPU: during the next step, see `EventBus.subscribe`), straight into the named file: whatever ends the process,
    what is there can be opened. If the file can't be written (the disk is full), the engine goes on undisturbed, the
    rest of the run is not recorded, and `close` says so.

    Args:
        target: a path, which is overwritten, or a binary file open for writing, which stays open.
        keyframe_every: steps between the stored states from which reading starts; see `KeyframeClock`.

    Attributes:
        error: what stopped the recording, or None.
        last_step: the last step that was written whole.
        bytes_written: size of the file so far.
    """

    def __init__(self, bus: EventBus, target: str | os.PathLike[str] | BinaryIO, keyframe_every: int = 64) -> None:
        KeyframeClock(keyframe_every, PageMap())  # refuses a bad value now, not in the middle of a run
        self._bus = bus
        self._target = target
        self._every = keyframe_every
        self._encoder = msgspec.msgpack.Encoder()
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None
        self._writer: TraceWriter | None = None
        self._subscription: Subscription | None = None
        self._clock: KeyframeClock
        self._ended_since = EndedSince()
        self._closed = False
        self.error: BaseException | None = None
        self.last_step = 0

    @property
    def name(self) -> str:
        """The file's name, for messages."""
        if isinstance(self._target, str | os.PathLike):
            return os.fspath(self._target)
        return str(getattr(self._target, "name", "recording"))

    @property
    def bytes_written(self) -> int:
        return self._writer.bytes_written if self._writer is not None else 0

    def start(self) -> Recorder:
        """Opens the file, writes the snapshot, and records from here on.

        Raises:
            OSError: the file can't be made or written.
            RuntimeError: it has been started before.
        """
        if self._subscription is not None:
            raise RuntimeError("this Recorder was started before; make a new one")
        if isinstance(self._target, str | os.PathLike):
            self._file = open(self._target, "wb")  # noqa: SIM115
        try:
            self._writer = TraceWriter(self._file or self._target, new_header())  # type: ignore[arg-type]
            self._subscription = self._bus.subscribe(self._on_batch, self._on_snapshot, deferred=True)
        except BaseException:
            if self._file is not None:
                self._file.close()
            raise
        return self

    def _on_snapshot(self, snapshot: PageMap) -> None:
        assert self._writer is not None
        self._writer.frame(KEYFRAME, snapshot.step, encode_page_map(snapshot))
        self._clock = KeyframeClock(self._every, snapshot)
        self.last_step = snapshot.step

    def _on_batch(self, batch: EventBatch) -> None:
        with self._lock:
            if self._writer is None or self._closed or self.error is not None or not batch.events:
                return
            try:
                self._writer.frame(BATCH, batch.step, self._encoder.encode(batch))
                self.last_step = batch.step
                self._ended_since.note(batch)
                due = self._clock.is_due(batch)
                state = self._bus.page_map if due else None
                # When this is closed from another thread, the engine may be a step further on.
                if state is not None and state.step == batch.step:
                    ended = self._ended_since.take(state)
                    self._writer.frame(ARCHIVE, batch.step, encode_archive(ended))
                    self._writer.frame(KEYFRAME, batch.step, encode_lean(state))
                    self._clock.restart(state)
            except BaseException as error:  # also an interrupt: the file may end in half a frame now
                self.error = error
                log.error("%s: recording stopped after step %d: %s", self.name, self.last_step, error)
                if not isinstance(error, Exception):
                    raise

    def close(self) -> None:
        """Writes the index and lets go of the file and the bus. Calling it again does nothing.

        Raises:
            RecordingError: the run was not recorded to its end; says why, and up to which step it was.
        """
        if self._subscription is None or self._writer is None or self._closed:
            return
        self._subscription.close()
        with self._lock:
            self._closed = True
            try:
                if self.error is None:
                    self._writer.finish()
            except Exception as error:
                self.error = error
            try:
                if self._file is not None:
                    self._file.close()
            except OSError as error:
                self.error = self.error or error
        if self.error is not None:
            why = str(self.error) or type(self.error).__name__
            raise RecordingError(
                f"{self.name}: the recording is not complete: {why}; it can be opened up to step {self.last_step}"
            ) from self.error

    def __enter__(self) -> Recorder:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except RecordingError as error:
            if kind is None:
                raise
            log.error("%s", error)  # the exception on its way out matters more


class Recording(History):
    """A .kvtrace file, readable at any step (see `History` for reading). Make one with `Recording.open`.

    Opening a stranger's file is safe: sizes are bounded, decoding is typed, and whatever is wrong with it is a
    `RecordingError`. A file that has lost its end or its index opens up to the first frame that is not whole. With a
    sound index a damaged frame only costs the steps that need it: reading those raises an error that names it, while
    whatever can be read from a later keyframe is.

    Attributes:
        header: schema and library versions of the program that wrote it.
        is_complete: False if the file has lost its end or its index.
        damage: why it is not complete, in words; empty if it is.
    """

    def __init__(self, reader: TraceReader) -> None:
        super().__init__()
        self._reader = reader
        self.header = reader.header
        self.is_complete = reader.is_complete
        self.damage = reader.damage
        self._decoder = msgspec.msgpack.Decoder(EventBatch)
        self._batch_frames: list[Frame] = []
        self._keyframe_frames: list[Frame] = []
        self._archive_frames: list[Frame | None] = []  # per keyframe; None: it is not lean
        self._ended: list[Archive] = []  # per keyframe, as far as they were needed
        self._last_full: list[int] = []  # per keyframe, the last one up to it that is not lean
        before: Frame | None = None
        for frame in reader.frames:
            if frame.kind == KEYFRAME:
                archive = before if before is not None and before.kind == ARCHIVE else None
                number = len(self._keyframe_frames)
                self._last_full.append(number if archive is None else self._last_full[-1])
                self._keyframe_frames.append(frame)
                self._archive_frames.append(archive)
                self._keyframes.append(len(self._batch_frames))
            elif frame.kind == BATCH:
                self._batch_frames.append(frame)
            before = frame
        self._batch_steps = [frame.step for frame in self._batch_frames]

    @classmethod
    def open(cls, source: str | os.PathLike[str] | bytes | bytearray | memoryview) -> Recording:
        """Opens a file by its path, or the bytes of one.

        Raises:
            OSError: there is no such file, or it can't be read.
            RecordingError: it is not a recording, or too damaged for even the first snapshot.
        """
        if isinstance(source, str | os.PathLike):
            name, file = os.fspath(source), cast(BinaryIO, open(source, "rb"))  # noqa: SIM115
        else:
            name, file = "recording", cast(BinaryIO, io.BytesIO(source))
        try:
            recording = cls(TraceReader(file, name))
            recording.initial  # noqa: B018 - a file whose snapshot makes no sense is refused here, not later
            recording._read_archives()
        except BaseException:
            file.close()
            raise
        return recording

    @property
    def first_step(self) -> int:
        return self._keyframe_frames[0].step

    def _read_keyframe(self, index: int) -> bytes:
        return self._reader.read(self._keyframe_frames[index])

    def _read_archives(self) -> None:
        """Reads all archives now, so that no later read is slowed down by it."""
        try:
            with self._lock:
                self._archives(len(self._keyframe_frames) - 1)
        except RecordingError:  # whoever reads what needs it is told
            pass

    def _archives(self, index: int) -> list[Archive] | None:
        if self._archive_frames[index] is None:
            return None
        while len(self._ended) <= index:
            self._ended.append(self._ended_before(len(self._ended)))
        return self._ended[self._last_full[index] : index + 1]

    def _ended_before(self, index: int) -> Archive:
        """What ended between the keyframe before and this one; of one that is not lean: all that it has."""
        frame = self._archive_frames[index]
        if frame is None:
            return ended_requests(self._decode_keyframe(self._read_keyframe(index), None, index))
        try:
            return self._decode_archive(frame)
        except RecordingError as error:
            try:  # the archive says nothing that the batches do not
                return self._fold_archive(index)
            except RecordingError:
                raise error from None

    def _decode_archive(self, frame: Frame) -> Archive:
        data = self._reader.read(frame)
        try:
            return decode_archive(data)
        except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
            raise self._reader.error(frame, error) from error

    def _fold_archive(self, index: int) -> Archive:
        data, archives = self._read_keyframe(index - 1), self._archives(index - 1)
        state = self._decode_keyframe(data, archives, index - 1)
        ended = EndedSince()
        for batch in self._read_batches(self._keyframes[index - 1], self._keyframes[index]):
            ended.note(batch)
            for event in batch.events:
                self.apply(state, event)
        return ended.take(state)

    def _decode_keyframe(self, data: bytes, archives: list[Archive] | None, index: int) -> PageMap:
        frame = self._keyframe_frames[index]
        try:
            state = decode_snapshot(data)
            if archives is not None:
                complete(state, archives)
            check_snapshot(state, frame.step)
        except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
            raise self._reader.error(frame, error) from error
        return state

    def _read_batches(self, start: int, stop: int) -> list[EventBatch]:
        batches = []
        for frame in self._batch_frames[start:stop]:
            data = self._reader.read(frame)
            try:
                batch = self._decoder.decode(data)
            except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError) as error:
                raise self._reader.error(frame, error) from error
            if batch.step != frame.step or any(event.step != frame.step for event in batch.events):
                raise self._reader.error(frame, ValueError("the events in it are of another step"))
            batches.append(batch)
        return batches

    def apply(self, state: PageMap, event: AnyEvent) -> None:
        try:
            super().apply(state, event)
        except ValueError as error:
            raise RecordingError(f"step {event.step}: the recorded events contradict each other: {error}") from error

    def close(self) -> None:
        """Closes the file; nothing can be read any more."""
        self._reader.close()

    def __enter__(self) -> Recording:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
