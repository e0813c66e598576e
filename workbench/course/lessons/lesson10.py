"""Lesson 10, beyond one GPU: a cost model for other machines, memory split over several, and keys sent elsewhere.

Everything that is said here of machines other than this one is modelled: a formula on numbers from data sheets.
"""

from __future__ import annotations

import random
import statistics
import time

import plotly.graph_objects as go
import torch
from torch import Tensor

from workbench.course.exercise import Exercise, Question
from workbench.course.lessons.bundled import Job, run, tiny
from workbench.course.lessons.cost_graders import grade_delay, grade_room, grade_split, grade_step
from workbench.course.lessons.cost_model import (
    GB,
    MACHINES,
    MODELS,
    TERA,
    Machine,
    Model,
    back_again,
    models_table,
    random_case,
    right_delay,
    right_room,
    right_split,
    right_step,
)
from workbench.course.lessons.lesson01 import plain_model
from workbench.course.lessons.real_runs import engine_kv, short_run
from workbench.events import Timeline
from workbench.views.palette import LIGHT, REQUEST_COLORS
from workbench.workloads import BundledText

__all__ = [
    "EXERCISES", "MACHINES", "MODELS", "Machine", "Model", "back_again", "bars", "full_pages", "grade_delay",
    "grade_room", "grade_split", "grade_step", "heads_apart", "make_question", "measured_bandwidth", "measured_step",
    "models_table", "prefill_run", "right_delay", "right_room", "right_split", "right_step", "tiny",
    "tiny_weight_bytes",
]  # fmt: skip


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


# -- real runs ---------------------------------------------------------------------------------------------------------


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
    name, model, place, machine = random_case(rng)
    kind = rng.choice(("step", "split", "swap", "run"))
    tokens = rng.randrange(500, 8001, 100)
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
            f"{facts} How many MB (10^6 bytes) of a text of {tokens:,} tokens does each of {devices} devices keep with "
            "tensor parallelism?",
            tokens * right_split(model, devices) / 1e6,
            f"{max(1, model.kv_heads // devices)} of {model.kv_heads} KV heads are on each device: "
            f"{right_split(model, devices):,} bytes per token.",
            tolerance=0.01,
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
    batch = rng.choice((1, 4, 16, 64))
    seconds = right_step(model, machine, [tokens] * batch)
    who = f"{batch} sequences with {tokens:,} tokens each" if batch > 1 else f"one sequence with {tokens:,} tokens"
    return Question(
        f"{facts} {place}: {machine.bandwidth / GB:,.0f} GB/s, {machine.operations / TERA:,.0f} e12 operations per "
        f"second (if memory were large enough). Modelled: how many milliseconds does a decode step of {who} take?",
        seconds * 1e3,
        f"Read: {model.weight_bytes / GB:.4g} + {model.kv_bytes_per_token * tokens * batch / GB:.4g} GB. Operations: "
        f"{2 * model.parameters * batch:.3g}. The longer of the two counts.",
        tolerance=0.01,
    )
