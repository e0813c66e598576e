"""The leaderboard of lesson 9: texts come to the engine's own books of pages; an eviction policy decides what stays.

No model runs: which pages are found in the prefix cache depends on the texts and on the policy alone. `PagedMemory`
is the engine's memory manager, unchanged, so a policy that wins here can be given to `EngineConfig(eviction=...)`.
"""

from __future__ import annotations

import functools
import html
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workbench.course.verdict import Verdict
from workbench.course.words import NEUTRAL, Said, box
from workbench.events import EventBus
from workbench.events.types import AnyEvent, BlockEvicted, Cause
from workbench.memory.eviction import LRU, CachedPage, EvictionPolicy
from workbench.memory.paged import PagedMemory

#: name: what comes. 128 texts of 64 + 16 tokens each; a beginning is four pages.
KINDS = {
    "popular": "7 of 10 texts begin with one of 12 beginnings, the first of them 12 times as often as the last",
    "one-off": "4 of 10 texts begin with one of 4 beginnings, all others come once and never again",
    "shifting": "6 of 10 texts begin with one of 4 beginnings, and every 32 texts there are 4 new ones",
}
_TEXTS, _BEGINNING, _OWN, _OUTPUT = 128, 64, 16, 8
#: On average over the workloads a policy must find so much more than LRU, and on none of them less than ``_AT_LEAST``.
_MEAN, _AT_LEAST = 1.10, 0.90


def _tokens(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(6000) for _ in range(count)]


def prompts(kind: str, seed: int) -> list[list[int]]:
    """The texts of a workload.

    Raises:
        ValueError: there is no such kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: allowed are {', '.join(KINDS)}")
    rng = random.Random(f"{kind} {seed}")
    count = 12 if kind == "popular" else 4
    share = {"popular": 0.7, "one-off": 0.4, "shifting": 0.6}[kind]
    weights = [1 / (rank + 1) if kind == "popular" else 1.0 for rank in range(count)]
    beginnings = [_tokens(rng, _BEGINNING) for _ in range(count)]
    texts = []
    for number in range(_TEXTS):
        if kind == "shifting" and number % 32 == 0:
            beginnings = [_tokens(rng, _BEGINNING) for _ in range(count)]
        shared = rng.random() < share
        first = rng.choices(beginnings, weights)[0] if shared else _tokens(rng, _BEGINNING)
        texts.append([*first, *_tokens(rng, _OWN)])
    return texts


class _Evictions(EventBus):
    """Keeps which pages were evicted, and forgets all other events."""

    def __init__(self) -> None:
        super().__init__()
        self.pages: list[int] = []

    def emit(self, event: AnyEvent) -> None:
        if isinstance(event, BlockEvicted):
            self.pages.append(event.block)

    def emit_many(self, events: list[AnyEvent]) -> None:
        for event in events:
            self.emit(event)


def replay(
    texts: Sequence[list[int]], policy: EvictionPolicy, num_blocks: int = 32, bus: EventBus | None = None
) -> int:
    """Tokens found in the prefix cache when these texts come one after the other, two at a time, on pages of 16."""
    memory = PagedMemory(num_blocks, 16, 0.0, bus, eviction=policy)
    running: list[int] = []
    found = 0
    for sequence, text in enumerate(texts):
        while len(running) > 1 or memory.can_allocate(text, len(text), _OUTPUT, not running):
            memory.free(running.pop(0), Cause.REQUEST_FINISHED)
        hits = memory.allocate(sequence, text, len(text), _OUTPUT)
        memory.try_append(sequence, len(text))
        memory.commit(sequence, len(text) - hits, Cause.PREFILL)
        running.append(sequence)
        found += hits
    return found


@functools.lru_cache(maxsize=256)
def _lru(kind: str, seed: int) -> int:
    return replay(prompts(kind, seed), LRU())


@dataclass(frozen=True)
class Row:
    """One policy on one workload: tokens found, and those that LRU finds there."""

    policy: str
    kind: str
    seed: int
    found: int
    lru: int

    @property
    def ratio(self) -> float:
        return self.found / self.lru


def board(policies: Sequence[EvictionPolicy], seeds: Sequence[int]) -> list[Row]:
    """Every policy on every kind of workload and every seed."""
    return [
        Row(str(policy.name), kind, seed, replay(prompts(kind, seed), policy), _lru(kind, seed))
        for policy in policies
        for kind in KINDS
        for seed in seeds
    ]


@dataclass(frozen=True, repr=False)
class BoardTable(Said):
    """Policies, best first, with what they find against LRU: by kind, and the mean."""

    ratios: dict[str, dict[str, float]]

    def _plain(self) -> str:
        width = max(map(len, [*self.ratios, "policy"]))
        lines = [" ".join([f"{'policy':<{width}}", *(f"{kind:>10}" for kind in (*KINDS, "mean"))])]
        for policy, by_kind in self.ratios.items():
            lines.append(" ".join([f"{policy:<{width}}", *(f"{value:>10.2f}" for value in by_kind.values())]))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return box(NEUTRAL, f"<pre style='margin:0'>{html.escape(self._plain())}</pre>")


def board_table(rows: Sequence[Row]) -> BoardTable:
    """Per policy, best first: tokens found against LRU (1 = the same), mean over the seeds."""
    table: dict[str, dict[str, float]] = {}
    for policy in dict.fromkeys(row.policy for row in rows):
        mine = [row for row in rows if row.policy == policy]
        by_kind = {kind: [row.ratio for row in mine if row.kind == kind] for kind in KINDS}
        table[policy] = {kind: sum(values) / len(values) for kind, values in by_kind.items()}
        table[policy]["mean"] = sum(table[policy].values()) / len(KINDS)
    return BoardTable(dict(sorted(table.items(), key=lambda item: -item[1]["mean"])))


class _Checked:
    """A student's policy, whose keys are looked at before they are used."""

    def __init__(self, policy: Any) -> None:
        self._policy = policy
        self.name = str(policy.name)

    def key(self, page: CachedPage) -> tuple[float, ...]:
        key = self._policy.key(page)
        good = isinstance(key, tuple) and key and all(isinstance(x, int | float) and not math.isnan(x) for x in key)
        if not good:
            raise BadKey(f"`key` returned {key!r} for page {page.block}; it must return a tuple of numbers", page.block)
        return key


