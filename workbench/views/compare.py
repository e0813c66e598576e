"""Did both engines say the same? Compared token by token, as far as both have got."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.events import PageMap, RequestStatus
from workbench.views.palette import request_label

_ENDED = (RequestStatus.FINISHED, RequestStatus.CANCELLED, RequestStatus.REJECTED)


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
    """

    compared: int
    equal: int
    generated: int
    final: bool
    difference: tuple[int, int] | None
    skipped: tuple[int, ...]

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
            text = f"Outputs differ: request {request_label(request)} at token {index + 1}"
        elif self.compared:
            text = f"Outputs equal: {self.compared:,} of {self.generated:,} tokens compared"
        else:
            text = "Outputs: nothing to compare" + ("" if self.final else " yet")
        if self.skipped:
            names = ", ".join(request_label(request) for request in self.skipped[:6])
            text += f"; not compared: {names}" + (" and more" if len(self.skipped) > 6 else "") + " (rejected)"
        return text + (" (final)" if self.final and self.compared else "")


def compare_outputs(left: PageMap, right: PageMap) -> Comparison:
    """Compares the tokens of the requests that both runs know.

    One output being shorter is a difference only if its request has finished: until then the other is just ahead.
    """
    compared = equal = generated = 0
    difference: tuple[int, int] | None = None
    skipped = []
    for request in left.requests.keys() & right.requests.keys():
        a, b = left.requests[request], right.requests[request]
        if (a.status is RequestStatus.REJECTED) or (b.status is RequestStatus.REJECTED):
            skipped.append(request)
            continue
        common = min(len(a.token_ids), len(b.token_ids))
        same = _equal_prefix(a.token_ids, b.token_ids, common)
        compared += common
        equal += same
        generated += max(len(a.token_ids), len(b.token_ids))
        shorter = a if len(a.token_ids) <= len(b.token_ids) else b
        ended_early = len(a.token_ids) != len(b.token_ids) and shorter.status is RequestStatus.FINISHED
        if (same < common or ended_early) and (difference is None or (request, same) < difference):
            difference = (request, same)
    final = bool(left.requests) and all(r.status in _ENDED for m in (left, right) for r in m.requests.values())
    return Comparison(compared, equal, generated, final, difference, tuple(sorted(skipped)))


def _equal_prefix(a: list[int], b: list[int], common: int) -> int:
    if a[:common] == b[:common]:
        return common
    return next(i for i in range(common) if a[i] != b[i])
