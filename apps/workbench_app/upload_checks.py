"""Checks of recordings that visitors send: none is believed."""

from __future__ import annotations

from typing import BinaryIO

from workbench.events.kvtrace import ARCHIVE, KEYFRAME, RecordingError, TraceReader
from workbench_app.limits import ExploreError, Limits, too_large
from workbench_app.strangers import StrangersRecording

_NAME_CHARS = 120


def clean_name(name: str) -> str:
    """A file's name as it is shown: without folders and control characters. It is never used to find a file."""
    name = name.replace("\\", "/").rsplit("/", 1)[-1]
    name = "".join(char for char in name if char.isprintable()).strip()
    return name[:_NAME_CHARS] or "recording"


def open_recording(file: BinaryIO, name: str, limits: Limits) -> StrangersRecording:
    """Opens a visitor's file.

    Raises:
        ExploreError: it is no recording, or it would cost more to look at than it may.
    """
    try:
        reader = TraceReader(file, name, limits.frames)
        largest = max((frame.length for frame in reader.frames if frame.kind == KEYFRAME), default=0)
        archived = sum(frame.length for frame in reader.frames if frame.kind == ARCHIVE)
        if max(largest, archived) > limits.state_bytes:
            raise too_large("State in the recording", max(largest, archived), limits.state_bytes)
        steps = reader.frames[-1].step - reader.frames[0].step
        if steps > limits.steps:
            raise ExploreError(413, "Steps", f"{steps:,}", f"At most {limits.steps:,} are allowed.")
        recording = StrangersRecording(reader, limits)
        pages = recording.run.num_blocks + recording.run.num_host_blocks
        if pages > limits.pages:  # before its pools are made
            raise ExploreError(413, "Pages", f"{pages:,}", f"At most {limits.pages:,} are allowed here.")
    except RecordingError as error:
        raise ExploreError(422, "Recording", name, f"{_sentence(error, name)} Allowed are .kvtrace files.") from error
    return recording


def _sentence(error: RecordingError, name: str) -> str:
    text = str(error).removeprefix(f"{name}: ")
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
