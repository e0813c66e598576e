"""The shapes that are measured, their floors, and what other kernels were measured to take for them."""

from __future__ import annotations

import random
from dataclasses import dataclass

#: What one H200 was measured to do, the same that the peers' times come from.
COPY_BYTES_PER_S = 4.25e12
MATMUL_FLOPS = 790e12


@dataclass(frozen=True)
class Case:
    """One row of a table: bfloat16, pages of 16 tokens.

    Attributes:
        contexts: keys per sequence, new tokens included.
        queries: new tokens per sequence; 1 for decoding.
        fa3: FlashAttention-3 with a page table, in microseconds; triton_unified: vLLM 0.26's Triton kernel. Both were
            measured on another H200 at another time, in the same way; they are not run here.
    """

    name: str
    contexts: tuple[int, ...]
    fa3: float
    triton_unified: float
    num_heads: int = 32
    num_kv_heads: int = 8
    head_dim: int = 128
    queries: int = 1

    @property
    def is_ragged(self) -> bool:
        return len(set(self.contexts)) > 1

    @property
    def kv_bytes(self) -> int:
        return sum(self.contexts) * self.num_kv_heads * self.head_dim * 2 * 2

    @property
    def flops(self) -> int:
        """Of both matrix products, for the keys that a query sees."""
        seen = sum(self.queries * context - self.queries * (self.queries - 1) // 2 for context in self.contexts)
        return 4 * self.head_dim * self.num_heads * seen

    def floor(self, bytes_per_s: float = COPY_BYTES_PER_S, flops: float = MATMUL_FLOPS) -> float:
        """The larger of two times in microseconds: moving every byte once, and computing."""
        rows = len(self.contexts) * self.queries
        moved = self.kv_bytes + rows * self.num_heads * self.head_dim * 2 * 2
        return max(moved / bytes_per_s, self.flops / flops) * 1e6


def _ragged(count: int, low: int, high: int, total: int) -> tuple[int, ...]:
    """Uniform lengths, of a seed for which they add up to the published row's total, to within half a percent."""
    for seed in range(100_000):
        rng = random.Random(seed)
        lengths = tuple(rng.randint(low, high) for _ in range(count))
        if abs(sum(lengths) - total) < 0.005 * total:
            return lengths
    raise AssertionError("no such seed")


DECODE = (
    Case("1 x 512", (512,), 10.9, 7.5),
    Case("1 x 4,096", (4096,), 14.6, 20.7),
    Case("1 x 32,768", (32768,), 44.1, 167.7),
    Case("8 x 1,024", (1024,) * 8, 16.3, 22.5),
    Case("8 x 8,192", (8192,) * 8, 72.4, 121.0),
    Case("64 x 1,024", (1024,) * 64, 77.7, 76.3),
    Case("64 x 4,096", (4096,) * 64, 250.4, 281.2),
    Case("256 x 512", (512,) * 256, 146.0, 153.5),
    Case("256 x 2,048", (2048,) * 256, 501.4, 562.6),
    Case("64 x 512..4,096", _ragged(64, 512, 4096, 156_000), 161.6, 247.1),
    Case("256 x 256..2,048", _ragged(256, 256, 2048, 288_500), 289.2, 367.9),
    Case("8 x 1,024, 32/32 heads", (1024,) * 8, 42.9, 59.2, num_kv_heads=32),
    Case("64 x 2,048, 32/32 heads", (2048,) * 64, 491.2, 561.7, num_kv_heads=32),
    Case("64 x 4,096, head_dim 64", (4096,) * 64, 143.9, 225.2, head_dim=64),
)

PREFILL = (
    Case("1 x 2,048, all new", (2048,), 76.5, 536, queries=2048),
    Case("4 x 2,048, all new", (2048,) * 4, 299, 1974, queries=2048),
    Case("1 x 8,192, all new", (8192,), 980, 7478, queries=8192),
    Case("8 x 1,024, all new", (1024,) * 8, 182, 1043, queries=1024),
    Case("4 x 8,192, 512 new", (8192,) * 4, 483, 3748, queries=512),
    Case("16 x 4,096, 128 new", (4096,) * 16, 279, 1933, queries=128),
)
