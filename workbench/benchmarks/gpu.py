"""The engine on a GPU: random requests on a 0.6 B model with random weights, what events cost, and where time goes.

Weights are random and stop tokens ignored, so the work depends on the lengths alone. Prompts and lengths are drawn as
in nano-vllm's benchmark, with which the result can be compared. On the CPU, with small sizes, it is a rehearsal.
"""

from __future__ import annotations

import gc
import io
import random
import statistics
import sys
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from workbench.benchmarks.step_profile import HostTimes, kernel_table
from workbench.commands.doctor import describe_machine, installed_versions
from workbench.engine import LLM, EngineConfig, SamplingParams
from workbench.events import Recorder
from workbench.events.types import StepFinished
from workbench.models.loading import LoadedModel, prepare_model


@dataclass(frozen=True)
class Shape:
    """Sizes of the model; the defaults are those of Qwen3-0.6B."""

    layers: int = 28
    hidden: int = 1024
    heads: int = 16
    kv_heads: int = 8
    head_dim: int = 128
    mlp: int = 3072
    vocab: int = 151_936

    def load(self, device: str, dtype: torch.dtype, max_positions: int, pack: bool) -> LoadedModel:
        torch.manual_seed(0)
        config = Qwen3Config(
            vocab_size=self.vocab,
            hidden_size=self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            head_dim=self.head_dim,
            intermediate_size=self.mlp,
            max_position_embeddings=max_positions,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=None,
        )
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        return prepare_model(model, None, "random-qwen3", pack=pack)


@dataclass(frozen=True)
class Job:
    """Prompts, and how many tokens each request generates."""

    prompts: list[list[int]]
    new_tokens: list[int]

    @staticmethod
    def draw(requests: int, shortest: int, longest: int, vocab: int) -> Job:
        """The same draws as nano-vllm's benchmark: seed 0, all prompts first."""
        rng = random.Random(0)
        prompts = [[rng.randint(0, 10_000) for _ in range(rng.randint(shortest, longest))] for _ in range(requests)]
        new_tokens = [rng.randint(shortest, longest) for _ in range(requests)]
        return Job([[token % vocab for token in prompt] for prompt in prompts], new_tokens)


@dataclass
class Run:
    """One run of the job. ``steps``: seconds of every step; ``with_prompts``: of those with prompts, if known."""

    seconds: float = 0.0
    prepared: float = 0.0
    steps: list[float] = field(default_factory=list)
    with_prompts: list[float] = field(default_factory=list)
    tokens: list[list[int]] = field(default_factory=list)
    flush_share: float = 0.0
    caught_up_share: float = 0.0
    num_blocks: int = 0
    preemptions: int = 0
    peak_gib: float = 0.0
    recorded: int = 0
    graphs: str = ""


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _run(model: LoadedModel, job: Job, config: EngineConfig, events: bool, profile: int = 0) -> tuple[Run, str]:
    """Runs the job once; with ``profile``, looks at that many decode steps in the middle, and reports them, too."""
    run = Run()
    started = time.perf_counter()
    llm = LLM(model, config, events=events)
    llm.warm_up()
    run.prepared = time.perf_counter() - started
    run.num_blocks = llm.memory.num_blocks
    params = [SamplingParams(max_tokens=n, temperature=0.6, ignore_eos=True) for n in job.new_tokens]
    recording = io.BytesIO()
    report = ""
    with Recorder(llm.bus, recording) if events else nullcontext():
        started = last = time.perf_counter()
        requests = [llm.add_request(p, s) for p, s in zip(job.prompts, params, strict=True)]
        while llm.has_unfinished:
            if profile and len(run.steps) == max(job.new_tokens) // 4:
                report = _profile(llm, profile)
            batch = llm.step()
            now = time.perf_counter()
            run.steps.append(now - last)
            if batch.events and isinstance(batch.events[-1], StepFinished) and batch.events[-1].prefill_tokens:
                run.with_prompts.append(now - last)
            last = now
        run.seconds = time.perf_counter() - started
    if events:
        run.flush_share, run.caught_up_share = (
            ns / 1e9 / run.seconds for ns in (llm.bus.flush_ns, llm.bus.caught_up_ns)
        )
        run.preemptions = llm.page_map.totals.preemptions
    run.recorded = recording.tell()
    run.tokens = [llm.output(request).outputs[0].token_ids for request in requests]
    run.graphs = llm.describe_runner()
    llm.close()
    del llm
    gc.collect()
    if model.device.type == "cuda":
        run.peak_gib = torch.cuda.max_memory_allocated() / 2**30
        torch.cuda.empty_cache()
    return run, report


def _profile(llm: LLM, steps: int) -> str:
    """Where the time of ``steps`` steps goes, on the host and on the device; Markdown."""
    with HostTimes(llm) as times:
        for _ in range(steps):
            llm.step()
    lines = [
        f"Host time of a step, mean of {steps} steps with about {times.batch:.0f} sequences; after {times.ahead:.0%} "
        "of them the next one was launched before the tokens were noted, so that the GPU works meanwhile:",
        "",
        times.table(),
        "",
    ]
    if llm.model.device.type == "cuda":
        lines += [kernel_table(llm, steps), ""]
    return "\n".join(lines)


def _event_cost(with_events: list[Run], without: list[Run]) -> float:
    """How much longer the run takes with events, as a share: each step's shortest time, over the repetitions."""
    best = [
        sum(min(times) for times in zip(*(run.steps for run in runs), strict=True)) for runs in (with_events, without)
    ]
    return best[0] / best[1] - 1


