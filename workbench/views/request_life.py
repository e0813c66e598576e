"""One request's life: what it did when, what it held, and what became of it, with its preemptions explained."""

from __future__ import annotations

import numpy as np

from workbench.events import History
from workbench.events import types as ev
from workbench.events.cause_words import meaning
from workbench.events.types import AnyEvent, Cause
from workbench.views.page_life_index import LifeIndex, life_index
from workbench.views.page_life_rows import RequestRows
from workbench.views.page_life_story import Events, what_happened
from workbench.views.palette import request_label
from workbench.views.preemption import answer, times, track_of
from workbench.views.series_figure import Panel, line, stacked_figure
from workbench.views.series_requests import Phase, RequestTrack
from workbench.views.timeline_lanes import lanes_panel
from workbench.views.view import Cell, Table, View
from workbench.views.words import plural

#: Most rows of the table.
MAX_ROWS = 120
_PINK, _GREEN = "#CC79A7", "#009E73"

#: What a page event says of itself, is said by the request's own event beside it.
_PAGES = (ev.BlockAllocated, ev.PrefixHit)


def request_life_view(history: History, request: int, step: int | None = None, dark: bool = False) -> View:
    """A request's states over the steps, its pages and tokens, and what happened to it.

    Args:
        step: the step shown; None: the last one.

    Raises:
        ValueError: there is no such request.
    """
    track, index = track_of(history, request), life_index(history)
    rows = index.request_rows(request)
    last = track.last_step if track.end else history.last_step
    first = min(track.first_step, last)
    margin = max(1, (last - first) // 20)
    window = (max(history.first_step, first - margin), min(history.last_step, last + margin))
    panel, _ = lanes_panel([track], window, history.last_step, dark, f"Request {request_label(request)}", height=40)
    panels = [panel, _memory_panel(index, rows, window, dark), _tokens_panel(track, rows, window, dark)]
    figure = stacked_figure(panels, window, step, dark, f"request {request}")
    shown = history.last_step if step is None else step
    table = _table(history, index, request, shown)
    return View(figure, request_words(history, request, shown), table)


def request_words(history: History, request: int, step: int) -> str:
    """How a request is after a step, and how often and why it had to give way until then."""
    track, index = track_of(history, request), life_index(history)
    name = f"Request {request_label(request)}"
    pages, host, tokens = index.request_rows(request).at(step)
    phase = track.phase_at(step)
    if phase is None:
        ended = bool(track.end) and step >= track.last_step
        now = f"ended at step {track.last_step:,} ({track.end})" if ended else "has not come yet"
        sentences = [f"Step {step:,}: {name} {now}."]
    else:
        sentences = [f"Step {step:,}: {name} is {_PHASE_WORDS[phase]}; {_held(index, pages, host, tokens)}."]
    found = [p for p in track.preemptions if p.event.step <= step]
    if found:
        lead = "" if len(found) == 1 else "The last time: "
        sentences.append(f"So far it was preempted {times(len(found))}. {lead}{answer(found[-1], step).sentence}")
    return " ".join(sentences)


_PHASE_WORDS = {
    Phase.QUEUED: "waiting in the queue",
    Phase.PREFILL: "having its prompt computed (prefill)",
    Phase.DECODE: "generating (decode)",
    Phase.PREEMPTED: "preempted, its tokens are thrown away",
    Phase.SWAPPED: "swapped out to the host tier",
    Phase.AGAIN: "having its tokens computed again",
}


def _held(index: LifeIndex, pages: int, host: int, tokens: int) -> str:
    if not pages and not host:
        return "it holds no memory"
    if not index.paged:
        return f"it holds a region of {plural(pages, 'slot')}, {tokens:,} with tokens"
    held = [plural(pages, "page")] * (pages > 0) + [plural(host, "host page")] * (host > 0)
    return f"it holds {' and '.join(held)} with {plural(tokens, 'token')}"


def _at_every_change(rows: RequestRows, window: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Steps at which a line has to have a point, and for each the row that counts there, -1: none yet."""
    inside = rows.step[(rows.step >= window[0]) & (rows.step <= window[1])]
    steps = np.unique(np.concatenate([[window[0], window[1]], inside, np.maximum(window[0], inside - 1)]))
    return steps, np.searchsorted(rows.step, steps, side="right") - 1


def _memory_panel(index: LifeIndex, rows: RequestRows, window: tuple[int, int], dark: bool) -> Panel:
    steps, row = _at_every_change(rows, window)
    blue = "#56B4E9" if dark else "#0072B2"
    pages = np.append(rows.pages, 0)[row]
    if not index.paged:
        trace = line(steps, pages, "slots of its region", blue, "slots")
        return Panel("Memory held (contiguous: no pages)", 90, [trace], {"range": [0, max(1, pages.max()) * 1.1]})
    traces = [line(steps, pages, "device", blue, "pages")]
    host = np.append(rows.host_pages, 0)[row]
    if host.any():
        traces.append(line(steps, host, "host", _PINK, "host pages", "dash"))
    return Panel("Pages held", 90, traces, {"range": [0, max(1, pages.max(), host.max()) * 1.1]})


def _tokens_panel(track: RequestTrack, rows: RequestRows, window: tuple[int, int], dark: bool) -> Panel:
    steps, row = _at_every_change(rows, window)
    tokens = np.append(rows.tokens, 0)[row]
    traces = [line(steps, tokens, "tokens stored, in either tier", _GREEN, "tokens")]
    prompt = np.full(2, track.prompt_tokens)
    traces.append(line(np.array(window), prompt, "length of the prompt", "#999999", "tokens", "dot"))
    most = max(1, track.prompt_tokens, int(tokens.max()))
    return Panel("Tokens in memory", 100, traces, {"range": [0, most * 1.1]})


# -- the table ---------------------------------------------------------------------------------------------------------


def _table(history: History, index: LifeIndex, request: int, step: int) -> Table:
    """What happened, and why; pages that it got in one step are one row. Of a long life the rows around a step."""
    story = index.story(request)
    upto = sum(at <= step for _, at in story)
    start = max(0, min(upto - MAX_ROWS, len(story) - 2 * MAX_ROWS))
    events = Events(history)
    state = index.names([request])
    body: list[list[Cell]] = []
    settled = {p.settled.seq: p for p in track_of(history, request).preemptions if p.settled is not None}
    taken: list[ev.BlockAllocated | ev.PrefixHit] = []
    for seq, at in story[start : start + 2 * MAX_ROWS]:
        event = events.get(seq, at)
        if taken and not (isinstance(event, _PAGES) and _alike(event, taken[-1])):
            body.append(_taken(taken))
            taken = []
        if isinstance(event, _PAGES):
            taken.append(event)
        elif event is None:
            body.append([at, "no longer kept in this history", ""])
        else:
            if seq in settled:
                told = answer(settled[seq], history.last_step)
                body.append([at, f"The preemption at step {told.step:,} is made good. {told.cost}", told.waited])
                continue
            body.append([at, what_happened(event, state), _cause_words(event, index.paged)])
    if taken:
        body.append(_taken(taken))
    near = max(0, min(sum(int(row[0] or 0) <= step for row in body) - MAX_ROWS * 3 // 4, len(body) - MAX_ROWS))
    title = f"What happened to request {request_label(request)}"
    if len(story) > 2 * MAX_ROWS or len(body) > MAX_ROWS:
        title += f" around step {step:,}"
    return Table(["Step", "What happened", "Why"], body[near : near + MAX_ROWS], title)


def _alike(event: ev.BlockAllocated | ev.PrefixHit, other: ev.BlockAllocated | ev.PrefixHit) -> bool:
    return type(event) is type(other) and (event.step, event.cause) == (other.step, other.cause)


def _taken(taken: list[ev.BlockAllocated | ev.PrefixHit]) -> list[Cell]:
    blocks = [event.block for event in taken]
    named = ", ".join(map(str, blocks[:6])) + (f" and {len(blocks) - 6} more" if len(blocks) > 6 else "")
    pages = "page" if len(blocks) == 1 else "pages"
    found = isinstance(taken[0], ev.PrefixHit)
    how = "found in the prefix cache" if found else "handed out"
    return [taken[0].step, f"{pages} {named} {how}", _cause_words(taken[0], paged=True)]


def _cause_words(event: AnyEvent, paged: bool) -> str:
    cause = getattr(event, "cause", None)
    return meaning(cause, paged) if isinstance(cause, Cause) else ""
