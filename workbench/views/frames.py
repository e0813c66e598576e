"""Explore frames: all that the viewer shows of one step, as plain data of bounded size."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from workbench.events import PageMap
from workbench.events import types as ev
from workbench.events.state import SequenceState
from workbench.events.tokens import sequence_tokens
from workbench.events.types import AnyEvent, Tier
from workbench.events.words import describe
from workbench.views.palette import request_label
from workbench.views.payload import map_payload, request_rows
from workbench.views.words import blocked_words

#: A frame holds at most so many of each; what is left out is counted.
MAX_ROWS = 200
MAX_EVENTS = 300
MAX_TOKENS = 20_000
MAX_PAGES = 20_000
_TEXT_CHARS = 240
_PROMPT_CHARS = 160

_KINDS: dict[type, str] = {
    ev.RunStarted: "run",
    ev.RunFinished: "run",
    ev.StepFinished: "step",
    ev.RequestQueued: "queued",
    ev.RequestAdmitted: "admitted",
    ev.AdmissionBlocked: "blocked",
    ev.RequestPreempted: "preemption",
    ev.RequestResumed: "resumed",
    ev.PreemptionSettled: "resumed",
    ev.SequenceForked: "fork",
    ev.SequenceFinished: "complete",
    ev.OutputsChosen: "chosen",
    ev.RequestFinished: "finish",
    ev.RequestRejected: "rejected",
    ev.TokenGenerated: "token",
    ev.BlockAllocated: "allocated",
    ev.SlotsWritten: "written",
    ev.BlockShared: "shared",
    ev.BlockCopied: "copy",
    ev.BlockReleased: "released",
    ev.BlockFreed: "freed",
    ev.BlockCached: "cached",
    ev.PrefixHit: "hit",
    ev.BlockEvicted: "eviction",
    ev.BlocksSwappedOut: "swap",
    ev.BlocksSwappedIn: "swap",
    ev.BlocksStreamed: "streamed",
    ev.PageMassSampled: "attention",
    ev.SelectionMeasured: "attention",
    ev.RegionReserved: "allocated",
    ev.RegionReleased: "released",
}


def explore_frame(page_map: PageMap, events: Iterable[AnyEvent], sequence: int | None = None) -> dict[str, Any]:
    """The state after a step and what happened in it, for the viewer.

    - ``map``: see `map_payload`, with the orders; ``waiting``: why the head of the queue waits;
    - ``requests``: rows of `request_rows`; ``prompts``: their beginnings, by request;
    - ``sequences``: by sequence ``{"request", "tokens", "texts", "tables"}``; a table per layer group:
      ``[device pages, [[logical index, host page], ...]]``; ``texts`` has the text of each stored token;
    - ``events``: rows ``[kind, words, pages, host pages, requests, sequences]``; a kind that `JumpIndex` knows, too, is
      of just the same events: a request's end is "finish", a sequence's "complete", a beam's that lost "dropped";
    - ``changed``, ``host_changed``: pages that events of the step name; ``copies``: rows ``[source, destination,
      sequence, logical index, tokens]`` of copy-on-write;
    - ``omitted``: how many rows, sequences and events were left out to keep the frame small.

    Args:
        page_map: the state after the step.
        events: those of the step.
        sequence: include this one whatever else is left out.
    """
    rows = _rows(page_map)
    kept = rows[:MAX_ROWS]
    told = [_event_row(event, page_map) for event in events if type(event) in _KINDS]
    sequences = _sequences(page_map, sequence)
    return {
        "step": page_map.step,
        "map": map_payload(page_map, orders=True),
        "waiting": blocked_words(page_map),
        "requests": kept,
        "prompts": {str(row[0]): page_map.requests[row[0]].prompt[:_PROMPT_CHARS] for row in kept},
        "sequences": sequences,
        "events": [row for row, _ in told[:MAX_EVENTS]],
        "changed": sorted({page for row, _ in told for page in row[2]}),
        "host_changed": sorted({page for row, _ in told for page in row[3]}),
        "copies": [copied for _, copied in told if copied],
        "omitted": [
            len(rows) - len(kept),
            len(page_map.sequences) - len(sequences),
            max(0, len(told) - MAX_EVENTS),
        ],
    }


def _rows(page_map: PageMap) -> list[list[Any]]:
    """Those who run and wait first where not all have room; in the order of their arrival again."""
    rows = request_rows(page_map, _TEXT_CHARS)
    if len(rows) <= MAX_ROWS:
        return rows
    rows.sort(key=lambda row: (row[1] in "fcx", -row[0] if row[1] in "fcx" else row[0]))
    return sorted(rows[:MAX_ROWS], key=lambda row: (row[0], row[9])) + rows[MAX_ROWS:]


def _sequences(page_map: PageMap, first: int | None) -> dict[str, Any]:
    result: dict[str, Any] = {}
    tokens = pages = 0
    order = list(page_map.sequences)
    if first in page_map.sequences:
        order = [first, *(number for number in order if number != first)]
    for number in order:
        memory = page_map.sequences[number]
        held = sum(len(table.blocks) for table in memory.tables)
        if result and (tokens + memory.num_computed_tokens > MAX_TOKENS or pages + held > MAX_PAGES):
            continue
        tokens, pages = tokens + memory.num_computed_tokens, pages + held
        result[str(number)] = _sequence(page_map, number, memory)
    return result


def _sequence(page_map: PageMap, number: int, memory: SequenceState) -> dict[str, Any]:
    return {
        "request": memory.request,
        "tokens": memory.num_computed_tokens,
        "texts": sequence_tokens(page_map, number)[:MAX_TOKENS],
        "tables": [
            [table.blocks[:MAX_PAGES], sorted([logical, page] for logical, page in table.host.items())[:MAX_PAGES]]
            for table in memory.tables
        ],
    }


def _event_row(event: AnyEvent, state: PageMap) -> tuple[list[Any], list[int] | None]:
    pages, host = pages_of(event)
    sequences = [getattr(event, name) for name in ("sequence", "parent", "child") if hasattr(event, name)]
    request = getattr(event, "request", None)
    if request is None and sequences:
        request = state.request_of(sequences[0])
    is_dropped = isinstance(event, ev.SequenceFinished) and event.reason is None
    kind = "dropped" if is_dropped else _KINDS[type(event)]
    row = [kind, event_words(event, state), pages, host, [] if request is None else [request], sequences]
    if isinstance(event, ev.BlockCopied):
        return row, [event.source, event.destination, event.sequence, event.logical_index, event.filled]
    return row, None


def event_words(event: AnyEvent, state: PageMap) -> str:
    """An event as one line, with letters for requests as in the pictures."""
    told, quote, quoted = describe(event, state).partition("“")
    named = re.sub(r"\brequest (\d+)\b", lambda found: f"request {request_label(int(found[1]))}", told)
    return named + quote + quoted


def pages_of(event: AnyEvent) -> tuple[list[int], list[int]]:
    """The device pages and the host pages that an event is about."""
    match event:
        case ev.BlocksSwappedOut():
            return [pair[0] for pair in event.pairs], [pair[1] for pair in event.pairs]
        case ev.BlocksSwappedIn():
            return [pair[1] for pair in event.pairs], [pair[0] for pair in event.pairs]
        case ev.BlockCopied():
            return [event.source, event.destination], []
        case ev.BlockAllocated() | ev.BlockShared() | ev.BlockReleased() | ev.BlockFreed():
            return ([event.block], []) if event.tier is Tier.DEVICE else ([], [event.block])
        case ev.BlockCached() | ev.PrefixHit() | ev.BlockEvicted():
            return [event.block], []
        case ev.SlotsWritten():
            return ([] if event.block is None else [event.block]), []
    return [], []
