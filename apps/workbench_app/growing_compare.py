"""Has transformers' own cache written the same as paged memory? Compared token by token, as far as both have got.

The arithmetic is not the same: a padded batch adds numbers up in another order. Greedy or sampled, a choice between two
tokens that are as good as level can fall the other way, and the text goes on differently from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workbench.events import PageMap, RequestStatus
from workbench.views import Comparison
from workbench.views.compare import Place
from workbench_app.growing import LaneOutput, LaneState

_WHY = (
    "Both compute the same numbers but for rounding: a padded batch adds them up in another order. Where two tokens "
    "are as good as level, the choice can fall the other way, and the text goes on differently from there."
)


def lane_badge(paged: PageMap, places: Mapping[int, Place], state: LaneState) -> dict[str, Any]:
    """`compare_lane` for the browser: ``state``, ``words``, and ``why`` if there is a difference."""
    same = compare_lane(paged, places, state)
    differs = same.difference is not None
    return {"state": same.state, "words": f"Compared with paged memory. {same.words}", "why": _WHY if differs else ""}


def compare_lane(paged: PageMap, places: Mapping[int, Place], state: LaneState) -> Comparison:
    """Compares the outputs of an engine with those of the lane.

    Args:
        places: for each of the engine's requests, its prompt and the sample that its first output is.
    """
    lane = {(output.prompt, output.sample): output for output in state.outputs}
    compared = equal = generated = 0
    difference: tuple[Place, int] | None = None
    skipped = set(state.left_out)
    final = state.done
    for request, known in paged.requests.items():
        prompt, first = places.get(request, (request, 0))
        if known.status is RequestStatus.REJECTED or known.is_beam_search:
            skipped.add(prompt)
            continue
        final = final and known.status in (RequestStatus.FINISHED, RequestStatus.CANCELLED)
        for sample, output in enumerate(known.outputs.values(), first):
            other = lane.get((prompt, sample))
            if other is None or other.status == "x":
                skipped.add(prompt)
                continue
            same = _equal_prefix(output.token_ids, other)
            common = min(len(output.token_ids), len(other.token_ids))
            compared, equal = compared + common, equal + same
            generated += max(len(output.token_ids), len(other.token_ids))
            found = ((prompt, sample), same)
            if same < common and (difference is None or found < difference):
                difference = found
    widths = {output.prompt: output.sample + 1 for output in state.outputs}
    where = difference[0] if difference is not None else None
    return Comparison(
        compared=compared,
        equal=equal,
        generated=generated,
        final=final,
        difference=(where[0], difference[1]) if where is not None and difference is not None else None,
        skipped=tuple(sorted(skipped)),
        sample=where[1] if where is not None and widths[where[0]] > 1 else None,
    )


def _equal_prefix(tokens: list[int], output: LaneOutput) -> int:
    pairs = enumerate(zip(tokens, output.token_ids, strict=False))
    common = min(len(tokens), len(output.token_ids))
    return next((index for index, (a, b) in pairs if a != b), common)
