"""A request: the sequences that are scheduled, preempted and resumed together (a sequence group, Kwon et al., 4.5)."""

from __future__ import annotations

from dataclasses import dataclass, field

from workbench.engine.beams import BeamSearch
from workbench.engine.sampling_params import SamplingParams
from workbench.engine.sequence import Sequence
from workbench.events.types import FinishReason, OutputState, PreemptionMode


@dataclass(slots=True)
class Debt:
    """What a preemption has cost so far, until the request is where it was.

    Attributes:
        estimated_ns: what was expected of the mode that was chosen; -1: not asked.
        is_resumed: whether the request runs again.
    """

    mode: PreemptionMode
    estimated_ns: int
    spent_ns: int = 0
    tokens: int = 0
    bytes: int = 0
    is_resumed: bool = False


@dataclass(eq=False, slots=True)
class Request:
    """A prompt and the sequences that go on from it.

    Attributes:
        sequences: all that give an output, in the order in which they began; of a beam search those that live.
        live: those that have begun and are not finished.
        pending: samples that begin when the prompt is computed, and share it then.
        beams: the search, if it is one.
        chosen: its results.
        preempted: how its memory was taken, while it waits for being resumed.
        num_lost: tokens that the latest preemption took.
    """

    request: int
    prompt: str
    params: SamplingParams
    prompt_ids: list[int]
    max_tokens: int
    queued_step: int
    sequences: list[Sequence]
    live: list[Sequence]
    pending: list[Sequence] = field(default_factory=list)
    beams: BeamSearch | None = None
    chosen: list[OutputState] = field(default_factory=list)
    preempted: PreemptionMode | None = None
    num_lost: int = 0
    debt: Debt | None = None
    finish_reason: FinishReason | None = None

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.prompt_ids)

    @property
    def width(self) -> int:
        """How many sequences it may come to run at once."""
        if self.beams is not None:
            return self.params.beam_width
        return len(self.live) + len(self.pending)

    @property
    def num_output_tokens(self) -> int:
        """Of all sequences together."""
        if self.chosen:
            return sum(len(output.token_ids) for output in self.chosen)
        return sum(sequence.num_output_tokens for sequence in self.sequences)

    @property
    def present(self) -> list[int]:
        """Numbers of the sequences that have memory while it runs, or that have pages in the host tier."""
        return [sequence.sequence for sequence in self.live if not sequence.is_absent]

    @property
    def remaining_tokens(self) -> int:
        """The most that its longest sequence may still generate."""
        return max((s.max_tokens - s.num_output_tokens for s in self.live), default=0)
