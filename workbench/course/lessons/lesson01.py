"""Lesson 1, why a KV cache: compute with and without one, attention with a cache, and bytes per token."""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, DynamicCache

from workbench.course.comparing import compare
from workbench.course.exercise import Exercise, Question
from workbench.course.lessons.bundled import random_jobs, run, tiny
from workbench.course.verdict import Verdict
from workbench.models.loading import BUNDLED_DIR
from workbench.views.palette import LIGHT


@functools.cache
def plain_model() -> Any:
    """The bundled model as transformers loads it, without any of our memory: it has transformers' own KV cache."""
    return AutoModelForCausalLM.from_pretrained(BUNDLED_DIR, dtype=tiny().dtype, local_files_only=True).eval()


def encode(text: str) -> list[int]:
    """The tokens of a text."""
    return list(tiny().tokenizer(text, add_special_tokens=False)["input_ids"])


def decode(tokens: list[int]) -> str:
    return str(tiny().tokenizer.decode(tokens))


@dataclass
class Written:
    """What a loop wrote, and what that took.

    Attributes:
        tokens: generated token ids.
        fed: per step, how many tokens went through the model.
        seconds: per step, by the clock.
    """

    tokens: list[int]
    fed: list[int]
    seconds: list[float]


@torch.inference_mode()
def write_without_cache(prompt: list[int], count: int) -> Written:
    """Greedy: in every step all tokens so far go through the model."""
    model, tokens, result = plain_model(), list(prompt), Written([], [], [])
    for _ in range(count):
        started = time.perf_counter()
        logits = model(torch.tensor([tokens]), use_cache=False).logits
        tokens.append(int(logits[0, -1].argmax()))
        result.fed.append(len(tokens) - 1)
        result.seconds.append(time.perf_counter() - started)
    result.tokens = tokens[len(prompt) :]
    return result


@torch.inference_mode()
def write_with_cache(prompt: list[int], count: int) -> Written:
    """Greedy: in every step only the tokens whose keys and values are not kept yet go through the model."""
    model, result, cache = plain_model(), Written([], [], []), DynamicCache()
    new = list(prompt)
    for _ in range(count):
        started = time.perf_counter()
        logits = model(torch.tensor([new]), past_key_values=cache, use_cache=True).logits
        result.fed.append(len(new))
        new = [int(logits[0, -1].argmax())]
        result.tokens += new
        result.seconds.append(time.perf_counter() - started)
    return result


def work_figure(without: Written, with_cache: Written) -> go.Figure:
    """Tokens through the model per step, with and without a cache (counted)."""
    figure = go.Figure()
    figure.add_scatter(y=without.fed, name="without a cache", line={"color": "#D55E00", "dash": "dash"})
    figure.add_scatter(y=with_cache.fed, name="with a cache", line={"color": "#0072B2"})
    figure.update_layout(
        template="none",
        height=260,
        margin={"l": 50, "r": 10, "t": 10, "b": 40},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": LIGHT["hatch"]},
        legend={"orientation": "h", "y": 1.1},
    )
    figure.update_xaxes(title="step")
    figure.update_yaxes(title="tokens through the model", rangemode="tozero")
    return figure


@dataclass(frozen=True)
class Shape:
    """What decides how many bytes a token's keys and values take."""

    layers: int
    kv_heads: int
    head_dim: int
    bytes_per_number: int = 2


#: As published in the models' configurations. In these, keys and values have the same size.
KNOWN = {
    "OPT-13B": Shape(40, 40, 128),
    "GPT-2 (124 M)": Shape(12, 12, 64),
    "Llama 2 7B": Shape(32, 32, 128),
    "Llama 3 8B": Shape(32, 8, 128),
    "Llama 3 70B": Shape(80, 8, 128),
    "Qwen3 0.6B": Shape(28, 8, 128),
}


def tiny_shape() -> Shape:
    """The bundled model, in single precision."""
    geometry = tiny().geometry
    return Shape(geometry.num_layers, geometry.num_kv_heads, geometry.head_dim, tiny().dtype.itemsize)


# -- 1.1: how many tokens go through the model -------------------------------------------------------------------------


def grade_work(answer: Callable[[int, int], tuple[int, int]], seed: int) -> Verdict:
    """``answer(prompt, output)`` -> (without, with a cache), counted; seed 0 lets the model count."""
    rng = random.Random(seed)
    pairs = [(rng.randint(1, 300), rng.randint(1, 300)) for _ in range(20)] + [(1, 1), (7, 1), (1, 9)]
    if seed == 0:
        pairs = [(5, 6)]
    for prompt, output in pairs:
        if seed == 0:
            tokens = [rng.randrange(1, 6000) for _ in range(prompt)]
            loops = write_without_cache, write_with_cache
            expected = tuple(sum(loop(tokens, output).fed) for loop in loops)
        else:
            fed = [0] * 2
            for step in range(output):
                fed[0] += prompt + step
                fed[1] += prompt if step == 0 else 1
            expected = tuple(fed)
        got = answer(prompt, output)
        verdict = compare(tuple(got) if isinstance(got, list) else got, expected)
        if not verdict.passed:
            place = "without a cache" if not isinstance(got, tuple | list) or got[0] != expected[0] else "with a cache"
            words = f"A prompt of {prompt} tokens, {output} generated. The two numbers: without a cache, with one."
            return Verdict(False, words, got, expected, f"{place}, prompt {prompt}, output {output}")
    return Verdict(True, "Right for all lengths.")


# -- 1.2: attention with a cache ---------------------------------------------------------------------------------------


def causal_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """All tokens at once, ``[tokens, head_dim]`` each: token i sees tokens 0 to i."""
    scores = q @ k.T / q.shape[-1] ** 0.5
    hidden = torch.ones_like(scores, dtype=torch.bool).triu(1)
    return scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v


