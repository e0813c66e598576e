"""Lesson 2, contiguous memory: the three reservations, a buddy allocator, and where the slots went (Fig. 2 re-made)."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Mapping
from typing import Any

import plotly.graph_objects as go

from workbench import LLM
from workbench.course.comparing import same
from workbench.course.exercise import Exercise, Question
from workbench.course.lessons.bundled import Job, random_jobs, run, tiny
from workbench.course.verdict import Verdict
from workbench.events import Timeline
from workbench.events import types as ev
from workbench.events.state import Region
from workbench.events.types import Cause
from workbench.events.waste import WasteReport, measure_waste
from workbench.memory.buddy import BuddyAllocator
from workbench.memory.contiguous import ContiguousMemory, Reservation
from workbench.views.palette import DARK, LIGHT, request_label
from workbench.workloads import named

RULES = ("max", "pow2", "oracle")
#: Longest sequence allowed, in tokens, and slots of the pool, in the burst of this lesson.
LONGEST, SLOTS = 128, 512
#: Kwon et al., SOSP 2023, Fig. 2, in percent: token states, reservation, internal, external fragmentation and others.
PAPER = {
    "max": (20.4, 13.3, 57.3, 8.9),
    "pow2": (26.8, 17.9, 13.6, 41.6),
    "oracle": (38.2, 25.2, 0.0, 36.6),
    "paged": (96.3, 0.0, 0.0, 0.0),  # the paper does not split the rest
}
_PARTS = (
    ("holds a token (token states)", "#0072B2", ""),
    ("will hold one later (reservation)", "#56B4E9", "/"),
    ("never will (internal fragmentation)", "#E69F00", "x"),
    ("nobody can get it (external fragmentation)", "#999999", "."),
)


def burst() -> list[Job]:
    """24 requests that come at once; lengths as of the paper's Alpaca requests, outputs cut to a third."""
    rng = random.Random(0)
    vocab = tiny().geometry.vocab_size
    jobs = []
    for lengths in named("alpaca").draw(24, seed=0):
        prompt = min(lengths.prompt, LONGEST // 2)
        output = min(max(lengths.output // 3, 2), LONGEST - prompt)
        jobs.append(Job([rng.randrange(1, vocab) for _ in range(prompt)], output))
    return jobs


def run_burst(memory: str, slots: int = SLOTS) -> tuple[LLM, Timeline]:
    """The burst on the real engine, in a pool of ``slots``: ``memory`` is "max", "pow2", "oracle" or "paged"."""
    how: dict[str, Any] = {"memory": "paged"} if memory == "paged" else {"memory": "contiguous", "reservation": memory}
    return run(burst(), block_size=8, num_blocks=slots // 8, max_model_len=LONGEST, watermark=0.0, **how)


def split(report: WasteReport) -> tuple[float, float, float, float]:
    """Percent of the memory that was not free: token states, reservation, internal, external fragmentation."""
    shares = report.shares.without_free()
    parts = (shares.token_states, shares.reservation, shares.internal, shares.external)
    return tuple(round(100 * part, 1) for part in parts)  # type: ignore[return-value]


def fig2(ours: Mapping[str, tuple[float, ...]], dark: bool = False) -> go.Figure:
    """The paper's Fig. 2 and ours, side by side: four parts of the KV memory, in percent."""
    pairs = [(name, (("paper", PAPER[name]), ("here", ours[name]))) for name in ours]
    rows = [(f"{name}, {who}", values) for name, both in pairs for who, values in both]
    colors = DARK if dark else LIGHT
    figure = go.Figure()
    for index, (part, color, pattern) in enumerate(_PARTS):
        values = [row[1][index] for row in rows]
        figure.add_bar(
            y=[row[0] for row in rows],
            x=values,
            orientation="h",
            name=part,
            marker={
                "color": color,
                "pattern": {"shape": pattern, "fgcolor": colors["line"], "fillmode": "overlay", "solidity": 0.2},
                "line": {"color": colors["hatch"], "width": 1},
            },
            text=[f"{value:.1f}" if value >= 4 else "" for value in values],
            textposition="inside",
            insidetextanchor="middle",
            insidetextfont={"color": "#FFFFFF" if index == 0 else "#000000"},
        )
    figure.update_layout(
        template="none",
        barmode="stack",
        height=90 + 34 * len(rows),
        margin={"l": 110, "r": 30, "t": 10, "b": 10},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": colors["text"]},
        legend={"orientation": "h", "y": -0.12, "traceorder": "normal"},
    )
    figure.update_xaxes(range=[0, 100], ticksuffix=" %")
    figure.update_yaxes(autorange="reversed")
    return figure


# -- 2.1 and 2.2 -------------------------------------------------------------------------------------------------------


def grade_asked(answer: Callable[[str, int, int, int], int], seed: int) -> Verdict:
    """``answer(rule, prompt, output, longest)`` against the engine's `ContiguousMemory.reserved_slots`."""
    rng = random.Random(seed)
    for count in range(1, 31):
        longest = rng.choice((64, 100, 128, 500, 2048))
        prompt = rng.randint(1, longest - 2)
        output = rng.randint(1, longest - prompt)
        if rng.random() < 0.4:  # exact powers of two, and their neighbours
            output = min(max(1, (1 << rng.randint(0, 6)) + rng.choice((-1, 0, 1))), longest - prompt)
        for rule in RULES:
            memory = ContiguousMemory(64, 16, Reservation(rule), longest, None)
            expected = memory.reserved_slots(prompt, output)
            yours = answer(rule, prompt, output, longest)
            if not same(yours, expected):
                words = f"Rule {rule}, prompt of {prompt} tokens, output of {output}, longest sequence {longest}."
                return Verdict(False, words, yours, expected, f"request {count}, rule {rule}")
    return Verdict(True, "The same as the engine for 30 requests and three rules.")


def grade_region(answer: Callable[[int, int], int], seed: int) -> Verdict:
    """``answer(asked, unit)`` against the regions that the engine's buddy allocator hands out."""
    rng = random.Random(seed)
    unit = rng.choice((1, 4, 8, 16))
    powers = [unit << k for k in range(6)]
    sizes = [rng.randint(1, 600) for _ in range(20)] + powers + [size + 1 for size in powers]
    expected = [unit << BuddyAllocator.order_for(-(-size // unit)) for size in sizes]
    yours = [answer(size, unit) for size in sizes]
    wrong = next((i for i, pair in enumerate(zip(yours, expected, strict=True)) if pair[0] != pair[1]), None)
    if wrong is None:
        return Verdict(True, "The same regions as the engine's allocator.")
    words = f"A request asks for {sizes[wrong]} slots; the smallest region has {unit}."
    return Verdict(False, words, yours[wrong], expected[wrong], f"a region for {sizes[wrong]} slots")


# -- 2.3: waste, after the fact ----------------------------------------------------------------------------------------

Judged = tuple[int, int, int, int]
#: A step, and per sequence its region then and how many tokens it held in the end.
Regions = tuple[int, dict[int, tuple[Region, int]]]


def regions_by_step(timeline: Timeline) -> list[Regions]:
    """Every finished step of a run that has ended."""
    final: dict[int, int] = {}
    steps: list[tuple[int, dict[int, Region]]] = []
    for event, state in timeline.walk():
        if isinstance(event, ev.SlotsWritten):
            final[event.sequence] = final.get(event.sequence, 0) + event.count
        elif isinstance(event, ev.StepFinished):
            now = {number: held.region for number, held in state.sequences.items() if held.region is not None}
            steps.append((event.step, {n: Region(r.start, r.size, r.requested, r.filled) for n, r in now.items()}))
    return [(step, {n: (region, final[n]) for n, region in now.items()}) for step, now in steps]


@functools.cache
def _judged_run(seed: int) -> tuple[str, list[Regions], WasteReport]:
    """A small real run under one of the rules: its regions by step, and the engine's own judgement of them."""
    rule = RULES[seed % 3]
    jobs = random_jobs(random.Random(seed), 6, (2, 30), (2, 24))
    _, timeline = run(
        jobs, memory="contiguous", reservation=rule, block_size=8, num_blocks=32, max_model_len=64, watermark=0.0
    )
    return rule, regions_by_step(timeline), measure_waste(timeline)


def grade_judge(answer: Callable[[int, int, int, int], Judged], seed: int) -> Verdict:
    """``answer(size, asked, stored, final)`` on every region at every step of a real run, against `measure_waste`."""
    rule, steps, report = _judged_run(seed)
    names = ("token states", "reservation", "internal", "rounding")
    for (step, regions), found in zip(steps, report.steps, strict=True):
        rounding = sum(region.size - region.requested for region, _ in regions.values())
        slots = found.slots
        expected = dict(zip(names, (slots.token_states, slots.reservation, slots.internal, rounding), strict=True))
        sums = [0, 0, 0, 0]
        for region, final in regions.values():
            parts = answer(region.size, region.requested, region.filled, final)
            if not isinstance(parts, tuple | list) or len(parts) != 4:
                return Verdict(False, "Four numbers are asked for.", parts, list(names), f"step {step}")
            sums = [a + b for a, b in zip(sums, parts, strict=True)]
        yours = dict(zip(names, sums, strict=True))
        if yours != expected:
            name = next(name for name in names if yours[name] != expected[name])
            held = "; ".join(
                f"size {r.size}, asked {r.requested}, stored {r.filled}, final {final}" for r, final in regions.values()
            )
            words = f"A run with rule {rule}. The regions at step {step}: {held}. Your sums over them are not right."
            return Verdict(False, words, yours, expected, f"step {step}, {name}")
    return Verdict(True, f"{len(report.steps)} steps of a real run, the same split as the engine's.")


# -- the register ------------------------------------------------------------------------------------------------------

EXERCISES = {
    "2.1": Exercise(
        "How much each rule asks for",
        grade_asked,
        (
            "Max does not look at the request. Oracle asks for what will be stored: the last token never is.",
            "The smallest power of two that is not below `n` is `1 << (n - 1).bit_length()`.",
            "Pow2: prompt + rounded output, at most `longest`.",
        ),
    ),
    "2.2": Exercise(
        "What a buddy allocator gives",
        grade_region,
        (
            "Count in units: how many units are needed for `asked` slots, rounded up?",
            "Then round the number of units up to a power of two: `1 << (units - 1).bit_length()`.",
            "The region has that many units of `unit` slots each.",
        ),
    ),
    "2.3": Exercise(
        "Waste, after the fact",
        grade_judge,
        (
            "Draw the region: stored slots, then slots up to `final`, then slots up to `asked`, then up to `size`.",
            "The four lengths on that line are the four numbers.",
            "`(stored, final - stored, asked - final, size - asked)`",
        ),
        seeds=(0, 1, 2),
    ),
}


def make_question(seed: int) -> Question:
    """About one step of a real run on contiguous memory."""
    rng = random.Random(seed)
    rule = rng.choice(RULES)
    jobs = random_jobs(rng, 7, (4, 30), (6, 20))
    _, timeline = run(
        jobs, memory="contiguous", reservation=rule, block_size=8, num_blocks=32, max_model_len=64, watermark=0.0
    )
    steps = regions_by_step(timeline)
    busy = [(step, regions) for step, regions in steps if regions]
    step, regions = rng.choice(busy[: len(busy) * 2 // 3])
    sequence = rng.choice(sorted(regions))
    region, final = regions[sequence]
    state = timeline.state_at(step)
    name = request_label(state.sequences[sequence].request)
    facts = (
        f"Step {step} of a run with rule {rule}. Request {name} asked for {region.requested} slots, its region has "
        f"{region.size}, and {region.filled} hold a token."
    )
    blocked = state.blocked
    if blocked is not None and blocked.cause is Cause.POOL_EXHAUSTED and rng.random() < 0.5:
        used = sum(held.size for held, _ in regions.values())
        free = state.num_slots - used
        return Question(
            f"Step {step} of a run with rule {rule} on {state.num_slots} slots. The regions of those that run have "
            f"{used} slots together. The next request needs {blocked.needed} adjacent slots, the largest free piece "
            f"has {blocked.available}. How many slots are free, and count as external fragmentation while it waits?",
            free,
            f"{state.num_slots} - {used} = {free}: nobody who waits can get them.",
        )
    kind = rng.choice(("reservation", "internal", "rounding"))
    if kind == "rounding":
        return Question(
            f"{facts} How many slots does everybody lose to the allocator's rounding here?",
            region.size - region.requested,
            f"{region.size} - {region.requested}: what the region has and the request did not ask for.",
        )
    end = f"{facts} When it ends, {final} slots will hold a token."
    if kind == "reservation":
        return Question(
            f"{end} How many slots are *reservation* now?",
            final - region.filled,
            f"{final} - {region.filled}: empty now, filled later by the same request.",
        )
    return Question(
        f"{end} How many slots are *internal fragmentation*?",
        region.requested - final,
        f"{region.requested} - {final}: asked for and never filled.",
    )
