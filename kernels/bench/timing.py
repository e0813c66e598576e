"""Times of GPU work, from CUDA graphs: the launches of many calls cost as little as they do inside an engine's graph."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import torch


def graph_microseconds(calls: Sequence[Callable[[], object]], replays: int = 15, rounds: int = 1) -> float:
    """Median time of a call, in microseconds.

    All calls are captured one after another in one graph, so each waits for the one before it. Give every call inputs
    of its own, more than the L2 cache holds in all, or what is measured is the cache.

    Args:
        rounds: how often the calls are repeated inside the graph.
    """
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in calls:
            call()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(rounds):
            for call in calls:
                call()
    times = []
    for replay in range(replays + 3):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        stop.record()
        stop.synchronize()
        if replay >= 3:
            times.append(start.elapsed_time(stop) * 1000 / (rounds * len(calls)))
    return statistics.median(times)


def copy_bandwidth(num_bytes: int = 2 << 30) -> float:
    """Bytes per second of a copy on the device, read and written bytes both counted."""
    source = torch.randint(0, 255, (num_bytes // 4,), dtype=torch.int32, device="cuda")
    target = torch.empty_like(source)
    return 2 * num_bytes / (graph_microseconds([lambda: target.copy_(source)]) * 1e-6)


def matmul_flops(size: int = 8192) -> float:
    """Floating-point operations per second of a large bfloat16 matrix product on random data."""
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    out = torch.empty_like(a)
    return 2 * size**3 / (graph_microseconds([lambda: torch.mm(a, b, out=out)]) * 1e-6)
