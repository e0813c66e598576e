"""Random inputs for a case: a pool with its pages in random order, and the same keys and values contiguous."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from cases import Case
from torch import Tensor

BLOCK_SIZE = 16


@dataclass
class Inputs:
    """Tensors of one call of a kernel."""

    q: Tensor
    k_cache: Tensor
    v_cache: Tensor
    block_tables: Tensor
    context_lens: Tensor
    query_start: Tensor
    out: Tensor


def make_inputs(
    case: Case, copies: int, device: str = "cuda", block_size: int = BLOCK_SIZE, shuffle: bool = True
) -> list[Inputs]:
    """``copies`` sets of inputs on one pool, each with pages of its own; in random order, or in order."""
    blocks = [-(-context // block_size) for context in case.contexts]
    num_blocks = copies * sum(blocks)
    shape = (num_blocks, block_size, case.num_kv_heads, case.head_dim)
    k_cache, v_cache = (torch.randn(shape, dtype=torch.bfloat16, device=device) for _ in range(2))
    ids = torch.randperm(num_blocks) if shuffle else torch.arange(num_blocks)
    order = ids.to(torch.int32).split([n for _ in range(copies) for n in blocks])
    sets = []
    rows = len(case.contexts) * case.queries
    for copy in range(copies):
        tables = torch.zeros(len(blocks), max(blocks), dtype=torch.int32)
        for row, ids in enumerate(order[copy * len(blocks) : (copy + 1) * len(blocks)]):
            tables[row, : len(ids)] = ids
        q = torch.randn(rows, case.num_heads, case.head_dim, dtype=torch.bfloat16, device=device)
        starts = torch.arange(0, rows + 1, case.queries, dtype=torch.int32, device=device)
        lens = torch.tensor(case.contexts, dtype=torch.int32, device=device)
        sets.append(Inputs(q, k_cache, v_cache, tables.to(device), lens, starts, torch.empty_like(q)))
    return sets


def copies_for(case: Case, cache_bytes: int = 256 << 20) -> int:
    """How many sets of inputs outgrow the L2 cache several times."""
    return max(2, min(40, -(-cache_bytes // case.kv_bytes)))
