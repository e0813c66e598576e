"""What the page says about each of its parts: on hover, on focus, on a tap (``static/help.js``), and under controls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workbench.glossary import find

#: For ``info=`` of the controls on the tab "Compare", by the beginning of their label.
CONTROL_HELP = {
    "Preset": "Requests and settings that make one point visible.",
    "Speed": "How many steps of the engines are shown per second. The numbers measure the engines, not this pace.",
    "Reservation": (
        "How much a request reserves on the right. Max: the longest sequence allowed. Pow2: its prompt, plus its "
        "output length rounded up to a power of two. Oracle: exactly what it will need, which no real server can "
        "know."
    ),
    "Pool size": "KV memory on each side. One slot holds the keys and values of one token.",
    "Block size": "Small pages leave less empty at the end of each sequence; large ones need shorter block tables.",
    "Longest sequence": "Prompt and output together. Reserving by Max takes this many slots for every request.",
    "Output length": "Tokens to write for each prompt whose line sets no number of its own.",
    "Temperature": "0 always takes the most likely token. Both sides draw with the same seeds, so the texts are equal.",
    "Seed": "Decides every random choice. The same seed and settings give the same run.",
    "As fast as possible": "No pauses between steps: the engines run at their own speed.",
}


@dataclass(frozen=True)
class Help:
    """A help text for a part of the page.

    Attributes:
        key: its name; also ``data-help="key"`` on any element attaches it.
        says: the text.
        term: an entry of the glossary to link to.
        select: CSS selector of the elements that it belongs to.
        text: only those whose whole text is this.
        mark: "" puts a dotted line under the element; "after" and "inside" put a button with a "?" behind or into it.
        label: what the "?" is about.
    """

    key: str
    says: str
    term: str = ""
    select: str = ""
    text: str = ""
    mark: str = ""
    label: str = ""

    def to_json(self) -> dict[str, Any]:
        """For ``static/help.js``. Empty fields are left out."""
        fields = {name: value for name, value in vars(self).items() if value}
        return fields | ({"anchor": find(self.term).anchor} if self.term else {})


_STAT = ".kvw-stats dt"
_LEGEND = ".kvw-side .kvw-legend li > span:not(.kvw-swatch)"

PAGE_HELP = (
    # Numbers
    Help(
        "running",
        "Texts that are being written at this step. The more fit into memory at once, the more work one step does.",
        "Continuous batching",
        _STAT,
        "Running now",
    ),
    Help(
        "waiting",
        "Requests that have no memory yet. Below: how often a running request had to give its memory back.",
        "Queue",
        _STAT,
        "Waiting",
    ),
    Help(
        "in-use",
        "Of the slots that requests hold, the share that holds a token. The rest is reserved and empty. The mean "
        "is over all steps so far.",
        "Token states",
        _STAT,
        "Held memory in use",
    ),
    Help(
        "speed",
        "Tokens written, divided by the time this side's engine was busy. Measured on the machine that runs this page.",
        "Step",
        _STAT,
        "Tokens per second",
    ),
    Help("pool", "All KV memory of this side. Both sides have the same number of bytes.", "Pool", ".kvw-pool"),
    # Use of slots
    Help("tokens", "Slots that hold the keys and values of a token.", "Token states", _LEGEND, "Tokens"),
    Help(
        "reserved",
        "Slots that belong to a running request and hold nothing yet. Some will be used, some never: that is known "
        "only when the request has ended.",
        "Reserved slots",
        _LEGEND,
        "Reserved, empty",
    ),
    Help(
        "external",
        "Slots that nobody can get: what the allocator rounded up, and free pieces too small for the next request.",
        "External fragmentation",
        _LEGEND,
        "External fragmentation",
    ),
    Help("free", "Slots that could be given to a request.", "Free page", _LEGEND, "Free"),
    Help(
        "cached",
        "Slots of pages that nobody uses, kept because their content may be wanted again. They can be given away "
        "at any time.",
        "Cached page",
        _LEGEND,
        "Kept for reuse (cached)",
    ),
    # Pictures
    Help(
        "paged-map",
        "The pool in the order of memory. Each cell is a page; the coloured part of it holds tokens, the hatched "
        "part is reserved. The letter is the request, ×3 means that three sequences share the page.",
        "Page map",
        '.kvw-side[data-side="left"] [data-role="title"]',
        mark="after",
        label="the page map of paged memory",
    ),
    Help(
        "contiguous-map",
        "The arena in the order of memory. Each request has one region: coloured where it holds tokens, hatched "
        "where it is reserved and empty, grey and crossed where the allocator rounded up. Dots: free, but too "
        "small for the next.",
        "Contiguous memory",
        '.kvw-side[data-side="right"] [data-role="title"]',
        mark="after",
        label="the map of contiguous memory",
    ),
    Help(
        "history",
        "One point per step. The dotted line is the step that is shown. Where the solid line is higher, paged memory "
        "serves more requests at the same time with the same bytes.",
        "Continuous batching",
        ".kvw-history > h3",
        mark="inside",
        label="requests running at once",
    ),
    Help(
        "texts",
        "Each card shows one text, written by both engines from the same prompt with the same seed. Memory layout "
        "must not change a single token.",
        "Sequence",
        ".kvw-texts > h3",
        mark="inside",
        label="what the model writes",
    ),
    # Transport
    Help(
        "badge",
        "The outputs of both engines, compared token by token as far as both have come.",
        select='[data-role="badge"]',
    ),
    Help(
        "cursor",
        "The step that is shown. Drag the bar, or use the arrow keys: what was is read from the events of the run.",
        "Cursor",
        '[data-role="step-words"]',
    ),
)
