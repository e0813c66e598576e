"""How long requests are: distributions like those of the PagedAttention paper, and traces of a real service.

Kwon et al. (SOSP 2023, Fig. 11) give the mean lengths of two data sets and histograms, but no numbers of their shape.
Here each is a log-normal distribution, rounded, and clipped to what OPT's 2,048 positions allow, with the paper's mean:

| name     | of     | mean (paper) | sigma | mu    | clipped to  |
|----------|--------|--------------|-------|-------|-------------|
| alpaca   | input  | 19.31        | 0.6   | 2.781 | 2 to 512    |
| alpaca   | output | 58.45        | 1.0   | 3.570 | 2 to 1,024  |
| sharegpt | input  | 161.31       | 1.0   | 4.615 | 4 to 1,024  |
| sharegpt | output | 337.99       | 1.0   | 5.466 | 4 to 1,024  |

``sigma`` is an assumption; ``mu`` follows from it and from the mean. Input and output are independent.
"""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import NormalDist
from typing import Protocol

_GOLDEN = (math.sqrt(5) - 1) / 2
_TRACE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


class TraceError(ValueError):
    """A trace file is not what it should be. The message names the file, the line and what was expected."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of one request."""

    prompt: int
    output: int


class LengthSource(Protocol):
    """Where lengths come from."""

    @property
    def name(self) -> str: ...
    def draw(self, count: int, seed: int) -> list[Lengths]: ...


@dataclass(frozen=True)
class LogNormal:
    """Whole numbers: a log-normal variable, rounded, and set to ``low`` or ``high`` where it lies outside."""

    mu: float
    sigma: float
    low: int
    high: int

    @property
    def mean(self) -> float:
        """Exact: the sum of the probabilities of being above ``low``, ``low + 1``, and so on."""
        normal = NormalDist(self.mu, self.sigma)
        return self.low + sum(1 - normal.cdf(math.log(k + 0.5)) for k in range(self.low, self.high))

    def quantile(self, share: float) -> int:
        """The length that ``share`` of all are not above."""
        value = math.exp(NormalDist(self.mu, self.sigma).inv_cdf(share))
        return min(max(round(value), self.low), self.high)


@dataclass(frozen=True)
class Distribution:
    """Input and output lengths, independent of each other."""

    name: str
    prompt: LogNormal
    output: LogNormal

    def draw(self, count: int, seed: int) -> list[Lengths]:
        """``count`` requests in random order.

        Their quantiles are a lattice shifted at random (each output from one of ``count`` equally likely ranges, the
        prompts a golden section apart), so a small sample has nearly the means of the distributions and no
        correlation, although a few long requests make up much of both.
        """
        rng = random.Random(seed)
        shift, turn = rng.uniform(0.25, 0.75), rng.random()
        drawn = [
            Lengths(self.prompt.quantile((i * _GOLDEN + turn) % 1 or 0.5), self.output.quantile((i + shift) / count))
            for i in range(count)
        ]
        rng.shuffle(drawn)
        return drawn


#: By name: see the table at the top.
DISTRIBUTIONS: dict[str, Distribution] = {
    d.name: d
    for d in (
        Distribution("alpaca", LogNormal(2.781, 0.6, 2, 512), LogNormal(3.570, 1.0, 2, 1024)),
        Distribution("sharegpt", LogNormal(4.615, 1.0, 4, 1024), LogNormal(5.466, 1.0, 4, 1024)),
    )
}


@dataclass(frozen=True)
class Uniform:
    """Every length of a range is equally likely; ranges include both ends."""

    prompt: tuple[int, int]
    output: tuple[int, int]
    name: str = "uniform"

    def draw(self, count: int, seed: int) -> list[Lengths]:
        rng = random.Random(seed)
        return [Lengths(rng.randint(*self.prompt), rng.randint(*self.output)) for _ in range(count)]


