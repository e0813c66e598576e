"""Why was a request preempted, and what did that cost? In plain sentences, and as bars: expected beside measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import plotly.graph_objects as go

from workbench.events import History
from workbench.events.cause_words import clean, meaning, milliseconds, size
from workbench.events.types import Cause, PreemptionMode
from workbench.views.page_life_index import life_index
from workbench.views.palette import DARK, LIGHT, request_label
from workbench.views.series_figure import Panel, empty_figure, stacked_figure
from workbench.views.series_requests import Preemption, RequestTrack
from workbench.views.view import Cell, Table, View
from workbench.views.words import plural

_MOST = 40


@dataclass(frozen=True)
class Answer:
    """One preemption in words: why it came, how long the request waited, and what it cost."""

    step: int
    why: str
    waited: str
    cost: str

    @property
    def sentence(self) -> str:
        return f"{self.why} {self.waited} {self.cost}".strip()


def preemption_view(history: History, request: int, step: int | None = None, dark: bool = False) -> View:
    """Each preemption of a request: what getting it back was expected to cost, either way, and what it took (measured).

    Raises:
        ValueError: there is no such request.
    """
    track = track_of(history, request)
    found = [p for p in track.preemptions if step is None or p.event.step <= step]
    name = f"Request {request_label(request)}"
    upto = "" if step is None else f" up to step {step:,}"
    if not found:
        words = f"{name} was not preempted{upto}."
        return View(empty_figure(words, dark), words, preemption_table(track, found))
    shown = found[-_MOST:]
    more = f" The last {len(shown)} of {len(found)} are shown." if len(shown) < len(found) else ""
    now = history.last_step if step is None else step
    last = answer(found[-1], now)
    lead = "" if len(found) == 1 else "The last time: "
    caption = f"{name} was preempted {times(len(found))}{upto}.{more} {lead}{last.sentence}"
    return View(_figure(track, shown, now, dark), caption, preemption_table(track, shown, now))


def times(count: int) -> str:
    """once, twice, 3 times."""
    return "once" if count == 1 else "twice" if count == 2 else f"{count:,} times"


def track_of(history: History, request: int) -> RequestTrack:
    """What the history tells of a request.

    Raises:
        ValueError: names the requests that there are.
    """
    tracks = life_index(history).tracker.tracks
    if request not in tracks:
        known = f"must be from {min(tracks)} to {max(tracks)}" if tracks else "this history has none"
        raise ValueError(f"request={request!r}: {known}")
    return tracks[request]


def preemption_table(track: RequestTrack, found: Sequence[Preemption], step: int = -1) -> Table:
    """Why, how long, what it cost: one row per preemption."""
    rows: list[list[Cell]] = []
    for preemption in found:
        told = answer(preemption, step)
        rows.append([told.step, told.why, told.waited, told.cost])
    return Table(["Step", "Why", "Waiting", "Cost"], rows, f"Preemptions of request {request_label(track.request)}")


def answer(preemption: Preemption, step: int) -> Answer:
    """A preemption in words, as far as it is known after a step, which is not before it."""
    known = as_of(preemption, step)
    return Answer(known.event.step, _why(known), _waited(known, step), _cost(known))


def as_of(preemption: Preemption, step: int) -> Preemption:
    """The same without what came later."""
    kept: dict[str, Any] = {
        name: event if event is not None and event.step <= step else None
        for name in ("lost", "resumed", "settled", "ended")
        for event in (getattr(preemption, name),)
    }
    return replace(preemption, **kept)


def _why(preemption: Preemption) -> str:
    event = preemption.event
    by = f" (policy {clean(event.policy)} chose it)" if event.policy else ""
    given = plural(event.blocks_released, "page")
    if event.mode is PreemptionMode.SWAP:
        did = f"its {given} moved to the host tier, no token was lost"
    else:
        did = f"it gave up {given} and lost {plural(event.tokens_lost, 'stored token')}"
    reason = _mode_reason(preemption)
    why = _CAUSES.get(event.cause) or meaning(event.cause)
    return f"Preempted at step {event.step:,} because {why}{by}: {did}{reason}."


#: The cause of a preemption, as what was missing for whom.
_CAUSES = {
    Cause.POOL_EXHAUSTED: "too few pages were free for what the running requests had to store",
    Cause.WATERMARK: "the few free pages were needed by older requests",
}


def _mode_reason(preemption: Preemption) -> str:
    """Why it was swapped or thrown away."""
    event, estimate = preemption.event, preemption.event.estimate
    if not event.why:
        return ""
    if estimate is not None and estimate.swap_ns >= 0 and estimate.recompute_ns >= 0 and "expected" in event.why:
        swap, again = milliseconds(estimate.swap_ns), milliseconds(estimate.recompute_ns)
        return f" ({event.mode.value}, because swapping was expected to take {swap}, computing again {again})"
    return f" ({event.mode.value}: {clean(event.why)})"


def _waited(preemption: Preemption, step: int) -> str:
    event, resumed = preemption.event, preemption.resumed
    lost = ""
    if preemption.lost is not None:
        gone = plural(preemption.lost.tokens_lost, "token")
        lost = f" At step {preemption.lost.step:,} its pages in the host tier had to make room: {gone} lost."
    if resumed is None:
        if preemption.ended is not None:
            return f"It ended while it waited, at step {preemption.ended.step:,}.{lost}"
        return f"It has waited {plural(max(0, step - event.step), 'step')} so far.{lost}"
    time = milliseconds(resumed.t_ns - event.t_ns) if resumed.t_ns > event.t_ns else ""
    took = f" ({time}, measured)" if time else ""
    return f"It waited {plural(resumed.step - event.step, 'step')}{took}, until step {resumed.step:,}.{lost}"


def _cost(preemption: Preemption) -> str:
    resumed, settled = preemption.resumed, preemption.settled
    if settled is None:
        if resumed is None:
            return "What it costs is not known yet." if preemption.ended is None else ""
        if resumed.tokens_to_recompute:
            tokens = plural(resumed.tokens_to_recompute, "token")
            return f"{tokens} must be computed again; what it costs is not known yet."
        return "What it cost is not known (yet)."
    expected = milliseconds(settled.estimated_ns) if settled.estimated_ns >= 0 else ""
    if settled.mode is PreemptionMode.SWAP:
        did = f"Moving {size(settled.bytes_moved)} out and back"
    else:
        did = f"Computing {plural(settled.tokens_recomputed, 'token')} again"
    kept = ""
    if resumed is not None and resumed.tokens_kept:
        kept = f" {plural(resumed.tokens_kept, 'more token')} were still in the prefix cache."
    other = _other_way(preemption)
    beside = f", {expected} expected" if expected else ""
    return f"{did} took {milliseconds(settled.measured_ns)} (measured{beside}{other}).{kept}"


def _other_way(preemption: Preemption) -> str:
    estimate = preemption.event.estimate
    if estimate is None or "expected" in preemption.event.why:  # said already
        return ""
    if preemption.event.mode is PreemptionMode.SWAP:
        name, cost = "computing it again", estimate.recompute_ns
    else:
        name, cost = "swapping", estimate.swap_ns
    return f"; {name} was expected to take {milliseconds(cost)}" if cost >= 0 else ""


def _expected(preemption: Preemption, mode: PreemptionMode) -> int:
    """In nanoseconds, or -1."""
    estimate, settled = preemption.event.estimate, preemption.settled
    known = -1 if estimate is None else estimate.swap_ns if mode is PreemptionMode.SWAP else estimate.recompute_ns
    return settled.estimated_ns if known < 0 and settled is not None and settled.mode is mode else known


def _figure(track: RequestTrack, found: Sequence[Preemption], step: int, dark: bool) -> go.Figure:
    """Bars of milliseconds, one group per preemption."""
    hatch = DARK["hatch"] if dark else LIGHT["hatch"]
    names = [f"{number}. step {p.event.step:,} ({p.event.mode.value})" for number, p in enumerate(found, 1)]
    found = [as_of(p, step) for p in found]
    kinds = (
        ("swapping, expected", [_expected(p, PreemptionMode.SWAP) for p in found], "#CC79A7", "/"),
        ("computing again, expected", [_expected(p, PreemptionMode.RECOMPUTE) for p in found], "#E69F00", "\\"),
        ("what it took, measured", [p.settled.measured_ns if p.settled else -1 for p in found], "#0072B2", ""),
    )
    traces = []
    for offset, (name, values, color, pattern) in enumerate(kinds):
        if max(values) < 0:
            continue
        known = [None if value < 0 else value / 1e6 for value in values]
        traces.append(
            go.Bar(
                orientation="h",
                name=name,
                y=[position + (offset - 1) * 0.27 for position in range(len(found))],
                width=0.25,
                x=known,
                text=["" if value is None else f" {value:,.2f} ms" for value in known],
                textposition="outside",
                cliponaxis=False,
                marker={
                    "color": color,
                    "pattern": {"shape": pattern, "fillmode": "overlay", "fgcolor": LIGHT["text"], "solidity": 0.25},
                    "line": {"color": hatch, "width": 0.5},
                },
                customdata=[["step", p.event.step] for p in found],
                hovertemplate=f"{name}: %{{x:,.2f}} ms<extra></extra>",
            )
        )
    axis = {
        "tickmode": "array",
        "tickvals": list(range(len(found))),
        "ticktext": names,
        "range": [len(found) - 0.5, -0.5],
        "automargin": True,
        "showgrid": False,
    }
    panel = Panel(f"Cost of request {request_label(track.request)}'s preemptions", 56 * len(found), traces, axis)
    figure = stacked_figure([panel], (0, 1), None, dark, f"preemptions {track.request}")
    most = max((value / 1e6 for _, values, *_ in kinds for value in values), default=1.0)
    figure.update_xaxes(title={"text": "Milliseconds", "standoff": 6}, range=[0, max(0.001, most) * 1.2], tickformat="")
    figure.update_layout(meta={"x": "milliseconds"})
    return figure
