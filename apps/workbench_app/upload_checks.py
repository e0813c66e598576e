"""Checks of recordings that visitors send: none is believed."""

from __future__ import annotations

from typing import BinaryIO

from workbench.events import Recording
from workbench.events.kvtrace import ARCHIVE, KEYFRAME, RecordingError, TraceReader
from workbench.events.types import RunStarted
from workbench_app.limits import ExploreError, Limits, too_large

_NAME_CHARS = 120


def clean_name(name: str) -> str:
    """A file's name as it is shown: without folders and control characters. It is never used to find a file."""
    name = name.replace("\\", "/").rsplit("/", 1)[-1]
    name = "".join(char for char in name if char.isprintable()).strip()
    return name[:_NAME_CHARS] or "recording"


def open_recording(file: BinaryIO, name: str, limits: Limits) -> Recording:
    """Opens a visitor's file.

    Raises:
        ExploreError: it is no recording, or its states are too large.
    """
    try:
        reader = TraceReader(file, name)
        largest = max((frame.length for frame in reader.frames if frame.kind == KEYFRAME), default=0)
        archived = sum(frame.length for frame in reader.frames if frame.kind == ARCHIVE)
        if max(largest, archived) > limits.state_bytes:
            raise too_large("State in the recording", max(largest, archived), limits.state_bytes)
        recording = Recording(reader)
        recording.initial  # noqa: B018 - a snapshot that makes no sense is refused here, not later
    except RecordingError as error:
        raise ExploreError(422, "Recording", name, f"{_sentence(error, name)} Allowed are .kvtrace files.") from error
    return recording


def _sentence(error: RecordingError, name: str) -> str:
    text = str(error).removeprefix(f"{name}: ")
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def check_size(recording: Recording, limits: Limits) -> None:
    """Refuses a run that would cost more to look at than it may, before its pools are made."""
    if recording.num_steps > limits.steps:
        raise ExploreError(413, "Steps", f"{recording.num_steps:,}", f"At most {limits.steps:,} are allowed.")
    run = recording.initial.run
    try:
        if run is None:
            run = next((event for event in recording.events() if isinstance(event, RunStarted)), None)
    except RecordingError as error:
        raise ExploreError(422, "Recording", "damaged", f"{error}.") from error
    if run is None:
        raise ExploreError(422, "Recording", "empty", "It holds no run: nothing was recorded.")
    pages = run.num_blocks + run.num_host_blocks
    if pages > limits.pages:
        raise ExploreError(413, "Pages", f"{pages:,}", f"At most {limits.pages:,} are allowed here.")