class BadKey(ValueError):
    """A policy's key is no tuple of numbers. ``page`` is the page for which it was asked."""

    def __init__(self, message: str, page: int) -> None:
        super().__init__(message)
        self.page = page


def grade_policy(answer: Any, seed: int) -> Verdict:
    """``answer``: a policy, or its class. Graded on workloads of this seed."""
    policy = answer() if isinstance(answer, type) else answer
    if not callable(getattr(policy, "key", None)) or not isinstance(getattr(policy, "name", None), str):
        return Verdict(False, "A policy has a `name`, a text, and a method `key(self, page)`.")
    try:
        rows = board([_Checked(policy)], [seed])
    except BadKey as error:
        return Verdict(False, f"{error}.", first_wrong=f"page {error.page}")
    mean = sum(row.ratio for row in rows) / len(rows)
    yours, lru = {row.kind: row.found for row in rows}, {row.kind: row.lru for row in rows}
    worst = min(rows, key=lambda row: row.ratio)
    if worst.ratio < _AT_LEAST:
        message = (
            f"On the workload {worst.kind!r} it finds {worst.ratio:.2f} times what LRU finds; it may lose no more than "
            f"a tenth there ({KINDS[worst.kind]})."
        )
        return Verdict(False, message, yours, lru, f"workload {worst.kind!r}, {_parting(policy, worst)}")
    if mean < _MEAN:
        message = f"It finds {mean:.2f} times what LRU finds, mean of the workloads; wanted is {_MEAN:.2f}."
        return Verdict(False, message, yours, lru, f"workload {worst.kind!r}, {_parting(policy, worst)}")
    return Verdict(True, f"It finds {mean:.2f} times what LRU finds on workloads that you had not seen.")


def _parting(policy: EvictionPolicy, row: Row) -> str:
    """The first page that this policy evicts and LRU does not, in words."""
    mine, theirs = _evicted(policy, row), _evicted(LRU(), row)
    for number, (a, b) in enumerate(zip(mine, theirs, strict=False), 1):
        if a != b:
            return f"page {a} (eviction {number}, where LRU evicts page {b})"
    return "no page: it evicts as LRU does"


def _evicted(policy: EvictionPolicy, row: Row) -> list[int]:
    """The pages that a policy evicts, in order."""
    bus = _Evictions()
    replay(prompts(row.kind, row.seed), policy, bus=bus)
    return bus.pages
