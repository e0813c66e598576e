"""Configuration of an engine. Everything is checked before anything is allocated."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields

from workbench.engine.preemption import VICTIM_POLICIES, PreemptionPolicy, VictimPolicy
from workbench.memory.contiguous import Reservation
from workbench.memory.eviction import EVICTION_POLICIES, EvictionPolicy
from workbench.memory.placement import PLACEMENT_POLICIES, PlacementPolicy


class ConfigError(ValueError):
    """A setting is out of range. The message names the field, its value and what is allowed."""


def check(field: str, value: object, ok: bool, allowed: str) -> None:
    """Raises `ConfigError` unless ``ok``."""
    if not ok:
        raise ConfigError(f"{field}={value!r}: {allowed}")


def is_int(value: object, low: int, high: int | None = None) -> bool:
    """Whether ``value`` is an integer (and no bool) from ``low`` to ``high``."""
    return type(value) is int and low <= value and (high is None or value <= high)


_POLICIES: dict[str, Collection[str]] = {
    "victim": VICTIM_POLICIES,
    "eviction": EVICTION_POLICIES,
    "placement": PLACEMENT_POLICIES,
}


@dataclass(frozen=True)
class EngineConfig:
    """How an engine runs.

    Attributes:
        memory: "paged" or "contiguous".
        reservation: contiguous memory only: "max", "pow2" or "oracle", the paper's three Orca baselines.
        block_size: tokens per page. Contiguous memory: the smallest region, in tokens.
        num_blocks: pages in the pool; the contiguous arena has the same bytes. None, on a CUDA device with Triton
            attention: as many as fit into its free memory.
        max_model_len: longest sequence, prompt and output, in tokens; None: what the model was made for.
        max_num_seqs: most sequences that run at once.
        max_num_batched_tokens: token budget of a step. A longer prompt is computed in chunks, beside the decodes.
        watermark: share of the pages that admission leaves free.
        device: "auto", "cpu", "cuda" or "mps".
        dtype: "auto", "float32", "bfloat16" or "float16"; of the weights and of the KV cache.
        attention: "triton", "torch", or "auto": Triton's kernels on a CUDA device if they serve the model, else torch.
        cuda_graphs: Triton attention on a CUDA device: replay decode steps as CUDA graphs.
        compile: Triton attention only: compile the model with torch.compile. Faster, after a minute of compiling.
        gpu_memory_utilization: ``num_blocks=None``: the share of the device's memory that may be in use then.
        seed: decides every random choice for which a request brings no seed of its own.
        num_host_blocks: paged memory: pages in the host tier, for swapping and for sequences larger than the device's
            pool. On a CPU it is a second pool that stands for another memory.
        preemption: what becomes of a victim's pages: "recompute", "swap", or "adaptive": whichever is expected to take
            less time, decided for each victim.
        victim: who gives way: "last_come" (the paper's), "fewest_blocks", "longest_remaining", "most_shared_last", or
            a `VictimPolicy`.
        prefix_caching: keep full pages that nobody uses any more, and use them again for requests that begin alike.
        eviction: which of them give way: "lru", "lfu", "fifo", "leaf_first", or an `EvictionPolicy`.
        placement: which pages of a sequence larger than the device's pool move to the host: "oldest", "keep_first",
            "least_attended", or a `PlacementPolicy`.
        free_behind_window: free pages that lie behind the window of sliding-window layers; a model that has such layers
            and others gets a block table for each kind. Off where prefixes are cached, and in contiguous memory.
        transfer_bandwidth: for "adaptive": bytes per second between the tiers; None: measured as the engine runs.
        prefill_speed: for "adaptive": prompt tokens computed per second; None: measured as the engine runs.
        staging_blocks: host pages that are brought to the device at a time when a step reads them.
        page_mass_every: note how much attention each page gets, every so many steps; 0: never.
        attention_pages: decode with the so many most promising pages of a context only, the first and the most recent
            ones among them (Quest). Not exact; None: read all pages.
        measure_selection: with ``attention_pages``: also attend exactly, and say how far the result is from that.
        kv_cache_dtype: "auto" (that of the weights) or "fp8" (e4m3; Triton attention only).
    """

    memory: str = "paged"
    reservation: str = "max"
    block_size: int = 16
    num_blocks: int | None = 256
    max_model_len: int | None = None
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 512
    watermark: float = 0.01
    device: str = "auto"
    dtype: str = "auto"
    attention: str = "auto"
    cuda_graphs: bool = True
    compile: bool = False
    gpu_memory_utilization: float = 0.9
    seed: int = 0
    num_host_blocks: int = 0
    preemption: str = "recompute"
    victim: str | VictimPolicy = "last_come"
    prefix_caching: bool = False
    eviction: str | EvictionPolicy = "lru"
    placement: str | PlacementPolicy = "oldest"
    free_behind_window: bool = True
    transfer_bandwidth: float | None = None
    prefill_speed: float | None = None
    staging_blocks: int = 64
    page_mass_every: int = 0
    attention_pages: int | None = None
    measure_selection: bool = False
    kv_cache_dtype: str = "auto"

    def __post_init__(self) -> None:
        policies = [policy.value for policy in Reservation]
        check("memory", self.memory, self.memory in ("paged", "contiguous"), "allowed are 'paged', 'contiguous'")
        check("reservation", self.reservation, self.reservation in policies, f"allowed are {policies}")
        check("block_size", self.block_size, is_int(self.block_size, 1, 1024), "an integer from 1 to 1024")
        blocks_ok = self.num_blocks is None or is_int(self.num_blocks, 1, 1 << 22)
        check("num_blocks", self.num_blocks, blocks_ok, "None or an integer from 1 to 4194304")
        longest = self.max_model_len
        check("max_model_len", longest, longest is None or is_int(longest, 2), "None or an integer of at least 2")
        check("max_num_seqs", self.max_num_seqs, is_int(self.max_num_seqs, 1), "an integer of at least 1")
        budget = self.max_num_batched_tokens
        check("max_num_batched_tokens", budget, is_int(budget, 1), "an integer of at least 1")
        share = self.watermark
        check("watermark", share, isinstance(share, int | float) and 0 <= share < 1, "a number from 0 to below 1")
        kinds = ("auto", "triton", "torch")
        check("attention", self.attention, self.attention in kinds, f"allowed are {', '.join(map(repr, kinds))}")
        for name in ("cuda_graphs", "compile", "prefix_caching", "free_behind_window", "measure_selection"):
            check(name, getattr(self, name), type(getattr(self, name)) is bool, "True or False")
        share = self.gpu_memory_utilization
        share_ok = isinstance(share, int | float) and not isinstance(share, bool) and 0 < share <= 1
        check("gpu_memory_utilization", share, share_ok, "a number above 0 and at most 1")
        check("seed", self.seed, is_int(self.seed, 0, (1 << 63) - 1), "an integer from 0 to 2**63 - 1")

        self._check_policies()

    def _check_policies(self) -> None:
        check(
            "num_host_blocks",
            self.num_host_blocks,
            is_int(self.num_host_blocks, 0, 1 << 22),
            "an integer from 0 to 4194304",
        )
        modes = [mode.value for mode in PreemptionPolicy]
        check("preemption", self.preemption, self.preemption in modes, f"allowed are {modes}")
        for name, known in _POLICIES.items():
            policy = getattr(self, name)
            ok = policy in known if isinstance(policy, str) else callable(getattr(policy, "key", None))
            ok = ok and (isinstance(policy, str) or isinstance(getattr(policy, "name", None), str))
            check(name, policy, ok, f"allowed are {list(known)}, or an object with a name and a key method")
        for name in ("transfer_bandwidth", "prefill_speed"):
            speed = getattr(self, name)
            ok = speed is None or (isinstance(speed, int | float) and not isinstance(speed, bool) and speed > 0)
            check(name, speed, ok, "None or a number above 0")
        check("staging_blocks", self.staging_blocks, is_int(self.staging_blocks, 1), "an integer of at least 1")
        check("page_mass_every", self.page_mass_every, is_int(self.page_mass_every, 0), "an integer of at least 0")
        pages = self.attention_pages
        check("attention_pages", pages, pages is None or is_int(pages, 2), "None or an integer of at least 2")
        dtypes = ("auto", "fp8")
        check("kv_cache_dtype", self.kv_cache_dtype, self.kv_cache_dtype in dtypes, f"allowed are {list(dtypes)}")
        if self.memory == "contiguous":
            why = "contiguous memory has no pages to {}; use memory='paged'"
            check("num_host_blocks", self.num_host_blocks, self.num_host_blocks == 0, why.format("swap"))
            check("preemption", self.preemption, self.preemption == "recompute", why.format("swap"))
            check("prefix_caching", self.prefix_caching, not self.prefix_caching, why.format("share"))
            check("attention_pages", pages, pages is None, why.format("choose from"))
            check("page_mass_every", self.page_mass_every, self.page_mass_every == 0, why.format("measure"))
        selects = pages is not None or not self.measure_selection
        check("measure_selection", self.measure_selection, selects, "needs attention_pages")

    @property
    def victim_policy(self) -> VictimPolicy:
        return VICTIM_POLICIES[self.victim]() if isinstance(self.victim, str) else self.victim

    @property
    def eviction_policy(self) -> EvictionPolicy | None:
        """None if prefixes are not cached."""
        if not self.prefix_caching:
            return None
        return EVICTION_POLICIES[self.eviction]() if isinstance(self.eviction, str) else self.eviction

    @property
    def placement_policy(self) -> PlacementPolicy:
        return PLACEMENT_POLICIES[self.placement]() if isinstance(self.placement, str) else self.placement

    def as_dict(self) -> dict[str, str | int | float | bool | None]:
        """Plain values, for the first event of a run."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: getattr(value, "name", value) if name in _POLICIES else value for name, value in values.items()}
