"""Copying and moving pages of all layers: those named, to the bit, and not one other byte of pools and buffers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from paged_kernels import reference_blocks
from paged_kernels.cache_addresses import CacheAddresses

block_copy = pytest.importorskip("paged_kernels.block_copy", reason="needs triton")
block_transfer = pytest.importorskip("paged_kernels.block_transfer", reason="needs triton")

CUDA = torch.cuda.is_available()
#: The kernel, and the same in plain torch.
KERNELS: dict[str, Any] = {
    "copy": (block_copy.copy_blocks, reference_blocks.copy_blocks),
    "gather": (block_transfer.gather_blocks, reference_blocks.gather_blocks),
    "scatter": (block_transfer.scatter_blocks, reference_blocks.scatter_blocks),
}

#: Shape of a block, dtype, and bytes between blocks; the last has an odd number of bytes at odd addresses.
LAYOUTS = [
    ((16, 8, 64), torch.bfloat16, 0),
    ((4, 2, 8), torch.float32, 16),
    ((256, 1, 2), torch.float16, 4),
    ((1, 3, 8), torch.float8_e4m3fn, 0),
    ((8, 1, 4), torch.bfloat16, 8),
    ((1, 1, 7), torch.uint8, 2),
]


def pools(layouts: list[int], num_blocks: int, device: str) -> tuple[list[Tensor], list[Tensor]]:
    """Caches of random bytes as `LAYOUTS` says, and all the memory of each as bytes, ``[num_blocks, bytes]``."""
    tensors, raw = [], []
    for shape, dtype, gap in (LAYOUTS[i] for i in layouts):
        size = torch.Size(shape).numel() * dtype.itemsize
        raw.append(torch.randint(0, 256, (num_blocks, size + gap), dtype=torch.uint8, device=device))
        tensors.append(raw[-1][:, :size].view(dtype).view(num_blocks, *shape))
    return tensors, raw


def page(raw: list[Tensor], layouts: list[int], block: int) -> Tensor:
    """The bytes of a block in all pools, as one run."""
    sizes = [torch.Size(LAYOUTS[i][0]).numel() * LAYOUTS[i][1].itemsize for i in layouts]
    return torch.cat([pool[block, :size] for pool, size in zip(raw, sizes, strict=True)])


layouts_of_a_model = st.lists(st.integers(0, len(LAYOUTS) - 1), min_size=1, max_size=4)
index_dtypes = st.sampled_from([torch.int64, torch.int32])


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    layouts=layouts_of_a_model,
    num_pairs=st.integers(0, 5),
    num_blocks=st.integers(1, 12),
    dtype=index_dtypes,
)
def test_copy(device: str, seed: int, layouts: list[int], num_pairs: int, num_blocks: int, dtype: torch.dtype) -> None:
    torch.manual_seed(seed)
    order = torch.randperm(num_blocks).tolist()
    destinations = order[:num_pairs]
    sources = order[num_pairs:] or [-1]
    pairs = [(sources[int(torch.randint(len(sources), ()))], block) for block in destinations]
    pairs = [(-1 - seed if torch.rand(()) < 0.2 else s, d) for s, d in pairs]
    for copy in KERNELS["copy"]:
        tensors, raw = pools(layouts, num_blocks, device)
        expected = [pool.clone() for pool in raw]
        for pool, before, tensor in zip(expected, raw, tensors, strict=True):
            size = tensor[0].numel() * tensor.itemsize
            for source, destination in pairs:
                if source >= 0:
                    pool[destination, :size] = before[source, :size]
        copy(CacheAddresses(tensors), torch.tensor(pairs, dtype=dtype, device=device).view(-1, 2))
        assert all(torch.equal(*both) for both in zip(raw, expected, strict=True))


@settings(deadline=None, max_examples=25)
@given(
    seed=st.integers(0, 10_000),
    layouts=layouts_of_a_model,
    num_moved=st.integers(0, 5),
    with_rows=st.booleans(),
    gap=st.sampled_from([0, 1, 16]),
    dtype=index_dtypes,
)
def test_a_page_comes_back_from_a_row(
    device: str, seed: int, layouts: list[int], num_moved: int, with_rows: bool, gap: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(seed)
    num_blocks, num_rows = 8, 6
    blocks, others = torch.randperm(num_blocks)[:num_moved], torch.randperm(num_blocks)[:num_moved]
    rows = torch.randperm(num_rows)[:num_moved] if with_rows else None
    blocks[torch.rand(num_moved) < 0.2] = -1
    if rows is not None:
        rows[torch.rand(num_moved) < 0.2] = -3
    row_of = list(range(num_moved)) if rows is None else rows.tolist()
    on_device = [None if x is None else x.to(device, dtype) for x in (blocks, others, rows)]
    for gather, scatter in zip(KERNELS["gather"], KERNELS["scatter"], strict=True):
        tensors, raw = pools(layouts, num_blocks, device)
        caches = CacheAddresses(tensors)
        memory = torch.randint(0, 256, (num_rows, caches.row_bytes + gap), dtype=torch.uint8, device=device)
        expected, untouched = memory.clone(), [pool.clone() for pool in raw]
        for block, row in zip(blocks.tolist(), row_of, strict=True):
            if block >= 0 and row >= 0:
                expected[row, : caches.row_bytes] = page(raw, layouts, block)
        gather(caches, on_device[0], memory[:, : caches.row_bytes], on_device[2])
        assert torch.equal(memory, expected)
        assert all(torch.equal(*both) for both in zip(raw, untouched, strict=True))

        for block, row in zip(others.tolist(), row_of, strict=True):
            start = 0
            for pool, tensor in zip(untouched, tensors, strict=True):
                size = tensor[0].numel() * tensor.itemsize
                if row >= 0:
                    pool[block, :size] = expected[row, start : start + size]
                start += size
        scatter(memory[:, : caches.row_bytes], caches, on_device[1], on_device[2])
        assert all(torch.equal(*both) for both in zip(raw, untouched, strict=True))
        assert torch.equal(memory, expected)


def test_accesses_are_as_wide_as_all_tensors_allow(device: str) -> None:
    tensors, _ = pools([0, 1], 3, device)
    assert CacheAddresses(tensors).unit == 16
    tensors, _ = pools([0, 4], 3, device)
    assert CacheAddresses(tensors).unit == 8
    tensors, _ = pools([0, 5], 3, device)
    assert CacheAddresses(tensors).unit == 1


def test_blocks_and_rows_beyond_are_not_touched(device: str) -> None:
    tensors, raw = pools([0, 1], 4, device)
    caches = CacheAddresses(tensors)
    before = [pool.clone() for pool in raw]
    block_copy.copy_blocks(caches, torch.tensor([[0, 4], [2**40, 1], [-1, -1]], device=device))
    buffer = torch.zeros(2, caches.row_bytes, dtype=torch.uint8, device=device)
    block_transfer.gather_blocks(
        caches, torch.tensor([4, 0], device=device), buffer, torch.tensor([0, 2], device=device)
    )
    block_transfer.scatter_blocks(buffer, caches, torch.tensor([-1, 4], device=device))
    assert not buffer.any()
    assert all(torch.equal(*both) for both in zip(raw, before, strict=True))


BAD_TENSORS: list[tuple[Callable[[Tensor], list[Tensor]], str]] = [
    (lambda t: [], "tensors: 0 given; expected at least 1"),
    (lambda t: [t, t[:2]], r"tensors\[1\]: shape \(2, 4, 2, 8\) given; expected \[num_blocks=3"),
    (lambda t: [t, t.flatten()], r"tensors\[1\]: shape \(192,\)"),
    (lambda t: [t.transpose(1, 2)], r"tensors\[0\]: strides .* expected contiguous blocks"),
    (lambda t: [t, t.to("meta")], r"tensors\[1\]: on meta; expected"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD_TENSORS, ids=[message[:20] for _, message in BAD_TENSORS])
def test_bad_caches_are_named(device: str, spoil: Callable[[Tensor], list[Tensor]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CacheAddresses(spoil(torch.zeros(3, 4, 2, 8, device=device)))


BAD: list[tuple[str, str, Callable[[Tensor], Tensor], type[Exception], str]] = [
    ("copy", "pairs", lambda t: t[:, :1], ValueError, r"pairs: shape \(2, 1\) given; expected \[num_pairs(=2)?, 2\]"),
    ("copy", "pairs", lambda t: t.float(), TypeError, "pairs: dtype float32 given; allowed: int64, int32"),
    ("copy", "pairs", lambda t: t.t(), ValueError, r"pairs: strides \(1, 2\)"),
    ("copy", "pairs", lambda t: t.to("meta"), ValueError, "pairs: on meta; expected"),
    ("gather", "buffer", lambda t: t[:, :-1], ValueError, r"buffer: shape \(2, 511\) .* row_bytes=512\]"),
    ("gather", "buffer", lambda t: t.view(torch.int8), TypeError, "buffer: dtype int8 given; allowed: uint8"),
    ("gather", "buffer", lambda t: t.t().contiguous().t(), ValueError, "buffer: strides"),
    ("gather", "buffer", lambda t: t[:1].expand(2, -1), ValueError, "buffer: row stride 0 given"),
    ("gather", "buffer", lambda t: t.to("meta"), ValueError, "buffer: on meta; expected"),
    ("gather", "buffer", lambda t: t[:1], ValueError, "blocks: 2 given for a buffer of 1 rows"),
    ("scatter", "blocks", lambda t: t[:, None], ValueError, r"blocks: shape \(2, 1\)"),
    ("scatter", "blocks", lambda t: t.short(), TypeError, "blocks: dtype int16 given"),
    ("scatter", "rows", lambda t: t[:1], ValueError, r"rows: shape \(1,\) given; expected \[num_moved=2\]"),
    ("scatter", "rows", lambda t: t.to("meta"), ValueError, "rows: on meta; expected"),
]


@pytest.mark.parametrize("which", [0, 1], ids=["kernel", "reference"])
@pytest.mark.parametrize(("kind", "name", "spoil", "error", "message"), BAD, ids=[case[4][:25] for case in BAD])
def test_bad_arguments_are_named_and_nothing_is_moved(
    device: str,
    which: int,
    kind: str,
    name: str,
    spoil: Callable[[Tensor], Tensor],
    error: type[Exception],
    message: str,
) -> None:
    tensors, raw = pools([1, 1], 4, device)
    caches = CacheAddresses(tensors)
    buffer = torch.zeros(2, caches.row_bytes, dtype=torch.uint8, device=device)
    blocks, rows = torch.tensor([0, 1], device=device), torch.tensor([0, 1], device=device)
    arguments: dict[str, Any] = {"caches": caches}
    if kind == "copy":
        arguments["pairs"] = torch.tensor([[0, 1], [2, 3]], device=device)
    else:
        arguments |= {"buffer": buffer, "blocks": blocks}
        if name == "rows":
            arguments["rows"] = rows
    before = [pool.clone() for pool in raw]
    with pytest.raises(error, match=message):
        KERNELS[kind][which](**arguments | {name: spoil(arguments[name])})
    assert not buffer.any()
    assert all(torch.equal(*both) for both in zip(raw, before, strict=True))
    KERNELS[kind][which](**arguments)


needs_cuda = pytest.mark.skipif(not CUDA, reason="needs a CUDA device")


@pytest.mark.gpu
@needs_cuda
def test_pinned_host_memory_and_back_in_a_graph() -> None:
    tensors, raw = pools([0, 1, 4], 8, "cuda")
    caches = CacheAddresses(tensors)
    before = [pool.clone() for pool in raw]
    host = torch.zeros(4, caches.row_bytes, dtype=torch.uint8, pin_memory=True)
    blocks, rows = torch.tensor([6, 1], device="cuda"), torch.tensor([3, 0], device="cuda")
    block_transfer.gather_blocks(caches, blocks, host, rows)
    block_transfer.scatter_blocks(host, caches, blocks, rows)
    torch.cuda.synchronize()
    assert torch.equal(host[3], page(raw, [0, 1, 4], 6).cpu())
    assert all(torch.equal(*both) for both in zip(raw, before, strict=True))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        block_transfer.scatter_blocks(host, caches, blocks, rows)
    blocks.copy_(torch.tensor([2, 1]))
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(page(raw, [0, 1, 4], 2), page(before, [0, 1, 4], 6))
    assert torch.equal(page(raw, [0, 1, 4], 3), page(before, [0, 1, 4], 3))


@pytest.mark.gpu
@needs_cuda
def test_pageable_host_memory_is_refused() -> None:
    caches = CacheAddresses(pools([0], 2, "cuda")[0])
    with pytest.raises(ValueError, match="buffer: on cpu; expected cuda:0 or pinned host memory"):
        block_transfer.gather_blocks(
            caches, torch.tensor([0], device="cuda"), torch.zeros(2, caches.row_bytes, dtype=torch.uint8)
        )


@pytest.mark.gpu
@needs_cuda
def test_pools_of_more_than_two_to_the_31_bytes() -> None:
    block = 2**21  # bytes
    tensors = [torch.zeros(2**10 + 3, 1, 1, block, dtype=torch.uint8, device="cuda")]
    last = tensors[0].shape[0] - 1
    tensors[0][3] = 7
    caches = CacheAddresses(tensors)
    block_copy.copy_blocks(caches, torch.tensor([[3, last]], device="cuda"))
    buffer = torch.zeros(1, caches.row_bytes, dtype=torch.uint8, device="cuda")
    block_transfer.gather_blocks(caches, torch.tensor([last], device="cuda"), buffer)
    assert buffer.eq(7).all()
    changed = [index for index, page in enumerate(tensors[0]) if page.any()]
    assert changed == [3, last]
