"""Carries out the moves of pages that a plan asks for: copy-on-write, and swapping between the tiers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from paged_kernels import reference_blocks
from paged_kernels.cache_addresses import CacheAddresses
from workbench.memory.block_table import Move, MoveKind


@dataclass(frozen=True)
class Transfer:
    """A move that has been carried out, and how long it took. ``bytes`` over all pages, one way."""

    kind: MoveKind
    request: int
    bytes: int
    ns: int


class Followers:
    """What is kept per page beside keys and values: tensors ``[num_blocks, ...]``, and their twins for host pages."""

    def __init__(self) -> None:
        self._twins: list[tuple[Tensor, Tensor]] = []

    def __bool__(self) -> bool:
        return bool(self._twins)

    def add(self, device: list[tuple[Tensor, Tensor]], host: list[tuple[Tensor, Tensor]]) -> None:
        for here, there in zip(device, host, strict=True):
            self._twins += zip(here, there, strict=True)

    def move(self, kind: MoveKind, pairs: Tensor) -> None:
        """Moves what belongs to pages; ``pairs``: int64 ``[num_pairs, 2]`` on their device."""
        source, destination = pairs.unbind(dim=1)
        for device, host in self._twins:
            here = device if kind is not MoveKind.IN else host
            there = host if kind is MoveKind.OUT else device
            there[destination] = here[source]


class Mover(Protocol):
    """Carries moves out, in order, before the step's tokens are computed. ``followers`` move along."""

    followers: Followers

    def carry_out(self, moves: list[Move]) -> None:
        """Carries the moves out, or orders them to be, and empties the list. It may be called again if it raises."""

    def wait_for_host(self) -> None:
        """What is launched from here on may read the host tier: pages on their way there have arrived by then."""

    def take_transfers(self) -> list[Transfer]:
        """The moves that have ended since the last call."""

    def close(self) -> None:
        """Waits for what is under way, and lets go of the tensors of both tiers."""

    def measure(self) -> int | None:
        """Nanoseconds that a megabyte takes from one tier to the other; None: there is no host tier, or no page."""


class TorchMover:
    """Moves pages in plain torch, at once.

    Args:
        caches: K and V per layer of a page: ``[num_blocks, block_size, num_kv_heads, head_dim]``.
        host: the host tier, uint8 ``[num_host_blocks, bytes_per_block]``; None: there is none.
    """

    def __init__(self, caches: Sequence[tuple[Tensor, Tensor]], host: Tensor | None) -> None:
        self.addresses = CacheAddresses([tensor for pair in caches for tensor in pair])
        self.host = host
        self._transfers: list[Transfer] = []
        self.followers = Followers()

    def carry_out(self, moves: list[Move]) -> None:
        while moves:
            move = moves[0]
            started = time.perf_counter_ns()
            pairs = torch.tensor(move.pairs, dtype=torch.int64, device=self.addresses.device)
            if move.kind is MoveKind.COPY:
                reference_blocks.copy_blocks(self.addresses, pairs)
            else:
                self._cross(move.kind, pairs)
            self.followers.move(move.kind, pairs)
            size = len(move.pairs) * self.addresses.row_bytes
            self._transfers.append(Transfer(move.kind, move.request, size, time.perf_counter_ns() - started))
            del moves[0]  # one by one: what was done must not be done again after an interruption

    def _cross(self, kind: MoveKind, pairs: Tensor) -> None:
        if self.host is None:
            raise RuntimeError("a page was to be swapped, but there is no host tier: this is a bug")
        first, second = pairs.unbind(dim=1)
        # Not `gather_blocks`: beside a device other than a CPU it asks for pinned memory, which not all have.
        for pages, offset in zip(self.addresses.pages, self.addresses.offsets, strict=True):
            there = self.host[:, offset : offset + pages.shape[1]]
            if kind is MoveKind.OUT:
                there[second.cpu()] = pages[first].cpu()
            else:
                pages[second] = there[first.cpu()].to(pages.device)

    def wait_for_host(self) -> None:
        """Moves have ended when `carry_out` returns."""

    def close(self) -> None:
        self.host, self.followers = None, Followers()
        del self.addresses

    def take_transfers(self) -> list[Transfer]:
        done, self._transfers = self._transfers, []
        return done

    def measure(self) -> int | None:
        if self.host is None or not len(self.host):
            return None
        page = self.addresses.pages[0][:1]
        size = min(1 << 20, self.host.numel())
        source, target = self.host.flatten()[:size], torch.empty(size, dtype=torch.uint8, device=page.device)
        best = min(_time(lambda: target.copy_(source)) for _ in range(3))
        return max(1, best * (1 << 20) // size)


def _time(work: Callable[[], object]) -> int:
    started = time.perf_counter_ns()
    work()
    return time.perf_counter_ns() - started
