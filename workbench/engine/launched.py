"""A step between its launch and its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from workbench.engine.mover import Mover
from workbench.engine.plan import StepPlan
from workbench.engine.sampler import Sampled
from workbench.events.types import AnyEvent


class Launched(Protocol):
    """A step that was launched. What does not need its tokens can be done before `wait`."""

    def wait(self) -> tuple[Sampled, int]:
        """The new tokens, one for every chunk that samples, and when the forward pass ended, by `perf_counter_ns`."""


@dataclass(frozen=True)
class Finished:
    """A step whose tokens are there already."""

    sampled: Sampled
    forwarded_ns: int

    def wait(self) -> tuple[Sampled, int]:
        return self.sampled, self.forwarded_ns


class Runner(Protocol):
    """Carries plans out on the model.

    Attributes:
        overlaps: whether the device goes on working while the host does something else.
        mover: carries out moves of pages; `launch` has it do so first.
    """

    overlaps: bool

    @property
    def mover(self) -> Mover: ...

    def forget(self, sequences: list[int]) -> None:
        """The memory of these sequences was taken back."""

    def launch(self, plan: StepPlan) -> Launched:
        """Starts the step: stores keys and values of all planned tokens, and samples where a chunk says so.

        Should it raise, nothing counts as done, and the step may be launched again.
        """

    def take_readings(self) -> list[AnyEvent]:
        """What was noted while pages were read, in the step whose tokens came last, as events to be sent."""

    def prepare(self, plan: StepPlan) -> None:
        """Gets ready for the step after ``plan``, which was launched; nobody waits to be let in."""

    def warm_up(self) -> None:
        """Compiles and captures now what would otherwise be when it is first needed."""

    def describe(self) -> str:
        """What else there is to say about it, to be put behind "triton attention"; may be empty."""

    def release(self) -> None:
        """Lets go of the KV pool; `launch` can't be called again."""
