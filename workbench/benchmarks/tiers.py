"""Swapping on a GPU: bandwidth of the tiers, what it costs the steps beside it, and when it pays.

Everything goes through the engine's own mover. On the CPU, with small sizes, it is a rehearsal.
"""

from __future__ import annotations

import statistics
import sys
import time

import torch

from workbench.benchmarks.gpu import Job, Shape
from workbench.engine import LLM, EngineConfig, SamplingParams
from workbench.events.types import PreemptionSettled
from workbench.experiments.tables import heading
from workbench.memory.block_table import Move, MoveKind
from workbench.models.loading import LoadedModel


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _pinned_copy_speed(device: torch.device, size: int) -> tuple[float, float]:
    """Bytes per second of plain copies to and from pinned memory: the yardstick."""
    host = torch.zeros(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
    there = torch.zeros(size, dtype=torch.uint8, device=device)
    speeds = []
    for source, target in ((there, host), (host, there)):
        best = 1e9
        for _ in range(5):
            _wait(device)
            started = time.perf_counter()
            target.copy_(source, non_blocking=True)
            _wait(device)
            best = min(best, time.perf_counter() - started)
        speeds.append(size / best)
    return speeds[0], speeds[1]


def _bandwidth(model: LoadedModel, blocks: int, base: EngineConfig) -> list[str]:
    """Pages out and in through the mover, alone on the machine."""
    sizes = [n for n in (1, 4, 16, 64, 256, 1024) if n <= blocks]
    config = EngineConfig(
        num_blocks=blocks, num_host_blocks=blocks, max_model_len=256, device=base.device, attention=base.attention
    )
    rows = [
        "| pages | MiB | out GB/s | of a pinned copy | in GB/s | of a pinned copy |",
        "|---|---|---|---|---|---|",
    ]
    with LLM(model, config, events=False) as llm:
        mover = llm._runner.mover
        size = llm.bytes_per_block
        generator = torch.Generator().manual_seed(0)
        for count in sizes:
            pinned = _pinned_copy_speed(model.device, count * size)
            best = {MoveKind.OUT: 0.0, MoveKind.IN: 0.0}
            for _ in range(7):
                pages = torch.randperm(blocks, generator=generator)[:count].tolist()
                for kind in best:
                    pairs = list(zip(pages, range(count), strict=True))
                    pairs = pairs if kind is MoveKind.OUT else [(b, a) for a, b in pairs]
                    _wait(model.device)
                    started = time.perf_counter()
                    mover.carry_out([Move(kind, pairs, 0)])
                    _wait(model.device)
                    best[kind] = max(best[kind], count * size / (time.perf_counter() - started))
            out, back = best[MoveKind.OUT], best[MoveKind.IN]
            rows.append(
                f"| {count} | {count * size / 2**20:,.1f} | {out / 1e9:.1f} | {out / pinned[0]:.0%} "
                f"| {back / 1e9:.1f} | {back / pinned[1]:.0%} |"
            )
            _progress(rows[-1])
    return rows


def _beside(model: LoadedModel, requests: int, context: int, pages: int, steps: int, base: EngineConfig) -> list[str]:
    """Decode steps with and without pages moving beside them: pages that no running sequence has."""
    needed = requests * -(-(context + 4 * steps) // base.block_size)
    config = EngineConfig(
        num_blocks=needed + 2 * pages,
        num_host_blocks=2 * pages,
        max_num_seqs=requests,
        max_num_batched_tokens=max(8192, requests),
        max_model_len=context + 4 * steps + 8,
        device=base.device,
        attention=base.attention,
    )
    job = Job.draw(requests, context, context, model.geometry.vocab_size)
    times: dict[str, list[float]] = {"alone": [], "out beside it": [], "in beside it": []}
    with LLM(model, config) as llm:
        llm.warm_up()
        params = SamplingParams(max_tokens=4 * steps, temperature=0.6, ignore_eos=True)
        for prompt in job.prompts:
            llm.add_request(prompt, params)
        while llm.page_map.last is None or llm.page_map.last.prefill_tokens or llm.page_map.waiting:
            llm.step()
        spare = llm.memory.peek(2 * pages)[pages:]  # the last to be handed out
        host = list(range(pages))
        for _ in range(5):
            llm.step()
        for step in range(3 * steps):
            name = list(times)[step % 3]
            if name == "out beside it":
                llm.memory.moves.append(Move(MoveKind.OUT, list(zip(spare, host, strict=True)), -1))
            elif name == "in beside it":
                llm.memory.moves.append(Move(MoveKind.IN, list(zip(host, spare, strict=True)), -1))
            # A step ends when its tokens are there; what was ordered beside it shows in this one or the next.
            started = time.perf_counter()
            llm.step()
            times[name].append(time.perf_counter() - started)
        size = llm.bytes_per_block
    alone = statistics.median(times["alone"])
    return [
        f"{requests} sequences at context {context:,}; {pages} pages ({pages * size / 2**20:,.0f} MiB) move in each of "
        "the steps that have any.",
        "",
        "| decode step | median ms | against alone |",
        "|---|---|---|",
        *(
            f"| {name} | {statistics.median(values) * 1e3:.2f} | {statistics.median(values) / alone - 1:+.1%} |"
            for name, values in times.items()
        ),
    ]


def _throughput(model: LoadedModel, requests: int, longest: int, share: float, base: EngineConfig) -> list[str]:
    """The same requests on a pool that is too small for them, with every kind of preemption."""
    job = Job.draw(requests, max(1, longest // 10), longest, model.geometry.vocab_size)
    all_tokens = sum(len(p) + n for p, n in zip(job.prompts, job.new_tokens, strict=True))
    blocks = int(share * all_tokens / base.block_size)
    rows = [
        f"{requests} requests, {all_tokens:,} tokens in all; the pool has room for {share:.0%} of them.",
        "",
        "| preemption | output tokens/s | preemptions | recomputed tokens | swapped out GiB | expected / measured ms |",
        "|---|---|---|---|---|---|",
    ]
    for mode in ("recompute", "swap", "adaptive"):
        config = EngineConfig(
            num_blocks=blocks,
            num_host_blocks=0 if mode == "recompute" else blocks,
            preemption=mode,
            max_num_seqs=requests,
            max_num_batched_tokens=8192,
            max_model_len=2 * longest + 8,
            watermark=0.0,
            device=base.device,
            attention=base.attention,
        )
        expected = measured = 0
        with LLM(model, config) as llm:
            llm.warm_up()
            started = time.perf_counter()
            for prompt, count in zip(job.prompts, job.new_tokens, strict=True):
                llm.add_request(prompt, SamplingParams(max_tokens=count, temperature=0.6, ignore_eos=True))
            while llm.has_unfinished:
                for event in llm.step().events:
                    if isinstance(event, PreemptionSettled) and event.estimated_ns >= 0:
                        expected += event.estimated_ns
                        measured += event.measured_ns
            seconds = time.perf_counter() - started
            totals = llm.page_map.totals
        rows.append(
            f"| {mode} | {sum(job.new_tokens) / seconds:,.0f} | {totals.preemptions} | {totals.recomputed_tokens:,} "
            f"| {totals.swapped_out_bytes / 2**30:.1f} | {expected / 1e6:,.0f} / {measured / 1e6:,.0f} |"
        )
        _progress(rows[-1])
    return rows


def run(
    requests: int,
    context: int,
    longest: int,
    pages: int,
    steps: int,
    share: float,
    blocks: int,
    device: str,
    dtype: str,
    attention: str,
    **shape: int,
) -> str:
    """Runs all three and returns the report as Markdown. ``shape``: sizes of the random model."""
    if not 0 < share <= 1:
        raise ValueError(f"--share {share}: must be above 0 and at most 1")
    model = Shape(**shape).load(device, getattr(torch, dtype), 4096, pack=True)
    base = EngineConfig(device=device, attention=attention)
    return "\n\n".join(
        (
            heading("workbench bench tiers", model),
            "Measured: pages between the tiers, through the engine's mover, against plain copies of the same size from "
            "and to pinned memory. Best of 7.",
            "\n".join(_bandwidth(model, blocks, base)),
            "Measured: decode steps with pages moving beside them.",
            "\n".join(_beside(model, requests, context, pages, steps, base)),
            "Measured: a pool that is too small, and every kind of preemption.",
            "\n".join(_throughput(model, requests, longest, share, base)),
        )
    )
