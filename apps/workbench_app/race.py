"""Who is ahead, and why: one plain sentence from what the lanes have done by the step that is shown."""

from __future__ import annotations

from dataclasses import dataclass

from workbench_app.words import share


@dataclass(frozen=True)
class Standing:
    """A lane by the step that is shown.

    Attributes:
        tokens: written so far; ``running`` texts are being written, at most ``peak`` were so far.
        finished_at: the step at which its last request ended; None while there is more to do.
        used: share of the memory that it held which held tokens, over the steps in which others waited; None: nobody
            had to wait.
        waits: whether somebody waits for memory now.
        rejected: requests that can never fit into its memory, of ``asked``.
    """

    name: str
    tokens: int
    running: int
    peak: int
    finished_at: int | None
    used: float | None
    waits: bool
    rejected: int = 0
    asked: int = 0


#: Lanes closer than this are level.
_LEVEL = 0.02


def ahead_words(lanes: list[Standing]) -> str:
    """Who is ahead in tokens written, or was done first, and why. Counted in steps: every lane makes one at a time."""
    if any(lane.rejected for lane in lanes):
        return _no_race(lanes)
    if not any(lane.tokens for lane in lanes):
        return "Nothing is written yet, so nobody is ahead."
    done = sorted((lane for lane in lanes if lane.finished_at is not None), key=lambda lane: lane.finished_at or 0)
    if len(done) == len(lanes):
        return _result(done)
    if done:
        return _some_are_done(done, [lane for lane in lanes if lane.finished_at is None])
    order = sorted(lanes, key=lambda lane: -lane.tokens)
    first = order[0]
    level = [lane for lane in order if first.tokens - lane.tokens <= _LEVEL * first.tokens]
    others = order[len(level) :]
    if not others:
        said = " and ".join(f"{lane.name} {lane.tokens:,}" for lane in level[1:])
        return f"Level: {first.name} has written {first.tokens:,} tokens, {said}."
    said = " and ".join(f"{lane.name} {lane.tokens:,}" for lane in others)
    are = "is" if len(level) == 1 else "are"
    tokens = " and ".join(f"{lane.tokens:,}" for lane in level)
    words = f"{_capital(_names(level))} {are} ahead: {tokens} tokens written, {said}."
    return words + (_why(first, others[-1]) if len(level) == 1 else "")


def _no_race(lanes: list[Standing]) -> str:
    """Who refuses requests has less to do, so that being done first says nothing."""
    refused = " ".join(_rejection(lane) for lane in lanes if lane.rejected)
    return f"{refused} So there is no race."


def _rejection(lane: Standing) -> str:
    number = "all" if lane.rejected == lane.asked else f"{lane.rejected} of"
    requests = f"{lane.asked} request" + ("" if lane.asked == 1 else "s")
    return f"{_capital(lane.name)} rejected {number} {requests}: more than its whole memory would be needed."


def _why(first: Standing, last: Standing) -> str:
    if first.running <= last.running:
        return _peaks(first, last)
    words = f" It writes {_texts(first.running)} at once, {last.name} {last.running}"
    if last.waits and last.used is not None:
        used = _percent(last.used)
        return f"{words}: others wait, though only {used} of its held memory is used (mean)."
    return f"{words}."


def _some_are_done(done: list[Standing], others: list[Standing]) -> str:
    finished = ", ".join(f"{lane.name} after {_steps(lane)}" for lane in done)
    rest = " ".join(
        f"{_capital(lane.name)} has written {lane.tokens:,} tokens"
        + (f" and goes on with {_texts(lane.running)}." if lane.running else " so far.")
        for lane in others
    )
    return f"Finished: {finished}. {rest}"


def _peaks(first: Standing, last: Standing) -> str:
    if first.peak > last.peak:
        return f" {_capital(first.name)} wrote up to {_texts(first.peak)} at once, {last.name} at most {last.peak}."
    return ""


def _result(order: list[Standing]) -> str:
    first, last = order[0], order[-1]
    if first.finished_at == last.finished_at:
        return f"Level: all have finished after {_steps(first)}."
    winners = [lane for lane in order if lane.finished_at == first.finished_at]
    later = ", ".join(f"{lane.name} after {lane.finished_at:,}" for lane in order[len(winners) :])
    were = "was" if len(winners) == 1 else "were"
    words = f"{_capital(_names(winners))} {were} done first, after {_steps(first)}; {later}."
    words += _peaks(first, last)
    if first.used is not None and last.used is not None:
        words += (
            f" While others waited, {_percent(first.used)} of the memory that {first.name} held was used; "
            f"with {last.name} it was {_percent(last.used)}."
        )
    return words


def _steps(lane: Standing) -> str:
    return f"{lane.finished_at:,} step" + ("" if lane.finished_at == 1 else "s")


def _percent(used: float) -> str:
    """A share whose sign stays on the number's line."""
    return share(used).replace(" ", "\N{NO-BREAK SPACE}")


def _texts(count: int) -> str:
    return f"{count} text" + ("" if count == 1 else "s")


def _names(lanes: list[Standing]) -> str:
    return " and ".join(lane.name for lane in lanes)


def _capital(name: str) -> str:
    return name[:1].upper() + name[1:]
