"""Lesson 10, beyond one GPU: a cost model for other machines, memory split over several, and keys sent elsewhere.

Everything that is said here of machines other than this one is modelled: a formula on numbers from data sheets.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
import torch
from torch import Tensor

from workbench.course.exercise import Exercise, Question
from workbench.course.lessons.bundled import Job, run, tiny
from workbench.course.lessons.lesson01 import plain_model
from workbench.course.lessons.real_runs import engine_kv, short_run
from workbench.course.verdict import Verdict
from workbench.events import Timeline
from workbench.views.palette import LIGHT, REQUEST_COLORS
from workbench.workloads import BundledText

GB, GIGA, TERA = 1e9, 1e9, 1e12


@dataclass(frozen=True)
class Model:
    """A model in half precision (2 bytes per number), from its published configuration.

    Attributes:
        parameters: numbers in its weights; all of them are used for every token.
        layers, heads, kv_heads, head_dim: of its attention; ``heads`` are those of the queries.
    """

    parameters: float
    layers: int
    heads: int
    kv_heads: int
    head_dim: int

    @property
    def weight_bytes(self) -> float:
        return 2 * self.parameters

    @property
    def kv_bytes_per_token(self) -> int:
        return 2 * self.layers * self.kv_heads * self.head_dim * 2


MODELS = {
    "OPT-13B": Model(12.9e9, 40, 40, 40, 128),
    "Qwen3 0.6B": Model(0.6e9, 28, 16, 8, 128),
    "Llama 2 7B": Model(6.7e9, 32, 32, 32, 128),
    "Llama 3 8B": Model(8.0e9, 32, 32, 8, 128),
    "Llama 3 70B": Model(70.6e9, 80, 64, 8, 128),
    "Llama 3.1 405B": Model(405.9e9, 126, 128, 8, 128),
}


@dataclass(frozen=True)
class Machine:
    """A machine, as its maker describes it: the most that it could do, not what programs reach.

    Attributes:
        memory: bytes of the memory in which it computes.
        bandwidth: bytes per second from this memory.
        operations: floating-point operations per second in half precision, dense.
        link: bytes per second, one way, to the host's memory; None: unified memory, there is no other.
        source: where the numbers come from.
    """

    memory: float
    bandwidth: float
    operations: float
    link: float | None
    source: str


MACHINES = {
    "NVIDIA A100": Machine(80 * GB, 2039 * GB, 312 * TERA, 32 * GB, "NVIDIA's data sheet, SXM, 80 GB; PCIe 4 x16"),
    "NVIDIA H100": Machine(80 * GB, 3350 * GB, 989 * TERA, 64 * GB, "NVIDIA's data sheet, SXM; PCIe 5 x16"),
    "NVIDIA H200": Machine(141 * GB, 4800 * GB, 989 * TERA, 64 * GB, "NVIDIA's data sheet, SXM; PCIe 5 x16"),
    "NVIDIA GH200": Machine(
        96 * GB, 4000 * GB, 989 * TERA, 450 * GB, "NVIDIA's data sheet, HBM3; NVLink-C2C, half of its 900 GB/s each way"
    ),
    "AMD MI300X": Machine(192 * GB, 5300 * GB, 1307 * TERA, 64 * GB, "AMD's data sheet; PCIe 5 x16"),
    "Apple M3 Ultra": Machine(
        512 * GB,
        819 * GB,
        28 * TERA,
        None,
        "Apple's technical specifications; operations are our estimate (80 cores x 128 lanes x 2 x 1.38 GHz)",
    ),
    "A laptop": Machine(
        32 * GB, 90 * GB, 1 * TERA, None, "two channels of DDR5-5600: 2 x 8 bytes x 5.6e9; operations are a round guess"
    ),
}


def models_table() -> str:
    """Bytes of KV cache per token, and the weights, of known models: computed from their configurations."""
    rows = [
        f"{name:15} {m.kv_bytes_per_token:>9,} bytes per token, weights {m.weight_bytes / GB:6.1f} GB"
        for name, m in MODELS.items()
    ]
    return "\n".join(rows)


def bars(values: dict[str, float], title: str, unit: str) -> go.Figure:
    """One bar per machine; says that it is modelled."""
    labels = [f"{value:,.3g}" for value in values.values()]
    figure = go.Figure(
        go.Bar(x=list(values.values()), y=list(values), text=labels, orientation="h", marker_color=REQUEST_COLORS[4])
    )
    figure.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": LIGHT["text"]},
        title={"text": f"Modelled: {title}", "font": {"size": 15}},
        height=80 + 34 * len(values),
        margin={"l": 120, "r": 30, "t": 50, "b": 40},
        xaxis={"title": {"text": unit}, "gridcolor": LIGHT["cached"]},
        yaxis={"autorange": "reversed"},
        uirevision="keep",
    )
    return figure


# -- this machine, measured --------------------------------------------------------------------------------------------


def measured_bandwidth() -> float:
    """Bytes per second that this machine reads and writes while it copies 64 MB; the best of nine."""
    tiny()  # sets the number of threads
    source = torch.zeros(16_000_000)
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(9):
        began = time.perf_counter()
        target.copy_(source)
        best = min(best, time.perf_counter() - began)
    return 2 * source.numel() * 4 / best


def measured_step(batch: int = 4, context: int = 48) -> float:
    """Seconds of a decode step of the bundled model, median, with so many sequences of about this context."""
    rng, text = random.Random(0), BundledText(tiny().tokenizer)
    jobs = [Job(text.draw(rng, context - 8), 16) for _ in range(batch)]
    llm, _ = run(jobs, steps=1, num_blocks=64)
    taken = []
    while llm.has_unfinished:
        began = time.perf_counter()
        llm.step()
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def tiny_weight_bytes() -> int:
    """Bytes of the bundled model's weights that a step reads; of a table of embeddings only a few rows are."""
    config = plain_model().config
    numbers = sum(p.numel() for p in plain_model().parameters())
    if not config.tie_word_embeddings:
        numbers -= config.vocab_size * config.hidden_size
    return int(numbers) * tiny().dtype.itemsize


