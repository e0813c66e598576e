"""Lesson 8's graders: costs, decisions and victim policies beside the engine's."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from workbench.course.lessons.bundled import run
from workbench.course.lessons.victims import (
    BANDWIDTH,
    BLOCK_SIZE,
    PREFILL_SPEED,
    Victim,
    adaptive_run,
    decisions,
    engines_costs,
    right_choice,
    text_jobs,
)
from workbench.course.verdict import Verdict
from workbench.engine.preemption import Candidate
from workbench.events import types as ev
from workbench.memory.protocol import Footprint
from workbench.views.palette import request_label

# -- 8.1: two costs ----------------------------------------------------------------------------------------------------


def _random_victim(rng: random.Random) -> Victim:
    block_size, per_token = rng.choice((4, 8, 16)), rng.choice((6144, 114688, 131072, 819200))
    tokens = rng.randint(1, 3000)
    pages = -(-tokens // block_size)
    kept = rng.choice((0, 0, rng.randint(0, tokens - 1) // block_size * block_size))
    return Victim(tokens, kept, pages, pages * block_size * per_token)


def _speeds(rng: random.Random, victim: Victim) -> tuple[float, float]:
    """Bandwidth and prefill speed that make the two costs similar, so that both answers occur."""
    bandwidth = rng.choice((1e9, 12e9, 25e9, 55e9))
    swap = 2 * victim.num_bytes / bandwidth
    return bandwidth, max(1, victim.tokens - victim.kept) / (swap * rng.uniform(0.4, 2.5))


def grade_costs(answer: Callable[[Victim, float, float], tuple[float, float]], seed: int) -> Verdict:
    """``answer(victim, bandwidth, prefill_speed)`` against the engine's estimate."""
    rng = random.Random(seed)
    for case in range(20):
        victim = _random_victim(rng)
        bandwidth, speed = _speeds(rng, victim)
        expected = engines_costs(victim, bandwidth, speed)
        yours = answer(victim, bandwidth, speed)
        if not isinstance(yours, tuple | list) or len(yours) != 2:
            return Verdict(False, "Two numbers are asked for: the seconds of either way.", yours, expected)
        for name, got, right in zip(("swapping", "recomputing"), yours, expected, strict=True):
            if not isinstance(got, int | float) or abs(got - right) > 1e-9 + 1e-6 * right:
                return Verdict(
                    False,
                    f"{victim}, {bandwidth:.3g} bytes per second, {speed:.4g} tokens per second: {name}.",
                    got,
                    right,
                    f"the seconds of {name}, case {case}",
                )
    return Verdict(True, "Both costs as the engine expects them.")


# -- 8.2: the decision -------------------------------------------------------------------------------------------------


def grade_choice(answer: Callable[[Victim, float, float, int], str], seed: int) -> Verdict:
    """``answer(victim, bandwidth, prefill_speed, host_free)`` against the engine's decision.

    Half of the host tiers are too small or just large enough; in some cases both ways cost the same.
    """
    rng = random.Random(100 + seed)
    for case in range(40):
        victim = _random_victim(rng)
        bandwidth, speed = _speeds(rng, victim)
        host_free = rng.choice((0, victim.pages - 1, victim.pages, victim.pages + 1, 10 * victim.pages, 10**6))
        if case % 8 == 7:
            # Both take exactly a second.
            victim = Victim(1000, rng.choice((0, 400)), 100, 2 * 10**9)
            bandwidth, speed = 4e9, float(victim.tokens - victim.kept)
            host_free = 100
        wrong = _wrong_choice(answer, victim, bandwidth, speed, host_free, f"case {case}")
        if wrong is not None:
            return wrong
    return Verdict(True, "40 victims, decided as the engine decides.")


def _wrong_choice(
    answer: Callable[[Victim, float, float, int], str],
    victim: Victim,
    bandwidth: float,
    speed: float,
    host_free: int,
    where: str,
    expected: str = "",
) -> Verdict | None:
    expected = expected or right_choice(victim, bandwidth, speed, host_free)
    yours = answer(victim, bandwidth, speed, host_free)
    if yours == expected:
        return None
    swap, recompute = engines_costs(victim, bandwidth, speed)
    room = "not enough" if victim.pages > host_free else "enough"
    return Verdict(
        False,
        f"{victim}. Swapping would take {swap * 1e3:.4g} ms, recomputing {recompute * 1e3:.4g} ms; {host_free} host "
        f"pages are free, which is {room}.",
        yours,
        expected,
        where,
    )


