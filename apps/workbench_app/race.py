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
    """

    name: str
    tokens: int
    running: int
    peak: int
    finished_at: int | None
    used: float | None
    waits: bool


#: Lanes closer than this are level.
_LEVEL = 0.02


def ahead_words(lanes: list[Standing]) -> str:
    """Who is ahead in tokens written, or was done first, and why. Counted in steps: every lane makes one at a time."""
    if not any(lane.tokens for lane in lanes):
        return "Nothing is written yet, so nobody is ahead."
    if all(lane.finished_at is not None for lane in lanes):
        return _result(lanes)
    order = sorted(lanes, key=lambda lane: -lane.tokens)
    first, others = order[0], order[1:]
    said = " and ".join(f"{lane.name} {lane.tokens:,}" for lane in others)
    level = all(first.tokens - lane.tokens <= _LEVEL * first.tokens for lane in others)
    if level:
        return f"Level: {first.name} has written {first.tokens:,} tokens, {said}."
    words = f"{_capital(first.name)} is ahead: {first.tokens:,} tokens written, {said}."
    return words + _why(first, others[-1])


def _why(first: Standing, last: Standing) -> str:
    if first.finished_at is not None:
        return f" It has finished, and {last.name} goes on with {last.running}." if last.running else ""
    if first.running <= last.running:
        return _peaks(first, last)
    words = f" It writes {_texts(first.running)} at once, {last.name} {last.running}"
    if last.waits and last.used is not None:
        return f"{words}, where others wait although only {share(last.used)} of the held memory holds tokens."
    return f"{words}."


def _peaks(first: Standing, last: Standing) -> str:
    if first.peak > last.peak:
        return f" It has written up to {_texts(first.peak)} at once, {last.name} at most {last.peak}."
    return ""


def _result(lanes: list[Standing]) -> str:
    order = sorted(lanes, key=lambda lane: lane.finished_at or 0)
    first, last = order[0], order[-1]
    steps = [f"{lane.name} after {lane.finished_at:,}" for lane in order]
    if first.finished_at == last.finished_at:
        return f"Level: all have finished after {first.finished_at:,} steps."
    words = f"{_capital(first.name)} was done first: {' and '.join([', '.join(steps[:-1]), steps[-1]])} steps."
    words += _peaks(first, last)
    if first.used is not None and last.used is not None:
        words += (
            f" While others waited, {share(first.used)} of the memory that it held held tokens; "
            f"with {last.name} it was {share(last.used)}."
        )
    return words


def _texts(count: int) -> str:
    return f"{count} text" + ("" if count == 1 else "s")


def _capital(name: str) -> str:
    return name[:1].upper() + name[1:]
