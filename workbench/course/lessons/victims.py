"""Lesson 8's victims: requests that give way in real runs, what that costs, and what the engine decides."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass

from workbench.course.lessons.bundled import Job, run, tiny
from workbench.engine.preemption import PreemptionPolicy, Speeds
from workbench.engine.preemption import decide as engine_decides
from workbench.events import Timeline
from workbench.events import types as ev
from workbench.events.types import PreemptionMode, Tier
from workbench.memory.protocol import Footprint, Shortfall
from workbench.workloads import BundledText

BLOCK_SIZE = 4


def text_jobs(seed: int, count: int, prompt: tuple[int, int], output: tuple[int, int]) -> list[Job]:
    """Requests with prompts of real text, and how much each writes; ranges include both ends."""
    rng = random.Random(f"lesson 8, {seed}")
    text = BundledText(tiny().tokenizer)
    return [Job(text.draw(rng, rng.randint(*prompt)), rng.randint(*output)) for _ in range(count)]


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


def engines_costs(victim: Victim, bandwidth: float, prefill_speed: float) -> tuple[float, float]:
    """What the engine expects, in seconds; it rounds to nanoseconds."""
    estimate = Speeds(bandwidth, prefill_speed).estimate(_footprint(victim), None)
    return estimate.swap_ns / 1e9, estimate.recompute_ns / 1e9


def _footprint(victim: Victim) -> Footprint:
    lost = victim.tokens - victim.kept
    return Footprint(victim.pages, victim.pages, 0, lost, victim.kept, victim.num_bytes)


def right_choice(victim: Victim, bandwidth: float, prefill_speed: float, host_free: int) -> str:
    """The engine's own decision: "swap" or "recompute"."""
    full = victim.pages > host_free
    shortfall = Shortfall(ev.Cause.HOST_FULL, victim.pages, host_free, "host blocks") if full else None
    estimate = Speeds(bandwidth, prefill_speed).estimate(_footprint(victim), shortfall)
    return engine_decides(PreemptionPolicy.ADAPTIVE, estimate, shortfall)[0].value


#: Bytes and tokens per second that are given to the engine in `adaptive_run`, so that its decisions can be repeated.
BANDWIDTH, PREFILL_SPEED = 42e6, 3000.0


@functools.lru_cache(8)
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
