"""Shared prefixes (Kwon et al., SOSP 2023, section 6.4, Fig. 16), and which cached pages to evict.

`measure_prefix`: requests that begin with the same few-shot prompt, with and without prefix caching, and on
contiguous memory, which the paper compares with. `measure_evictions`: a pool too small to keep all prefixes, with every
eviction policy.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.engine import LLM, EngineConfig, SamplingParams
from workbench.events import EventBatch
from workbench.experiments.driver import Run, progress, run_jobs
from workbench.experiments.tables import heading, markdown_table, percent
from workbench.memory.eviction import EVICTION_POLICIES, EvictionPolicy
from workbench.models import LoadedModel, load_model
from workbench.workloads import BundledText, Job, few_shot_prefix, uniform

#: Kwon et al., Fig. 16: request rate of vLLM with the prefix shared against Orca (Oracle), LLaMA-13B.
PAPER = {80: 1.67, 341: 3.58}
_WITHOUT = "paged, no prefix caching"
_KINDS: dict[str, dict[str, Any]] = {
    "paged, prefix caching": {"prefix_caching": True},
    _WITHOUT: {},
    "contiguous, Oracle (the paper's baseline)": {"memory": "contiguous", "reservation": "oracle"},
}


@dataclass
class PrefixRow:
    """One memory, one length of the prefix.

    Attributes:
        rates: output tokens per second of every repetition.
        ratio: median over the repetitions of the rate against no prefix caching.
        hit_share: prompt tokens found in the cache, of all prompt tokens.
        most_pages: most pages in use at a time, each counted once.
        mean_running: requests running, mean over the steps.
    """

    prefix_tokens: int
    kind: str
    rates: list[float]
    ratio: float
    hit_tokens: int
    hit_share: float
    prefill_tokens: int
    most_pages: int
    mean_running: float
    same_tokens: bool


@dataclass
class _Watch:
    """Pages in use, and running requests, after every step."""

    most_pages: int = 0
    running: list[int] | None = None

    def __call__(self, llm: LLM, batch: EventBatch) -> None:
        waste = llm.page_map.waste()
        held = (waste.token_states + waste.reserved + waste.external) // llm.page_map.block_size
        self.most_pages = max(self.most_pages, held)
        self.running = [*(self.running or []), len(llm.page_map.running)]


def prefix_jobs(model: LoadedModel, prefix_tokens: int, requests: int, output: int, seed: int) -> list[Job]:
    """A common few-shot prefix, and 20 to 40 tokens of each request's own; greedy."""
    rng = random.Random(seed)
    prefix, text = few_shot_prefix(model.tokenizer, prefix_tokens), BundledText(model.tokenizer)
    params = SamplingParams(max_tokens=output, temperature=0, ignore_eos=True)
    return [
        Job([*prefix, *text.draw(rng, each.prompt)], params)
        for each in uniform((20, 40), (output, output)).draw(requests, seed)
    ]


def measure_prefix(
    model: LoadedModel,
    prefix_tokens: int,
    *,
    requests: int = 32,
    output: int = 32,
    num_blocks: int = 320,
    repetitions: int = 3,
    seed: int = 0,
) -> list[PrefixRow]:
    """The same requests on every memory, ``repetitions`` times in turn; all pools have the same bytes.

    As in the paper the prefix is known beforehand: a request that begins with it ran before the clock starts.
    """
    jobs = prefix_jobs(model, prefix_tokens, requests, output, seed)
    first = prefix_jobs(model, prefix_tokens, 1, 1, seed + 1)
    total = sum(len(job.prompt) for job in jobs)
    runs: dict[str, list[Run]] = {kind: [] for kind in _KINDS}
    watches: dict[str, _Watch] = {}
    for repetition in range(repetitions + 1):
        for kind, settings in _KINDS.items():
            longest = max(len(job.prompt) for job in jobs) + output
            config = EngineConfig(num_blocks=num_blocks, max_num_seqs=requests, max_model_len=longest, **settings)
            if not repetition:  # who is watched is not timed
                watches[kind] = _Watch()
                run_jobs(model, config, jobs, watches[kind], before=first)
                continue
            runs[kind].append(run_jobs(model, config, jobs, before=first))
            progress(f"prefix {prefix_tokens}, {kind}: {runs[kind][-1].tokens_per_second:,.0f} tokens/s")
    reference = runs[_WITHOUT]
    rows = []
    for kind, mine in runs.items():
        totals, before = mine[-1].totals, mine[-1].totals_before
        ratios = [a.tokens_per_second / b.tokens_per_second for a, b in zip(mine, reference, strict=True)]
        rows.append(
            PrefixRow(
                prefix_tokens=prefix_tokens,
                kind=kind,
                rates=[run.tokens_per_second for run in mine],
                ratio=statistics.median(ratios),
                hit_tokens=totals.prefix_hit_tokens,
                hit_share=totals.prefix_hit_tokens / total,
                prefill_tokens=totals.prefill_tokens - before.prefill_tokens,
                most_pages=watches[kind].most_pages,
                mean_running=statistics.mean(watches[kind].running or [0]),
                same_tokens=all(run.outputs == reference[0].outputs for run in mine),
            )
        )
    return rows


@dataclass
class EvictionRow:
    """One eviction policy, one size of the pool.

    Attributes:
        hit_rate: tokens found in the cache, of those found when nothing is ever evicted.
    """

    policy: str
    num_blocks: int
    hit_tokens: int
    hit_rate: float
    evictions: int
    prefill_tokens: int