# -- 8.3: the decisions of a real run ----------------------------------------------------------------------------------


def grade_replay(answer: Callable[[Victim, float, float, int], str], seed: int) -> Verdict:
    """The function decides for every victim of a real run with ``preemption="adaptive"``."""
    found = decisions(*adaptive_run(seed))
    for d in found:
        where = f"step {d.step}, request {request_label(d.request)}"
        wrong = _wrong_choice(answer, d.victim, BANDWIDTH, PREFILL_SPEED, d.host_free, where, d.mode)
        if wrong is not None:
            return wrong
    swaps = sum(d.mode == "swap" for d in found)
    return Verdict(True, f"{len(found)} victims of real runs: {swaps} swapped, {len(found) - swaps} recomputed.")


# -- 8.4: who gives way ------------------------------------------------------------------------------------------------


def _right_key(candidate: Candidate) -> tuple[Any, ...]:
    held = candidate.footprint
    return (held.lost == 0, held.tokens / max(1, held.lost))


def _candidates(rng: random.Random) -> list[Candidate]:
    found = []
    for request in sorted(rng.sample(range(30), rng.randint(2, 7))):
        blocks = rng.randint(1, 12)
        shared = rng.choice((0, 0, rng.randint(0, blocks), blocks))
        tokens = rng.randint(1, blocks * 16)
        kept = min(tokens - 1, shared * 16) if rng.random() < 0.5 else 0
        held = Footprint(blocks, blocks - shared, shared, tokens - kept, kept, blocks * 16 * 6144)
        found.append(Candidate(request, held, rng.randint(1, 200)))
    if rng.random() < 0.3:
        twin = rng.choice(found)
        found.append(Candidate(31, twin.footprint, twin.remaining_tokens))
    return found


def grade_policy(answer: Callable[[], Any], seed: int) -> Verdict:
    """``answer()`` is a victim policy. Whom does it choose among random candidates, and does the engine run with it?"""
    rng = random.Random(200 + seed)
    policy = answer()
    for case in range(40):
        found = _candidates(rng)
        expected = min(found, key=lambda c: (_right_key(c), -c.request))
        yours = min(found, key=lambda c: (policy.key(c), -c.request))
        if yours.request != expected.request:
            rows = "; ".join(f"{c.request}: {c.footprint.tokens} tokens, {c.footprint.lost} pages freed" for c in found)
            return Verdict(
                False,
                f"Candidates are {rows}. Request {yours.request} costs {_price(yours)}, request {expected.request} "
                f"{_price(expected)}.",
                yours.request,
                expected.request,
                f"the victim of case {case}",
            )
    if seed == 0:
        return _runs_with(policy)
    return Verdict(True, "The cheapest per page gave way each time.")


def _price(candidate: Candidate) -> str:
    held = candidate.footprint
    return f"{held.tokens / held.lost:.3g} tokens per page" if held.lost else f"{held.tokens} tokens, and frees no page"


def _runs_with(policy: Any) -> Verdict:
    jobs = text_jobs(1, 5, (8, 16), (8, 16))
    outputs = []
    for victim in ("last_come", policy):
        llm, timeline = run(jobs, block_size=BLOCK_SIZE, num_blocks=16, watermark=0.0, victim=victim)
        outputs.append([llm.output(i).outputs[0].token_ids for i in range(len(jobs))])
    names = {e.policy for e in timeline.events() if isinstance(e, ev.RequestPreempted)}
    if outputs[0] != outputs[1]:
        return Verdict(False, "With this policy a real run wrote other tokens.", outputs[1], outputs[0])
    if names != {policy.name}:
        return Verdict(False, "The engine did not ask your policy.", sorted(names), [policy.name])
    return Verdict(True, "The cheapest per page gave way each time, and a real run wrote the same tokens.")
