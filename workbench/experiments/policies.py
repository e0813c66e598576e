"""A leaderboard of policies: the same requests under memory pressure, decided in different ways.

Who gives way when memory runs out (`VictimPolicy`), and which cached pages go first (`EvictionPolicy`): the built-in
ones and your own (docs/policies.md). Counts are in steps and tokens, so they are the same on every machine.
"""

from __future__ import annotations

import importlib.util
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from workbench.engine import EngineConfig, SamplingParams
from workbench.engine.preemption import VICTIM_POLICIES, VictimPolicy
from workbench.experiments.driver import Run, progress, run_jobs
from workbench.experiments.tables import heading, markdown_table
from workbench.memory.eviction import EVICTION_POLICIES, EvictionPolicy
from workbench.models import LoadedModel, load_model
from workbench.workloads import BundledText, Job, poisson

#: Tokens that a step computes at most: so few that computing prompts takes steps, and finding them saves some.
_BUDGET = 48
#: What the other policy is while one kind is compared.
_VICTIM, _EVICTION = "last_come", "lru"


class PolicyError(ValueError):
    """A policy can't be found or loaded. The message says where it was looked for."""


@dataclass
class PolicyRow:
    """One policy.

    Attributes:
        kind: "victim" or "eviction".
        hit_tokens: tokens found in the prefix cache instead of computed.
        mean_finish: steps from a request's arrival to its end, mean; ``slowest``: of the slowest tenth, the fastest.
    """

    kind: str
    policy: str
    steps: int
    preemptions: int
    recomputed_tokens: int
    hit_tokens: int
    evictions: int
    mean_finish: float
    slowest: float


def load_policy(text: str, kind: str) -> VictimPolicy | EvictionPolicy:
    """A built-in policy by its name, or a class in a Python file: ``mine.py:Shortest``.

    Raises:
        PolicyError: there is no such policy, file or class.
    """
    known: dict[str, Any] = dict(VICTIM_POLICIES if kind == "victim" else EVICTION_POLICIES)
    if text in known:
        return known[text]()
    file, colon, name = text.rpartition(":")
    if not colon:
        raise PolicyError(f"--{kind} {text}: allowed are {', '.join(known)}, or FILE.py:Class")
    path = Path(file)
    if not path.is_file():
        raise PolicyError(f"--{kind} {text}: there is no file {file}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise PolicyError(f"--{kind} {text}: {file} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        policy = getattr(module, name)()
    except Exception as error:
        raise PolicyError(f"--{kind} {text}: {type(error).__name__}: {error}") from error
    return cast("VictimPolicy | EvictionPolicy", policy)


def pressing_jobs(model: LoadedModel, requests: int, seed: int) -> list[Job]:
    """Short and long requests that come faster than they can be served; half of them begin with one of six prefixes.

    A third are two samples of one prompt. Prompts of 24 to 112 tokens, outputs of 8 to 160.
    """
    rng = random.Random(seed)
    text = BundledText(model.tokenizer)
    prefixes = [text.draw(rng, 64) for _ in range(6)]
    weights = [1 / (rank + 1) for rank in range(len(prefixes))]
    jobs = []
    for number, arrival in enumerate(poisson(requests, rate=0.5, seed=seed)):
        beginning = rng.choices(prefixes, weights)[0] if rng.random() < 0.5 else []
        prompt = [*beginning, *text.draw(rng, rng.randint(24, 48))]
        output = rng.choice((8, 16, 32, 64, 160))
        params = SamplingParams(max_tokens=output, n=1 + (number % 3 == 0), seed=1000 * number, ignore_eos=True)
        jobs.append(Job(prompt, params, arrival))
    return jobs


def compare_policies(
    model: LoadedModel,
    victims: Sequence[VictimPolicy],
    evictions: Sequence[EvictionPolicy],
    *,
    requests: int = 48,
    num_blocks: int = 96,
    seed: int = 0,
) -> list[PolicyRow]:
    """Every victim policy with the LRU cache, every eviction policy with the paper's victims; best of each kind first.

    Raises:
        RuntimeError: a policy changed the tokens. That can't be a policy's fault: it is a bug of the engine.
    """
    jobs = pressing_jobs(model, requests, seed)
    pairs: list[tuple[str, str, VictimPolicy | str, EvictionPolicy | str]] = [
        *(("victim", policy.name, policy, _EVICTION) for policy in victims),
        *(("eviction", policy.name, _VICTIM, policy) for policy in evictions),
    ]
    rows: list[PolicyRow] = []
    reference: Run | None = None
    for kind, name, victim, eviction in pairs:
        config = EngineConfig(
            num_blocks=num_blocks,
            prefix_caching=True,
            victim=victim,
            eviction=eviction,
            watermark=0.0,
            max_num_seqs=32,
            max_num_batched_tokens=_BUDGET,
        )
        run = run_jobs(model, config, jobs)
        reference = reference or run
        if run.outputs != reference.outputs:
            raise RuntimeError(f"{kind} policy {name!r}: the outputs are others than with {rows[0].policy!r}")
        finish = sorted(run.finish_steps)
        rows.append(
            PolicyRow(
                kind=kind,
                policy=name,
                steps=run.steps,
                preemptions=run.totals.preemptions,
                recomputed_tokens=run.totals.recomputed_tokens,
                hit_tokens=run.totals.prefix_hit_tokens,
                evictions=run.totals.evictions,
                mean_finish=statistics.mean(finish),
                slowest=finish[-max(1, len(finish) // 10)],
            )
        )
        progress(f"{kind} {name}: {run.steps} steps, mean finish {rows[-1].mean_finish:.1f}")
    return sorted(rows, key=lambda row: (row.kind != "victim", row.mean_finish))


def leaderboard_markdown(rows: Sequence[PolicyRow]) -> str:
    columns = (
        "kind", "policy", "mean finish, steps", "slowest tenth at least", "steps", "preemptions", "tokens recomputed",
        "tokens found in the cache", "evictions",
    )  # fmt: skip
    return markdown_table(
        columns,
        [
            (
                row.kind, row.policy, f"{row.mean_finish:.1f}", f"{row.slowest:.0f}", row.steps, row.preemptions,
                f"{row.recomputed_tokens:,}", f"{row.hit_tokens:,}", row.evictions,
            )
            for row in rows
        ],
    )  # fmt: skip


def _chosen(kind: str, own: Sequence[str]) -> list[Any]:
    built_in = VICTIM_POLICIES if kind == "victim" else EVICTION_POLICIES
    names = [*built_in, *(text for text in own if text not in built_in)]
    return [load_policy(name, kind) for name in names]


def run(victim: list[str], eviction: list[str], requests: int, num_blocks: int, seed: int, quick: bool) -> str:
    """Runs everything and returns the report as Markdown."""
    victims, evictions = _chosen("victim", victim), _chosen("eviction", eviction)
    model = load_model("tiny", device="cpu")
    if quick:
        requests, num_blocks = min(requests, 12), min(num_blocks, 32)
    rows = compare_policies(model, victims, evictions, requests=requests, num_blocks=num_blocks, seed=seed)
    return "\n\n".join(
        (
            heading("workbench bench policies", model),
            f"Measured, in steps and tokens: {requests} requests on {num_blocks} pages of 16 tokens, at most {_BUDGET} "
            "tokens per step, preempted by recomputation; all outputs were equal. Victim policies run with "
            f"{_EVICTION!r}, eviction policies with {_VICTIM!r}.",
            leaderboard_markdown(rows),
        )
    )
