"""Lesson 8, swapping and its limits: what preempting costs, who gives way, and texts larger than memory."""

from __future__ import annotations

import functools
import random
import statistics
from typing import Any

from workbench import LLM
from workbench.course.exercise import Exercise, Question
from workbench.course.lessons.bundled import Job, run, tiny
from workbench.course.lessons.swapping_graders import grade_choice, grade_costs, grade_policy, grade_replay
from workbench.course.lessons.victims import (
    BANDWIDTH,
    BLOCK_SIZE,
    PREFILL_SPEED,
    Victim,
    adaptive_run,
    decisions,
    engines_costs,
    text_jobs,
)
from workbench.events import Timeline
from workbench.events import types as ev
from workbench.views.palette import request_label
from workbench.workloads import BundledText

__all__ = [
    "EXERCISES", "Victim", "adaptive_run", "burst", "cost_ms", "decisions", "grade_choice", "grade_costs",
    "grade_policy", "grade_replay", "long_text", "make_question", "read_per_token", "settled", "totals", "twice",
]  # fmt: skip


@functools.cache
def burst(preemption: str = "recompute", num_blocks: int = 24, watermark: float = 0.0) -> Timeline:
    """Eight requests at once, about 250 tokens, on pages of 4 that are too few; the same call gives the same run.

    Args:
        preemption: "recompute", or "swap": then the host tier has twice as many pages as the device.
    """
    host = 2 * num_blocks if preemption == "swap" else 0
    jobs = text_jobs(0, 8, (12, 20), (12, 18))
    _, timeline = run(
        jobs,
        block_size=BLOCK_SIZE,
        num_blocks=num_blocks,
        num_host_blocks=host,
        preemption=preemption,
        watermark=watermark,
        max_num_batched_tokens=256,
    )
    return timeline


def totals(timeline: Timeline) -> Any:
    """The sums of a whole run (`workbench.events.state.Totals`)."""
    return timeline.state_at(timeline.last_step).totals


def twice(timeline: Timeline) -> float:
    """Percent of the tokens that went through the model which went through it for a second time."""
    t = totals(timeline)
    return 100.0 * t.recomputed_tokens / (t.prefill_tokens + t.generated_tokens)


def settled(timeline: Timeline) -> list[ev.PreemptionSettled]:
    """What each preemption cost in the end, in the order in which that was known."""
    return [e for e in timeline.events() if isinstance(e, ev.PreemptionSettled)]


def cost_ms(timeline: Timeline) -> tuple[float, float]:
    """Expected and measured cost of a preemption in milliseconds; medians over those that had an estimate."""
    found = [e for e in settled(timeline) if e.estimated_ns >= 0 and e.measured_ns > 0]
    if not found:
        return float("nan"), float("nan")
    expected = statistics.median(e.estimated_ns for e in found)
    return expected / 1e6, statistics.median(e.measured_ns for e in found) / 1e6


def long_text(num_blocks: int) -> tuple[LLM, Timeline, list[int]]:
    """One text of 150 + 16 tokens (42 pages) on a pool of so many pages; the rest lies in the host tier.

    Returns:
        The engine, the history, and the tokens written.
    """
    prompt = BundledText(tiny().tokenizer).draw(random.Random(0), 150)
    llm, timeline = run(
        [Job(prompt, 16)],
        block_size=BLOCK_SIZE,
        num_blocks=num_blocks,
        num_host_blocks=64,
        max_model_len=256,
        watermark=0.0,
        staging_blocks=8,
    )
    return llm, timeline, list(llm.output(0).outputs[0].token_ids)


def read_per_token(timeline: Timeline) -> float:
    """Megabytes read from the host tier in the last step."""
    last = timeline.last_step
    found = [e.bytes for e in timeline.events() if isinstance(e, ev.BlocksStreamed) and e.step == last]
    return sum(found) / 1e6


# -- the register ------------------------------------------------------------------------------------------------------

EXERCISES = {
    "8.1": Exercise(
        "What does either way cost?",
        grade_costs,
        (
            "Seconds = amount / speed. What is the amount when pages are swapped, and when tokens are recomputed?",
            "Pages go out and come in again: their bytes cross the link twice.",
            "Tokens that the prefix cache gives back (`victim.kept`) are not computed again.",
            "`return 2 * victim.num_bytes / bandwidth, (victim.tokens - victim.kept) / prefill_speed`",
        ),
    ),
    "8.2": Exercise(
        "Swap or recompute?",
        grade_choice,
        (
            "When is swapping impossible, whatever it would cost?",
            "If `victim.pages > host_free` there is no room on the host: recompute. Exactly enough is enough.",
            "Otherwise compare the two costs of 8.1; when they are equal, swap.",
        ),
    ),
    "8.3": Exercise(
        "Decide for the victims of a real run",
        grade_replay,
        ("This needs no new code: it is your `decide` of 8.2 on every victim of a run of the engine.",),
        seeds=(1, 2),
    ),
    "8.4": Exercise(
        "A victim policy",
        grade_policy,
        (
            "What does it cost to take somebody's pages (`footprint.tokens`), and what is gained (`footprint.lost`)?",
            "The smallest key gives way: `tokens / lost`. What if others share all its pages, so that `lost` is 0?",
            "Keys may be tuples, compared from the left: `(lost == 0, tokens / max(1, lost))`.",
        ),
    ),
}


def make_question(seed: int) -> Question:
    """About a victim of a real run: what either way costs, and which one the engine takes."""
    rng = random.Random(seed)
    number = rng.randrange(1, 200)
    while not (found := decisions(*adaptive_run(number))):
        number += 1
    d = rng.choice(found)
    v = d.victim
    facts = (
        f"In step {d.step} of a run request {request_label(d.request)} gives way. It has {v.tokens} tokens in "
        f"{v.pages} pages, {v.num_bytes:,} bytes in all; the prefix cache will give {v.kept} of the tokens back. The "
        f"link moves {BANDWIDTH / 1e6:.0f} MB (10^6 bytes) a second each way, prompts are computed at "
        f"{PREFILL_SPEED:,.0f} tokens a second."
    )
    swap, recompute = engines_costs(v, BANDWIDTH, PREFILL_SPEED)
    kind = rng.choice(("swap", "recompute", "choice", "even"))
    if kind == "swap":
        why = f"{v.num_bytes:,} bytes go out and come in: 2 x {v.num_bytes:,} / {BANDWIDTH:,.0f} seconds."
        return Question(
            f"{facts} How many milliseconds does swapping it take, there and back?", swap * 1e3, why, tolerance=0.01
        )
    if kind == "recompute":
        why = f"{v.tokens} - {v.kept} tokens at {PREFILL_SPEED:,.0f} a second."
        return Question(
            f"{facts} How many milliseconds does recomputing it take?", recompute * 1e3, why, tolerance=0.01
        )
    if kind == "even":
        limit = 2 * v.num_bytes / max(recompute, 1e-9) / 1e6
        return Question(
            f"{facts} With how many MB a second would both ways take the same time?",
            limit,
            f"Recomputing takes {recompute * 1e3:.4g} ms; in that time 2 x {v.num_bytes:,} bytes must have moved.",
            tolerance=0.01,
        )
    return Question(
        f"{facts} {d.host_free} pages are free on the host. What does the engine do?",
        d.mode,
        f"Swapping takes {swap * 1e3:.4g} ms, recomputing {recompute * 1e3:.4g} ms; it needs {v.pages} pages on the "
        f"host, {d.host_free} are free.",
        choices=("swap", "recompute"),
    )
