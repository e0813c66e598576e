"""Lesson 7, scheduling: who computes what in a step, on the engine, and a small scheduler that a student writes."""

from __future__ import annotations

import math
import random

from workbench import LLM, EngineConfig, SamplingParams
from workbench.course.exercise import Exercise, Question
from workbench.course.lessons.bundled import Job, random_jobs, run, tiny
from workbench.course.lessons.scheduler_graders import (
    grade_admit,
    grade_chunks,
    grade_make_room,
    grade_step,
)
from workbench.course.lessons.scheduler_replay import grade_replay, plans_of
from workbench.events import Timeline
from workbench.events import types as ev
from workbench.events.types import Cause
from workbench.views.palette import request_label

# -- runs for the lesson's cells ---------------------------------------------------------------------------------------


def mixed_jobs() -> list[Job]:
    """Eight requests, short and long outputs mixed."""
    outputs = (6, 40, 8, 10, 36, 6, 12, 8)
    prompts = random_jobs(random.Random(7), len(outputs), (6, 12), (1, 1))
    return [Job(job.prompt, output) for job, output in zip(prompts, outputs, strict=True)]


def run_in_batches(jobs: list[Job], width: int) -> int:
    """Steps that the engine takes if the next ``width`` requests come only when all of those before have ended."""
    steps = 0
    for start in range(0, len(jobs), width):
        llm, _ = run(jobs[start : start + width], max_num_seqs=width)
        steps += llm.step_number
    return steps


def run_continuously(jobs: list[Job], width: int) -> tuple[LLM, Timeline]:
    """The same requests, where a place that becomes free is taken in the next step."""
    return run(jobs, max_num_seqs=width)


def long_prompt_run(budget: int) -> tuple[LLM, Timeline, int]:
    """Three requests are writing when one with a prompt of 400 tokens comes, in step 6; to the end of step 24.

    Returns:
        The engine, its history, and the number of the long request.
    """
    rng = random.Random(70)
    llm = LLM(tiny(), EngineConfig(block_size=16, num_blocks=64, max_num_batched_tokens=budget))
    timeline = Timeline(llm.bus)
    for job in random_jobs(rng, 3, (5, 9), (38, 38)):
        llm.add_request(job.prompt, SamplingParams(max_tokens=job.output, temperature=0, ignore_eos=True))
    while llm.step_number < 5:
        llm.step()
    prompt = random_jobs(rng, 1, (400, 400), (1, 1))[0].prompt
    long = llm.add_request(prompt, SamplingParams(max_tokens=4, temperature=0, ignore_eos=True))
    while llm.has_unfinished and llm.step_number < 24:
        llm.step()
    return llm, timeline, long


def chunks_of(timeline: Timeline, request: int) -> list[int]:
    """How many prompt tokens of a request were computed, for each step in which there were any."""
    plans = plans_of(timeline)
    prompt = next(
        e.prompt_tokens for e in timeline.events() if isinstance(e, ev.RequestQueued) and e.request == request
    )
    found, total = [], 0
    for plan in plans.values():
        if request in plan and total < prompt:
            found.append(plan[request])
            total += plan[request]
    return found


def slowest_ms(timeline: Timeline, first: int = 6) -> float:
    """The longest forward pass from step ``first`` on, in milliseconds, measured."""
    steps = [e for e in timeline.events() if isinstance(e, ev.StepFinished) and e.step >= first]
    return max(step.forward_ns for step in steps) / 1e6


def crowded_run(watermark: float = 0.0) -> tuple[LLM, Timeline]:
    """Eight requests in a pool of 16 pages of 4, which is too small for all of them, to their end."""
    jobs = random_jobs(random.Random(71), 8, (5, 12), (8, 20))
    return run(jobs, block_size=4, num_blocks=16, watermark=watermark, max_num_seqs=8)


# -- the register -----------------------------------------------------------------------------------------------------

EXERCISES = {
    "7.1": Exercise(
        "Share a budget",
        grade_chunks,
        (
            "Who comes first takes what it needs, but not more than what is left.",
            "`count = min(tokens, budget)`, append it, and take it from the budget; it may be 0.",
        ),
    ),
    "7.2": Exercise(
        "Let requests in",
        grade_admit,
        (
            "Only the head of the queue, `self.waiting[0]`, is looked at: if it must wait, all wait.",
            "Stop if nobody waits, if the budget is spent, if `max_running` run, or if its pages are not there.",
            "It needs `self.pages_for(head.known)` pages, all at once, and `reserve` must stay free if somebody runs.",
            "`self.running.append(self.waiting.pop(0))`, `self.give(head, head.known)`, then min(missing, budget).",
        ),
    ),
    "7.3": Exercise(
        "Who gives way",
        grade_make_room,
        (
            "How many pages does the request lack? As long as that is more than are free, somebody gives way.",
            "The victim is `self.running.pop()`: who came last. Take its pages back.",
            "It came before all that wait, so it goes to the front: `self.waiting.insert(0, victim)`.",
            "If the victim is the request itself, return False. After the loop: `give`, and return True.",
        ),
    ),
    "7.4": Exercise(
        "One step",
        grade_step,
        (
            "First those that run, in their order; then, if nobody had to give way, those that wait.",
            "`count = min(request.missing, budget)`, then `self.make_room(index, request.stored + count)`.",
            "If it returns False, the request was the last one, and is gone: `self.running` is shorter now.",
            "Nobody gave way if `self.running` is as long as at the beginning: `plan | self.admit(budget)`.",
        ),
    ),
    "7.5": Exercise(
        "Foretell the engine",
        grade_replay,
        ("This needs no new code: it is your scheduler of 7.4 on the requests of a real run.",),
        seeds=(0, 1, 2),
    ),
}


