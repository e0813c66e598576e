"""A few states of a history that were read already, so that the next read has less to do, forwards and backwards."""

from __future__ import annotations

from collections import OrderedDict

from workbench.events.page_map import PageMap

#: Steps back up to this distance count as walking back, which is worth leaving marks for.
_NEAR = 64
#: Batches between marks, at least.
_INTERVAL = 16
#: Pages in all states that are kept, and most of those states.
_MAX_PAGES, _MAX_STATES = 500_000, 64


class StateCache:
    """The state that was read last, which moves along with the reader, and marks that stay where they are.

    Positions are numbers of batches before the state. Marks are left when somebody walks back: a step back then folds
    the few batches from the mark before it instead of all since the keyframe. Nobody changes a state that is in here.
    """

    def __init__(self) -> None:
        self._latest: tuple[int, PageMap] | None = None
        self._last_position = -1
        self._marks: OrderedDict[int, PageMap] = OrderedDict()

    def clear(self) -> None:
        """Forgets everything: positions have shifted."""
        self._latest, self._last_position = None, -1
        self._marks.clear()

    def take(self, low: int, high: int) -> tuple[int, PageMap, bool] | None:
        """The latest state from ``low`` to ``high``, its position, and whether it is the caller's own now.

        If it is not, it must be copied before it is changed.
        """
        best = max((position for position in self._marks if low <= position <= high), default=-1)
        if self._latest is not None and max(low, best + 1) <= self._latest[0] <= high:
            position, state = self._latest
            if position < high:
                self._latest = None
            return position, state, position < high
        if best < 0:
            return None
        self._marks.move_to_end(best)
        return best, self._marks[best], False

    def is_step_back(self, position: int) -> bool:
        """Whether ``position`` lies a little before what was read last."""
        return 0 < self._last_position - position <= _NEAR

    def wanted_marks(self, start: int, stop: int) -> range:
        """Where to leave marks on the way from ``start`` to ``stop``."""
        if not self.is_step_back(stop):
            return range(0)
        interval = max(_INTERVAL, -(-(stop - start) // 16))
        return range(start + interval, stop, interval)

    def put(self, position: int, state: PageMap | None, marks: dict[int, PageMap], num_pages: int) -> None:
        """Keeps what was read. ``state`` None: it is the reader's own, only where it was is of interest."""
        self._last_position = position
        if state is not None:
            self._latest = position, state
        self._marks.update(marks)
        while len(self._marks) > max(2, min(_MAX_STATES, _MAX_PAGES // max(1, num_pages))):
            self._marks.popitem(last=False)
