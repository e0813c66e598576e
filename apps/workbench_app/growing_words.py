"""What the third lane says about itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workbench.views import request_label
from workbench_app.words import megabytes, share

if TYPE_CHECKING:
    from workbench_app.growing import LaneState

_MOST_NAMES = 8


def lane_words(state: LaneState) -> str:
    """What is seen, in sentences."""
    said = [_batch_words(state), waiting_words(state), left_out_words(state)]
    return " ".join(sentence for sentence in said if sentence)


def _batch_words(state: LaneState) -> str:
    if state.why_not:
        return f"transformers' own cache: not run here. {state.why_not}."
    if not state.rows:
        if not state.batches:
            return "Nothing to run on transformers' own cache."
        if state.done:
            return f"All is written. At most {megabytes(state.peak_bytes)} were held."
        if not state.mark.tokens:
            return "Nothing is held: the cache begins empty and has no pool."
        return f"Batch {state.batch + 1} of {state.batches} has ended and given its whole cache back."
    ended = sum(row.ended for row in state.rows)
    words = (
        f"Batch {state.batch + 1} of {state.batches}: {count(len(state.rows), 'row')} of "
        f"{count(state.length, 'position')} hold {megabytes(state.bytes)}, of which "
        f"{share(state.needed_bytes / state.bytes)} are tokens that are still needed, "
        f"{share(state.padding_bytes / state.bytes)} padding and "
        f"{share(state.ended_bytes / state.bytes)} rows that have ended."
    )
    if ended:
        last = "it stays, and grows," if ended == 1 else "they stay, and grow,"
        words += f" {count(ended, 'row')} ended early: {last} until the whole batch has ended."
    return words


def waiting_words(state: LaneState) -> str:
    """Why those who wait do; empty if nobody has to."""
    if not state.waiting or not state.rows:
        return ""
    verb = "waits" if len(state.waiting) == 1 else "wait"
    return f"{names(state.waiting)} {verb}: a batch lets nobody in once it runs."


def left_out_words(state: LaneState) -> str:
    """What this lane does not run; empty if it runs everything."""
    if not state.left_out:
        return ""
    return f"{names(state.left_out)} left out: this lane does not run beam searches."


def plan_words(state: LaneState) -> str:
    """How much the present batch was planned for; empty if there is none."""
    if not state.rows or not state.length:
        return ""
    planned = len(state.rows) * state.longest * (state.bytes // (len(state.rows) * state.length))
    if planned > state.pool_bytes:
        return f"This batch alone may need {megabytes(planned)}, more than the pool of the other lanes."
    return (
        f"Planned for {count(len(state.rows), 'row')} of {state.longest:,} positions, {megabytes(planned)}: the "
        "longest prompt and the longest output of the batch, whichever rows have them."
    )


def names(prompts: tuple[int, ...]) -> str:
    """Letters of requests, shortened if there are many."""
    labels = [request_label(prompt) for prompt in prompts]
    if len(labels) > _MOST_NAMES:
        labels = [*labels[: _MOST_NAMES - 1], f"{len(labels) - _MOST_NAMES + 1} more"]
    return labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} and {labels[-1]}"


def count(number: int, noun: str) -> str:
    """A number with its noun."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
