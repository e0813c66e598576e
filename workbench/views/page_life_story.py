"""What happened to one page, in words: one row per event, runs of stored tokens in one."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

from workbench.events import History, PageMap
from workbench.events import types as ev
from workbench.events.cause_words import because, meaning, plural
from workbench.events.types import AnyEvent, Cause, Tier
from workbench.events.words import describe
from workbench.views.page_life_index import LifeIndex
from workbench.views.page_life_rows import CACHED, Kind, PageRows
from workbench.views.palette import request_label
from workbench.views.view import Cell, Table

_REQUEST = re.compile(r"\brequest (\d{1,9})\b")

#: Most rows of the table.
MAX_ROWS = 120


class Events:
    """Single events of a history by position; each step is read once."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._steps: dict[int, dict[int, AnyEvent]] = {}

    def get(self, seq: int, step: int) -> AnyEvent | None:
        """None if the history has forgotten it."""
        if step not in self._steps:
            try:
                self._steps[step] = {event.seq: event for event in self._history.events(step)}
            except IndexError:
                self._steps[step] = {}
        return self._steps[step].get(seq)


def chapters(rows: PageRows) -> list[tuple[int, int]]:
    """The entries as (first, last), both included: writes that follow each other are one chapter."""
    result: list[tuple[int, int]] = []
    for position, kind in enumerate(rows.kind.tolist()):
        if kind == Kind.WRITTEN and result and rows.kind[result[-1][0]] == Kind.WRITTEN:
            result[-1] = result[-1][0], position
        else:
            result.append((position, position))
    return result


def page_table(history: History, index: LifeIndex, rows: PageRows, block: int, tier: Tier, step: int) -> Table:
    """What happened, and why. Of a long life the rows up to a step, the newest of them."""
    found = chapters(rows)
    upto = sum(rows.step[first] <= step for first, _ in found)
    start = max(0, min(upto - MAX_ROWS * 3 // 4, len(found) - MAX_ROWS))
    stop = min(len(found), start + MAX_ROWS)
    state = index.names(rows.requests(len(rows)))
    body = list(_told(Events(history), rows, found[start:stop], block, tier, state, index.paged))
    title = f"What happened to {_name(index, block, tier)}"
    if stop - start < len(found):
        title += f": rows {start + 1} to {stop} of {len(found)}"
    return Table(["Step", "What happened", "Why"], body, title)


def _name(index: LifeIndex, block: int, tier: Tier) -> str:
    if index.paged or index.run is None:
        return f"{'host ' if tier is Tier.HOST else ''}page {block}"
    return f"slots {block * index.run.block_size:,} to {(block + 1) * index.run.block_size - 1:,}"


def _told(
    events: Events, rows: PageRows, found: list[tuple[int, int]], block: int, tier: Tier, state: PageMap, paged: bool
) -> Iterator[list[Cell]]:
    for first, last in found:
        step, kind, request = int(rows.step[first]), Kind(int(rows.kind[first])), int(rows.request[first])
        event = events.get(int(rows.seq[first]), step)
        cause = getattr(event, "cause", None)
        why = meaning(cause, paged) if isinstance(cause, Cause) else ""
        if kind is Kind.SNAPSHOT:
            yield [
                step,
                _snapshot(int(rows.refs[first]), request, int(rows.filled[first])),
                "the recording begins here",
            ]
        elif event is None:
            yield [step, kind.name.lower().replace("_", " "), "no longer kept in this history"]
        elif kind is Kind.WRITTEN:
            yield [step, _written(rows, first, last, request), why]
        elif kind in (Kind.SWAPPED_OUT, Kind.SWAPPED_IN):
            yield [step, _moved(event, block, tier), why]
        else:
            yield [step, what_happened(event, state), why]


def what_happened(event: AnyEvent, state: PageMap | None) -> str:
    """`describe`, with requests by their letters and without the cause, which has a column of its own."""
    what = describe(event, state, explain=False)
    cause = getattr(event, "cause", None)
    if isinstance(cause, Cause):
        what = what.removesuffix(", " + because(cause, False)).removesuffix(f" ({because(cause, False)})")
    said, quote, quoted = what.partition("“")  # a prompt is not touched
    return _REQUEST.sub(lambda found: f"request {request_label(int(found[1]))}", said) + quote + quoted


def _snapshot(refs: int, request: int, filled: int) -> str:
    if refs == CACHED:
        return f"it is kept for reuse, {plural(filled, 'token')} in it"
    if not refs:
        return "it is free"
    return f"request {request_label(max(0, request))} has it, {plural(filled, 'token')} in it"


def _written(rows: PageRows, first: int, last: int, request: int) -> str:
    before = int(rows.filled[first - 1]) if first else 0
    count = int(rows.filled[last]) - before
    who = f"request {request_label(request)}" if request >= 0 else "a request"
    until = f" until step {rows.step[last]}" if rows.step[last] != rows.step[first] else ""
    return f"{who}: {plural(count, 'token')} stored{until}, {rows.filled[last]} slots are filled now"


def _moved(event: AnyEvent, block: int, tier: Tier) -> str:
    if not isinstance(event, ev.BlocksSwappedOut | ev.BlocksSwappedIn):
        return describe(event)
    names = ("page", "host page") if isinstance(event, ev.BlocksSwappedOut) else ("host page", "page")
    side = 0 if (names[0] == "host page") is (tier is Tier.HOST) else 1
    source, target = next((pair for pair in event.pairs if pair[side] == block), (-1, -1))
    others = len(event.pairs) - 1
    company = f", with {plural(others, 'other page')}" if others else ""
    return (
        f"request {request_label(event.request)}: what is in {names[0]} {source} moved to {names[1]} {target}{company}"
    )


def count_words(rows: PageRows, upto: int) -> str:
    """``handed out 3 times, 12 tokens stored, freed 3 times``: the first so many entries, counted."""
    kinds = np.bincount(rows.kind[:upto].astype(np.int64), minlength=len(Kind))
    parts = [
        (Kind.ALLOCATED, "handed out"),
        (Kind.COPIED_TO, "made a copy of another"),
        (Kind.COPIED_FROM, "copied"),
        (Kind.SHARED, "shared with one more sequence"),
        (Kind.HIT, "found in the prefix cache"),
        (Kind.CACHED, "kept for reuse"),
        (Kind.EVICTED, "evicted"),
        (Kind.SWAPPED_OUT, "moved to the host tier"),
        (Kind.SWAPPED_IN, "brought back to the device"),
        (Kind.FREED, "freed"),
    ]
    said = [f"{words} {_times(int(kinds[kind]))}" for kind, words in parts if kinds[kind]]
    return ", ".join(said)


def _times(count: int) -> str:
    return "once" if count == 1 else "twice" if count == 2 else f"{count:,} times"
