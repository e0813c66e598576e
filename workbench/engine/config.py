"""Configuration of an engine. Everything is checked before anything is allocated."""

from __future__ import annotations

from dataclasses import dataclass, fields

from workbench.memory.contiguous import Reservation


class ConfigError(ValueError):
    """A setting is out of range. The message names the field, its value and what is allowed."""


def check(field: str, value: object, ok: bool, allowed: str) -> None:
    """Raises `ConfigError` unless ``ok``."""
    if not ok:
        raise ConfigError(f"{field}={value!r}: {allowed}")


def is_int(value: object, low: int, high: int | None = None) -> bool:
    """Whether ``value`` is an integer (and no bool) from ``low`` to ``high``."""
    return type(value) is int and low <= value and (high is None or value <= high)


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
        max_num_seqs: most requests that run at once.
        max_num_batched_tokens: token budget of a step. A longer prompt is computed in chunks, beside the decodes.
        watermark: share of the pages that admission leaves free.
        device: "auto", "cpu", "cuda" or "mps".
        dtype: "auto", "float32", "bfloat16" or "float16"; of the weights and of the KV cache.
        attention: "triton", "torch", or "auto": Triton's kernels on a CUDA device if they serve the model, else torch.
        cuda_graphs: Triton attention on a CUDA device: replay decode steps as CUDA graphs.
        compile: Triton attention only: compile the model with torch.compile. Faster, after a minute of compiling.
        gpu_memory_utilization: ``num_blocks=None``: the share of the device's memory that may be in use then.
        seed: decides every random choice for which a request brings no seed of its own.
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
        for name in ("cuda_graphs", "compile"):
            check(name, getattr(self, name), type(getattr(self, name)) is bool, "True or False")
        share = self.gpu_memory_utilization
        share_ok = isinstance(share, int | float) and not isinstance(share, bool) and 0 < share <= 1
        check("gpu_memory_utilization", share, share_ok, "a number above 0 and at most 1")
        check("seed", self.seed, is_int(self.seed, 0, (1 << 63) - 1), "an integer from 0 to 2**63 - 1")

    def as_dict(self) -> dict[str, str | int | float | bool | None]:
        """Plain values, for the first event of a run."""
        return {field.name: getattr(self, field.name) for field in fields(self)}