def grade_cached(answer: Callable[[], Any], seed: int) -> Verdict:
    """``answer().step(q, k, v)``, token by token, against attention over all tokens at once."""
    generator = torch.Generator().manual_seed(seed)
    length = 2 + int(torch.randint(10, (1,), generator=generator))
    dim = (4, 8, 16)[seed % 3]
    q, k, v = torch.randn(3, length, dim, generator=generator, dtype=torch.float64).unbind()
    expected = causal_attention(q, k, v)
    cache = answer()
    for token in range(length):
        got = cache.step(q[token].clone(), k[token].clone(), v[token].clone())
        if not isinstance(got, Tensor) or got.shape != (dim,):
            shape = tuple(got.shape) if isinstance(got, Tensor) else type(got).__name__
            return Verdict(False, "The result must be one vector.", shape, (dim,), f"token {token}")
        verdict = compare(got, expected[token], "dimension", tolerance=1e-9)
        if not verdict.passed:
            words = f"The output of token {token} of {length} is not that of attention over all tokens at once."
            return Verdict(
                False,
                words,
                [round(x, 4) for x in got.tolist()],
                [round(x, 4) for x in expected[token].tolist()],
                f"token {token}",
            )
    return Verdict(True, "Token by token the same as all at once.")


# -- 1.3: bytes per token ----------------------------------------------------------------------------------------------


def grade_bytes(answer: Callable[[int, int, int, int], int], seed: int) -> Verdict:
    """``answer(layers, kv_heads, head_dim, bytes_per_number)`` on random shapes, and on the bundled model."""
    rng = random.Random(seed)
    shapes = {
        f"a model with {n}": Shape(n, rng.choice((1, 2, 8, 40)), rng.choice((64, 80, 128)), rng.choice((1, 2, 4)))
        for n in rng.sample(range(2, 90), 6)
    }
    for name, shape in shapes.items():
        expected = 2 * shape.layers * shape.kv_heads * shape.head_dim * shape.bytes_per_number
        got = answer(shape.layers, shape.kv_heads, shape.head_dim, shape.bytes_per_number)
        if got != expected:
            return Verdict(False, f"{shape}.", got, expected, f"{name} layers")
    shape = tiny_shape()
    got = answer(shape.layers, shape.kv_heads, shape.head_dim, shape.bytes_per_number)
    expected = tiny().geometry.kv_bytes_per_token
    if got != expected:
        return Verdict(False, "The bundled model: the engine counts its tensors' bytes.", got, expected, "tiny")
    return Verdict(True, "The same as the bytes of the engine's tensors.")


# -- the register ------------------------------------------------------------------------------------------------------

EXERCISES = {
    "1.1": Exercise(
        "Count the work",
        grade_work,
        (
            "Write down how many tokens go through the model in step 0, step 1, step 2, ..., once for each way.",
            "Without: `prompt`, `prompt + 1`, ... With: `prompt`, then 1, 1, ... There are `output` steps.",
            "Without: `output * prompt + output * (output - 1) // 2`. With: `prompt + output - 1`.",
        ),
    ),
    "1.2": Exercise(
        "Attention with a cache",
        grade_cached,
        (
            "The new token sees itself, too: keep its key and value before you attend.",
            "`torch.stack(self.keys)` has one row per token; its product with `q` has one score per token.",
            "Divide the scores by the square root of `len(q)`, take the softmax, and mix the values: `weights @ V`.",
        ),
    ),
    "1.3": Exercise(
        "Bytes per token",
        grade_bytes,
        (
            "How many vectors are kept for one token in one layer and one head? A key and ...",
            "Each vector has `head_dim` numbers. Every layer and every KV head has its own vectors.",
        ),
    ),
}


def make_question(seed: int) -> Question:
    """About bytes of known models, or about the work of a real run."""
    rng = random.Random(seed)
    kind = rng.choice(("bytes", "fits", "run"))
    name = rng.choice(sorted(KNOWN))
    shape = KNOWN[name]
    per_token = 2 * shape.layers * shape.kv_heads * shape.head_dim * shape.bytes_per_number
    facts = (
        f"{name} has {shape.layers} layers, {shape.kv_heads} KV heads of {shape.head_dim} numbers, and keeps 2 bytes "
        "per number."
    )
    if kind == "bytes":
        tokens = rng.choice((100, 512, 1000, 2048, 4096))
        return Question(
            f"{facts} How many megabytes (10^6 bytes) does the KV cache of {tokens} tokens take?",
            per_token * tokens / 1e6,
            f"2 x {shape.layers} x {shape.kv_heads} x {shape.head_dim} x 2 = {per_token} bytes per token.",
            tolerance=0.01,
        )
    if kind == "fits":
        gigabytes = rng.choice((4, 8, 12, 24))
        return Question(
            f"{facts} {gigabytes} GB (10^9 bytes each) are left for KV caches. For how many tokens is there room?",
            int(gigabytes * 1e9 // per_token),
            f"{gigabytes}e9 / {per_token}: whole tokens only.",
            tolerance=0.01,
        )
    jobs = random_jobs(rng, 3, (3, 30), (4, 20))
    llm, _ = run(jobs, block_size=16, num_blocks=64)
    stored = sum(len(job.prompt) + job.output - 1 for job in jobs)
    lengths = ", ".join(f"{len(job.prompt)} + {job.output}" for job in jobs)
    assert llm.step_number == max(job.output for job in jobs)
    return Question(
        f"A real run had three requests (prompt + generated tokens: {lengths}). The last generated token of a request "
        "is never fed back into the model. How many tokens went through the model, with a KV cache?",
        stored,
        "Each token of a prompt once, and each generated token but the last of its request.",
    )
