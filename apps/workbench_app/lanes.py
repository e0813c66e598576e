"""A lane of the comparison: the history of one engine's run, and sums that describe any of its steps at once."""

from __future__ import annotations

from dataclasses import dataclass, field

from workbench.events import PageMap
from workbench.events.history import History
from workbench.views.compare import Place


@dataclass(frozen=True)
class Mark:
    """Running sums after a step, so that any step of the past can be described without reading it again.

    ``running`` and ``peak`` are numbers of sequences: texts that are written at once. ``busy_*`` sums cover the steps
    in which requests waited: the phase in which memory was short. ``seconds`` were spent inside steps, measured.
    """

    running: int = 0
    waiting: int = 0
    peak: int = 0
    token_slots: int = 0
    held_slots: int = 0
    busy_token_slots: int = 0
    busy_held_slots: int = 0
    tokens: int = 0
    seconds: float = 0.0

    @property
    def mean_share(self) -> float | None:
        """Share of the held slots that held tokens, over all steps so far."""
        return self.token_slots / self.held_slots if self.held_slots else None

    @property
    def busy_share(self) -> float | None:
        """The same over the steps in which requests waited."""
        return self.busy_token_slots / self.busy_held_slots if self.busy_held_slots else None

    def after(self, page_map: PageMap) -> Mark:
        """The sums one step later."""
        waste = page_map.waste()
        running, waiting = _running_sequences(page_map), len(page_map.waiting)
        held = waste.token_states + waste.reserved
        return Mark(
            running=running,
            waiting=waiting,
            peak=max(self.peak, running, page_map.totals.max_running),
            token_slots=self.token_slots + waste.token_states,
            held_slots=self.held_slots + held,
            busy_token_slots=self.busy_token_slots + (waste.token_states if waiting else 0),
            busy_held_slots=self.busy_held_slots + (held if waiting else 0),
            tokens=page_map.totals.generated_tokens,
            seconds=page_map.totals.busy_ns / 1e9,
        )


def _running_sequences(page_map: PageMap) -> int:
    """Those that hold memory: beams that were dropped are no longer among them."""
    running = set(page_map.running)
    return sum(page_map.request_ids[sequence] in running for sequence in page_map.sequences)


@dataclass
class Asked:
    """What an engine was asked for.

    Attributes:
        places: for each of its requests, which prompt it belongs to, and which of that prompt's samples is its first.
        refused: prompts that it refused as they were, and why; other requests stand for them, if any can.
    """

    places: dict[int, Place] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)

    @property
    def unanswered(self) -> list[int]:
        """Prompts for which no request stands."""
        answered = {place for place, _ in self.places.values()}
        return [prompt for prompt in self.refused if prompt not in answered]

    def requests_of(self, prompt: int) -> list[int]:
        """The requests that stand for a prompt, in the order of its samples."""
        return [request for request, (place, _) in self.places.items() if place == prompt]


class Lane:
    """A run that can be looked at. ``marks[s]`` describes the state after step ``s``.

    Attributes:
        given_up: its requests were cancelled before they had ended.
    """

    given_up = False

    def __init__(self, history: History, asked: Asked) -> None:
        self.history = history
        self.asked = asked
        self.marks = [Mark()]

    @property
    def last_step(self) -> int:
        return len(self.marks) - 1

    @property
    def done(self) -> bool:
        """Whether there is nothing left to do."""
        return True

    def at(self, step: int) -> tuple[PageMap, Mark]:
        """State and sums after a step; a lane that is done stays as it was."""
        step = min(step, self.last_step)
        return self.history.state_at(step), self.marks[step]

    def read_marks(self) -> None:
        """The sums of all steps, from the history."""
        while self.last_step < self.history.last_step:
            self.marks.append(self.marks[-1].after(self.history.state_at(self.last_step + 1)))
