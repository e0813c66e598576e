"""Lesson 10: the cost model's graders, the split by heads on real keys and values, and the questions."""

from __future__ import annotations

from typing import Any

import pytest

from tests.course.solutions import solutions
from workbench.course.lessons import lesson10
from workbench.course.lessons.lesson10 import MACHINES, MODELS, Machine, Model

KEY = solutions("10_beyond_one_gpu")
SEEDS = range(40)
TASKS = {
    "10.1": lesson10.grade_step,
    "10.2": lesson10.grade_split,
    "10.3": lesson10.grade_room,
    "10.4": lesson10.grade_delay,
}


def test_reference_answers_pass_on_many_seeds() -> None:
    answers = {"10.1": KEY.step_seconds, "10.2": KEY.split, "10.3": KEY.room, "10.4": KEY.delay}
    for seed in SEEDS:
        for number, grade in TASKS.items():
            verdict = grade(answers[number], seed)
            assert verdict.passed, f"{number}, {seed}: {verdict}"


def weights_per_sequence(model: Model, machine: Machine, contexts: list[int]) -> float:
    read = model.weight_bytes * len(contexts) + model.kv_bytes_per_token * sum(contexts)
    return max(read / machine.bandwidth, 2 * model.parameters * len(contexts) / machine.operations)


def only_reading(model: Model, machine: Machine, contexts: list[int]) -> float:
    return (model.weight_bytes + model.kv_bytes_per_token * sum(contexts)) / machine.bandwidth


def added(model: Model, machine: Machine, contexts: list[int]) -> float:
    return only_reading(model, machine, contexts) + 2 * model.parameters * len(contexts) / machine.operations


def no_cache(model: Model, machine: Machine, contexts: list[int]) -> float:
    return max(model.weight_bytes / machine.bandwidth, 2 * model.parameters * len(contexts) / machine.operations)


def cuts_heads(model: Model, devices: int) -> float:
    return model.kv_bytes_per_token / devices


def splits_query_heads(model: Model, devices: int) -> int:
    return 2 * model.layers * max(1, model.heads // devices) * model.head_dim * 2


def not_split(model: Model, devices: int) -> int:
    return model.kv_bytes_per_token


def fractions_of_pages(model: Model, machine: Machine, devices: int, length: int, block_size: int) -> int:
    left = machine.memory - model.weight_bytes / devices
    return max(0, int(left / (KEY.split(model, devices) * length)))


def whole_weights(model: Model, machine: Machine, devices: int, length: int, block_size: int) -> int:
    left = max(0.0, machine.memory - model.weight_bytes)
    return int(left // (KEY.split(model, devices) * block_size)) // -(-length // block_size)


def negative(model: Model, machine: Machine, devices: int, length: int, block_size: int) -> int:
    left = machine.memory - model.weight_bytes / devices
    return int(left // (KEY.split(model, devices) * block_size)) // -(-length // block_size)


def all_at_the_end(prefill: float, num_bytes: float, bandwidth: float, layers: int) -> float:
    return num_bytes / bandwidth


def only_the_last(prefill: float, num_bytes: float, bandwidth: float, layers: int) -> float:
    return num_bytes / bandwidth / layers


def no_first_layer(prefill: float, num_bytes: float, bandwidth: float, layers: int) -> float:
    return max(0.0, num_bytes / bandwidth - prefill)


@pytest.mark.parametrize(
    ("number", "answer", "words"),
    [
        ("10.1", weights_per_sequence, "the step of case"),
        ("10.1", only_reading, "the step of case"),
        ("10.1", added, "the step of case"),
        ("10.1", no_cache, "the step of case"),
        ("10.2", cuts_heads, "devices"),
        ("10.2", splits_query_heads, "devices"),
        ("10.2", not_split, "devices"),
        ("10.3", fractions_of_pages, "case"),
        ("10.3", whole_weights, "case"),
        ("10.3", negative, "case"),
        ("10.4", all_at_the_end, "delay"),
        ("10.4", only_the_last, "delay"),
        ("10.4", no_first_layer, "delay"),
    ],
)
def test_wrong_answers_are_refused(number: str, answer: Any, words: str) -> None:
    verdicts = [TASKS[number](answer, seed) for seed in lesson10.EXERCISES[number].seeds]
    failed = [verdict for verdict in verdicts if not verdict.passed]
    assert failed
    assert words in str(failed[0].first_wrong)
    assert failed[0].yours != failed[0].expected


def test_published_figures() -> None:
    assert MODELS["OPT-13B"].kv_bytes_per_token == 800 * 1024
    assert lesson10.right_split(MODELS["Llama 3 70B"], 16) == lesson10.right_split(MODELS["Llama 3 70B"], 8)
    rooms = [lesson10.right_room(MODELS["Llama 3 70B"], MACHINES["NVIDIA H100"], n, 2000, 16) for n in (1, 8, 16)]
    assert rooms[0] == 0
    assert 1 < rooms[2] / rooms[1] < 1.5
    assert all(machine.source for machine in MACHINES.values())
    swap, _ = lesson10.back_again(MODELS["Llama 3 8B"], MACHINES["Apple M3 Ultra"], 2000)
    assert swap is None, "unified memory has no second tier"


def test_heads_are_independent_on_the_engines_own_keys() -> None:
    whole, apart = lesson10.heads_apart()
    assert whole.shape[0] == 6
    assert float(whole.abs().max()) > 0
    assert (whole - apart).abs().max() < 1e-6


def test_full_pages_can_be_sent() -> None:
    timeline = lesson10.prefill_run()
    counts = [len(lesson10.full_pages(timeline, step)) for step in (1, 2, 3)]
    assert counts == [40 // 16, 80 // 16, 96 // 16]


def test_the_measurement_measures() -> None:
    assert 1e8 < lesson10.measured_bandwidth() < 1e13
    assert lesson10.tiny_weight_bytes() > 20e6


def test_questions_hardly_ever_repeat() -> None:
    assert len({lesson10.make_question(seed).question for seed in range(60)}) >= 59


def test_questions_have_right_answers() -> None:
    seen = set()
    for seed in range(12):
        question = lesson10.make_question(seed)
        assert question.answer(question.expected).passed
        assert not question.answer(question.expected * 2 + 1).passed
        seen.add(question.question)
    assert len(seen) >= 11
    assert lesson10.make_question(3) == lesson10.make_question(3)
