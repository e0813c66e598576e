"""Lesson 10's cost model: published models, machines as their makers describe them, and formulas on these numbers.

Everything here is modelled; no machine was asked.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

GB, TERA = 1e9, 1e12


@dataclass(frozen=True)
class Model:
    """A model in half precision (2 bytes per number), from its published configuration.

    Attributes:
        parameters: numbers in its weights; all of them are used for every token.
        layers, heads, kv_heads, head_dim: of its attention; ``heads`` are those of the queries.
    """

    parameters: float
    layers: int
    heads: int
    kv_heads: int
    head_dim: int

    @property
    def weight_bytes(self) -> float:
        return 2 * self.parameters

    @property
    def kv_bytes_per_token(self) -> int:
        return 2 * self.layers * self.kv_heads * self.head_dim * 2


MODELS = {
    "OPT-13B": Model(12.9e9, 40, 40, 40, 128),
    "Qwen3 0.6B": Model(0.6e9, 28, 16, 8, 128),
    "Llama 2 7B": Model(6.7e9, 32, 32, 32, 128),
    "Llama 3 8B": Model(8.0e9, 32, 32, 8, 128),
    "Llama 3 70B": Model(70.6e9, 80, 64, 8, 128),
    "Llama 3.1 405B": Model(405.9e9, 126, 128, 8, 128),
}


@dataclass(frozen=True)
class Machine:
    """A machine, as its maker describes it: the most that it could do, not what programs reach.

    Attributes:
        memory: bytes of the memory in which it computes.
        bandwidth: bytes per second from this memory.
        operations: floating-point operations per second in half precision, dense.
        link: bytes per second, one way, to the host's memory; None: unified memory, there is no other.
        source: where the numbers come from.
    """

    memory: float
    bandwidth: float
    operations: float
    link: float | None
    source: str


MACHINES = {
    "NVIDIA A100": Machine(80 * GB, 2039 * GB, 312 * TERA, 32 * GB, "NVIDIA's data sheet, SXM, 80 GB; PCIe 4 x16"),
    "NVIDIA H100": Machine(80 * GB, 3350 * GB, 989 * TERA, 64 * GB, "NVIDIA's data sheet, SXM; PCIe 5 x16"),
    "NVIDIA H200": Machine(141 * GB, 4800 * GB, 989 * TERA, 64 * GB, "NVIDIA's data sheet, SXM; PCIe 5 x16"),
    "NVIDIA GH200": Machine(
        96 * GB, 4000 * GB, 989 * TERA, 450 * GB, "NVIDIA's data sheet, HBM3; NVLink-C2C, half of its 900 GB/s each way"
    ),
    "AMD MI300X": Machine(192 * GB, 5300 * GB, 1307 * TERA, 64 * GB, "AMD's data sheet; PCIe 5 x16"),
    "Apple M3 Ultra": Machine(
        512 * GB,
        819 * GB,
        28 * TERA,
        None,
        "Apple's technical specifications; operations are our estimate (80 cores x 128 lanes x 2 x 1.38 GHz)",
    ),
    "A laptop": Machine(
        32 * GB, 90 * GB, 1 * TERA, None, "two channels of DDR5-5600: 2 x 8 bytes x 5.6e9; operations are a round guess"
    ),
}


def models_table() -> str:
    """Bytes of KV cache per token, and the weights, of known models: computed from their configurations."""
    rows = [
        f"{name:15} {m.kv_bytes_per_token:>9,} bytes per token, weights {m.weight_bytes / GB:6.1f} GB"
        for name, m in MODELS.items()
    ]
    return "\n".join(rows)


def random_case(rng: random.Random) -> tuple[str, Model, str, Machine]:
    """A model and a machine, each behind its name."""
    name, place = rng.choice(sorted(MODELS)), rng.choice(sorted(MACHINES))
    return name, MODELS[name], place, MACHINES[place]


def right_step(model: Model, machine: Machine, contexts: Sequence[int]) -> float:
    """Seconds of a decode step, modelled."""
    read = model.weight_bytes + model.kv_bytes_per_token * sum(contexts)
    operations = 2 * model.parameters * len(contexts)
    return max(read / machine.bandwidth, operations / machine.operations)


def right_split(model: Model, devices: int) -> int:
    """Bytes per token on each device; KV heads are split, and copied where there are more devices than heads."""
    return 2 * model.layers * max(1, model.kv_heads // devices) * model.head_dim * 2


def right_room(model: Model, machine: Machine, devices: int, length: int, block_size: int) -> int:
    """How many sequences of ``length`` tokens have their pages at once; weights are split evenly."""
    left = machine.memory - model.weight_bytes / devices
    pages = int(left // (right_split(model, devices) * block_size)) if left > 0 else 0
    return pages // -(-length // block_size)


def right_delay(prefill: float, num_bytes: float, bandwidth: float, layers: int) -> float:
    """Seconds from the end of the prefill to the arrival of the last layer; played through layer by layer."""
    compute, send = prefill / layers, num_bytes / bandwidth / layers
    link_free = 0.0
    for layer in range(layers):
        link_free = max(link_free, compute * (layer + 1)) + send
    return link_free - prefill


def back_again(model: Model, machine: Machine, tokens: int, share: float = 0.5) -> tuple[float | None, float]:
    """Seconds to swap so many tokens out and in (None: unified memory), and to recompute them; modelled.

    Args:
        share: of the machine's operations that a prefill reaches.
    """
    swap = None if machine.link is None else 2 * tokens * model.kv_bytes_per_token / machine.link
    return swap, 2 * model.parameters * tokens / (machine.operations * share)
