"""Runs every kernel on small ragged inputs and compares it with its reference: made for compute-sanitizer.

    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck python kernels/bench/sanitize.py

Without torch's caching allocator every tensor is an allocation of its own, so that reading past its end is seen.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from cases import Case
from inputs import make_inputs

from paged_kernels import reference, reference_blocks
from paged_kernels.block_copy import copy_blocks
from paged_kernels.block_transfer import gather_blocks, scatter_blocks
from paged_kernels.cache_addresses import CacheAddresses
from paged_kernels.cache_write import reshape_and_cache
from paged_kernels.decode import paged_attention_decode
from paged_kernels.page_mass import page_attention_mass
from paged_kernels.prefill import paged_attention_prefill

CONTEXTS = (1, 15, 16, 17, 64, 300)
NEW = (1, 15, 3, 17, 2, 130)


def attention(device: str, head_dim: int, kv_heads: int, window: int | None) -> None:
    """Decoding, page mass and prefill of one shape."""
    case = Case("", CONTEXTS, 0, 0, 8, kv_heads, head_dim)
    given = make_inputs(case, 1, device)[0]
    tensors = (given.k_cache, given.v_cache, given.block_tables, given.context_lens)
    options = {"scale": head_dim**-0.5, "window": window}
    lse = torch.empty(given.q.shape[:2], dtype=torch.float32, device=device)
    out = paged_attention_decode(given.q, *tensors, **options, lse=lse)
    expect("decode", out, reference.paged_attention_decode(given.q, *tensors, **options)[0])
    mass = page_attention_mass(given.q, given.k_cache, given.block_tables, given.context_lens, lse, **options)
    expect("page mass", mass, reference.page_attention_mass(given.q, *tensors, **options))
    start = torch.tensor([0, *NEW], device=device).cumsum(0).to(torch.int32)
    q = torch.randn(sum(NEW), 8, head_dim, dtype=torch.bfloat16, device=device)
    out = paged_attention_prefill(q, *tensors, start, **options)
    expect("prefill", out, reference.paged_attention_prefill(q, *tensors, start, **options)[0])


def pages(device: str) -> None:
    """Writing, copying and moving pages."""
    caches = [torch.randn(9, 16, 2, 64, dtype=torch.bfloat16, device=device) for _ in range(4)]
    twins = [cache.clone() for cache in caches]
    k, v = torch.randn(2, 5, 2, 64, dtype=torch.bfloat16, device=device)
    slots = torch.tensor([3, -1, 143, 16, 15], device=device)
    ours, theirs = CacheAddresses(caches), CacheAddresses(twins)
    pairs, blocks = torch.tensor([[1, 2], [-1, 3], [8, 0]], device=device), torch.tensor([8, 4], device=device)
    buffers = [torch.zeros(3, ours.row_bytes, dtype=torch.uint8, device=device) for _ in range(2)]
    reshape_and_cache(k, v, caches[0], caches[1], slots)
    copy_blocks(ours, pairs)
    gather_blocks(ours, blocks, buffers[0])
    scatter_blocks(buffers[0], ours, blocks.flip(0))
    reference_blocks.reshape_and_cache(k, v, twins[0], twins[1], slots)
    reference_blocks.copy_blocks(theirs, pairs)
    reference_blocks.gather_blocks(theirs, blocks, buffers[1])
    reference_blocks.scatter_blocks(buffers[1], theirs, blocks.flip(0))
    for name, a, b in (("buffer", *buffers), *(("cache", a, b) for a, b in zip(caches, twins, strict=True))):
        if not torch.equal(a, b):
            raise SystemExit(f"{name}: differs from the reference")


def expect(name: str, actual: torch.Tensor, expected: torch.Tensor) -> None:
    error = ((actual.double() - expected).norm() / expected.norm()).item()
    if not error < 1e-2:
        raise SystemExit(f"{name}: relative difference {error:.1e} from the reference")
    print(f"{name}: relative difference {error:.1e}", flush=True)


def main() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    for head_dim, kv_heads, window in ((128, 2, None), (64, 8, 33)):
        attention(device, head_dim, kv_heads, window)
    pages(device)
    print("all as the references say")


if __name__ == "__main__":
    main()
