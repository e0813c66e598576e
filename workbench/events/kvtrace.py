"""The .kvtrace file format, version 1: a header, frames with checksums, and an index at the end.

    magic "KVTRACE\\0"  uint32 format version
    frame*              uint8 kind, uint32 step, uint32 length, uint32 crc32, then `length` bytes of msgpack
    trailer             uint64 offset of the index frame, magic "KVTREND\\0"

All numbers are little-endian. The checksum covers kind, step, length and payload. Kinds, in this order:

    H   header: schema version, library versions (no date, no host: the same seed gives the same file but for times)
    K   keyframe: the `PageMap` after all batches before it; the first is the snapshot with which the recording begins
    A   archive, directly before a keyframe: the requests that ended since the keyframe before it. That keyframe is
        lean: requests that have ended are in the archives up to it and in the last keyframe that has none
    B   batch: the events of one flush of the bus (an `EventBatch`)
    I   index: kinds, steps and lengths of all K, A and B frames

Payloads are msgpack maps with typed decoding; nothing in a file can name code. A file without its end (the writer died)
is read by scanning its frames up to the first that is not whole.
"""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO, NamedTuple

import msgspec

from workbench.events.types import SCHEMA_VERSION

MAGIC = b"KVTRACE\0"
TRAILER_MAGIC = b"KVTREND\0"
FORMAT_VERSION = 1
#: No frame is larger; a length field that claims more is damage, and nothing is allocated for it.
MAX_FRAME_BYTES = 1 << 29
#: The header names a few libraries.
MAX_HEADER_BYTES = 1 << 16

_START = struct.Struct("<8sI")
_FRAME = struct.Struct("<BIII")
_TRAILER = struct.Struct("<Q8s")

HEADER, KEYFRAME, ARCHIVE, BATCH, INDEX = b"HKABI"
_CONTENT = (KEYFRAME, ARCHIVE, BATCH)
_NAMES = {HEADER: "header", KEYFRAME: "keyframe", ARCHIVE: "archive", BATCH: "batch", INDEX: "index"}


class RecordingError(ValueError):
    """A recording can't be written, or a file is not a readable recording."""


class Header(msgspec.Struct, forbid_unknown_fields=False):
    """What wrote the file. ``versions``: library name to version."""

    schema_version: int
    versions: dict[str, str] = {}


class _Index(msgspec.Struct):
    kinds: bytes
    steps: list[int]
    lengths: list[int]


class Frame(NamedTuple):
    """Where a frame lies. ``number`` counts from 0, the header; ``offset`` is that of its first byte."""

    number: int
    kind: int
    step: int
    offset: int
    length: int

    def __str__(self) -> str:
        return f"frame {self.number} ({_NAMES.get(self.kind, 'unknown')} of step {self.step}, at byte {self.offset})"

    @property
    def end(self) -> int:
        return self.offset + _FRAME.size + self.length


def _checksum(kind: int, step: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(_FRAME.pack(kind, step, len(payload), 0)))


class TraceWriter:
    """Writes a .kvtrace file to a binary file object, one whole frame per `write` call."""

    def __init__(self, file: BinaryIO, header: Header) -> None:
        self._file = file
        self._index = _Index(b"", [], [])
        self._kinds = bytearray()
        self.bytes_written = 0
        self._write(_START.pack(MAGIC, FORMAT_VERSION))
        self.frame(HEADER, 0, msgspec.msgpack.encode(header))

    def _write(self, data: bytes) -> None:
        written = self._file.write(data)
        if written is not None and written < len(data):  # unbuffered files may do that instead of raising
            raise OSError(f"only {written} of {len(data)} bytes were written")
        self._file.flush()
        self.bytes_written += len(data)

    def frame(self, kind: int, step: int, payload: bytes) -> None:
        """Appends a frame and hands it to the operating system.

        Raises:
            OSError: the file can't take it.
            RecordingError: it is larger than `MAX_FRAME_BYTES`.
        """
        if len(payload) > MAX_FRAME_BYTES:
            raise RecordingError(f"a {_NAMES[kind]} of {len(payload)} bytes: at most {MAX_FRAME_BYTES} are allowed")
        self._write(_FRAME.pack(kind, step, len(payload), _checksum(kind, step, payload)) + payload)
        if kind in _CONTENT:
            self._kinds.append(kind)
            self._index.steps.append(step)
            self._index.lengths.append(len(payload))

    def finish(self) -> None:
        """Writes the index and the trailer; the file itself stays open."""
        offset = self.bytes_written
        self._index.kinds = bytes(self._kinds)
        step = self._index.steps[-1] if self._index.steps else 0
        self.frame(INDEX, step, msgspec.msgpack.encode(self._index))
        self._write(_TRAILER.pack(offset, TRAILER_MAGIC))


