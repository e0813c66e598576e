"""What visitors of the Explore tab may use, and the errors that say so."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workbench.events.words import size


@dataclass(frozen=True)
class Limits:
    """Bounds of an `workbench_app.explore.ExploreStore`.

    Attributes:
        upload_bytes: largest file that is taken.
        total_bytes: of all uploaded recordings that are open, and of those that are being sent.
        uploads_at_once: files that are being sent.
        upload_seconds: a file must have arrived by then.
        per_visitor: uploads that one visitor has open; the one unused for longest makes room for another.
        sources: uploads in all. If there are as many, one that nobody has used for ``spare_seconds`` makes room.
        pages: largest pool of an uploaded recording, both tiers together.
        steps: most steps of an uploaded recording.
        state_bytes: largest encoded state in an uploaded recording, and of all archives of ended requests together.
        frames: most stored states, archives and batches of events of an uploaded recording.
        memory_bytes: what reading any step of an uploaded recording may take: its state twice, requests that have
            ended, and the events since the stored state before; or its events three times. All by
            `workbench.events.kvtrace_weight.weigh`.
        decoded_bytes: the same for all states and events together, one after the other.
        run_bytes: of the event with which the run in an uploaded recording began, with its configuration.
        text_chars: of one generated text in an uploaded recording.
        idle_seconds: an upload that nobody has used for so long is closed.
        export_bytes: largest file that is made for a visitor to save.
        cache_bytes: of encoded frames and of encoded views that each source keeps.
    """

    upload_bytes: int = 64 << 20
    total_bytes: int = 1 << 30
    uploads_at_once: int = 8
    upload_seconds: float = 300.0
    per_visitor: int = 4
    sources: int = 100
    pages: int = 1 << 18
    steps: int = 500_000
    state_bytes: int = 16 << 20
    frames: int = 550_000
    memory_bytes: int = 384 << 20
    decoded_bytes: int = 1 << 30
    run_bytes: int = 1 << 16
    text_chars: int = 1 << 19
    idle_seconds: float = 900.0
    spare_seconds: float = 60.0
    export_bytes: int = 1 << 30
    cache_bytes: int = 6 << 20


class ExploreError(Exception):
    """A request that can't be answered. The message names the field, its value and what is allowed.

    Attributes:
        status: of the HTTP response.
    """

    def __init__(self, status: int, field: str, value: object, allowed: str) -> None:
        shown = repr(value) if isinstance(value, str) else str(value)
        if len(shown) > 120:
            shown = shown[:117] + "..."
        super().__init__(f"{field}: {shown} is not possible. {allowed}")
        self.status = status
        self.field = field
        self.value = shown
        self.allowed = allowed

    def to_json(self) -> dict[str, Any]:
        """The body of the response."""
        return {"error": str(self), "field": self.field, "value": self.value, "allowed": self.allowed}


def gone(key: str) -> ExploreError:
    """There is no source with this key, or not any more."""
    return ExploreError(
        404, "Recording", key, "It is not open here: perhaps nobody used it for long. Please open it again."
    )


def too_large(field: str, count: int, most: int) -> ExploreError:
    """A file, or what is left of the room for files, is too small for ``count`` bytes."""
    return ExploreError(413, field, size(count), f"At most {size(most)} are allowed.")
