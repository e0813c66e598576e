"""Reading what a growing history has got since it was last read."""

from __future__ import annotations

from collections.abc import Callable

from workbench.events.history import History
from workbench.events.types import EventBatch


def read_on(history: History, step: int, extend: Callable[[EventBatch], bool]) -> bool:
    """Hands over the steps from ``step`` on, which may have got more events since, one batch per step.

    Args:
        extend: takes a batch, perhaps with events that it knows; False if events before it are missing.

    Returns:
        False if ``extend`` said so, or the history has forgotten a step meanwhile.
    """
    for number in range(max(step, history.first_step), history.last_step + 1):
        try:
            events = history.events(number)
        except IndexError:
            return False
        if not extend(EventBatch(number, events)):
            return False
    return True