def run(
    requests: int,
    shortest: int,
    longest: int,
    max_num_seqs: int,
    max_num_batched_tokens: int,
    max_model_len: int,
    num_blocks: int | None,
    device: str,
    dtype: str,
    attention: str,
    compile: str,
    events: str,
    repetitions: int,
    profile: int,
    graphs: bool,
    pack: bool,
    **shape: int,
) -> str:
    """Runs everything and returns the report as Markdown."""
    sizes = Shape(**shape)
    _progress("making the model")
    pack = pack and not (device == "cpu" and compile != "off")  # the layout for a CPU can't be compiled
    model = sizes.load(device, getattr(torch, dtype), max_model_len, pack)
    job = Job.draw(requests, shortest, longest, sizes.vocab)
    config: dict[str, Any] = {
        "max_num_seqs": max_num_seqs,
        "max_num_batched_tokens": max_num_batched_tokens,
        "max_model_len": max_model_len,
        "num_blocks": num_blocks,
        "attention": attention,
        "cuda_graphs": graphs,
    }
    lines = _head(model, job, config)
    lines += [
        "| | output tokens/s | seconds | steps | of them with prompts | before the first step, s | pages | GPU memory, "
        "GiB | bus at step ends | bus while the GPU works |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    reports: list[str] = []
    costs: list[str] = []
    compilations = {"off": [False], "on": [True], "both": [False, True]}[compile]
    for compiled in compilations:
        # Kernels are compiled for every kind of step; what that takes is not the engine's speed.
        few = Job(job.prompts[:64], [8 + i % 8 for i in range(min(64, requests))])
        rehearsal, _ = _run(model, few, EngineConfig(**config, compile=compiled), events=True)
        _progress(f"rehearsed: {rehearsal.prepared:.1f} s before the first step, {rehearsal.graphs}")
        name = "compiled" if compiled else "not compiled"
        costs.append(f"First start, {name}: {rehearsal.prepared:.1f} s before the first step.")
    for compiled in compilations:
        runs: dict[bool, list[Run]] = {True: [], False: []}
        kinds = {"on": [True], "off": [False], "both": [False, True]}[events]
        for repetition in range(repetitions):
            for has_events in kinds if repetition % 2 else reversed(kinds):
                name = f"{'compiled' if compiled else 'not compiled'}, events {'on' if has_events else 'off'}"
                result, _ = _run(model, job, EngineConfig(**config, compile=compiled), has_events)
                runs[has_events].append(result)
                lines.append(_row(name, job, result))
                _progress(lines[-1])
                config["num_blocks"] = result.num_blocks
        if len(kinds) == 2:
            share = _event_cost(runs[True], runs[False])
            pairs = [a.seconds / b.seconds - 1 for a, b in zip(runs[True], runs[False], strict=True)]
            same = all(a.tokens == runs[True][0].tokens for kind in runs.values() for a in kind)
            costs.append(
                f"Events and recorder, {'compiled' if compiled else 'not compiled'}: {share:+.2%} of the time (each "
                f"step's shortest time; whole runs: {', '.join(f'{pair:+.2%}' for pair in pairs)}); tokens of all runs "
                f"{'are equal' if same else 'DIFFER'}; the recording has {runs[True][0].recorded / 2**20:.1f} MiB."
            )
        if profile:
            _progress("profiling")
            _, report = _run(model, job, EngineConfig(**config, compile=compiled), True, profile)
            reports.append(f"#### {'Compiled' if compiled else 'Not compiled'}\n\n{report}")
    return "\n".join([*lines, "", *costs, "", *reports])


def _head(model: LoadedModel, job: Job, config: dict[str, Any]) -> list[str]:
    versions = ", ".join(f"{package} {version}" for package, version in installed_versions().items() if version)
    name = torch.cuda.get_device_name() if model.device.type == "cuda" else model.device.type
    sum_in, sum_out = sum(map(len, job.prompts)), sum(job.new_tokens)
    weights = sum(parameter.numel() for parameter in model.model.parameters())
    return [
        f"`workbench bench gpu`, {date.today().isoformat()}. {name}; {describe_machine()}. {versions}.",
        "",
        f"{model.geometry.architecture}, {weights / 1e6:,.0f} M random weights in {model.geometry.dtype}, "
        f"{model.geometry.kv_bytes_per_token:,} bytes of KV per token, linear layers "
        f"{'fused' if model.lock else 'as they are'}. {len(job.prompts)} requests, {sum_in:,} prompt "
        f"and {sum_out:,} output tokens, temperature 0.6, no stop token; "
        + ", ".join(f"{key}={value}" for key, value in config.items())
        + ".",
        "",
    ]


def _row(name: str, job: Job, result: Run) -> str:
    rate = sum(job.new_tokens) / result.seconds
    median = statistics.median(result.steps) * 1e3
    slowest = f", the slowest {max(result.with_prompts) * 1e3:.0f} ms" if result.with_prompts else ""
    prompts = f"{len(result.with_prompts)} in {sum(result.with_prompts):.2f} s{slowest}" if result.with_prompts else "-"
    steps = f"{len(result.steps)} of {median:.2f} ms (median)"
    return (
        f"| {name} ({result.graphs}) | {rate:,.0f} | {result.seconds:.2f} | {steps} | {prompts} "
        f"| {result.prepared:.1f} | {result.num_blocks:,} | {result.peak_gib:.1f} | {result.flush_share:.2%} | "
        f"{result.caught_up_share:.2%} |"
    )
