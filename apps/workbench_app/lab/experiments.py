"""The experiments of the Lab: what each varies, what stays the same, and which figures tell the difference."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from workbench.engine.preemption import VICTIM_POLICIES
from workbench.memory.eviction import EVICTION_POLICIES

if TYPE_CHECKING:
    from workbench_app.lab.settings import LabSettings

Value = int | str

#: Prompt tokens per second that "adaptive" takes for the speed of recomputing. Given, so that decisions are repeatable.
PREFILL_SPEED = 2000.0
_CACHE_OFF = "no cache"
#: Tokens that a step computes at most, where computing prompts should take steps, and finding them should save some.
_FEW_TOKENS = 48

_PRESSING = (
    "Requests come faster than they can be served: prompts of 24 to 112 tokens, outputs of 8 to 160; half begin with "
    "one of six prefixes, every third writes two samples."
)
_SKEWED = (
    "One request every 4 steps: prompts of 112 tokens, outputs of 8. Seven in ten begin with one of eight prefixes of "
    "96 tokens, some of them much more often than others."
)


@dataclass(frozen=True)
class Experiment:
    """One question.

    Attributes:
        varied: the field that is varied; ``values`` its choices, ``start`` those that are ticked at first.
        measures: keys of `workbench_app.lab.measures.MEASURES`, in the order of the charts.
        verdict: those that the sentence speaks of.
        uses: which of the fixed fields matter: "lengths", "pool_tokens", "block_size", "max_model_len", "link_mb".
        workload: "lengths" (as chosen), "pressing" or "skewed"; ``workload_words`` says what the latter are.
        defaults: what the page fills in when the experiment is chosen.
        samples: every request writes as many samples as the value says.
    """

    key: str
    name: str
    question: str
    varied: str
    values: tuple[Value, ...]
    start: tuple[Value, ...]
    measures: tuple[str, ...]
    verdict: tuple[str, ...]
    uses: frozenset[str]
    config: Callable[[LabSettings, Value], dict[str, Any]]
    workload: str = "lengths"
    workload_words: str = ""
    defaults: dict[str, Value] = field(default_factory=dict)
    samples: bool = False
    names: dict[Value, str] = field(default_factory=dict)

    def label(self, value: Value) -> str:
        """How the page writes a value."""
        return self.names.get(value) or (f"{value:,}" if isinstance(value, int) else value.replace("_", " "))


def _pages(slots: int, block_size: int) -> dict[str, Any]:
    return {"block_size": block_size, "num_blocks": slots // block_size, "watermark": 0.0, "max_num_seqs": 64}


def _block_size(s: LabSettings, value: Value) -> dict[str, Any]:
    return _pages(s.pool_tokens, int(value))


def _pool(s: LabSettings, value: Value) -> dict[str, Any]:
    return _pages(int(value), s.block_size)


def _reservation(s: LabSettings, value: Value) -> dict[str, Any]:
    pages = _pages(s.pool_tokens, s.block_size)
    if value == "paged":
        return pages
    return {**pages, "memory": "contiguous", "reservation": value, "max_model_len": s.max_model_len}


def _preemption(s: LabSettings, value: Value) -> dict[str, Any]:
    pages = _pages(s.pool_tokens, s.block_size)
    if value == "recompute":
        return pages
    speeds = {"transfer_bandwidth": s.link_mb * 1e6, "prefill_speed": PREFILL_SPEED} if value == "adaptive" else {}
    return {**pages, "num_host_blocks": 2 * pages["num_blocks"], "preemption": value, **speeds}


def _victim(s: LabSettings, value: Value) -> dict[str, Any]:
    pages = {**_pages(s.pool_tokens, s.block_size), "max_num_seqs": 32, "max_num_batched_tokens": _FEW_TOKENS}
    return {**pages, "prefix_caching": True, "victim": value}


def _eviction(s: LabSettings, value: Value) -> dict[str, Any]:
    pages = {**_pages(s.pool_tokens, s.block_size), "max_num_seqs": 4, "max_num_batched_tokens": _FEW_TOKENS}
    return pages if value == _CACHE_OFF else {**pages, "prefix_caching": True, "eviction": value}


def _samples(s: LabSettings, value: Value) -> dict[str, Any]:
    return _pages(s.pool_tokens, s.block_size)


_PRESSURE = ("steps", "mean_finish", "preemptions", "recomputed", "rate")

EXPERIMENTS: dict[str, Experiment] = {
    e.key: e
    for e in (
        Experiment(
            "reservation",
            "Pages against contiguous memory",
            "How many requests fit at once if each reserves one region for its whole length, and how many if memory is "
            "handed out page by page?",
            "Memory",
            ("paged", "max", "pow2", "oracle"),
            ("paged", "max", "pow2", "oracle"),
            ("peak", "held_share", "steps", "mean_finish", "preemptions", "recomputed", "rate"),
            ("peak", "held_share", "steps"),
            frozenset({"lengths", "pool_tokens", "block_size", "max_model_len"}),
            _reservation,
            defaults={"requests": 16, "lengths": "mixed", "pool_tokens": 1024, "block_size": 16, "max_model_len": 512},
            names={"paged": "Paged", "max": "Max", "pow2": "Pow2", "oracle": "Oracle"},
        ),
        Experiment(
            "block_size",
            "Block size",
            "How large should a page be? Small pages waste little; large ones mean fewer pages to look after.",
            "Block size",
            (1, 2, 4, 8, 16, 32, 64, 128),
            (4, 16, 64, 128),
            ("held_share", "peak", "steps", "preemptions", "recomputed", "most_pages", "rate"),
            ("held_share", "peak", "steps"),
            frozenset({"lengths", "pool_tokens"}),
            _block_size,
            defaults={"requests": 16, "lengths": "mixed", "pool_tokens": 1024},
            names={n: f"{n} slot{'s' if n > 1 else ''}" for n in (1, 2, 4, 8, 16, 32, 64, 128)},
        ),
        Experiment(
            "pool",
            "Pool size",
            "What does more memory buy? More requests at once, until they all fit; from then on nothing.",
            "Pool size",
            (512, 768, 1024, 2048, 4096, 8192),
            (512, 1024, 2048, 4096),
            ("steps", "peak", "preemptions", "recomputed", "mean_finish", "held_share", "rate"),
            ("steps", "peak", "recomputed"),
            frozenset({"lengths", "block_size"}),
            _pool,
            defaults={"requests": 16, "lengths": "mixed", "block_size": 16},
            names={n: f"{n:,} slots" for n in (512, 768, 1024, 2048, 4096, 8192)},
        ),
        Experiment(
            "preemption",
            "Preemption: recompute, swap or adaptive",
            "When memory runs out, somebody gives way. Is what they had computed again later, or moved to host memory "
            "and back? The host tier has twice as many pages as the pool.",
            "Preemption",
            ("recompute", "swap", "adaptive"),
            ("recompute", "swap", "adaptive"),
            ("recomputed", "moved_bytes", "preemptions", "steps", "mean_finish", "peak", "rate"),
            ("recomputed", "moved_bytes", "steps"),
            frozenset({"lengths", "pool_tokens", "block_size", "link_mb"}),
            _preemption,
            defaults={"requests": 16, "lengths": "mixed", "pool_tokens": 768, "block_size": 16, "link_mb": 1000},
        ),
        Experiment(
            "victim",
            "Victim policies",
            "Who gives way when memory runs out: the last to come, who loses the fewest pages, who has most left to "
            "write, or who shares the least?",
            "Victim",
            tuple(VICTIM_POLICIES),
            tuple(VICTIM_POLICIES),
            (*_PRESSURE[:4], "hits", "peak", "rate"),
            ("mean_finish", "recomputed", "steps"),
            frozenset({"pool_tokens", "block_size"}),
            _victim,
            "pressing",
            _PRESSING,
            {"requests": 24, "pool_tokens": 768, "block_size": 16},
        ),
        Experiment(
            "eviction",
            "Eviction policies of the prefix cache",
            "Pages that nobody uses any more are kept for requests that begin alike. Which go first when room is "
            "needed: the least recently used, the least often used, the oldest, or the ends of the longest prefixes?",
            "Eviction",
            (_CACHE_OFF, *EVICTION_POLICIES),
            (_CACHE_OFF, *EVICTION_POLICIES),
            ("hits", "hit_share", "evictions", "steps", "mean_finish", "prefill", "rate"),
            ("hit_share", "mean_finish"),
            frozenset({"pool_tokens", "block_size"}),
            _eviction,
            "skewed",
            _SKEWED,
            {"requests": 40, "pool_tokens": 768, "block_size": 16},
            names={"lru": "LRU", "lfu": "LFU", "fifo": "FIFO", "leaf_first": "leaf first"},
        ),
        Experiment(
            "samples",
            "Several samples of one prompt",
            "If every request is answered several times, the samples share the pages of their prompt. How many pages "
            "does that save?",
            "Samples per request",
            (1, 2, 4, 6, 8),
            (1, 2, 4, 8),
            ("saved_share", "most_pages", "copies", "peak", "steps", "preemptions", "rate"),
            ("saved_share",),
            frozenset({"lengths", "pool_tokens", "block_size"}),
            _samples,
            defaults={"requests": 6, "lengths": "mixed", "pool_tokens": 2048, "block_size": 16},
            samples=True,
            names={n: f"{n} sample{'s' if n > 1 else ''}" for n in (1, 2, 4, 6, 8)},
        ),
    )
}
