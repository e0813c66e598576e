"""Lesson 1: the loops with and without a cache, the graders, and the questions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from workbench.course.lessons import lesson01


def work(prompt: int, output: int) -> tuple[int, int]:
    return output * prompt + output * (output - 1) // 2, prompt + output - 1


class Cached:
    def __init__(self) -> None:
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def step(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        self.keys.append(k)
        self.values.append(v)
        weights = (torch.stack(self.keys) @ q / len(q) ** 0.5).softmax(0)
        return weights @ torch.stack(self.values)


def size(layers: int, kv_heads: int, head_dim: int, bytes_per_number: int) -> int:
    return 2 * layers * kv_heads * head_dim * bytes_per_number


def test_both_loops_write_the_same_tokens() -> None:
    prompt = lesson01.encode("Once upon a time")
    without, with_cache = lesson01.write_without_cache(prompt, 12), lesson01.write_with_cache(prompt, 12)
    assert without.tokens == with_cache.tokens
    assert (sum(without.fed), sum(with_cache.fed)) == work(len(prompt), 12)
    assert len(lesson01.work_figure(without, with_cache).data) == 2


def test_reference_answers_pass_on_many_seeds() -> None:
    for seed in range(30):
        for verdict in (
            lesson01.grade_work(work, seed),
            lesson01.grade_cached(Cached, seed),
            lesson01.grade_bytes(size, seed),
        ):
            assert verdict.passed, f"{seed}: {verdict}"


@pytest.mark.parametrize(
    ("answer", "place"),
    [
        (lambda p, o: (o * (p + o), p + o - 1), "without a cache"),
        (lambda p, o: (work(p, o)[0], p + o), "with a cache"),
        (lambda p, o: (work(p, o)[0], o), "with a cache"),
        (lambda p, o: 3, "without a cache"),
    ],
)
def test_wrong_counts(answer: Callable[[int, int], Any], place: str) -> None:
    for seed in range(3):
        verdict = lesson01.grade_work(answer, seed)
        assert not verdict.passed
        assert str(verdict.first_wrong).startswith(place)


class Late(Cached):
    """Keeps the new key and value only after it has attended."""

    def step(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if not self.keys:
            super().step(q, k, v)
            return v
        weights = (torch.stack(self.keys) @ q / len(q) ** 0.5).softmax(0)
        out = weights @ torch.stack(self.values)
        super().step(q, k, v)
        return out


class Unscaled(Cached):
    def step(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return super().step(q * len(q) ** 0.5, k, v)


class Forgets(Cached):
    """Keeps the values of the last three tokens only."""

    def step(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = super().step(q, k, v)
        self.keys, self.values = self.keys[-3:], self.values[-3:]
        return out


@pytest.mark.parametrize(("answer", "token"), [(Late, 1), (Unscaled, 1), (Forgets, 4)])
def test_the_first_wrong_token_is_named(answer: Callable[[], Any], token: int) -> None:
    failed = [v for v in (lesson01.grade_cached(answer, seed) for seed in range(5)) if not v.passed]
    assert failed
    assert all(verdict.first_wrong == f"token {token}" for verdict in failed)


def test_wrong_bytes() -> None:
    for wrong in (
        lambda n, h, d, b: n * h * d * b,
        lambda n, h, d, b: 2 * h * d * b,
        lambda n, h, d, b: 2 * n * h * d,
    ):
        verdict = lesson01.grade_bytes(wrong, 1)
        assert not verdict.passed
        assert "layers" in str(verdict.first_wrong)


def test_the_papers_number() -> None:
    opt = lesson01.KNOWN["OPT-13B"]
    assert size(opt.layers, opt.kv_heads, opt.head_dim, opt.bytes_per_number) == 800 * 1024


def test_questions_have_right_answers() -> None:
    texts = set()
    for seed in range(12):
        question = lesson01.make_question(seed)
        assert question.answer(question.expected).passed
        assert not question.answer(question.expected * 2).passed
        texts.add(question.question)
    assert len(texts) == 12
