"""Requests to measure with: how long they are, what they say, when they arrive. Every draw has a seed."""

from workbench.workloads.arrivals import all_at_once, poisson
from workbench.workloads.jobs import Job
from workbench.workloads.lengths import DISTRIBUTIONS, Lengths, LengthSource, TraceError, from_trace, named, uniform
from workbench.workloads.prompts import (
    BundledText,
    HeldOutText,
    PromptSource,
    RandomTokens,
    few_shot_prefix,
    prompt_source,
)

__all__ = [
    "DISTRIBUTIONS",
    "BundledText",
    "HeldOutText",
    "Job",
    "LengthSource",
    "Lengths",
    "PromptSource",
    "RandomTokens",
    "TraceError",
    "all_at_once",
    "few_shot_prefix",
    "from_trace",
    "named",
    "poisson",
    "prompt_source",
    "uniform",
]
