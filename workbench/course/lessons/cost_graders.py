"""Lesson 10's graders: a student's cost model beside `cost_model`, on random models and machines."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from workbench.course.lessons.cost_model import (
    GB,
    MODELS,
    Machine,
    Model,
    random_case,
    right_delay,
    right_room,
    right_split,
    right_step,
)
from workbench.course.verdict import Verdict


def _close(yours: Any, expected: float) -> bool:
    is_number = isinstance(yours, int | float) and not isinstance(yours, bool)
    return is_number and abs(yours - expected) <= 1e-6 * max(abs(expected), 1e-12)


def grade_step(answer: Callable[[Model, Machine, list[int]], float], seed: int) -> Verdict:
    """``answer(model, machine, contexts)``: small and large batches, so that each of both limits decides sometimes."""
    rng = random.Random(seed)
    for case in range(16):
        name, model, place, machine = random_case(rng)
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
        name, model, place, machine = random_case(rng)
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
