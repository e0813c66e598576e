"""Plans a run of the Lab and carries out one variant of it. Knows nothing of pages, visitors and threads."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from workbench.engine import LLM, EngineConfig, SamplingParams
from workbench.events import EventBatch
from workbench.events.state import RequestStatus
from workbench.experiments.driver import Run, run_jobs
from workbench.experiments.policies import pressing_jobs
from workbench.experiments.prefix import skewed_jobs
from workbench.views.lab_charts import thinned
from workbench.workloads import Job, prompt_source
from workbench_app.lab.experiments import Value
from workbench_app.lab.settings import LENGTHS, LabSettings
from workbench_app.settings import SettingError

if TYPE_CHECKING:
    from workbench.models.loading import LoadedModel

#: Tokens that all variants of a run write together, at most: a minute or so on a laptop.
MAX_OUTPUT_TOKENS = 24_000
MAX_PAGES = 4096
_TEMPERATURE = 0.8
_SEED_SPAN = 1000

#: Called after every step with its number, how many requests are done, and its seconds; raises to end the run.
Tick = Callable[[int, int, float], None]


@dataclass(frozen=True)
class Variant:
    """One value of what is varied, ready to run."""

    value: Value
    label: str
    jobs: Sequence[Job]
    config: EngineConfig


@dataclass(frozen=True)
class Plan:
    """A run of the Lab: all its variants."""

    settings: LabSettings
    variants: tuple[Variant, ...]

    @property
    def fixed_words(self) -> str:
        """What stays the same in all variants, in words."""
        s, about = self.settings, self.settings.about
        words = [f"{s.requests} requests", about.workload_words or LENGTHS[s.lengths].words, f"seed {s.seed}"]
        if "pool_tokens" in about.uses:
            words.append(f"{s.pool_tokens:,} slots")
        if "block_size" in about.uses:
            words.append(f"pages of {s.block_size}")
        if "max_model_len" in about.uses:
            words.append(f"longest sequence {s.max_model_len:,}")
        if "link_mb" in about.uses:
            words.append(f"adaptive assumes {s.link_mb:,} MB/s")
        return "; ".join(word.rstrip(".") for word in words)


@dataclass
class Result:
    """What one variant did.

    Attributes:
        figures: by the names of `workbench_app.lab.measures.MEASURES`.
        rates: output tokens per second of every repetition.
        outputs: per request, per sample, the tokens.
        course: requests at once, by step.
        tokens_compared: with the first variant, and ``difference``: the first one found, in words, or "".
    """

    label: str
    figures: dict[str, float]
    rates: list[float]
    outputs: list[list[list[int]]]
    course: tuple[list[int], list[float]]
    tokens_compared: int = 0
    difference: str = ""


def _jobs(model: LoadedModel, s: LabSettings) -> list[Job]:
    about = s.about
    if about.workload != "lengths" and model.tokenizer is None:
        raise SettingError("Experiment", about.name, "This model has no tokenizer, which its prompts need.")
    if about.workload == "pressing":
        return pressing_jobs(model, s.requests, s.seed)
    if about.workload == "skewed":
        return skewed_jobs(model, s.requests, 8, 0.3, 1.0, s.seed)
    rng = random.Random(s.seed)
    source = prompt_source(model.tokenizer, model.geometry.vocab_size)
    return [
        Job(
            source.draw(rng, each.prompt),
            SamplingParams(
                max_tokens=each.output,
                temperature=_TEMPERATURE,
                seed=_SEED_SPAN * (s.seed + 1) + 10 * number,
                ignore_eos=True,
            ),
        )
        for number, each in enumerate(LENGTHS[s.lengths].source.draw(s.requests, s.seed))
    ]


def _with_samples(jobs: list[Job], samples: int) -> list[Job]:
    return [replace(job, params=replace(job.params, n=samples)) for job in jobs]


def make_plan(model: LoadedModel, settings: LabSettings) -> Plan:
    """Draws the requests and checks that every variant can run them.

    Raises:
        SettingError: too many tokens or pages, or a request that fits nowhere; names the field.
    """
    about = settings.about
    drawn = _jobs(model, settings)
    jobs = {value: _with_samples(drawn, int(value)) if about.samples else drawn for value in settings.values}
    tokens = settings.repetitions * sum(job.params.max_tokens * job.params.n for each in jobs.values() for job in each)
    if tokens > MAX_OUTPUT_TOKENS:
        raise SettingError(
            "Requests",
            settings.requests,
            f"All variants together would write {tokens:,} tokens; at most {MAX_OUTPUT_TOKENS:,} are allowed: take "
            "fewer or shorter requests, fewer variants, or fewer repetitions.",
        )
    longest = max(len(job.prompt) + job.params.max_tokens for job in drawn)
    variants = []
    for value in settings.values:
        values = about.config(settings, value)
        slots = values["num_blocks"] * values["block_size"]
        _check_fit(settings, value, values, slots, longest)
        config = EngineConfig(**values, device=model.device.type, cuda_graphs=False)
        variants.append(Variant(value, about.label(value), jobs[value], config))
    return Plan(settings, tuple(variants))


def _check_fit(s: LabSettings, value: Value, values: dict[str, Any], slots: int, longest: int) -> None:
    if values["num_blocks"] > MAX_PAGES:
        raise SettingError(
            "Block size",
            values["block_size"],
            f"{slots:,} slots would be {values['num_blocks']:,} pages; at most {MAX_PAGES:,} are allowed.",
        )
    # Not the last token: nobody asks for its keys and values.
    if -(-(longest - 1) // values["block_size"]) > values["num_blocks"]:
        raise SettingError(
            "Pool size",
            slots,
            f"The longest request has {longest:,} tokens, which must fit into the pool: take a larger pool, or shorter "
            "lengths.",
        )
    most = values.get("max_model_len")
    if most is not None and longest > most:
        raise SettingError("Longest sequence", most, f"The longest request has {longest:,} tokens: take more.")
    if most is not None and value == "max" and slots < most:
        raise SettingError(
            "Longest sequence", most, f"Max reserves so many slots for each request, and the pool has {slots:,}."
        )


@dataclass
class _Watch:
    """Adds up what the figures need, after every step."""

    tick: Tick
    token_slots: int = 0
    held_slots: int = 0
    most_pages: int = 0
    named_pages: int = 0
    different_pages: int = 0
    steps: list[int] = field(default_factory=list)
    running: list[float] = field(default_factory=list)
    done: int = 0

    def __call__(self, llm: LLM, batch: EventBatch) -> None:
        state = llm.page_map
        last = state.last
        assert last is not None
        self.token_slots += last.waste.token_states
        self.held_slots += last.waste.token_states + last.waste.reserved
        if state.is_paged:
            named, different = state.sharing()
            self.named_pages += named
            self.different_pages += different
            self.most_pages = max(self.most_pages, different)
        self.steps.append(len(self.steps) + 1)
        self.running.append(float(len(state.running)))
        self.done = sum(request.status is RequestStatus.FINISHED for request in state.requests.values())
        self.tick(len(self.steps), self.done, (last.schedule_ns + last.forward_ns + last.sample_ns) / 1e9)


class NotRepeatableError(RuntimeError):
    """Two repetitions of the same variant counted differently. That is a bug of the engine."""


def run_variant(model: LoadedModel, variant: Variant, repetitions: int, tick: Tick) -> Result:
    """Runs one variant, ``repetitions`` times; times are medians.

    Raises:
        NotRepeatableError: the repetitions don't agree.
        ValueError: the engine refused a request; the message has the arithmetic.
    """
    results = [_run_once(model, variant, tick) for _ in range(repetitions)]
    first = results[0]
    for again in results[1:]:
        if again.outputs != first.outputs or _counted(again) != _counted(first):
            raise NotRepeatableError(f"{variant.label}: two repetitions counted differently, which must not happen")
    rates = [result.rates[0] for result in results]
    return replace(first, rates=rates, figures={**first.figures, "rate": statistics.median(rates)})


def _counted(result: Result) -> dict[str, float]:
    return {name: value for name, value in result.figures.items() if name != "rate"}


def _run_once(model: LoadedModel, variant: Variant, tick: Tick) -> Result:
    watch = _Watch(tick)
    run = run_jobs(model, variant.config, variant.jobs, watch)
    # Inside the steps only: what the Lab itself does between them, and its rests, are not the engine's.
    speed = run.output_tokens / (run.totals.busy_ns / 1e9)
    course = thinned(watch.steps, watch.running)
    return Result(variant.label, _figures(variant, run, watch, speed), [speed], run.outputs, course)


def _figures(variant: Variant, run: Run, watch: _Watch, speed: float) -> dict[str, float]:
    totals = run.totals
    prompt_tokens = sum(len(job.prompt) for job in variant.jobs)
    figures: dict[str, float] = {
        "peak": totals.max_running,
        "held_share": watch.token_slots / watch.held_slots if watch.held_slots else 0.0,
        "steps": run.steps,
        "mean_finish": statistics.mean(run.finish_steps),
        "preemptions": totals.preemptions,
        "recomputed": totals.recomputed_tokens,
        "moved_bytes": totals.swapped_out_bytes + totals.swapped_in_bytes,
        "copies": totals.blocks_copied,
        "hits": totals.prefix_hit_tokens,
        "hit_share": totals.prefix_hit_tokens / prompt_tokens,
        "evictions": totals.evictions,
        "prefill": totals.prefill_tokens,
        "rate": speed,
    }
    if variant.config.memory == "paged":
        figures["most_pages"] = watch.most_pages
        figures["saved_share"] = 1 - watch.different_pages / watch.named_pages if watch.named_pages else 0.0
    return figures


def compare_with(first: Result, other: Result) -> Result:
    """``other`` with what a comparison with the first variant says, token by token; samples that both have."""
    compared, difference = 0, ""
    for request, (a, b) in enumerate(zip(first.outputs, other.outputs, strict=True)):
        for sample, (x, y) in enumerate(zip(a, b, strict=False)):
            same = next((i for i, (p, q) in enumerate(zip(x, y, strict=False)) if p != q), min(len(x), len(y)))
            compared += min(len(x), len(y))
            if not difference and (same < min(len(x), len(y)) or len(x) != len(y)):
                difference = f"{other.label}: request {request + 1}, sample {sample + 1}, token {same + 1}"
    return replace(other, tokens_compared=compared, difference=difference)
