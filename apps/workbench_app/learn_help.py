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
    "Each prompt asks for": "One text, several texts drawn at random (samples), or a search for the most likely text.",
    "How many samples or beams": "Per prompt. Paged memory stores what they have in common once.",
    "Prefix caching": "Keeps full pages that nobody uses any more, for requests that begin with the same text.",
    "Host tier": "Room in a second, slower pool, to which paged memory can move the pages of a request that gives way.",
    "When memory runs out": (
        "What becomes of the pages of a request that gives way: dropped and computed again later, or moved to the host "
        "tier and back. Adaptive does what is expected to take less time."
    ),
    "Third lane": "Runs the same requests in padded batches on transformers' own cache, which grows by concatenation.",
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
_LEGEND = ".kvw-legend li > span:not(.kvw-swatch)"

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
    Help("held", "Bytes of the cache's tensors now, measured.", "KV cache", _STAT, "Held memory"),
    Help(
        "pool", "All KV memory of this side. Both sides have the same number of bytes.", "Pool", ".kvw-side .kvw-pool"
    ),
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
    Help(
        "needed",
        "Keys and values of the rows that still write.",
        "Token states",
        _LEGEND,
        "Tokens still needed",
    ),
    Help(
        "padding",
        "Positions before a prompt that is shorter than the longest one of its batch. They hold nothing of use.",
        "Waste",
        _LEGEND,
        "Padding",
    ),
    Help(
        "ended",
        "Rows whose text has ended stay in the batch, and grow with it, until all its rows have ended.",
        "Waste",
        _LEGEND,
        "Rows that have ended",
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
    # Buttons: without a mark, after a moment
    Help("run", "Starts both engines on the requests, or goes on after a pause.", "Step", "#kvw-run"),
    Help("pause", "Stops both engines after the step in which they are.", select="#kvw-pause"),
    Help("back", "Shows the step before. The engines stay where they are.", "Cursor", "#kvw-back"),
    Help("step", "Shows the next step; at the newest one, both engines compute one more.", "Step", "#kvw-step"),
    Help("reset", "Ends the run and begins anew with the settings as they are.", select="#kvw-reset"),
    Help("share", "Lets others watch this run on their own screens, at the step that you show.", select="#kvw-share"),
    Help(
        "jump",
        "Goes to the step before or after this one in which such a thing happened, on either side.",
        "Event",
        '[data-role="jumps"] button',
    ),
    Help(
        "mode",
        "What the colours of the pages mean: whose they are, how many use them, how full they are, when or why they "
        "were taken, moved or given back last.",
        "Page map",
        '[data-role="stage"] [data-role="mode"]',
    ),
    Help(
        "copy-link",
        "Copies an address that shows exactly this: preset or prompts, settings, seed and step.",
        select='[data-role="copy-link"]',
    ),
    # The tab "Explore"
    Help(
        "viewer-map",
        "Every page of the pool at this step. Select one, by mouse or with the arrow keys, and the panels beside "
        "follow.",
        "Page map",
        ".kvw-panel-map > h3",
        mark="inside",
        label="pages",
    ),
    Help(
        "viewer-page",
        "The selected page: who uses it, what is in it, and everything that ever happened to it, with causes.",
        "Event",
        ".kvw-panel-page > h3",
        mark="inside",
        label="selected page",
    ),
    Help(
        "viewer-sequence",
        "Which physical page holds which part of the sequence, and the tokens in it.",
        "Block table",
        ".kvw-panel-sequence > h3",
        mark="inside",
        label="block table",
    ),
    Help(
        "viewer-events",
        "What the engine did in this step, in order. Each entry leads to the page or request that it is about.",
        "Event",
        ".kvw-panel-events > h3",
        mark="inside",
        label="what happened in this step",
    ),
    Help(
        "viewer-charts",
        "The run as a whole. The line marks the step that is shown.",
        "Cursor",
        ".kvw-panel-charts > h3",
        mark="inside",
        label="the whole run",
    ),
    Help(
        "viewer-requests",
        "Every request of the run so far, in the order of their arrival: what it does now, how many of its tokens are "
        "there, and how many pages it holds. Select one to see its pages and its block table.",
        "Request",
        ".kvw-panel-requests > h3",
        mark="inside",
        label="requests",
    ),
    Help(
        "viewer-format",
        "As what Save keeps it: the whole run as a file for this page, for other programs or for any browser, or a "
        "picture of just what is seen.",
        select='#kvw-explore [data-role="format"]',
    ),
    Help(
        "viewer-save",
        "Makes the file that is chosen on the left, and saves it on your computer.",
        select='#kvw-explore [data-role="save"]',
    ),
    Help(
        "viewer-link",
        "Copies an address that shows exactly this: run, step, selection and colours.",
        select='#kvw-explore [data-role="link"]',
    ),
    Help(
        "viewer-close", "Leaves this run and shows the list of recordings.", select='#kvw-explore [data-role="close"]'
    ),
    Help(
        "viewer-speed",
        "How fast Play goes: at 1× four steps a second.",
        "Step",
        '.kvw-viewer select[data-role="speed"]',
    ),
    Help(
        "viewer-step",
        "The step that is shown. Type a number and press Enter to go there.",
        "Step",
        '.kvw-viewer input[data-role="step"]',
    ),
    Help(
        "viewer-color",
        "What the colours of the pages mean. What each colour stands for is below the map.",
        "Page map",
        '.kvw-viewer select[data-role="color"]',
    ),
    Help(
        "viewer-order",
        "Writes 1, 2, 3, … into the pages that will be given away next: free pages as the free list hands them out, "
        "or cached ones as they lose their content when no page is free.",
        "Eviction",
        '.kvw-viewer select[data-role="order"]',
    ),
    Help(
        "viewer-sequences",
        "Whose block table is shown. A request with samples or beams has a sequence for each.",
        "Sequence",
        '.kvw-viewer select[data-role="sequence"]',
    ),
    Help(
        "viewer-filter",
        "Which of the step's events are listed. “What is selected” means the page or request that you chose.",
        "Event",
        '.kvw-viewer select[data-role="event-filter"]',
    ),
    Help(
        "chart-timeline",
        "Requests, pages, waste, traffic and speed, step by step. Click to go to a step.",
        "Step",
        '.kvw-viewer [data-chart="timeline"]',
    ),
    Help(
        "chart-flow",
        "How many pages are in each state, step by step, and how many went from one to another so far.",
        "Page",
        '.kvw-viewer [data-chart="flow"]',
    ),
    Help(
        "chart-page-life",
        "Who had the selected page when, and how full it was.",
        "Page",
        '.kvw-viewer [data-chart="page_life"]',
    ),
    Help(
        "chart-request-life",
        "The selected request from its arrival to its end: waiting, running, preempted, and the pages it held.",
        "Request",
        '.kvw-viewer [data-chart="request_life"]',
    ),
    Help(
        "chart-sharing",
        "Which pages the sequences have in common at this step, and where they part.",
        "Shared page",
        '.kvw-viewer [data-chart="sharing_tree"]',
    ),
    Help(
        "chart-table",
        "Shows the numbers of the chart as a table, below it.",
        select='.kvw-viewer [data-role="chart-table"]',
    ),
)
