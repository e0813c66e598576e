"""One request of a workload."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.engine.sampling_params import SamplingParams


@dataclass(frozen=True)
class Job:
    """A request, and when it comes.

    Attributes:
        prompt: token ids.
        arrival: in engine steps after the beginning; it is queued before the first step that begins then or later.
    """

    prompt: list[int]
    params: SamplingParams
    arrival: float = 0.0
