"""Writing, copying and moving pages, against the bandwidth of plain copies."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from timing import graph_microseconds

from paged_kernels.block_copy import copy_blocks
from paged_kernels.block_transfer import gather_blocks, scatter_blocks
from paged_kernels.cache_addresses import CacheAddresses
from paged_kernels.cache_write import reshape_and_cache

LAYERS, BLOCK_SIZE, KV_HEADS, HEAD_DIM = 28, 16, 8, 128


@dataclass(frozen=True)
class Row:
    """``moved`` counts bytes read and bytes written on the device, and bytes once over the bus to the host."""

    name: str
    moved: int
    micros: float
    best: float

    @property
    def bytes_per_s(self) -> float:
        return self.moved / (self.micros * 1e-6)


def cache_write_rows(bandwidth: float, token_counts: tuple[int, ...] = (1, 256, 1024, 8192, 32768)) -> list[Row]:
    """This step's keys and values into random slots of one layer."""
    rows = []
    for tokens in token_counts:
        copies = max(2, min(64, (256 << 20) // (tokens * KV_HEADS * HEAD_DIM * 8)))
        num_blocks = max(4096, copies * tokens // BLOCK_SIZE)
        caches = [torch.empty(num_blocks, BLOCK_SIZE, KV_HEADS, HEAD_DIM, dtype=torch.bfloat16, device="cuda")
                  for _ in range(2)]  # fmt: skip
        slots = torch.randperm(num_blocks * BLOCK_SIZE)[: copies * tokens].to("cuda", torch.int32).split(tokens)
        new = [torch.randn(2, tokens, KV_HEADS, HEAD_DIM, dtype=torch.bfloat16, device="cuda") for _ in slots]
        calls = [
            functools.partial(reshape_and_cache, kv[0], kv[1], *caches, at) for kv, at in zip(new, slots, strict=True)
        ]
        moved = 2 * new[0].numel() * new[0].element_size()
        rows.append(Row(f"cache write, {tokens:,} tokens", moved, graph_microseconds(calls), bandwidth))
    return rows


def pool(num_blocks: int) -> CacheAddresses:
    """K and V of all layers."""
    return CacheAddresses(
        [
            torch.randint(0, 1 << 15, (num_blocks, BLOCK_SIZE, KV_HEADS, HEAD_DIM), dtype=torch.int16, device="cuda")
            for _ in range(2 * LAYERS)
        ]
    )


def copy_rows(bandwidth: float, counts: tuple[int, ...] = (1, 16, 256, 1024)) -> list[Row]:
    """Copy-on-write of so many random blocks, all layers at once."""
    caches = pool(2 * max(counts) + 64)
    rows = []
    for count in counts:
        order = torch.randperm(caches.num_blocks)
        copies = max(1, min(8, len(order) // (2 * count)))
        pairs = [part.view(count, 2).cuda() for part in order[: copies * 2 * count].split(2 * count)]
        calls = [lambda p=p: copy_blocks(caches, p) for p in pairs]
        moved = 2 * count * caches.row_bytes
        rows.append(
            Row(f"block copy, {count:,} blocks of {LAYERS} layers", moved, graph_microseconds(calls), bandwidth)
        )
    return rows


def swap_rows(bandwidth: float, counts: tuple[int, ...] = (8, 64, 256, 1024)) -> list[Row]:
    """Pages of all layers to pinned host memory and back: through a buffer on the device, and directly."""
    caches = pool(max(counts) + 64)
    host = torch.empty(max(counts), caches.row_bytes, dtype=torch.uint8, pin_memory=True)
    staging = torch.empty(max(counts), caches.row_bytes, dtype=torch.uint8, device="cuda")
    size = host.numel()
    out = size / (graph_microseconds([lambda: host.copy_(staging, non_blocking=True)]) * 1e-6)
    back = size / (graph_microseconds([lambda: staging.copy_(host, non_blocking=True)]) * 1e-6)
    rows = [
        Row("pinned copy, device to host", size, size / out * 1e6, out),
        Row("pinned copy, host to device", size, size / back * 1e6, back),
    ]
    for count in counts:
        blocks = torch.randperm(caches.num_blocks)[:count].cuda()
        moved = count * caches.row_bytes
        here, there = staging[:count], host[:count]

        def swap_out(blocks=blocks, here=here, there=there) -> None:
            gather_blocks(caches, blocks, here)
            there.copy_(here, non_blocking=True)

        def swap_in(blocks=blocks, here=here, there=there) -> None:
            here.copy_(there, non_blocking=True)
            scatter_blocks(here, caches, blocks)

        gather = graph_microseconds([lambda blocks=blocks, here=here: gather_blocks(caches, blocks, here)])
        rows += [
            Row(f"gather on the device, {count:,} blocks", 2 * moved, gather, bandwidth),
            Row(f"swap out, {count:,} blocks: gather, then copy", moved, graph_microseconds([swap_out]), out),
            Row(f"swap in, {count:,} blocks: copy, then scatter", moved, graph_microseconds([swap_in]), back),
            Row(f"swap out, {count:,} blocks: kernel into host memory", moved,
                graph_microseconds([lambda blocks=blocks, there=there: gather_blocks(caches, blocks, there)]), out),
            Row(f"swap in, {count:,} blocks: kernel out of host memory", moved,
                graph_microseconds([lambda blocks=blocks, there=there: scatter_blocks(there, caches, blocks)]), back),
        ]  # fmt: skip
    return rows


def table(rows: list[Row]) -> str:
    """Markdown."""
    lines = ["| what | MB moved | microseconds | GB/s | of a plain copy |", "|---|---|---|---|---|"]
    lines += [
        f"| {row.name} | {row.moved / 1e6:,.2f} | {row.micros:,.1f} | {row.bytes_per_s / 1e9:,.0f} | "
        f"{row.bytes_per_s / row.best:.0%} |"
        for row in rows
    ]
    return "\n".join(lines)
