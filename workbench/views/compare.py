"""Did both engines say the same? Compared token by token, as far as both have got."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from workbench.events import PageMap, RequestStatus
from workbench.events.state import RequestState
from workbench.views.palette import request_label

_ENDED = (RequestStatus.FINISHED, RequestStatus.CANCELLED, RequestStatus.REJECTED)

#: A request and which of its outputs.
Place = tuple[int, int]


@dataclass(frozen=True)
class Comparison:
    """Result of `compare_outputs`.

    Attributes:
        compared: tokens that both sides have generated, and that were compared.
        equal: how many of them were the same.
        generated: tokens that the side that is further ahead has generated, summed over the requests.
        final: both sides are done with everything.
        difference: the first difference as (request, index of the token), or None.
        skipped: requests that one side rejected, so that there is nothing to compare.
        sample: which of the request's outputs differs; None if it has only one.
    """

    compared: int
    equal: int
    generated: int
    final: bool
    difference: tuple[int, int] | None
    skipped: tuple[int, ...]
    sample: int | None = None

    @property
    def state(self) -> str:
        """ "pending", "equal" or "differ"."""
        if self.difference is not None:
            return "differ"
        return "equal" if self.compared else "pending"

    @property
    def words(self) -> str:
        """The badge's text."""
        if self.difference is not None:
            request, index = self.difference
            sample = f", sample {self.sample + 1}," if self.sample is not None else ""
            text = f"Outputs differ: request {request_label(request)}{sample} at token {index + 1}"
        elif self.compared:
            text = f"Outputs equal: {self.compared:,} of {self.generated:,} tokens compared"
        else:
            text = "Outputs: nothing to compare" + ("" if self.final else " yet")
        if self.skipped:
            names = ", ".join(request_label(request) for request in self.skipped[:6])
            text += f"; not compared: {names}" + (" and more" if len(self.skipped) > 6 else "") + " (rejected)"
        return text + (" (final)" if self.final and self.compared else "")


@dataclass(frozen=True)
class _Output:
    token_ids: list[int]
    is_finished: bool
    is_rejected: bool


def _outputs_of(state: RequestState) -> list[_Output]:
    """A request's outputs in their order. Beams are compared when they have been chosen."""
    finished, rejected = state.status is RequestStatus.FINISHED, state.status is RequestStatus.REJECTED
    if state.is_beam_search:
        return [_Output(output.token_ids, True, rejected) for output in state.chosen]
    is_cancelled = state.status is RequestStatus.CANCELLED
    return [
        _Output(output.token_ids, finished or (output.reason != "" and not is_cancelled), rejected)
        for output in state.outputs.values()
    ]


def compare_outputs(left: PageMap, right: PageMap, places: Mapping[int, Place] | None = None) -> Comparison:
    """Compares the tokens of the requests that both runs know.

    One output being shorter is a difference only if it is finished: until then the other is just ahead.

    Args:
        places: where the right run was asked for the same in other requests: to which request of the left run, and
            which of its outputs, the first output of each request of the right run belongs.
    """
    there: dict[Place, _Output] = {}
    for request, state in right.requests.items():
        counterpart, begin = places.get(request, (request, 0)) if places is not None else (request, 0)
        for sample, output in enumerate(_outputs_of(state), begin):
            there[counterpart, sample] = output
    compared = equal = generated = 0
    difference: tuple[Place, int] | None = None
    skipped = set()
    for request, state in left.requests.items():
        for sample, a in enumerate(_outputs_of(state)):
            b = there.get((request, sample))
            if b is None:
                continue
            if a.is_rejected or b.is_rejected:
                skipped.add(request)
                continue
            common = min(len(a.token_ids), len(b.token_ids))
            same = _equal_prefix(a.token_ids, b.token_ids, common)
            compared += common
            equal += same
            generated += max(len(a.token_ids), len(b.token_ids))
            shorter = a if len(a.token_ids) <= len(b.token_ids) else b
            ended_early = len(a.token_ids) != len(b.token_ids) and shorter.is_finished
            found = ((request, sample), same)
            if (same < common or ended_early) and (difference is None or found < difference):
                difference = found
    final = bool(left.requests) and all(r.status in _ENDED for m in (left, right) for r in m.requests.values())
    first = (difference[0][0], difference[1]) if difference is not None else None
    many = difference is not None and left.requests[difference[0][0]].width > 1
    sample_that_differs = difference[0][1] if difference is not None and many else None
    return Comparison(compared, equal, generated, final, first, tuple(sorted(skipped)), sample_that_differs)


def _equal_prefix(a: list[int], b: list[int], common: int) -> int:
    if a[:common] == b[:common]:
        return common
    return next(i for i in range(common) if a[i] != b[i])
