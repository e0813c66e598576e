"""Where to jump: the steps of a history at which something out of the ordinary happened."""

from __future__ import annotations

from bisect import bisect_left, bisect_right

from workbench.events import types as ev
from workbench.events.history import History
from workbench.events.types import AnyEvent, Cause

#: What can be jumped to, and what it is, in words.
KINDS = {
    "preemption": "a request gave way to another",
    "swap": "pages moved to or from the host tier",
    "copy": "a shared page was copied before it was written to",
    "eviction": "a cached page gave up its content",
    "oom": "there were not enough free pages: a request had to wait or to give way",
    "finish": "a request ended",
}

_BY_TYPE: dict[type, str] = {
    ev.RequestPreempted: "preemption",
    ev.BlocksSwappedOut: "swap",
    ev.BlocksSwappedIn: "swap",
    ev.BlockCopied: "copy",
    ev.BlockEvicted: "eviction",
    ev.RequestFinished: "finish",
}
_FULL = frozenset({Cause.POOL_EXHAUSTED, Cause.WATERMARK})


def kinds_of(event: AnyEvent) -> list[str]:
    """The kinds of jump that lead to an event; most events have none."""
    found = [kind] if (kind := _BY_TYPE.get(type(event))) is not None else []
    if isinstance(event, ev.AdmissionBlocked):
        is_full = event.cause in _FULL
    else:
        is_full = isinstance(event, ev.RequestPreempted) and event.cause is Cause.POOL_EXHAUSTED
    return [*found, "oom"] if is_full else found


class JumpIndex:
    """Steps by kind of jump, read in one pass.

    Args:
        history: read at once; call `update` again when it has grown.
    """

    def __init__(self, history: History | None = None) -> None:
        self._steps: dict[str, list[int]] = {kind: [] for kind in KINDS}
        self._next_seq = -1
        self._last_step = -1
        if history is not None:
            self.update(history)

    def update(self, history: History) -> None:
        """Takes in what a history has more than before, and drops what it has forgotten."""
        first = history.first_step
        for steps in self._steps.values():
            del steps[: bisect_left(steps, first)]
        start = self._last_step if first <= self._last_step <= history.last_step else None
        try:
            batches = history.batches(start)
        except IndexError:  # forgotten since the line before
            batches = history.batches()
        for batch in batches:
            for event in batch.events:
                if event.seq >= self._next_seq:
                    for kind in kinds_of(event):
                        self._note(kind, event.step)
            if batch.events:
                self._next_seq = max(self._next_seq, batch.events[-1].seq + 1)
                self._last_step = batch.step

    def _note(self, kind: str, step: int) -> None:
        steps = self._steps[kind]
        if not steps or steps[-1] != step:
            steps.append(step)

    def _of(self, kind: str) -> list[int]:
        if kind not in self._steps:
            raise ValueError(f"kind={kind!r}: allowed are {', '.join(KINDS)}")
        return self._steps[kind]

    def steps(self, kind: str) -> list[int]:
        """All steps of a kind, in order.

        Raises:
            ValueError: there is no such kind.
        """
        return list(self._of(kind))

    def next(self, step: int, kind: str) -> int | None:
        """The first step of a kind after ``step``; None: there is none."""
        steps = self._of(kind)
        place = bisect_right(steps, step)
        return steps[place] if place < len(steps) else None

    def previous(self, step: int, kind: str) -> int | None:
        """The last step of a kind before ``step``; None: there is none."""
        steps = self._of(kind)
        place = bisect_left(steps, step)
        return steps[place - 1] if place else None
