"""The guided tours as data. ``static/tour.js`` says what targets and conditions mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Condition = dict[str, Any]


@dataclass(frozen=True)
class Step:
    """One step of a tour.

    Attributes:
        title: a few words.
        text: what to look at, in one to three sentences.
        tab: the tab that it is on.
        target: what to put the ring around: a CSS selector, or ``label:``, ``button:``, ``tab:`` and the beginning of a
            text.
        task: what the visitor is to do; empty where there is only something to read.
        done: how the page can tell that it was done; None where there is only something to read.
        reveal: what to press if the target is folded away.
    """

    title: str
    text: str
    tab: str
    target: str
    task: str = ""
    done: Condition | None = None
    reveal: str = ""

    def to_json(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name == "done" or value or name == "task"}


@dataclass(frozen=True)
class Tour:
    """A tour.

    Attributes:
        id: its name in links and in the browser's memory.
        title: as on the button.
        about: one sentence for the list of tours.
        steps: in order.
    """

    id: str
    title: str
    about: str
    steps: tuple[Step, ...]

    def to_json(self) -> dict[str, Any]:
        return {"id": self.id, "title": self.title, "steps": [step.to_json() for step in self.steps]}


def frame(path: str, relation: str, value: object = None) -> Condition:
    """A condition on the frame that is shown: ``eq``, ``min`` (with a value), ``more``, ``less``, ``changed``."""
    return {"frame": path, "is": relation, "value": value}


def viewer(field: str, relation: str, value: object = None) -> Condition:
    """A condition on what the tab "Explore" shows: its ``step``, ``page``, ``request``, ``sequence`` or ``color``."""
    return {"viewer": field, "is": relation, "value": value}


_LEFT, _RIGHT = '[data-side="left"]', '[data-side="right"]'
_SETTINGS = "#kvw-settings button.label-wrap"
_PAUSED: Condition = {"all": [frame("running", "eq", False), frame("step", "min", 1)]}
_STEPPED_BACK = frame("step", "less")

PAGES = Tour(
    "pages",
    "Five minutes: pages against reservations",
    "Run the same requests on both kinds of memory and see where the memory goes.",
    (
        Step(
            "Two memories, the same work",
            "Both sides run the same language model on the same requests, with the same number of bytes for the KV "
            "cache. Left, memory is handed out in pages. Right, every request reserves one region when it starts.",
            "Compare",
            "#kvw-stage .kvw-sides",
        ),
        Step(
            "Let it run",
            "25 requests arrive at once, more than fit into memory.",
            "Compare",
            "#kvw-run",
            "Press Run and wait for a few steps.",
            frame("step", "min", 8),
        ),
        Step(
            "Hold it",
            "The run can be stopped at any step. Nothing is lost: every step can be shown again.",
            "Compare",
            "#kvw-pause",
            "Press Pause, or the space bar.",
            _PAUSED,
        ),
        Step(
            "A page",
            "Each cell on the left is a page with room for a few tokens. Its letter says whose it is, and the "
            "coloured part holds tokens. The pages of one request may lie anywhere.",
            "Compare",
            f"{_LEFT} .kvw-map",
            "Point at a page, or tap it, to read what it holds.",
            {"hover": f"{_LEFT} .kvw-map"},
        ),
        Step(
            "A region",
            "On the right a request keeps a whole region from its first step on. The hatched part is reserved and "
            "empty: nobody knows how long the text gets, so there must be room for the longest.",
            "Compare",
            f"{_RIGHT} .kvw-map",
            "Point at a hatched part and read how much of the region is in use.",
            {"hover": f"{_RIGHT} .kvw-map"},
        ),
        Step(
            "Who is ahead",
            "Compare “Running now” and “Held memory in use” on both sides. The bytes are equal; on the left more "
            "of them hold tokens, so more requests run at once.",
            "Compare",
            f"{_LEFT} .kvw-stats",
        ),
        Step(
            "Guess the length better",
            "Oracle reserves exactly what each request will need, which no server can know. Even so, slots wait "
            "empty until their token comes.",
            "Compare",
            "label:Reservation",
            "Choose Oracle.",
            {"input": "label:Reservation"},
            _SETTINGS,
        ),
        Step(
            "Smaller pages",
            "At most the last page of a sequence is partly empty. The smaller the page, the less there is to waste.",
            "Compare",
            "label:Block size",
            "Choose another block size.",
            {"input": "label:Block size"},
            _SETTINGS,
        ),
        Step(
            "Once more",
            "New settings begin a new run. The prompts and the seeds stay the same.",
            "Compare",
            "#kvw-run",
            "Press Run.",
            {"all": [frame("run", "changed"), frame("step", "min", 3)]},
        ),
        Step(
            "The same text",
            "Whatever the memory looks like, the texts are equal: this badge compares them token by token while "
            "they are being written.",
            "Compare",
            '[data-role="badge"]',
        ),
    ),
)

BACK_IN_TIME = Tour(
    "back",
    "Back in time",
    "Stop a run, go back, scrub, and look into a recording.",
    (
        Step(
            "Something to look back at",
            "Every change of memory is an event. What you see at a step is computed from the events up to it.",
            "Compare",
            "#kvw-run",
            "Press Run and wait for twelve steps.",
            frame("step", "min", 12),
        ),
        Step(
            "Stop",
            "The space bar runs and pauses, unless you are typing.",
            "Compare",
            "#kvw-pause",
            "Press Pause, or the space bar.",
            _PAUSED,
        ),
        Step(
            "One step back",
            "The engines stay where they are; the page shows the step before.",
            "Compare",
            "#kvw-back",
            "Press “Step back”.",
            _STEPPED_BACK,
        ),
        Step(
            "With the keyboard",
            "The arrow keys do the same. Hold one down to walk through the run.",
            "Compare",
            '[data-role="step-words"]',
            "Press ← once more.",
            {"any": [{"key": ["ArrowLeft"]}, _STEPPED_BACK]},
        ),
        Step(
            "Any step",
            "All views follow this bar: maps, numbers, texts, and the dotted line in the chart.",
            "Compare",
            '[data-role="scrub"]',
            "Drag the bar, or press an arrow key while it has the focus.",
            {"input": '[data-role="scrub"]'},
        ),
        Step(
            "Recordings",
            "A recording holds the events of a whole run. Explore opens one from the gallery, or a file of your own.",
            "Explore",
            "tab:Explore",
            "Open the tab Explore.",
            {"tab": "Explore"},
        ),
        Step(
            "Choose one",
            "Each recording of the gallery shows one thing. In this one memory runs out, and requests have to give "
            "way.",
            "Explore",
            '[data-card="preemption-swap"]',
            "Open “Preemption by swapping”.",
            {"shown": '.kvw-viewer [data-jump="preemption"]'},
            ".kvw-open:not([open]) > summary",
        ),
        Step(
            "Where memory ran out",
            "The marks under the bar are steps in which something happened. These buttons go from one to the next, "
            "and so do the letters p, s, c, e, o and f.",
            "Explore",
            '[data-jump="preemption"][data-direction="1"]',
            "Go to the next preemption.",
            viewer("step", "changed"),
        ),
        Step(
            "One page",
            "Pages to which something happened in this step have a marked corner.",
            "Explore",
            '.kvw-panel-map [data-role="map"]',
            "Select a page of the map.",
            viewer("page", "changed"),
        ),
        Step(
            "Its row in the block table",
            "The block table says which physical page holds which part of the text. The row of your page is "
            "marked, and its tokens stand beside it.",
            "Explore",
            ".kvw-panel-sequence",
        ),
        Step(
            "Its life",
            "Everything that ever happened to this page, with the causes. Every number of a step leads there.",
            "Explore",
            ".kvw-panel-page",
        ),
    ),
)

SHARING = Tour(
    "sharing",
    "Sharing and swapping",
    "Four texts share one prompt's pages; then memory runs out, and pages move to the host and back.",
    (
        Step(
            "One prompt, four texts",
            "This preset asks for four continuations of one long prompt.",
            "Compare",
            "#kvw-preset",
            "Choose “Four samples of one prompt”.",
            {"chosen": "Four samples of one prompt", "within": "#kvw-preset"},
        ),
        Step(
            "The prompt is computed",
            "Prefill computes many tokens of the prompt in one step, and its pages fill up.",
            "Compare",
            "#kvw-buttons",
            "Press Reset, then “Step →” until step 4.",
            {"all": [frame("requests.length", "eq", 4), frame("step", "min", 4)]},
        ),
        Step(
            "Stored once, used four times",
            "×4 on a page: four sequences read it. It is stored and drawn once.",
            "Compare",
            f"{_LEFT} .kvw-map",
            "Point at a page with ×4.",
            {"hover": f"{_LEFT} .kvw-map"},
        ),
        Step(
            "What it saves",
            "On the left, so many pages are saved. The right can't share: it refuses the request, and four "
            "separate requests each store a copy of the prompt.",
            "Compare",
            f"{_LEFT} .kvw-extra",
        ),
        Step(
            "Where they part",
            "Each text goes on in its own way. Who has to write to a page that others use gets a copy of it first: "
            "copy-on-write. Full pages of the prompt stay shared to the end.",
            "Compare",
            "#kvw-run",
            "Press Run and watch the pages with a single letter grow.",
            frame("step", "min", 20),
        ),
        Step(
            "More than fits",
            "Paged memory lets in more requests than can grow to their end. With a host tier, those that give way "
            "can wait there.",
            "Compare",
            "#kvw-preset",
            "Choose “When memory runs out: swapping”.",
            {"chosen": "When memory runs out: swapping", "within": "#kvw-preset"},
        ),
        Step(
            "Until memory runs out",
            "Requests grow by a slot a step, until no page is free. Then the one that came last has to give way.",
            "Compare",
            "#kvw-buttons",
            "Press Reset, then Run, and wait for the first swap.",
            {"all": [frame("requests.length", "min", 10), frame("jumps.swap.length", "min", 1)]},
        ),
        Step(
            "The host tier",
            "The second map on the left is the host tier. The pages of a swapped request wait there, and come back "
            "when there is room. No token is computed twice.",
            "Compare",
            f'{_LEFT} [data-role="host"]',
        ),
        Step(
            "Out and back",
            "These buttons, or the key s, go to the steps in which pages were moved.",
            "Compare",
            '[data-role="jumps"]',
            "Jump to a swap.",
            {"any": [{"click": '[data-role="jumps"]'}, {"key": ["s", "S"]}]},
        ),
    ),
)

LAB = Tour(
    "lab",
    "An experiment of your own",
    "Vary one thing, run the same requests again and again, and compare.",
    (
        Step(
            "The lab",
            "Compare shows one run. The Lab runs the same requests several times and varies one thing.",
            "Lab",
            "tab:Lab",
            "Open the tab Lab.",
            {"tab": "Lab"},
        ),
        Step(
            "A question",
            "Each experiment asks one question. What is varied is ticked below; everything else stays the same.",
            "Lab",
            "#kvw-lab-experiment",
        ),
        Step(
            "Run it",
            "Each ticked value is one run of all requests. That takes a few seconds to a minute.",
            "Lab",
            "#kvw-lab-run",
            "Press “Run the experiment” and wait for the charts.",
            {"text": "changed", "on": '[data-role="charts"]'},
        ),
        Step(
            "What came out",
            "“Counted” figures are the same on every machine, “measured” ones are this machine's time. The table below "
            "the charts says the same in numbers.",
            "Lab",
            '[data-role="charts"]',
        ),
    ),
)

TOURS = (PAGES, BACK_IN_TIME, SHARING, LAB)
