"""Frames on their way to one browser tab: as a whole, or as what has changed since the last one that it was sent."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

from workbench.views.delta import diff


class Updates:
    """What one tab has been sent. Safe to use from several threads.

    A message is ``{"id", "frame"}`` or ``{"id", "base", "patch"}`` (see `workbench.views.delta`). A tab that does not
    have ``base`` asks for a whole frame.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sent: tuple[str, dict[str, Any]] | None = None

    def message(self, latest: Callable[[], tuple[str, dict[str, Any]]], whole: bool = False) -> str:
        """The JSON text of the latest frame.

        Args:
            latest: gives the frame, and a name that no other has. It is called in turn, so that of two threads the
                later one never sends the older frame.
            whole: not as a change.
        """
        with self._lock:
            name, frame = latest()
            sent, self._sent = self._sent, (name, frame)
        if whole or sent is None:
            return encode({"id": name, "frame": frame})
        return encode({"id": name, "base": sent[0], "patch": diff(sent[1], frame)})


def encode(value: Any) -> str:
    """Compact JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
