"""CUDA graphs of decode steps: one for every batch size of a short list, all in one pool of memory."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger(__name__)


def graph_sizes(max_seqs: int, smallest: int = 1) -> list[int]:
    """Batch sizes that get a graph, ascending: powers of two up to 16, then steps of 16, from 256 on of 32."""
    sizes = [1, 2, 4, 8, *range(16, 256, 16), *range(256, max_seqs + 1, 32)]
    return sorted({size for size in sizes if smallest <= size < max_seqs} | {max(max_seqs, smallest)})


class DecodeGraphs:
    """Replays a step's launches as one. A graph is captured when its size is first needed, or by `capture_all`.

    Args:
        body: runs the launches for a number of rows on static buffers, and returns logits that live in the graph's own
            memory. It must be free to run more than once for a step: a size's first step runs it twice before it is
            captured, so that everything is compiled and has its memory.
        sizes: ascending.

    Attributes:
        broken: why graphs are not used, for instance because the model makes the host wait for the device; None if
            they are.
    """

    def __init__(self, body: Callable[[int], Tensor], sizes: list[int]) -> None:
        self._body = body
        self.sizes = sizes
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        self._pool: Any = None
        self.broken: str | None = None

    def size_for(self, rows: int) -> int:
        """The smallest size with room for ``rows``."""
        return next(size for size in self.sizes if size >= rows)

    def run(self, size: int) -> Tensor:
        """Enqueues the launches for ``size`` rows; returns the logits."""
        if size not in self._graphs and self.broken is None:
            self._capture(size)
        if self.broken is not None:
            return self._body(size)
        graph, logits = self._graphs[size]
        graph.replay()
        return logits

    def capture_all(self) -> None:
        """Captures all sizes, the largest first: the smaller ones then find room in its memory."""
        started = time.perf_counter()
        for size in reversed(self.sizes):
            if self.broken is None and size not in self._graphs:
                self._capture(size)
                log.info("decode graph for %d rows captured, %.1f s so far", size, time.perf_counter() - started)

    def _capture(self, size: int) -> None:
        torch.cuda.synchronize()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._body(size)
            before = torch.cuda.get_sync_debug_mode()
            try:
                # A capture that fails leaves the device in a bad state; a synchronisation found beforehand does not.
                torch.cuda.set_sync_debug_mode("error")
                self._body(size)
            except RuntimeError as error:
                self.broken = str(error).split("\n")[0]
            finally:
                torch.cuda.set_sync_debug_mode(before)
        torch.cuda.current_stream().wait_stream(stream)
        if self.broken is not None:
            log.warning("no CUDA graphs: the model makes the host wait for the device (%s)", self.broken)
            return
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                logits = self._body(size)
        except RuntimeError as error:
            self.broken = str(error).split("\n")[0]
            log.warning("no CUDA graphs: capturing failed (%s)", self.broken)
            return
        self._pool = self._pool or graph.pool()
        self._graphs[size] = graph, logits

    def release(self) -> None:
        """Lets go of the graphs and their memory."""
        self._graphs.clear()
