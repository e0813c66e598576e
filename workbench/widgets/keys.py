"""The small piece of JavaScript in a `Stepper`: its keys, whether the page around it is dark, words that are spoken."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anywidget
import traitlets

_STATIC = Path(__file__).parent / "static"

#: Key to what it does; a letter with Shift goes to the one before.
JUMP_KEYS = {"p": "preemption", "s": "swap", "c": "copy", "e": "eviction", "o": "oom", "f": "finish"}
HELP = (
    ("← →", "one step back or forward, with Shift ten"),
    ("Home, End", "first or last step"),
    ("Space", "play or pause"),
    (
        "P, S, C, E, O, F",
        "next preemption, swap, copy, eviction, shortage of pages, end of a request; with Shift: before",
    ),
    ("?", "these keys, and away with them"),
)


class Keys(anywidget.AnyWidget):
    """Listens to keys pressed within the element of class ``kvw-stepper`` around it.

    Attributes:
        dark: whether the page around it is dark, as the browser sees it.
        said: words for screen readers.
    """

    _esm = _STATIC / "keys.js"
    _css = _STATIC / "keys.css"
    dark = traitlets.Bool(False).tag(sync=True)
    said = traitlets.Unicode("").tag(sync=True)

    def on_key(self, heard: Callable[[str, bool], None]) -> None:
        """Calls ``heard(key, shift)`` for every key of a stepper."""

        def take(widget: Any, content: Any, buffers: Any) -> None:
            if isinstance(content, dict) and isinstance(content.get("key"), str):
                heard(content["key"], bool(content.get("shift")))

        self.on_msg(take)
