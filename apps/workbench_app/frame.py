"""One frame: everything that the page shows at one moment, as plain JSON values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workbench.events import EventBus, PageMap
from workbench.events.state import RequestStatus
from workbench.events.types import SCHEMA_VERSION, ModelGeometry, RunStarted
from workbench.views import request_rows
from workbench_app.cards import cards, empty_cards
from workbench_app.growing_compare import lane_badge
from workbench_app.growing_payload import lane_payload
from workbench_app.lanes import Lane, Mark
from workbench_app.race import Standing, ahead_words
from workbench_app.settings import Settings
from workbench_app.side_words import side_frame

if TYPE_CHECKING:
    from workbench_app.duel import AnyDuel

_HISTORY_POINTS = 160
_NAMES = ("Paged", "Contiguous", "transformers")


def build_frame(duel: AnyDuel, step: int, **about: Any) -> dict[str, Any]:
    """The page at a step of a run, the engines' or a recorded one.

    Args:
        about: what only the session knows: ``run``, ``running``, ``state``, ``note``, ``link`` and the like.
    """
    settings = duel.settings
    (left, left_mark), (right, right_mark) = (side.at(step) for side in duel.sides)
    comparison = duel.compare_states(left, right)
    frame: dict[str, Any] = {
        "step": step,
        "last": duel.last_step,
        "badge": {"state": comparison.state, "words": comparison.words},
        "sides": list(_NAMES),
        "left": side_frame(left, left_mark, settings, duel.left.asked),
        "right": side_frame(right, right_mark, settings, duel.right.asked),
        "growing": None,
        "history": _history(duel),
    }
    standings = [
        _standing("paged", duel.left, left, left_mark, step),
        _standing("contiguous", duel.right, right, right_mark, step),
    ]
    third = None
    if duel.growing is not None:
        lane = duel.growing.at(step)
        frame["growing"] = lane_payload(lane, settings, duel.geometry, None)
        third = {(row[0], row[9]): row[1:] for row in frame["growing"].pop("texts")}
        frame["growing"]["badge"] = lane_badge(left, duel.left.asked.places, lane)
        ended = lane.step if lane.done and all(output.status == "f" for output in lane.outputs) else None
        mark = lane.mark
        standings.append(
            Standing("transformers", mark.tokens, mark.running, mark.peak, ended, mark.busy_share, mark.waiting > 0)
        )
    if duel.right.asked.unanswered:
        frame["ahead"] = "The right side does not run all of this, so there is no race."
    else:
        frame["ahead"] = ahead_words(standings)
    rows = (request_rows(left), duel.left.asked), (request_rows(right), duel.right.asked)
    frame["requests"] = cards(settings.prompts, *rows, third)
    return frame | about


def preview_frame(settings: Settings, geometry: ModelGeometry, **about: Any) -> dict[str, Any]:
    """The page before a run: two empty pools of the size that is set, and the requests that would be sent."""
    empty = Mark()
    return {
        "run": 0,
        "step": 0,
        "last": 0,
        "running": False,
        "state": "Ready: press Run",
        "note": "",
        "badge": {"state": "pending", "words": "Outputs: nothing to compare yet"},
        "ahead": "",
        "sides": list(_NAMES),
        "left": side_frame(_empty_pool("paged", settings, geometry), empty, settings),
        "right": side_frame(_empty_pool("contiguous", settings, geometry), empty, settings),
        "growing": None,
        "history": {"x": [], "lines": [], "words": "", "title": _history_title(settings)},
        "requests": empty_cards(settings.prompts),
    } | about


def _empty_pool(memory: str, settings: Settings, geometry: ModelGeometry) -> PageMap:
    bus = EventBus()
    bus.emit(
        RunStarted(
            schema_version=SCHEMA_VERSION,
            memory=memory,
            block_size=settings.block_size,
            num_blocks=settings.num_blocks,
            bytes_per_block=settings.block_size * geometry.kv_bytes_per_token,
            seed=settings.seed,
            model=geometry,
            config={},
            num_host_blocks=settings.num_host_blocks if memory == "paged" else 0,
        )
    )
    bus.flush()
    return bus.page_map


def _standing(name: str, side: Lane, state: PageMap, mark: Mark, step: int) -> Standing:
    ended = side.last_step if side.done and not side.given_up and step >= side.last_step else None
    rejected = sum(request.status is RequestStatus.REJECTED for request in state.requests.values())
    waits = mark.waiting > 0
    return Standing(
        name, mark.tokens, mark.running, mark.peak, ended, mark.busy_share, waits, rejected, len(state.requests)
    )


def _history(duel: AnyDuel) -> dict[str, Any]:
    """Running requests per step, thinned out to what a chart can show. Peaks survive: each point is its span's most."""
    stride = max(1, -(-duel.last_step // _HISTORY_POINTS))
    starts = range(0, duel.last_step + 1, stride)
    lines = [[side.marks[s : s + stride] for s in starts] for side in duel.sides]
    series = [[max((mark.running for mark in span), default=0) for span in line] for line in lines]
    left, right = duel.sides
    noun = "texts" if duel.settings.has_samples else "requests"
    words = (
        f"At most {left.marks[-1].peak} {noun} at once in paged memory and {right.marks[-1].peak} in contiguous "
        f"memory; {left.last_step:,} and {right.last_step:,} steps so far."
    )
    if duel.growing is not None:
        running = [mark.running for mark in duel.growing.marks]
        series.append([max(running[s : s + stride], default=0) for s in starts])
        words += f" transformers writes at most {max(running)} at once; {len(running) - 1:,} steps so far."
    return {"x": list(starts), "lines": series, "words": words, "title": _history_title(duel.settings)}


def _history_title(settings: Settings) -> str:
    return "Texts written at once" if settings.has_samples else "Requests running at once"