class TraceReader:
    """Reads the layout of a .kvtrace file, and its frames on demand.

    Args:
        name: for messages.
        max_frames: a file with more keyframes, archives and batches is refused.

    Attributes:
        header: what wrote it.
        frames: the keyframes, archives and batches that can be read, in order; the first one is a keyframe.
        is_complete: whether the file has its index, so that nothing is missing.
        damage: what is wrong with it, in words; empty if it is complete.

    Raises:
        RecordingError: not a .kvtrace file, of another version, or too damaged to read its first snapshot.
    """

    def __init__(self, file: BinaryIO, name: str, max_frames: int | None = None) -> None:
        self._file = file
        self._name = name
        self._max_frames = max_frames
        self._size = file.seek(0, 2)
        self.damage = ""
        start = self._read_at(0, _START.size)
        if len(start) < _START.size:
            raise RecordingError(f"{name}: {self._size} bytes are too few for a .kvtrace file")
        magic, version = _START.unpack(start)
        if magic != MAGIC:
            raise RecordingError(f"{name}: not a .kvtrace file (it begins with {magic!r})")
        if version != FORMAT_VERSION:
            raise RecordingError(f"{name}: .kvtrace format {version}; this version reads format {FORMAT_VERSION}")
        first = self._frame_at(0, _START.size)
        if isinstance(first, str):
            raise RecordingError(f"{name}: {first}; nothing can be read without the header")
        if first.kind != HEADER:
            raise RecordingError(f"{name}: {first}: expected the header")
        if first.length > MAX_HEADER_BYTES:
            raise RecordingError(f"{name}: {first} has {first.length} bytes; at most {MAX_HEADER_BYTES} are allowed")
        self.header = self._decode_header(first)
        frames = self._frames_by_index(first)
        self.is_complete = frames is not None
        self.frames = frames if frames is not None else self._frames_by_scan(first)
        self._check_order()
        self.read(self.frames[0])

    def _decode_header(self, frame: Frame) -> Header:
        try:
            header = msgspec.msgpack.decode(self.read(frame), type=Header)
        except (msgspec.MsgspecError, ValueError) as error:
            raise RecordingError(f"{self._name}: {frame}: {error}") from error
        if header.schema_version != SCHEMA_VERSION:
            raise RecordingError(
                f"{self._name}: event schema {header.schema_version}; this version reads schema {SCHEMA_VERSION}"
            )
        return header

    # -- layout ----------------------------------------------------------------------------------------------------

    def _read_at(self, offset: int, length: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(length)

    def _frame_at(self, number: int, offset: int) -> Frame | str:
        """The frame whose head is at ``offset``, or what is wrong with the head."""
        head = self._read_at(offset, _FRAME.size)
        if len(head) < _FRAME.size:
            return f"the file ends within the head of frame {number} (byte {offset})"
        kind, step, length, _ = _FRAME.unpack(head)
        frame = Frame(number, kind, step, offset, length)
        if kind not in _NAMES:
            return f"frame {number} (byte {offset}) is of unknown kind {kind}"
        if length > MAX_FRAME_BYTES:
            return f"{frame} claims {length} bytes; at most {MAX_FRAME_BYTES} are allowed"
        if frame.end > self._size:
            return f"the file ends within {frame}"
        return frame

    def _frames_by_index(self, header: Frame) -> list[Frame] | None:
        """All frames as the index lists them, or None if there is no sound index."""
        trailer = self._read_at(max(0, self._size - _TRAILER.size), _TRAILER.size)
        if len(trailer) < _TRAILER.size or trailer[8:] != TRAILER_MAGIC:
            return None
        offset = _TRAILER.unpack(trailer)[0]
        if not header.end <= offset < self._size:
            return None
        frame = self._frame_at(-1, offset)
        if isinstance(frame, str) or frame.kind != INDEX or frame.end + _TRAILER.size != self._size:
            return None
        most = (offset - header.end) // _FRAME.size  # frames that there is room for; each takes 1 + 5 + 5 bytes here
        if frame.length > 11 * most + 64:
            return None
        try:
            index = msgspec.msgpack.decode(self.read(frame), type=_Index)
        except (msgspec.MsgspecError, ValueError):
            return None
        frames: list[Frame] = []
        position = header.end
        if not len(index.kinds) == len(index.steps) == len(index.lengths) <= most:
            return None
        self._check_count(len(index.kinds))
        for kind, step, length in zip(index.kinds, index.steps, index.lengths, strict=True):
            if kind not in _CONTENT or not 0 <= length <= MAX_FRAME_BYTES:
                return None
            frames.append(Frame(len(frames) + 1, kind, step, position, length))
            position = frames[-1].end
        return frames if position == offset else None

    def _frames_by_scan(self, header: Frame) -> list[Frame]:
        """The frames up to the first that is not whole; notes why it stopped there."""
        frames: list[Frame] = []
        offset = header.end
        while True:
            if offset == self._size:
                self.damage = f"the file ends after frame {len(frames)} (byte {offset}), without its index"
                return frames
            frame = self._frame_at(len(frames) + 1, offset)
            if not isinstance(frame, str) and frame.kind in _CONTENT:
                try:
                    self.read(frame)
                except RecordingError as error:
                    frame = str(error).removeprefix(f"{self._name}: ")
            if isinstance(frame, str):
                self.damage = frame
                return frames
            if frame.kind not in _CONTENT:
                self.damage = f"the index at byte {frame.offset} is damaged; all frames before it are whole"
                return frames
            frames.append(frame)
            offset = frame.end
            self._check_count(len(frames))

    def _check_count(self, frames: int) -> None:
        if self._max_frames is not None and frames > self._max_frames:
            raise RecordingError(
                f"{self._name}: it has {frames} frames or more; at most {self._max_frames} are allowed"
            )

    def _check_order(self) -> None:
        if not self.frames:
            raise RecordingError(f"{self._name}: the first snapshot is not whole: {self.damage or 'there is none'}")
        if self.frames[0].kind != KEYFRAME:
            raise RecordingError(f"{self._name}: {self.frames[0]}: expected the first snapshot")
        step = self.frames[0].step
        for frame in self.frames:
            if frame.step < step or (frame.kind != BATCH and frame.step != step):
                raise RecordingError(f"{self._name}: {frame} follows step {step}")
            step = frame.step

    # -- content ---------------------------------------------------------------------------------------------------

    def read(self, frame: Frame) -> bytes:
        """A frame's payload.

        Raises:
            RecordingError: the bytes do not match the checksum, or the file does not match its index.
        """
        head = self._read_at(frame.offset, _FRAME.size)
        payload = self._file.read(frame.length)
        if len(head) < _FRAME.size or len(payload) < frame.length:
            raise RecordingError(f"{self._name}: the file ends within {frame}")
        kind, step, length, crc = _FRAME.unpack(head)
        if (kind, step, length) != (frame.kind, frame.step, frame.length) or crc != _checksum(kind, step, payload):
            raise RecordingError(f"{self._name}: {frame} is damaged: its checksum does not match")
        return payload

    def error(self, frame: Frame, error: Exception) -> RecordingError:
        """For content that passed its checksum but makes no sense."""
        return RecordingError(f"{self._name}: {frame}: {error}")

    def close(self) -> None:
        self._file.close()
