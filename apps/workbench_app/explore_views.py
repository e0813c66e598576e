"""The Explore tab's pictures by name, and the checks of what a browser asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from workbench.events import PageMap
from workbench.events.kvtrace import RecordingError
from workbench.events.types import Tier
from workbench.views.block_table import block_table_view
from workbench.views.block_tables import block_tables_view
from workbench.views.contiguous import contiguous_view
from workbench.views.flow import flow_view
from workbench.views.page_life import page_life_view
from workbench.views.page_map import page_map_view
from workbench.views.page_map_modes import COLOR_MODES, ORDERS
from workbench.views.request_life import request_life_view
from workbench.views.sharing_tree import sharing_tree_view
from workbench.views.timeline import timeline_view
from workbench.views.view import View
from workbench_app.limits import ExploreError
from workbench_app.sources import Source


@dataclass(frozen=True)
class Asked:
    """What a picture is asked to show. Equal ones of a run that has ended give equal pictures."""

    step: int
    page: int | None = None
    tier: Tier = Tier.DEVICE
    request: int | None = None
    sequence: int | None = None
    color: str = "request"
    order: str | None = None
    dark: bool = False


def integer(query: Mapping[str, str], name: str, low: int, high: int) -> int | None:
    """A whole number of the query, or None if it is not there.

    Raises:
        ExploreError: it is none, or out of range.
    """
    text = query.get(name)
    if text is None:
        return None
    allowed = f"Allowed are whole numbers from {low:,} to {high:,}."
    if len(text) > 12 or not text.removeprefix("-").isdecimal() or not text.isascii():
        raise ExploreError(400, name, text, allowed)
    if not low <= (value := int(text)) <= high:
        raise ExploreError(400, name, value, allowed)
    return value


def choice(query: Mapping[str, str], name: str, allowed: tuple[str, ...]) -> str | None:
    """One of some words, or None if it is not there.

    Raises:
        ExploreError: it is none of them.
    """
    text = query.get(name)
    if text is not None and text not in allowed:
        raise ExploreError(400, name, text, f"Allowed are {', '.join(allowed)}.")
    return text


def step_of(source: Source, query: Mapping[str, str], name: str = "step") -> int | None:
    """A step of the run.

    Raises:
        ExploreError: it is none.
    """
    return integer(query, name, source.history.first_step, source.history.last_step)


def read_asked(source: Source, query: Mapping[str, str]) -> Asked:
    """What a query asks for; the run's last step if it names none.

    Raises:
        ExploreError: names the field, its value and what is allowed.
    """
    step = step_of(source, query)
    tier = choice(query, "tier", ("device", "host"))
    return Asked(
        step=source.history.last_step if step is None else step,
        page=integer(query, "page", 0, 1 << 22),
        tier=Tier(tier or "device"),
        request=integer(query, "request", 0, 1 << 31),
        sequence=integer(query, "sequence", 0, 1 << 31),
        color=choice(query, "color", COLOR_MODES) or "request",
        order=choice(query, "order", tuple(ORDERS)),
        dark=choice(query, "dark", ("0", "1")) == "1",
    )


def make_view(source: Source, name: str, asked: Asked) -> View:
    """Draws a picture.

    Raises:
        ExploreError: there is none of that name, or it can't show what is asked for.
        RecordingError: what it takes is damaged.
    """
    if name not in VIEWS:
        raise ExploreError(404, "View", name, f"Allowed are {', '.join(VIEWS)}.")
    try:
        return VIEWS[name](source, asked)
    except RecordingError:
        raise
    except (KeyError, IndexError) as error:
        field, value = _named(asked)
        words = f"The request or page of this picture is not there at step {asked.step}."
        raise ExploreError(400, field, value, words) from error
    except ValueError as error:
        raise ExploreError(400, "View", name, f"{error}.") from error


def _named(asked: Asked) -> tuple[str, int]:
    """The field that says whom or what a picture shows, and its value."""
    for field, value in (("request", asked.request), ("page", asked.page), ("sequence", asked.sequence)):
        if value is not None:
            return field, value
    return "step", asked.step


def _state(source: Source, asked: Asked) -> PageMap:
    return source.history.state_at(asked.step)


def _page_map(source: Source, asked: Asked) -> View:
    return page_map_view(_state(source, asked), asked.color, asked.order, dark=asked.dark)


def _sequence(state: PageMap, asked: Asked) -> int:
    """The sequence that is asked for, or one that holds the page or belongs to the request."""
    if asked.sequence is not None:
        if asked.sequence not in state.sequences:
            raise ExploreError(400, "sequence", asked.sequence, _allowed_sequences(state))
        return asked.sequence
    if asked.request is not None:
        of_request = [number for number, memory in state.sequences.items() if memory.request == asked.request]
        if not of_request:
            raise ExploreError(400, "request", asked.request, f"It holds no memory at step {state.step}.")
        return of_request[0]
    if not state.sequences:
        raise ExploreError(400, "sequence", "none", f"Nobody holds memory at step {state.step}.")
    return next(iter(state.sequences))


def _allowed_sequences(state: PageMap) -> str:
    names = [str(number) for number in state.sequences]
    shown = ", ".join(names[:20]) + (" and more" if len(names) > 20 else "")
    return f"At step {state.step} these hold memory: {shown or 'none'}."


def _block_table(source: Source, asked: Asked) -> View:
    state = _state(source, asked)
    return block_table_view(state, _sequence(state, asked), events=source.history.events(asked.step), dark=asked.dark)


def _block_tables(source: Source, asked: Asked) -> View:
    if asked.request is None:
        raise ExploreError(400, "request", "none", "Name a request.")
    return block_tables_view(_state(source, asked), asked.request, dark=asked.dark)


def _contiguous(source: Source, asked: Asked) -> View:
    return contiguous_view(_state(source, asked), dark=asked.dark)


def _sharing(source: Source, asked: Asked) -> View:
    return sharing_tree_view(_state(source, asked), dark=asked.dark)


def _timeline(source: Source, asked: Asked) -> View:
    with source.lock:
        return timeline_view(source.series(), asked.step, dark=asked.dark)


def _flow(source: Source, asked: Asked) -> View:
    with source.lock:
        return flow_view(source.series(), asked.step, dark=asked.dark)


def _page_life(source: Source, asked: Asked) -> View:
    if asked.page is None:
        raise ExploreError(400, "page", "none", "Name a page.")
    return page_life_view(source.history, asked.page, asked.tier, asked.step, dark=asked.dark)


def _request_life(source: Source, asked: Asked) -> View:
    if asked.request is None:
        raise ExploreError(400, "request", "none", "Name a request.")
    return request_life_view(source.history, asked.request, asked.step, dark=asked.dark)


VIEWS: dict[str, Callable[[Source, Asked], View]] = {
    "page_map": _page_map,
    "block_table": _block_table,
    "block_tables": _block_tables,
    "contiguous": _contiguous,
    "sharing_tree": _sharing,
    "timeline": _timeline,
    "flow": _flow,
    "page_life": _page_life,
    "request_life": _request_life,
}