def skewed_jobs(model: LoadedModel, requests: int, prefixes: int, alone: float, skew: float, seed: int) -> list[Job]:
    """Prompts of 96 + 16 tokens. A prefix's popularity falls with the power ``skew`` of its rank (Zipf).

    ``alone`` is the share of prompts whose beginning nobody else has. One request arrives every 4 steps.
    """
    rng = random.Random(seed)
    text = BundledText(model.tokenizer)
    beginnings = [text.draw(rng, 96) for _ in range(prefixes)]
    weights = [1 / (rank + 1) ** skew for rank in range(prefixes)]
    params = SamplingParams(max_tokens=8, temperature=0, ignore_eos=True)
    jobs = []
    for number in range(requests):
        shared = rng.random() >= alone
        beginning = rng.choices(beginnings, weights)[0] if shared else text.draw(rng, 96)
        jobs.append(Job([*beginning, *text.draw(rng, 16)], params, arrival=4.0 * number))
    return jobs


def measure_evictions(
    model: LoadedModel,
    pools: Sequence[int],
    policies: Mapping[str, EvictionPolicy] | None = None,
    *,
    requests: int = 160,
    prefixes: int = 24,
    alone: float = 0.3,
    skew: float = 1.0,
    seed: int = 0,
) -> list[EvictionRow]:
    """Every policy on every pool, and first a pool in which nothing has to be evicted. Does not depend on timing."""
    jobs = skewed_jobs(model, requests, prefixes, alone, skew, seed)
    chosen = dict(policies or {name: policy() for name, policy in EVICTION_POLICIES.items()})
    ample = sum(-(-(len(job.prompt) + job.params.max_tokens) // 16) for job in jobs)
    rows: list[EvictionRow] = []
    for num_blocks, names in [(ample, ["lru"]), *((pool, list(chosen)) for pool in pools)]:
        for name in names:
            policy = chosen.get(name, "lru")
            config = EngineConfig(num_blocks=num_blocks, max_num_seqs=4, prefix_caching=True, eviction=policy)
            totals = run_jobs(model, config, jobs).totals
            best = rows[0].hit_tokens if rows else totals.prefix_hit_tokens
            rows.append(
                EvictionRow(
                    "none needed" if num_blocks == ample else name,
                    num_blocks,
                    totals.prefix_hit_tokens,
                    totals.prefix_hit_tokens / best if best else 0.0,
                    totals.evictions,
                    totals.prefill_tokens,
                )
            )
            progress(f"{num_blocks} pages, {name}: {percent(rows[-1].hit_rate)} of the possible hits")
    return rows


def prefix_markdown(rows: Sequence[PrefixRow]) -> str:
    columns = (
        "prefix tokens", "memory", "output tokens/s, median", "all repetitions", "against no prefix caching",
        "the paper, against Orca (Oracle)", "prompt tokens found", "of all", "prompt tokens computed",
        "most pages in use", "requests at once, mean", "same tokens",
    )  # fmt: skip
    return markdown_table(
        columns,
        [
            (
                row.prefix_tokens, row.kind, f"{statistics.median(row.rates):,.0f}",
                ", ".join(f"{rate:,.0f}" for rate in row.rates), f"{row.ratio:.2f}x",
                f"{PAPER[row.prefix_tokens]:.2f}x" if row.kind.endswith(", prefix caching")
                and row.prefix_tokens in PAPER else "-",
                f"{row.hit_tokens:,}", percent(row.hit_share), f"{row.prefill_tokens:,}", row.most_pages,
                f"{row.mean_running:.1f}", "yes" if row.same_tokens else "NO",
            )
            for row in rows
        ],
    )  # fmt: skip


def eviction_markdown(rows: Sequence[EvictionRow]) -> str:
    columns = ("pages in the pool", "eviction", "tokens found", "of those possible", "evictions", "tokens computed")
    return markdown_table(
        columns,
        [
            (r.num_blocks, r.policy, f"{r.hit_tokens:,}", percent(r.hit_rate), r.evictions, f"{r.prefill_tokens:,}")
            for r in rows
        ],
    )


def run(
    prefix_tokens: list[int], requests: int, output: int, repetitions: int, pools: list[int], seed: int, quick: bool
) -> str:
    """Runs everything and returns the report as Markdown."""
    model = load_model("tiny", device="cpu")
    if quick:
        requests, output, repetitions, pools = min(requests, 6), min(output, 8), 1, pools[:1]
    rows = []
    for tokens in prefix_tokens:
        rows += measure_prefix(
            model,
            tokens,
            requests=requests,
            output=output,
            repetitions=repetitions,
            seed=seed,
            num_blocks=10 * requests,
        )
    mix = measure_evictions(model, pools, requests=30 if quick else 160, seed=seed)
    return "\n\n".join(
        (
            heading("workbench bench prefix", model),
            f"Measured: {requests} requests at once that begin with the same few-shot prompt, then 20 to 40 tokens of "
            f"their own, {output} tokens of output, greedy, {10 * requests} pages of 16 tokens; another request with "
            "that prompt had run before. The paper's ratios are request rates, LLaMA-13B. Rates depend on the machine; "
            "tokens found and pages do not.",
            prefix_markdown(rows),
            f"Measured, independent of the machine: eviction policies. {30 if quick else 160} prompts of 96 + 16 "
            "tokens; 70 % begin with one of 24 prefixes, of popularity 1/rank, the others alone.",
            eviction_markdown(mix),
        )
    )