def make_question(seed: int) -> Question:
    """About one step of a real run in a pool that is too small: a victim, what it lost, a chunk, or why one waits."""
    rng = random.Random(seed)
    size, pages, budget = rng.choice((2, 4)), rng.randint(10, 14), rng.choice((8, 12))
    watermark = 0.1
    jobs = random_jobs(rng, 5, (size * pages // 6, size * pages // 3), (6, 14))
    _, timeline = run(
        jobs, steps=24, block_size=size, num_blocks=pages, max_num_batched_tokens=budget, watermark=watermark
    )
    events = list(timeline.events())
    blocked = [e for e in events if isinstance(e, ev.AdmissionBlocked) and e.cause in _WHY]
    preempted = [e for e in events if isinstance(e, ev.RequestPreempted)]
    kinds = ["chunk", *(["why"] if blocked else []), *(["victim", "lost"] if preempted else [])]
    kind = rng.choice(kinds)
    if kind == "chunk":
        return _chunk_question(rng, timeline, budget)
    if kind == "why":
        chosen = rng.choice(blocked)
        numbers = f"It needs {chosen.needed}, there are {chosen.available}"
        if chosen.cause is Cause.WATERMARK:
            needed = chosen.needed - math.ceil(watermark * pages)
            numbers = f"It needs {needed} pages, {chosen.available} are free, {chosen.needed - needed} in reserve"
        elif chosen.cause is Cause.POOL_EXHAUSTED:
            numbers = f"It needs {chosen.needed} pages, {chosen.available} are free"
        else:
            numbers = f"It has {chosen.needed} tokens to compute; this step computes {chosen.available} already"
        return Question(
            f"Step {chosen.step} of a run with {pages} pages and a budget of {budget} tokens: request "
            f"{request_label(chosen.request)} is first in the queue. {numbers}. Other requests run. Why must it wait?",
            _WHY[chosen.cause],
            "The engine asks for the budget first, then for pages, then whether the reserve would be touched.",
            choices=tuple(_WHY.values()),
        )
    event = rng.choice(preempted)
    state = timeline.state_at(event.step - 1)
    size_of = {number: len(state.sequences[state.requests[number].sequence].block_table) for number in state.running}
    names = [f"{request_label(number)} ({size_of[number]} pages)" for number in sorted(state.running)]
    if kind == "victim":
        already = [e for e in preempted if e.step == event.step and e.request > event.request]
        event = max([event, *already], key=lambda e: e.request)
        return Question(
            f"{', '.join(names)} run, in the order of their arrival. In step {event.step} one of them needs a page, "
            "and none is free. Who gives way first (a letter)?",
            request_label(event.request),
            "The last to come, so that the first to come is the first to be served.",
        )
    sequence = state.requests[event.request].sequence
    stored = state.sequences[sequence].num_computed_tokens
    request = state.requests[event.request]
    return Question(
        f"Request {request_label(event.request)} has {request.prompt_tokens} prompt tokens and has written "
        f"{len(request.token_ids)}; {stored} tokens are in memory, on {event.blocks_released} pages of {size}. In step "
        f"{event.step} it gives way. How many tokens must be computed before it writes its next one?",
        request.prompt_tokens + len(request.token_ids),
        f"All that it knows, as if it were one prompt: the {stored} that were lost, and what was not computed yet.",
    )


_WHY = {
    Cause.TOKEN_BUDGET: "the step's token budget is spent",
    Cause.POOL_EXHAUSTED: "too few pages are free",
    Cause.WATERMARK: "the pages are free, but the reserve would be touched",
}


def _chunk_question(rng: random.Random, timeline: Timeline, budget: int) -> Question:
    plans = plans_of(timeline)
    step = rng.choice([step for step, plan in plans.items() if plan and max(plan.values()) > 1])
    number = rng.choice([number for number, count in plans[step].items() if count > 1])
    before = timeline.state_at(step - 1) if step > timeline.first_step else timeline.initial
    others = {request_label(n): count for n, count in plans[step].items() if n < number}
    request = timeline.state_at(step).requests[number]
    known = request.prompt_tokens + len(request.token_ids) - _wrote(timeline, step, number)
    sequence = before.sequences.get(request.sequence)
    stored = sequence.num_computed_tokens if sequence is not None else 0
    shown = ", ".join(f"{name} {count}" for name, count in others.items()) or "none"
    return Question(
        f"A step may compute {budget} tokens. Step {step} computes for the requests that come before "
        f"{request_label(number)}: {shown}. {request_label(number)} knows {known} tokens, {stored} of them are stored, "
        "and it has its pages. How many tokens does it compute?",
        plans[step][number],
        f"The smaller of the {known - stored} that are missing and the {budget - sum(others.values())} that are left "
        "of the budget.",
    )


def _wrote(timeline: Timeline, step: int, request: int) -> int:
    return sum(isinstance(e, ev.TokenGenerated) and e.request == request for e in timeline.events(step))