# -- 10.1: the time of a decode step -----------------------------------------------------------------------------------


def right_step(model: Model, machine: Machine, contexts: Sequence[int]) -> float:
    """Seconds of a decode step, modelled."""
    read = model.weight_bytes + model.kv_bytes_per_token * sum(contexts)
    operations = 2 * model.parameters * len(contexts)
    return max(read / machine.bandwidth, operations / machine.operations)


def _close(yours: Any, expected: float) -> bool:
    is_number = isinstance(yours, int | float) and not isinstance(yours, bool)
    return is_number and abs(yours - expected) <= 1e-6 * max(abs(expected), 1e-12)


def _case(rng: random.Random) -> tuple[str, Model, str, Machine]:
    name, place = rng.choice(sorted(MODELS)), rng.choice(sorted(MACHINES))
    return name, MODELS[name], place, MACHINES[place]


def grade_step(answer: Callable[[Model, Machine, list[int]], float], seed: int) -> Verdict:
    """``answer(model, machine, contexts)``: small and large batches, so that each of both limits decides sometimes."""
    rng = random.Random(seed)
    for case in range(16):
        name, model, place, machine = _case(rng)
        batch = rng.choice((1, 2, 8, 64, 512, 2048))
        contexts = [rng.randint(1, rng.choice((16, 200, 4000))) for _ in range(batch)]
        expected = right_step(model, machine, contexts)
        yours = answer(model, machine, list(contexts))
        if not _close(yours, expected):
            reading = (model.weight_bytes + model.kv_bytes_per_token * sum(contexts)) / machine.bandwidth
            return Verdict(
                False,
                f"{name} on {place}, {batch} sequences of {sum(contexts):,} tokens in all. Reading takes "
                f"{reading * 1e3:.4g} ms, computing {2 * model.parameters * batch / machine.operations * 1e3:.4g} ms.",
                yours,
                expected,
                f"the step of case {case}",
            )
    return Verdict(True, "16 steps, as the model says.")


