"""Times of GPU work, from CUDA graphs: launches cost as little there as inside an engine's graph."""

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


def copy_bandwidth(num_bytes: int = 2 << 30, repeats: int = 10) -> float:
    """Bytes per second of a copy on the device, read and written bytes both counted.

    Without a graph: there the same copy was seen to run at two thirds of this.
    """
    source = torch.randint(0, 1 << 30, (num_bytes // 4,), dtype=torch.int32, device="cuda")
    target = torch.empty_like(source)
    rates = []
    for _ in range(repeats):
        start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        target.copy_(source)
        stop.record()
        stop.synchronize()
        rates.append(2 * num_bytes / (start.elapsed_time(stop) * 1e-3))
    return statistics.median(rates)


def matmul_flops(size: int = 8192) -> float:
    """Floating-point operations per second of a large bfloat16 matrix product on random data."""
    a, b = (torch.randn(size, size, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    out = torch.empty_like(a)
    return 2 * size**3 / (graph_microseconds([lambda: torch.mm(a, b, out=out)]) * 1e-6)
