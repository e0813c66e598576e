"""When requests arrive, in engine steps after the beginning (or any other unit of time)."""

from __future__ import annotations

import random


def all_at_once(count: int) -> list[float]:
    """A burst: everybody is there at the beginning."""
    return [0.0] * count


def poisson(count: int, rate: float, seed: int = 0) -> list[float]:
    """A Poisson process: gaps between requests are independent and exponential, ``rate`` requests come per unit.

    Raises:
        ValueError: the rate is not above 0.
    """
    if not rate > 0:
        raise ValueError(f"rate={rate!r}: must be a number above 0")
    rng = random.Random(seed)
    times: list[float] = []
    now = 0.0
    for _ in range(count):
        now += rng.expovariate(rate)
        times.append(now)
    return times
