"""Exercise 7.5: a real run of the engine, with the real model, foretold by a student's scheduler."""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable
from typing import Any

from workbench.course.lessons.bundled import Job, random_jobs, run
from workbench.course.lessons.scheduler_graders import settings_words
from workbench.course.lessons.small_server import Request, advance
from workbench.course.verdict import Verdict
from workbench.events import Timeline
from workbench.events import types as ev


def plans_of(timeline: Timeline) -> dict[int, dict[int, int]]:
    """Per step, how many tokens of each request the engine computed."""
    plans: dict[int, dict[int, int]] = {}
    owners: dict[int, int] = {}
    for event in timeline.events():
        if isinstance(event, ev.RequestQueued):
            owners[event.sequence] = event.request
        elif isinstance(event, ev.StepStarted):
            plans[event.step] = {}
        elif isinstance(event, ev.SlotsWritten):
            plan = plans[event.step]
            request = owners[event.sequence]
            plan[request] = plan.get(request, 0) + event.count
    return plans


@functools.cache
def _real_run(seed: int) -> tuple[dict[str, int], list[Job], dict[int, dict[int, int]], int]:
    """Random requests in a pool that is too small: settings, requests, the engine's plans, its preemptions."""
    rng = random.Random(4000 + seed)
    size, pages = rng.choice((2, 4)), rng.randint(10, 14)
    budget, width = rng.choice((8, 16)), rng.randint(3, 5)
    watermark = rng.choice((0.0, 0.1))
    jobs = random_jobs(rng, 6, (2, size * pages // 3), (4, size * pages // 3))
    _, timeline = run(
        jobs,
        block_size=size,
        num_blocks=pages,
        max_num_seqs=width,
        max_num_batched_tokens=budget,
        watermark=watermark,
    )
    preempted = sum(isinstance(event, ev.RequestPreempted) for event in timeline.events())
    reserve = math.ceil(watermark * pages)
    settings = {"num_pages": pages, "block_size": size, "budget": budget, "max_running": width, "reserve": reserve}
    return settings, jobs, plans_of(timeline), preempted


def grade_replay(answer: Callable[..., Any], seed: int) -> Verdict:
    """The plans of a real run, with the real model."""
    settings, jobs, plans, preempted = _real_run(seed)
    yours = answer(**settings)
    yours.waiting.extend(Request(number, len(job.prompt), job.output) for number, job in enumerate(jobs))
    for step, expected in plans.items():
        plan = yours.step()
        if plan != expected:
            mine = plan if isinstance(plan, dict) else {}
            number = next((n for n in [*expected, *mine] if mine.get(n) != expected.get(n)), 0)
            words = f"{settings_words(settings)}. In step {step} the engine computes {expected}"
            return Verdict(False, f"{words} (request: tokens).", plan, expected, f"step {step}, request {number}")
        advance(yours, plan)
    return Verdict(True, f"{len(plans)} steps of a real run with {preempted} preemptions, all foretold.")
