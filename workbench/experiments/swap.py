"""Swapping against recomputation by block size, under memory pressure (Kwon et al., SOSP 2023, 7.3, Fig. 19)."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from workbench.engine import LLM, EngineConfig, SamplingParams
from workbench.events import EventBatch
from workbench.events.types import PreemptionMode, PreemptionSettled, RequestPreempted
from workbench.experiments.driver import Run, progress, run_jobs
from workbench.experiments.tables import heading, markdown_table
from workbench.models import LoadedModel, load_model
from workbench.workloads import BundledText, Job, uniform

MODES = ("recompute", "swap", "adaptive")


@dataclass
class _Settled:
    """Preemptions of one run, and what they cost."""

    swapped: int = 0
    recomputed: int = 0
    settled: list[PreemptionSettled] = field(default_factory=list)

    def __call__(self, llm: LLM, batch: EventBatch) -> None:
        for event in batch.events:
            if isinstance(event, RequestPreempted):
                self.swapped += event.mode is PreemptionMode.SWAP
                self.recomputed += event.mode is PreemptionMode.RECOMPUTE
            elif isinstance(event, PreemptionSettled):
                self.settled.append(event)


@dataclass
class SwapRow:
    """One block size and one way of preempting; sums are per run, means over the repetitions.

    Attributes:
        rates: output tokens per second of every repetition; ``ratio``: against recomputation, median.
        moved_bytes: both directions.
        overhead_ms: measured cost of one preemption: moving out and in, or the share of forward passes that recomputed.
        estimate_error: median of |estimated - measured| / measured, over preemptions with an estimate; None: none.
    """

    block_size: int
    mode: str
    rates: list[float]
    ratio: float
    swapped: float
    recomputed: float
    recomputed_tokens: float
    moved_bytes: float
    overhead_ms: float
    estimate_error: float | None
    same_tokens: bool


def swap_jobs(model: LoadedModel, requests: int, prompt: int, output: int, seed: int) -> list[Job]:
    """Prompts of about ``prompt`` tokens, each followed by about ``output``; a quarter more or less."""
    rng = random.Random(seed)
    text = BundledText(model.tokenizer)

    def around(mean: int) -> tuple[int, int]:
        return max(1, mean - mean // 4), mean + mean // 4

    drawn = uniform(around(prompt), around(output)).draw(requests, seed)
    return [
        Job(text.draw(rng, d.prompt), SamplingParams(max_tokens=d.output, temperature=0, ignore_eos=True))
        for d in drawn
    ]


def measure_swap(
    model: LoadedModel,
    block_sizes: Sequence[int],
    modes: Sequence[str] = MODES,
    *,
    requests: int = 24,
    prompt: int = 96,
    output: int = 96,
    slots: int = 1536,
    repetitions: int = 3,
    seed: int = 0,
) -> list[SwapRow]:
    """The same requests on a pool that holds about a third of them, with a host tier of twice the pool."""
    jobs = swap_jobs(model, requests, prompt, output, seed)
    rows: list[SwapRow] = []
    for block_size in block_sizes:
        runs: dict[str, list[tuple[Run, _Settled]]] = {mode: [] for mode in modes}
        blocks = slots // block_size
        for _ in range(repetitions):
            for mode in modes:
                host = 0 if mode == "recompute" else 2 * blocks
                config = EngineConfig(
                    block_size=block_size,
                    num_blocks=blocks,
                    num_host_blocks=host,
                    preemption=mode,
                    max_num_seqs=requests,
                    watermark=0.0,
                    device=model.device.type,
                )
                settled = _Settled()
                runs[mode].append((run_jobs(model, config, jobs, settled), settled))
                progress(f"pages of {block_size}, {mode}: {runs[mode][-1][0].tokens_per_second:,.0f} tokens/s")
        rows += [_row(block_size, mode, runs) for mode in modes]
    return rows


def _row(block_size: int, mode: str, runs: dict[str, list[tuple[Run, _Settled]]]) -> SwapRow:
    mine, base = runs[mode], next(iter(runs.values()))
    settled = [event for _, found in mine for event in found.settled]
    errors = [
        abs(event.estimated_ns - event.measured_ns) / event.measured_ns
        for event in settled
        if event.estimated_ns >= 0 and event.measured_ns > 0
    ]
    return SwapRow(
        block_size=block_size,
        mode=mode,
        rates=[run.tokens_per_second for run, _ in mine],
        ratio=statistics.median(
            a.tokens_per_second / b.tokens_per_second for (a, _), (b, _) in zip(mine, base, strict=True)
        ),
        swapped=statistics.mean(found.swapped for _, found in mine),
        recomputed=statistics.mean(found.recomputed for _, found in mine),
        recomputed_tokens=statistics.mean(run.totals.recomputed_tokens for run, _ in mine),
        moved_bytes=statistics.mean(run.totals.swapped_out_bytes + run.totals.swapped_in_bytes for run, _ in mine),
        overhead_ms=statistics.mean(event.measured_ns for event in settled) / 1e6 if settled else 0.0,
        estimate_error=statistics.median(errors) if errors else None,
        same_tokens=all(run.outputs == base[0][0].outputs for run, _ in mine),
    )


def swap_markdown(rows: Sequence[SwapRow]) -> str:
    columns = (
        "tokens per page", "preemption", "output tokens/s, median", "all repetitions", "against recompute",
        "swapped", "recomputed", "tokens recomputed", "MiB moved", "ms per preemption, measured",
        "estimate off by, median", "same tokens",
    )  # fmt: skip
    return markdown_table(
        columns,
        [
            (
                r.block_size, r.mode, f"{statistics.median(r.rates):,.0f}", ", ".join(f"{x:,.0f}" for x in r.rates),
                f"{r.ratio:.2f}x", f"{r.swapped:.1f}", f"{r.recomputed:.1f}", f"{r.recomputed_tokens:,.0f}",
                f"{r.moved_bytes / 2**20:.1f}", f"{r.overhead_ms:.2f}",
                "-" if r.estimate_error is None else f"{r.estimate_error:.0%}", "yes" if r.same_tokens else "NO",
            )
            for r in rows
        ],
    )  # fmt: skip


def run(
    block_sizes: list[int],
    requests: int,
    prompt_tokens: int,
    output: int,
    slots: int,
    repetitions: int,
    device: str,
    seed: int,
    quick: bool,
) -> str:
    """Runs everything and returns the report as Markdown."""
    model = load_model("tiny", device=device)
    if quick:
        requests, block_sizes, repetitions = min(requests, 6), block_sizes[:1], 1
        prompt_tokens, output, slots = min(prompt_tokens, 32), min(output, 32), min(slots, 192)
    rows = measure_swap(
        model, block_sizes, requests=requests, prompt=prompt_tokens, output=output, slots=slots,
        repetitions=repetitions, seed=seed,
    )  # fmt: skip
    host = "pinned host memory" if model.device.type == "cuda" else "a second pool in the same memory"
    return "\n\n".join(
        (
            heading("workbench bench swap", model),
            f"Measured: {requests} requests at once of about {prompt_tokens} + {output} tokens, greedy, on {slots:,} "
            f"slots; the host tier is {host}, twice as large. Cost of a preemption: moving out and in, or its share of "
            "the forward passes that computed its tokens again; it was estimated beforehand.",
            swap_markdown(rows),
        )
    )
