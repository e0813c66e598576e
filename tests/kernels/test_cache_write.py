"""Writing keys and values into pages: every slot that is named gets its bits, and no other byte of the pool changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from paged_kernels import reference_blocks

cache_write = pytest.importorskip("paged_kernels.cache_write", reason="needs triton")

CUDA = torch.cuda.is_available()
FP8 = torch.float8_e4m3fn
IMPLEMENTATIONS = [cache_write.reshape_and_cache, reference_blocks.reshape_and_cache]


def poisoned(shape: tuple[int, ...], dtype: torch.dtype, gap: int, device: str) -> tuple[Tensor, Tensor]:
    """A cache of random bytes with ``gap`` elements behind each block, and all its memory as bytes."""
    run = shape[1] * shape[2] * shape[3]
    raw = torch.randint(0, 256, (shape[0], (run + gap) * dtype.itemsize), dtype=torch.uint8, device=device)
    return raw.view(dtype)[:, :run].view(shape), raw


def packed(num_tokens: int, heads: int, dims: tuple[int, int], layout: str, device: str) -> tuple[Tensor, Tensor]:
    """float32 keys and values: apart, cut out of one QKV tensor, or with heads before tokens."""
    key, value = dims
    if layout == "qkv":
        parts = torch.randn(num_tokens, heads * (2 * key + value), device=device).split(
            [heads * key, heads * key, heads * value], dim=-1
        )
        return parts[1].unflatten(-1, (heads, key)), parts[2].unflatten(-1, (heads, value))
    if layout == "heads first":
        k, v = (torch.randn(heads, num_tokens, dim, device=device).transpose(0, 1) for dim in dims)
        return k, v
    k, v = (torch.randn(num_tokens, heads, dim, device=device) for dim in dims)
    return k, v


def to_dtype(x: Tensor, dtype: torch.dtype) -> Tensor:
    """``x`` in another dtype at the same strides."""
    return torch.empty_strided(x.shape, x.stride(), dtype=dtype, device=x.device).copy_(x)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    num_tokens=st.sampled_from([0, 1, 2, 5, 33]),
    heads=st.sampled_from([1, 2, 3, 8]),
    dims=st.sampled_from([(8, 8), (16, 5), (80, 80), (96, 128), (128, 64)]),
    block_size=st.sampled_from([2**n for n in range(9)]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    index_dtype=st.sampled_from([torch.int64, torch.int32]),
    layout=st.sampled_from(["apart", "qkv", "heads first"]),
    gap=st.sampled_from([0, 1, 8]),
)
def test_each_slot_gets_its_bits_and_nothing_else_changes(
    device: str,
    seed: int,
    num_tokens: int,
    heads: int,
    dims: tuple[int, int],
    block_size: int,
    dtype: torch.dtype,
    index_dtype: torch.dtype,
    layout: str,
    gap: int,
) -> None:
    torch.manual_seed(seed)
    num_blocks = num_tokens // block_size + 2
    k, v = (to_dtype(x, dtype) for x in packed(num_tokens, heads, dims, layout, device))
    slots = torch.randperm(num_blocks * block_size)[:num_tokens]
    slots[torch.rand(num_tokens) < 0.3] = -1 - seed
    for write in IMPLEMENTATIONS:
        (k_cache, k_raw), (v_cache, v_raw) = (
            poisoned((num_blocks, block_size, heads, dim), dtype, gap, device) for dim in dims
        )
        expected = [k_raw.clone(), v_raw.clone()]
        for raw, new, dim in zip(expected, (k, v), dims, strict=True):
            pool = raw.view(dtype)[:, : block_size * heads * dim].view(num_blocks, block_size, heads, dim)
            for token, slot in enumerate(slots.tolist()):
                if slot >= 0:
                    pool[slot // block_size, slot % block_size] = new[token]
        write(k, v, k_cache, v_cache, slots.to(device, index_dtype))
        assert torch.equal(k_raw, expected[0])
        assert torch.equal(v_raw, expected[1])


@settings(deadline=None, max_examples=10)
@given(
    seed=st.integers(0, 10_000),
    heads=st.sampled_from([1, 3]),
    dims=st.sampled_from([(16, 16), (64, 5)]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    per_head=st.tuples(st.booleans(), st.booleans()),
)
def test_float8_is_scaled_rounded_and_limited(
    device: str, seed: int, heads: int, dims: tuple[int, int], dtype: torch.dtype, per_head: tuple[bool, bool]
) -> None:
    torch.manual_seed(seed)
    num_tokens, block_size = 9, 4
    slots = torch.randperm(5 * block_size)[:num_tokens].to(device)
    slots[3] = -1
    scales = [torch.rand(heads if each else 1, device=device) + 0.01 for each in per_head]
    k, v = (torch.randn(num_tokens, heads, dim, device=device) * 200 for dim in dims)
    if device == "cpu":
        # The interpreter drops carries when it rounds to float8, so there the numbers need no rounding.
        scales = [torch.exp2(torch.randint_like(scale, -3, 3)) for scale in scales]
        k, v = (x.clamp(-448, 448).to(FP8).float() * scale.view(-1, 1) for x, scale in zip((k, v), scales, strict=True))
    k, v = k.to(dtype), v.to(dtype)
    k[0, 0, :2] = v[0, 0, :2] = torch.tensor([60_000.0, -60_000.0])
    caches = []
    for write in IMPLEMENTATIONS:
        torch.manual_seed(seed)
        caches.append([poisoned((5, block_size, heads, dim), FP8, 3, device) for dim in dims])
        write(k, v, caches[-1][0][0], caches[-1][1][0], slots, *scales)
    for (_, by_kernel), (cache, by_reference), new, scale in zip(*caches, (k, v), scales, strict=True):
        scale = scale.view(-1, 1)
        assert torch.equal(by_kernel, by_reference)
        first = cache.view(torch.uint8)[slots[0] // block_size, slots[0] % block_size].view(FP8).float()
        assert first[0, :2].tolist() == [448.0, -448.0]
        restored = cache.view(torch.uint8)[slots[1] // block_size, slots[1] % block_size].view(FP8).float() * scale
        limit = 448 * scale.expand(heads, 1)
        near = new[1].float().clamp(-limit, limit)
        torch.testing.assert_close(restored, near, rtol=1 / 16, atol=2**-9 * scale.max().item())


@pytest.mark.parametrize("write", IMPLEMENTATIONS, ids=["kernel", "reference"])
def test_nan_stays_nan_in_float8(device: str, write: Callable[..., None]) -> None:
    if device == "cpu" and write is not reference_blocks.reshape_and_cache:
        pytest.skip("the interpreter makes 384 of a float8 NaN")
    arguments = good(device, FP8)
    arguments["k"][1, 1, 3] = torch.nan
    write(**arguments)
    assert arguments["k_cache"].float().isnan().nonzero().tolist() == [[0, 2, 1, 3]]


def good(device: str, cache_dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    return {
        "k": torch.randn(3, 2, 8, device=device),
        "v": torch.randn(3, 2, 4, device=device),
        "k_cache": torch.zeros(5, 4, 2, 8, device=device, dtype=cache_dtype),
        "v_cache": torch.zeros(5, 4, 2, 4, device=device, dtype=cache_dtype),
        "slot_mapping": torch.tensor([1, 2, 3], device=device),
        "k_scale": torch.ones(1, device=device) if cache_dtype == FP8 else None,
        "v_scale": torch.ones(2, device=device) if cache_dtype == FP8 else None,
    }


BAD: list[tuple[str, Callable[[Tensor], Tensor | None], torch.dtype, type[Exception], str]] = [
    ("k", lambda t: t[0], torch.float32, ValueError, r"k: shape \(2, 8\)"),
    ("v", lambda t: t[:2], torch.float32, ValueError, r"v: shape \(2, 2, 4\) given; expected \[num_tokens=3"),
    ("k_cache", lambda t: t[..., :6], torch.float32, ValueError, r"k_cache: shape .* head_dim=8\]"),
    ("v_cache", lambda t: t.transpose(1, 2), torch.float32, ValueError, "v_cache: shape"),
    ("v_cache", lambda t: t.half(), torch.float32, TypeError, "v_cache: dtype float16 given; allowed: float32"),
    ("k", lambda t: t.half(), torch.float32, TypeError, "v: dtype float32 given; allowed: float16"),
    ("slot_mapping", lambda t: t.float(), torch.float32, TypeError, "slot_mapping: dtype float32 given"),
    ("slot_mapping", lambda t: t[:2], torch.float32, ValueError, r"slot_mapping: shape \(2,\)"),
    ("k", lambda t: t.repeat(1, 1, 2)[..., ::2], torch.float32, ValueError, r"k: strides \(32, 16, 2\)"),
    ("k_cache", lambda t: t.transpose(1, 2).contiguous().transpose(1, 2), torch.float32, ValueError, "k_cache: str"),
    ("slot_mapping", lambda t: t.to("meta"), torch.float32, ValueError, "slot_mapping: on meta; expected"),
    ("k_scale", lambda t: torch.ones(1), torch.float32, ValueError, "k_scale: a tensor given; expected None"),
    ("v_scale", lambda t: None, FP8, ValueError, r"v_scale: None given; expected float32 \[1\] or \[num_kv_heads=2\]"),
    ("v_scale", lambda t: t.repeat(2), FP8, ValueError, r"v_scale: shape \(4,\)"),
    ("k_scale", lambda t: t.double(), FP8, TypeError, "k_scale: dtype float64 given"),
]


@pytest.mark.parametrize("write", IMPLEMENTATIONS, ids=["kernel", "reference"])
@pytest.mark.parametrize(("name", "spoil", "cache_dtype", "error", "message"), BAD, ids=[case[4][:20] for case in BAD])
def test_bad_arguments_are_named_and_nothing_is_written(
    device: str,
    write: Callable[..., None],
    name: str,
    spoil: Callable[[Tensor], Tensor | None],
    cache_dtype: torch.dtype,
    error: type[Exception],
    message: str,
) -> None:
    arguments = good(device, cache_dtype)
    caches = arguments["k_cache"], arguments["v_cache"]
    with pytest.raises(error, match=message):
        write(**arguments | {name: spoil(arguments[name])})
    assert not any(cache.view(torch.uint8).any() for cache in caches)
    write(**arguments)
    assert all(cache.view(torch.uint8).any() for cache in caches)


def test_a_slot_beyond_the_pool_is_not_written(device: str) -> None:
    arguments = good(device) | {"slot_mapping": torch.tensor([20, 2**40, 19], device=device)}
    cache_write.reshape_and_cache(**arguments)
    assert torch.equal(arguments["k_cache"][4, 3], arguments["k"][2])
    assert not arguments["k_cache"].flatten(0, 1)[:19].any()


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
def test_captured_in_a_graph_it_reads_the_slots_of_each_replay() -> None:
    arguments = good("cuda")
    cache_write.reshape_and_cache(**arguments)
    arguments["k_cache"].zero_()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        cache_write.reshape_and_cache(**arguments)
    arguments["slot_mapping"].copy_(torch.tensor([17, -1, 9]))
    graph.replay()
    written = arguments["k_cache"].flatten(0, 1)
    assert written.flatten(1).any(dim=1).nonzero().flatten().tolist() == [9, 17]
    assert torch.equal(written[[17, 9]], arguments["k"][[0, 2]])


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
def test_pools_of_more_than_two_to_the_31_elements() -> None:
    heads, dim, block_size = 8, 128, 16
    num_blocks = 2**31 // (heads * dim * block_size) + 8
    caches = [torch.zeros(num_blocks, block_size, heads, dim, dtype=torch.bfloat16, device="cuda") for _ in range(2)]
    k, v = (torch.randn(2, heads, dim, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    slots = torch.tensor([num_blocks * block_size - 1, 5], device="cuda")
    cache_write.reshape_and_cache(k, v, *caches, slots)
    for new, cache in zip((k, v), caches, strict=True):
        assert torch.equal(cache.flatten(0, 1)[slots], new)
        assert cache.count_nonzero() == new.count_nonzero()
