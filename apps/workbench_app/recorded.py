"""Two recordings side by side, as if they were running: what plays until a visitor starts engines of their own."""

from __future__ import annotations

import json
from typing import Any

from workbench.events import PageMap
from workbench.events.history import History
from workbench.views import Comparison, compare_outputs
from workbench.views.delta import diff
from workbench_app.frame import build_frame
from workbench_app.lanes import Asked, Lane
from workbench_app.prompt_lines import Prompt
from workbench_app.settings import Settings

#: Steps per second at which the film plays.
PACE = 10


class RecordedDuel:
    """The same requests on paged and on contiguous memory, both recorded from their beginning to their end.

    Raises:
        ValueError: the recordings are not of the same requests, or not from their beginning.
    """

    growing = None

    def __init__(self, paged: History, contiguous: History) -> None:
        ends = [history.state_at(history.last_step) for history in (paged, contiguous)]
        asked = [{n: (r.prompt, r.max_tokens) for n, r in end.requests.items()} for end in ends]
        if asked[0] != asked[1]:
            raise ValueError("the two recordings are not of the same requests")
        if paged.first_step or contiguous.first_step:
            raise ValueError("a recording does not start at step 0")
        self.settings = _settings(ends[1])
        run = ends[0].run
        assert run is not None  # `_settings` has seen to it
        self.geometry = run.model
        places = {request: (request, 0) for request in asked[0]}
        self.left, self.right = (Lane(history, Asked(dict(places))) for history in (paged, contiguous))
        for lane in self.sides:
            lane.read_marks()

    @property
    def sides(self) -> tuple[Lane, Lane]:
        return self.left, self.right

    @property
    def last_step(self) -> int:
        return max(lane.last_step for lane in self.sides)

    def compare_states(self, left: PageMap, right: PageMap) -> Comparison:
        """Whether both have written the same so far."""
        return compare_outputs(left, right)


def _settings(end: PageMap) -> Settings:
    run = end.run
    if run is None:
        raise ValueError("a recording does not say what was run")
    return Settings(
        prompts=tuple(Prompt(request.prompt, request.max_tokens) for request in end.requests.values()),
        pool_tokens=run.num_blocks * run.block_size,
        block_size=run.block_size,
        policy=str(run.config.get("reservation", "max")),
        max_model_len=int(run.config.get("max_model_len") or 0),
        temperature=0.0,
        seed=run.seed,
    )


def make_film(duel: RecordedDuel) -> bytes:
    """All steps as JSON: ``first`` frame and ``patches`` (`workbench.views.delta`), to be played by ``film.js``."""
    note = "A recording plays here until you press Run. It shows an earlier run of this program, on this model."
    first: dict[str, Any] | None = None
    before: dict[str, Any] = {}
    patches = []
    for step in range(duel.last_step + 1):
        frame = build_frame(
            duel, step, run=0, running=False, live=False, state="Recording", note=note, link="", jumps={}, film=True
        )
        if first is None:
            first = frame
        else:
            patches.append(diff(before, frame))
        before = frame
    film = {"first": first, "patches": patches, "pace": PACE}
    return json.dumps(film, ensure_ascii=False, separators=(",", ":")).encode()
