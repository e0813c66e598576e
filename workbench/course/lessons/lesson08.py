"""Lesson 8, swapping and its limits: what preempting costs, who gives way, and texts larger than memory."""

from __future__ import annotations

import functools
import random
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from workbench import LLM
from workbench.course.exercise import Exercise, Question
from workbench.course.lessons.bundled import Job, run, tiny
from workbench.course.verdict import Verdict
from workbench.engine.preemption import Candidate, PreemptionPolicy, Speeds
from workbench.engine.preemption import decide as engine_decides
from workbench.events import Timeline
from workbench.events import types as ev
from workbench.events.types import PreemptionMode, Tier
from workbench.memory.protocol import Footprint, Shortfall
from workbench.views.palette import request_label
from workbench.workloads import BundledText

BLOCK_SIZE = 4


def text_jobs(seed: int, count: int, prompt: tuple[int, int], output: tuple[int, int]) -> list[Job]:
    """Requests with prompts of real text, and how much each writes; ranges include both ends."""
    rng = random.Random(f"lesson 8, {seed}")
    text = BundledText(tiny().tokenizer)
    return [Job(text.draw(rng, rng.randint(*prompt)), rng.randint(*output)) for _ in range(count)]


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


# -- 8.1: two costs ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Victim:
    """A request that has to give way.

    Attributes:
        tokens: tokens whose keys and values it has in memory, all in all.
        kept: so many of them will be found in the prefix cache when it comes back.
        pages: pages on the device that hold them.
        num_bytes: size of these pages.
    """

    tokens: int
    kept: int
    pages: int
    num_bytes: int


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


def engines_costs(victim: Victim, bandwidth: float, prefill_speed: float) -> tuple[float, float]:
    """What the engine expects, in seconds; it rounds to nanoseconds."""
    estimate = Speeds(bandwidth, prefill_speed).estimate(_footprint(victim), None)
    return estimate.swap_ns / 1e9, estimate.recompute_ns / 1e9


def _footprint(victim: Victim) -> Footprint:
    lost = victim.tokens - victim.kept
    return Footprint(victim.pages, victim.pages, 0, lost, victim.kept, victim.num_bytes)


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


def right_choice(victim: Victim, bandwidth: float, prefill_speed: float, host_free: int) -> str:
    """The engine's own decision: "swap" or "recompute"."""
    full = victim.pages > host_free
    shortfall = Shortfall(ev.Cause.HOST_FULL, victim.pages, host_free, "host blocks") if full else None
    estimate = Speeds(bandwidth, prefill_speed).estimate(_footprint(victim), shortfall)
    return engine_decides(PreemptionPolicy.ADAPTIVE, estimate, shortfall)[0].value


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

#: Bytes and tokens per second that are given to the engine in `adaptive_run`, so that its decisions can be repeated.
BANDWIDTH, PREFILL_SPEED = 42e6, 3000.0


@functools.cache
def adaptive_run(seed: int) -> tuple[Timeline, int]:
    """Six requests on too few pages that decide for each victim; prefixes are cached. Also returns the host's pages.

    Two of the requests begin alike. Speeds are made up, so that both ways occur and a run can be repeated.
    """
    rng = random.Random(f"adaptive {seed}")
    jobs = text_jobs(seed, 6, (8, 20), (10, 24))
    jobs[4:] = [Job(jobs[1].prompt[:8] + job.prompt, job.output) for job in jobs[4:]]
    host = rng.randint(6, 9)
    _, timeline = run(
        jobs,
        block_size=BLOCK_SIZE,
        num_blocks=rng.randint(18, 22),
        num_host_blocks=host,
        preemption="adaptive",
        prefix_caching=True,
        watermark=0.0,
        max_num_batched_tokens=256,
        transfer_bandwidth=BANDWIDTH,
        prefill_speed=PREFILL_SPEED,
    )
    return timeline, host


@dataclass(frozen=True)
class Decision:
    """One preemption of a real run: who, in which step, with how many free host pages, and what the engine did."""

    step: int
    request: int
    victim: Victim
    host_free: int
    mode: str


def decisions(timeline: Timeline, num_host_blocks: int) -> list[Decision]:
    """The preemptions of a run, with what was known when they were decided. Victims that held nothing are left out."""
    free, found = num_host_blocks, []
    moved: dict[int, int] = {}
    page_bytes = BLOCK_SIZE * tiny().geometry.kv_bytes_per_token
    for event in timeline.events():
        if isinstance(event, ev.BlocksSwappedOut):
            moved[event.request] = len(event.pairs)
            free -= len(event.pairs)
        elif isinstance(event, ev.BlocksSwappedIn):
            free += len(event.pairs)
        elif isinstance(event, ev.BlockFreed) and event.tier is Tier.HOST:
            free += 1
        elif isinstance(event, ev.RequestPreempted) and event.estimate is not None:
            e = event.estimate
            before = free + (moved[event.request] if event.mode is PreemptionMode.SWAP else 0)
            victim = Victim(e.tokens + e.tokens_kept, e.tokens_kept, e.bytes // page_bytes, e.bytes)
            if victim.tokens:
                found.append(Decision(event.step, event.request, victim, before, event.mode.value))
    return found


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
    timeline, host = adaptive_run(rng.randint(1, 2))
    found = decisions(timeline, host)
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
