"""One step of a run as figures and words: all that a `Stepper` shows, without a widget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from workbench.events import History, PageMap
from workbench.events.tokens import sequence_tokens
from workbench.events.types import AnyEvent
from workbench.views.block_table import block_table_view
from workbench.views.block_table_parts import sequence_label, table_entries
from workbench.views.frames import event_words
from workbench.views.page_life import page_life_words
from workbench.views.page_life_index import life_index
from workbench.views.page_life_story import page_table
from workbench.views.page_map import page_map_view
from workbench.views.palette import DARK, LIGHT
from workbench.views.view import Table, View
from workbench.widgets.selection import Selection, check_selection, place_of, selection_words, sequence_of

#: What a `Stepper` can show.
VIEWS = ("page_map", "block_table", "tokens", "events")
#: Most lines of events in the plain text.
MAX_LINES = 40


@dataclass(frozen=True)
class PageTokens:
    """The tokens of one logical page. ``place``: "page 7", "host page 2", "gone"; ``texts``: "" where unknown."""

    index: int
    place: str
    texts: tuple[str, ...]
    is_selected: bool


@dataclass(frozen=True)
class Rendered:
    """A step, drawn and said.

    Attributes:
        selection: what was selected; its page has a frame in the page map.
        sequence: whose block table and tokens these are; None: nobody's.
        block_table: None in contiguous memory, and where nobody has the page.
        tokens: the sequence's, page by page; in contiguous memory all in one.
        events: of the step, a line each, in the order in which they happened.
        life: what happened to the selected page, the steps after this one included; None without one.
        caption: what is seen in the page map, and how the selected page is.
    """

    step: int
    selection: Selection | None
    page_map: View
    sequence: str | None
    block_table: View | None
    tokens: tuple[PageTokens, ...]
    events: tuple[str, ...]
    life: Table | None
    caption: str

    @property
    def figure(self) -> go.Figure:
        """The page map."""
        return self.page_map.figure

    def __str__(self) -> str:
        happened = [f"  {line}" for line in self.events[:MAX_LINES]] or ["  nothing"]
        if len(self.events) > MAX_LINES:
            happened.append(f"  … and {len(self.events) - MAX_LINES:,} more")
        return "\n".join([f"Step {self.step}. {self.caption}", "What happened:", *happened])

    def _repr_mimebundle_(self, *args: Any, **kwargs: Any) -> Any:
        """Notebooks show the page map, with the words as its plain text."""
        return {**self.page_map._repr_mimebundle_(*args, **kwargs), "text/plain": str(self)}


def render(
    history: History,
    step: int | None = None,
    selection: Selection | int | None = None,
    color_by: str = "request",
    dark: bool = False,
    views: Sequence[str] = VIEWS,
) -> Rendered:
    """The state after a step, what happened in it, and one page or sequence of it more closely.

    Args:
        step: None: the last one.
        selection: a page of the device by its number, or a `Selection`.
        color_by: as in `workbench.views.page_map_view`.
        views: what is wanted of `VIEWS`; the page map and the caption are always made.

    Raises:
        IndexError: there is no such step.
        ValueError: there is no such page, colour or view.
    """
    check_views(views)
    step = history.last_step if step is None else step
    page_map, events = history.state_at(step), history.events(step)
    if isinstance(selection, int):
        selection = Selection(selection)
    if selection is not None:
        check_selection(page_map, selection)
    seen = page_map_view(page_map, color_by=color_by, dark=dark)
    number, group = sequence_of(page_map, selection)
    life = None
    if selection is not None and selection.page is not None and page_map.run is not None:
        _frame(seen.figure, selection, dark)
        if "tokens" in views or "block_table" in views:
            life = _life(history, selection, step)
    words = f"{seen.caption} {selection_words(page_map, selection)}".strip()
    return Rendered(
        step,
        selection,
        seen,
        sequence_label(page_map, number) if number is not None else None,
        _block_table(page_map, number, group, events, dark) if "block_table" in views else None,
        _tokens(page_map, number, group, selection) if "tokens" in views and number is not None else (),
        tuple(event_words(event, page_map) for event in events) if "events" in views else (),
        life,
        words,
    )


def check_views(views: Sequence[str]) -> None:
    """Refuses names that are not in `VIEWS`.

    Raises:
        ValueError: names the first one.
    """
    for name in [views] if isinstance(views, str) else views:
        if isinstance(views, str) or name not in VIEWS:
            raise ValueError(f"views={name!r}: must be a sequence of {', '.join(VIEWS)}")


def _frame(figure: go.Figure, selection: Selection, dark: bool) -> None:
    """A thick frame around the selected page."""
    place = place_of(figure.layout.meta, selection)
    if place is None:
        return
    (x, y), color = place, (DARK if dark else LIGHT)["text"]
    edge = {"xref": "x", "yref": "y", "x0": x, "x1": x + 1, "y0": y, "y1": y + 1, "layer": "above"}
    figure.add_shape(type="rect", name="selected", line={"color": color, "width": 4}, **edge)


def _life(history: History, selection: Selection, step: int) -> Table | None:
    index = life_index(history)
    if index.run is None or selection.page is None:
        return None
    rows = index.page_rows(selection.page, selection.tier)
    if not len(rows):
        words = f"{selection.name.capitalize()} has never been used."
        return Table(("Step", "What happened", "Why"), [], words)
    table = page_table(history, index, rows, selection.page, selection.tier, step)
    return Table(table.columns, table.rows, page_life_words(index, rows, selection.page, selection.tier, step))


def _block_table(
    page_map: PageMap, number: int | None, group: int, events: Sequence[AnyEvent], dark: bool
) -> View | None:
    if number is None or not page_map.is_paged or group >= len(page_map.sequences[number].tables):
        return None
    return block_table_view(page_map, number, group, events, dark)


def _tokens(page_map: PageMap, number: int, group: int, selection: Selection | None) -> tuple[PageTokens, ...]:
    sequence = page_map.sequences[number]
    if sequence.region is not None:
        place = f"slots from {sequence.region.start}"
        return (PageTokens(0, place, tuple(sequence_tokens(page_map, number)), False),)
    if group >= len(sequence.tables):
        return ()
    entries = table_entries(page_map, number, group)
    wanted = (selection.tier, selection.page) if selection is not None else (None, None)
    return tuple(
        PageTokens(entry.index, entry.place, entry.tokens, (entry.tier, entry.block) == wanted) for entry in entries
    )
