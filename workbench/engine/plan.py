"""What one step does, as an explicit object: the scheduler makes it, the runner carries it out."""

from __future__ import annotations

from dataclasses import dataclass, field

from workbench.engine.sequence import Sequence
from workbench.events.types import Cause


@dataclass(eq=False, slots=True)
class Chunk:
    """The next ``count`` tokens of a sequence. ``samples``: they are its last, so the step yields a new token.

    ``also`` get a token from the same logits: the other samples of a request whose prompt is complete now.

    Not to be changed: the chunk of a sequence that decodes is the same object in every step.
    """

    sequence: Sequence
    count: int
    samples: bool
    is_decode: bool
    cause: Cause
    also: tuple[Sequence, ...] = ()


@dataclass(slots=True)
class StepPlan:
    """All that one step does. Decodes come before prefills.

    Attributes:
        freed: sequences whose memory was taken back, or whose pages were moved about, since the plan before: whoever
            keeps anything for them, such as a row of a block table, lets go of it first.
        samples_mass: whether this step notes how much attention each page gets.
    """

    decodes: list[Chunk] = field(default_factory=list)
    prefills: list[Chunk] = field(default_factory=list)
    freed: list[int] = field(default_factory=list)
    samples_mass: bool = False

    @property
    def chunks(self) -> list[Chunk]:
        return self.decodes + self.prefills if self.prefills else self.decodes

    @property
    def samplers(self) -> list[Sequence]:
        """The sequences that get a token, in the order of the logits' rows."""
        found: list[Sequence] = []
        for chunk in self.chunks:
            if chunk.samples:
                found.append(chunk.sequence)
                found += chunk.also
        return found

    @property
    def num_decode_tokens(self) -> int:
        return len(self.decodes)

    @property
    def num_prefill_tokens(self) -> int:
        return sum(chunk.count for chunk in self.prefills)