def uniform(prompt: tuple[int, int], output: tuple[int, int]) -> Uniform:
    """Lengths between two bounds.

    Raises:
        ValueError: a range is empty or begins below 1.
    """
    for name, (low, high) in (("prompt", prompt), ("output", output)):
        if not 1 <= low <= high:
            raise ValueError(f"{name}=({low}, {high}): must be a range that begins at 1 or above")
    return Uniform(prompt, output)


@dataclass(frozen=True)
class Trace:
    """Requests of a real service, in the order in which they came.

    Attributes:
        arrivals: seconds after the first one.
        requests: their lengths.
    """

    name: str
    arrivals: Sequence[float]
    requests: Sequence[Lengths]

    def draw(self, count: int, seed: int) -> list[Lengths]:
        """``count`` requests that follow each other in the trace, from a random one on.

        Raises:
            ValueError: the trace is shorter than that.
        """
        if count > len(self.requests):
            raise ValueError(f"{count} requests asked for, the trace {self.name} has {len(self.requests)}")
        start = random.Random(seed).randint(0, len(self.requests) - count)
        return list(self.requests[start : start + count])


def from_trace(path: Path) -> Trace:
    """Reads a CSV file in the format of the Azure LLM inference traces of 2023 (AzurePublicDataset, CC-BY 4.0).

    Columns: ``TIMESTAMP`` (2023-11-16 18:15:46.6805900), ``ContextTokens``, ``GeneratedTokens``. A trace holds lengths
    and times, no text.

    Raises:
        TraceError: names the line and what is wrong with it.
        OSError: the file can't be read.
    """
    times: list[float] = []
    requests: list[Lengths] = []
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.reader(file)
        try:
            header = next(rows, [])
            if [column.strip().lstrip("\ufeff") for column in header] != list(_TRACE_COLUMNS):
                raise TraceError(f"{path}: the first line must be {','.join(_TRACE_COLUMNS)!r}, found {header!r:.80}")
            for row in rows:
                if row:
                    seconds, lengths = _read_row(row, f"{path}, line {rows.line_num}")
                    times.append(seconds)
                    requests.append(lengths)
        except (UnicodeDecodeError, csv.Error) as error:
            raise TraceError(f"{path}: not a CSV file in UTF-8: {error}") from error
    if not requests:
        raise TraceError(f"{path}: has no requests below its first line")
    return Trace(path.stem, [t - times[0] for t in times], requests)


def _read_row(row: list[str], where: str) -> tuple[float, Lengths]:
    if len(row) != len(_TRACE_COLUMNS):
        raise TraceError(f"{where}: {len(_TRACE_COLUMNS)} columns expected, found {len(row)}")
    stamp, *numbers = (value.strip() for value in row)
    try:
        # Seven digits of a second are one more than Python reads.
        whole, _, fraction = stamp.partition(".")
        seconds = datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp() + float(f"0.{fraction or 0}")
    except ValueError as error:
        raise TraceError(f"{where}: TIMESTAMP {stamp!r:.40} is not like 2023-11-16 18:15:46.6805900") from error
    counts: list[int] = []
    for column, value in zip(_TRACE_COLUMNS[1:], numbers, strict=True):
        if not value.isdecimal():
            raise TraceError(f"{where}: {column} {value!r:.40} is not a whole number")
        counts.append(int(value))
    if counts[0] < 1:
        raise TraceError(f"{where}: ContextTokens is 0; a prompt has at least one token")
    return seconds, Lengths(counts[0], max(1, counts[1]))


def named(name: str) -> LengthSource:
    """A distribution by its name, or a trace by the path of its file (which ends in ``.csv``).

    Raises:
        ValueError: there is no such distribution.
    """
    if name in DISTRIBUTIONS:
        return DISTRIBUTIONS[name]
    if name.endswith(".csv"):
        return from_trace(Path(name))
    raise ValueError(f"lengths={name!r}: allowed are {', '.join(DISTRIBUTIONS)}, or a trace file *.csv")