# -- 10.2: memory split over devices -----------------------------------------------------------------------------------


def right_split(model: Model, devices: int) -> int:
    """Bytes per token on each device; KV heads are split, and copied where there are more devices than heads."""
    return 2 * model.layers * max(1, model.kv_heads // devices) * model.head_dim * 2


def right_room(model: Model, machine: Machine, devices: int, length: int, block_size: int) -> int:
    """How many sequences of ``length`` tokens have their pages at once; weights are split evenly."""
    left = machine.memory - model.weight_bytes / devices
    pages = int(left // (right_split(model, devices) * block_size)) if left > 0 else 0
    return pages // -(-length // block_size)


def grade_split(answer: Callable[[Model, int], int], seed: int) -> Verdict:
    """``answer(model, devices)`` for 1 to 32 devices."""
    rng = random.Random(300 + seed)
    for name in rng.sample(sorted(MODELS), len(MODELS)):
        model = MODELS[name]
        for devices in (1, 2, 4, 8, 16, 32):
            if model.kv_heads % devices and devices % model.kv_heads:
                continue
            yours, expected = answer(model, devices), right_split(model, devices)
            if not _close(yours, expected):
                return Verdict(
                    False,
                    f"{name} has {model.kv_heads} KV heads; there are {devices} devices.",
                    yours,
                    expected,
                    f"{name} on {devices} devices",
                )
    return Verdict(True, "Every device keeps the right heads.")


def grade_room(answer: Callable[[Model, Machine, int, int, int], int], seed: int) -> Verdict:
    """``answer(model, machine, devices, length, block_size)``; some models do not fit at all."""
    rng = random.Random(400 + seed)
    for case in range(24):
        name, model, place, machine = _case(rng)
        devices = rng.choice([n for n in (1, 2, 4, 8, 16) if not model.kv_heads % n or not n % model.kv_heads])
        length, block_size = rng.randint(1, 20000), rng.choice((8, 16, 64))
        expected = right_room(model, machine, devices, length, block_size)
        yours = answer(model, machine, devices, length, block_size)
        if yours != expected or isinstance(yours, bool):
            left = machine.memory - model.weight_bytes / devices
            return Verdict(
                False,
                f"{name} on {devices} x {place}, sequences of {length:,} tokens on pages of {block_size}: beside the "
                f"weights {left / GB:.4g} GB are left on each device.",
                yours,
                expected,
                f"case {case}",
            )
    return Verdict(True, "24 machines filled with whole pages.")


def heads_apart(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Attention over the engine's own keys and values: by one device, and by two with half of the heads each.

    The bundled model has 2 KV heads, each for 3 query heads. Random queries; one sequence of a real run, layer 0.

    Returns:
        Two tensors ``[6, head_dim]``.
    """
    llm = short_run(seed)
    k, v = engine_kv(llm, 0)
    sequence = next(iter(llm.page_map.sequences.values()))
    table, length = list(sequence.block_table), sequence.num_computed_tokens
    keys, values = (x[table].flatten(0, 1)[:length].float() for x in (k, v))
    q = torch.randn(6, keys.shape[-1], generator=torch.Generator().manual_seed(seed))

    def attend(query_heads: slice, kv_heads: slice) -> Tensor:
        mine_k = keys[:, kv_heads].repeat_interleave(3, 1)
        mine_v = values[:, kv_heads].repeat_interleave(3, 1)
        scores = torch.einsum("hd,thd->ht", q[query_heads], mine_k) / keys.shape[-1] ** 0.5
        return torch.einsum("ht,thd->hd", scores.softmax(-1), mine_v)

    whole = attend(slice(0, 6), slice(0, 2))
    return whole, torch.cat([attend(slice(0, 3), slice(0, 1)), attend(slice(3, 6), slice(1, 2))])


# -- 10.4: a prompt computed elsewhere ---------------------------------------------------------------------------------


def right_delay(prefill: float, num_bytes: float, bandwidth: float, layers: int) -> float:
    """Seconds from the end of the prefill to the arrival of the last layer; played through layer by layer."""
    compute, send = prefill / layers, num_bytes / bandwidth / layers
    link_free = 0.0
    for layer in range(layers):
        link_free = max(link_free, compute * (layer + 1)) + send
    return link_free - prefill


def grade_delay(answer: Callable[[float, float, float, int], float], seed: int) -> Verdict:
    """``answer(prefill, num_bytes, bandwidth, layers)``: with links that are fast, slow, and just as fast as needed."""
    rng = random.Random(500 + seed)
    for case in range(20):
        layers, prefill = rng.choice((1, 2, 28, 80)), rng.uniform(0.01, 2)
        bandwidth = rng.choice((1e9, 12.5e9, 50e9, 450e9))
        num_bytes = prefill * bandwidth * rng.choice((0.01, 0.3, 0.9, 1.0, 1.3, 4.0))
        expected = right_delay(prefill, num_bytes, bandwidth, layers)
        yours = answer(prefill, num_bytes, bandwidth, layers)
        is_number = isinstance(yours, int | float) and not isinstance(yours, bool)
        if not is_number or abs(yours - expected) > 1e-6 * (prefill + expected):
            return Verdict(
                False,
                f"{layers} layers: each is computed in {prefill / layers * 1e3:.4g} ms and sent in "
                f"{num_bytes / bandwidth / layers * 1e3:.4g} ms.",
                yours,
                expected,
                f"the delay of case {case}, seconds",
            )
    return Verdict(True, "20 transfers, as played through layer by layer.")


def prefill_run() -> Timeline:
    """A prompt of 96 tokens, computed in chunks of 40 on pages of 16, and two tokens written."""
    prompt = BundledText(tiny().tokenizer).draw(random.Random(10), 96)
    _, timeline = run([Job(prompt, 2)], num_blocks=12, block_size=16, max_num_batched_tokens=40, max_model_len=128)
    return timeline


def full_pages(timeline: Timeline, step: int) -> list[int]:
    """Pages whose slots are all filled after a step, in logical order: nothing in them changes any more."""
    state = timeline.state_at(step)
    return [
        block
        for s in state.sequences.values()
        for i, block in enumerate(s.block_table)
        if (i + 1) * 16 <= s.num_computed_tokens
    ]


# -- swapping, modelled ------------------------------------------------------------------------------------------------


def back_again(model: Model, machine: Machine, tokens: int, share: float = 0.5) -> tuple[float | None, float]:
    """Seconds to swap so many tokens out and in (None: unified memory), and to recompute them; modelled.

    Args:
        share: of the machine's operations that a prefill reaches.
    """
    swap = None if machine.link is None else 2 * tokens * model.kv_bytes_per_token / machine.link
    return swap, 2 * model.parameters * tokens / (machine.operations * share)


# -- the register ------------------------------------------------------------------------------------------------------

EXERCISES = {
    "10.1": Exercise(
        "How long does a decode step take?",
        grade_step,
        (
            "What has to be read from memory in a step? All weights, once; and the KV cache of every sequence.",
            "Bytes read: `model.weight_bytes + model.kv_bytes_per_token * sum(contexts)`.",
            "Operations: 2 per parameter and sequence, `2 * model.parameters * len(contexts)`.",
            "Reading and computing go on at the same time: the longer of the two decides, `max(...)`.",
        ),
    ),
    "10.2": Exercise(
        "Split the KV heads",
        grade_split,
        (
            "A KV head cannot be cut. How many of them does each device have, if there are fewer devices than heads?",
            "With more devices than heads each has one head, which others have, too: never less than 1.",
            "`2 * model.layers * max(1, model.kv_heads // devices) * model.head_dim * 2`",
        ),
    ),
    "10.3": Exercise(
        "How many sequences are there room for?",
        grade_room,
        (
            "What is left on one device when its share of the weights is loaded? It may be nothing.",
            "Whole pages only: `left // (split(model, devices) * block_size)`. All devices have the same pages.",
            "A sequence needs `-(-length // block_size)` pages; how many times does that go into the pages?",
            "Return `int(...)`, and 0 if `left` is negative.",
        ),
    ),
    "10.4": Exercise(
        "The delay of a handover",
        grade_delay,
        (
            "A layer's keys can be sent as soon as that layer is computed. What is left to send when the last is done?",
            "If sending a layer is faster than computing one, the link waits for each layer: only the last is left.",
            "If it is slower, the link never rests from the first layer on: it ends at `prefill/layers + transfer`.",
            "`max(transfer / layers, prefill / layers + transfer - prefill)`, with `transfer = num_bytes / bandwidth`.",
        ),
    ),
}


def make_question(seed: int) -> Question:
    """About known models on known machines (modelled), or about the bytes of a real run."""
    rng = random.Random(seed)
    name, model, place, machine = _case(rng)
    kind = rng.choice(("step", "split", "swap", "run"))
    tokens = rng.choice((500, 2000, 8000))
    if kind == "run":
        llm = short_run(seed)
        sequences = llm.page_map.sequences
        stored = sum(s.num_computed_tokens for s in sequences.values())
        per_token = tiny().geometry.kv_bytes_per_token
        return Question(
            f"A run of the bundled model is stopped in step {llm.step_number}: {len(sequences)} sequences have "
            f"{stored} tokens in memory, {per_token:,} bytes each. They are sent to another machine over a link of 1 "
            "GB (10^9 bytes) a second. How many milliseconds does that take?",
            stored * per_token / 1e6,
            f"{stored} x {per_token:,} bytes / 10^9 bytes a second. Whole pages would be a little more.",
            tolerance=0.01,
        )
    facts = (
        f"{name}: {model.parameters / 1e9:g}e9 parameters of 2 bytes, {model.layers} layers, {model.kv_heads} KV heads "
        f"of {model.head_dim}, {model.kv_bytes_per_token:,} bytes of KV cache per token."
    )
    if kind == "split":
        devices = rng.choice([n for n in (2, 4, 8, 16) if not model.kv_heads % n or not n % model.kv_heads])
        return Question(
            f"{facts} How many bytes per token does each of {devices} devices keep with tensor parallelism?",
            right_split(model, devices),
            f"{max(1, model.kv_heads // devices)} of {model.kv_heads} KV heads are on each device.",
        )
    if kind == "swap":
        link = machine.link or 64 * GB
        return Question(
            f"{facts} Modelled: how many milliseconds do {tokens:,} tokens take out to the host and in again, at "
            f"{link / GB:g} GB/s each way?",
            2 * tokens * model.kv_bytes_per_token / link * 1e3,
            f"2 x {tokens:,} x {model.kv_bytes_per_token:,} / {link:.3g} seconds.",
            tolerance=0.01,
        )
    batch = rng.choice((1, 16, 64))
    seconds = right_step(model, machine, [tokens] * batch)
    return Question(
        f"{facts} {place}: {machine.bandwidth / GB:,.0f} GB/s, {machine.operations / TERA:,.0f} e12 operations per "
        f"second (if memory were large enough). Modelled: how many milliseconds does a decode step of {batch} "
        f"sequences with {tokens:,} tokens each take?",
        seconds * 1e3,
        f"Read: {model.weight_bytes / GB:.4g} + {model.kv_bytes_per_token * tokens * batch / GB:.4g} GB. Operations: "
        f"{2 * model.parameters * batch:.3g}. The longer of the two counts.",
        tolerance=0.01,
    )
