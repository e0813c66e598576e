"""Moves of pages on a CUDA device, beside the computation.

Copies within the device (copy-on-write) are one launch before the step. Between the tiers:

- *out*: the pages are gathered into a staging buffer on the device, which takes microseconds; from then on the pool's
  pages may be written to. A side stream copies the buffer to the host.
- *in*: a side stream copies rows to a second staging buffer, and from there into their pages, which nobody else may
  touch. The request goes on in the next step; that one waits for the copies, this one does not.

Order comes from events of the device; the host never waits for all of it. A transfer's time is read a fixed number of
steps after it was ordered, when it has most likely ended, so that the same seed gives the same events.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from paged_kernels.block_copy import copy_blocks
from paged_kernels.block_transfer import gather_blocks, scatter_blocks
from paged_kernels.cache_addresses import CacheAddresses
from workbench.engine.mover import Followers, Transfer
from workbench.engine.storage import Storage
from workbench.memory.block_table import Move, MoveKind

#: Device memory for staging, in bytes, either way. More pages than fit are moved in several pieces.
STAGING = 256 << 20
#: Steps after which a transfer's time is read. The step after one that brought pages in has waited for them anyway.
_READ_AFTER = {MoveKind.OUT: 4, MoveKind.IN: 1}
#: Smaller pages than this are moved by a kernel that reads and writes the host's memory; larger ones by copy engines.
_SMALL = 64 << 10


@dataclass
class _Pending:
    """A transfer on its way."""

    kind: MoveKind
    request: int
    bytes: int
    started: torch.cuda.Event
    ended: torch.cuda.Event
    steps_left: int


class _Ring:
    """A staging buffer in two halves: one is filled while the other is drained."""

    def __init__(self, rows: int, row_bytes: int, device: torch.device) -> None:
        self.rows = max(1, rows // 2)
        self._halves = [torch.empty(self.rows, row_bytes, dtype=torch.uint8, device=device) for _ in range(2)]
        self._drained = [torch.cuda.Event() for _ in range(2)]
        self._next = 0

    def take(self, stream: torch.cuda.Stream) -> tuple[Tensor, torch.cuda.Event]:
        """A half that may be filled by ``stream`` from here on, and the event to record when it has been drained."""
        half, drained = self._halves[self._next], self._drained[self._next]
        self._next = 1 - self._next
        stream.wait_event(drained)
        return half, drained


class _Numbers:
    """Lists of numbers on their way to the device, without waiting for it: pinned buffers, used in turn."""

    def __init__(self, device: torch.device, slots: int = 16) -> None:
        self._device = device
        self._buffers = [torch.zeros(256, dtype=torch.int64, pin_memory=True) for _ in range(slots)]
        self._read = [torch.cuda.Event() for _ in range(slots)]
        self._next = 0

    def upload(self, numbers: Sequence[int]) -> Tensor:
        """int64 ``[len(numbers)]``, on the current stream."""
        at, count = self._next, len(numbers)
        self._next = (at + 1) % len(self._buffers)
        self._read[at].synchronize()  # long past, with so many buffers
        if count > len(self._buffers[at]):
            self._buffers[at] = torch.zeros(1 << (count - 1).bit_length(), dtype=torch.int64, pin_memory=True)
        self._buffers[at].numpy()[:count] = numbers
        there = self._buffers[at][:count].to(self._device, non_blocking=True)
        self._read[at].record()
        return there


class GpuMover:
    """Carries out moves of pages. All pages of a row of the host tier lie in one piece."""

    def __init__(self, storage: Storage) -> None:
        self.addresses = CacheAddresses([tensor for pair in storage.caches for tensor in pair])
        self.host = storage.host
        self._device = self.addresses.device
        self.followers = Followers()
        self._side = torch.cuda.Stream(self._device)
        self._arrived: torch.cuda.Event | None = None
        self._pending: list[_Pending] = []
        self._ready: list[Transfer] = []
        self._rings: dict[MoveKind, _Ring] = {}
        self._numbers = _Numbers(self._device)

    def carry_out(self, moves: list[Move]) -> None:
        """Orders the moves. The current stream may then compute the step."""
        self._collect()
        if self._arrived is not None:
            torch.cuda.current_stream(self._device).wait_event(self._arrived)
            self._arrived = None
        while moves:
            batch = moves[:1]
            if moves[0].kind is MoveKind.COPY:
                batch = self._copies_from(moves)
                copy_blocks(self.addresses, self._upload([pair for move in batch for pair in move.pairs]))
            else:
                self._order(moves[0])
            for move in batch if self.followers else ():
                self.followers.move(move.kind, self._upload(move.pairs))
            # One by one: what was ordered must not be ordered again after an interruption.
            del moves[: len(batch)]

    @staticmethod
    def _copies_from(moves: list[Move]) -> list[Move]:
        """The first copies that may be made at the same time: none reads or writes what another one writes."""
        batch: list[Move] = []
        written: set[int] = set()
        read: set[int] = set()
        for move in moves:
            if move.kind is not MoveKind.COPY or any(s in written or d in written or d in read for s, d in move.pairs):
                break
            written.update(d for _, d in move.pairs)
            read.update(s for s, _ in move.pairs)
            batch.append(move)
        return batch

    def _upload(self, pairs: list[tuple[int, int]]) -> Tensor:
        """int64 ``[num_pairs, 2]``."""
        return self._numbers.upload([number for pair in pairs for number in pair]).view(-1, 2)

    def _order(self, move: Move) -> None:
        if self.host is None:
            raise RuntimeError("a page was to be swapped, but there is no host tier: this is a bug")
        compute = torch.cuda.current_stream(self._device)
        started = torch.cuda.Event(enable_timing=True)
        ended = torch.cuda.Event(enable_timing=True)
        if move.kind is MoveKind.IN:
            # The pages may have been read, or moved out, by what was launched before.
            self._side.wait_stream(compute)
        ring = self._ring(move.kind)
        with torch.cuda.stream(self._side):
            if move.kind is MoveKind.IN:
                started.record()
        for start in range(0, len(move.pairs), ring.rows):
            piece = move.pairs[start : start + ring.rows]
            if move.kind is MoveKind.OUT:
                self._move_out(piece, ring, compute, started if start == 0 else None)
            else:
                self._move_in(piece, ring)
        ended.record(self._side)
        if move.kind is MoveKind.IN:
            self._arrived = ended
        size = len(move.pairs) * self.addresses.row_bytes
        self._pending.append(_Pending(move.kind, move.request, size, started, ended, _READ_AFTER[move.kind]))

    def _ring(self, kind: MoveKind) -> _Ring:
        if kind not in self._rings:
            assert self.host is not None
            rows = max(2, min(len(self.host), STAGING // self.addresses.row_bytes))
            self._rings[kind] = _Ring(rows, self.addresses.row_bytes, self._device)
        return self._rings[kind]

    def _move_out(
        self, pairs: list[tuple[int, int]], ring: _Ring, compute: torch.cuda.Stream, started: torch.cuda.Event | None
    ) -> None:
        buffer, drained = ring.take(compute)
        gather_blocks(self.addresses, self._numbers.upload([page for page, _ in pairs]), buffer)
        self._side.wait_stream(compute)
        with torch.cuda.stream(self._side):
            if started is not None:
                started.record()
            self._cross(buffer, [row for _, row in pairs], to_host=True)
            drained.record()

    def _move_in(self, pairs: list[tuple[int, int]], ring: _Ring) -> None:
        with torch.cuda.stream(self._side):
            buffer, drained = ring.take(self._side)
            self._cross(buffer, [row for row, _ in pairs], to_host=False)
            scatter_blocks(buffer, self.addresses, self._numbers.upload([page for _, page in pairs]))
            drained.record()

    def _cross(self, buffer: Tensor, rows: list[int], to_host: bool) -> None:
        """Copies the first rows of a staging buffer to rows of the host tier, or back, on the current stream."""
        assert self.host is not None
        if self.addresses.row_bytes < _SMALL:
            whole = CacheAddresses([buffer])
            blocks = torch.arange(len(rows), dtype=torch.int64, device=self._device)
            index = self._numbers.upload(rows)
            if to_host:
                gather_blocks(whole, blocks, self.host, index)
            else:
                scatter_blocks(self.host, whole, blocks, index)
            return
        start = 0
        while start < len(rows):
            stop = start + 1
            while stop < len(rows) and rows[stop] == rows[stop - 1] + 1:
                stop += 1
            here, there = buffer[start:stop], self.host[rows[start] : rows[start] + stop - start]
            if to_host:
                there.copy_(here, non_blocking=True)
            else:
                here.copy_(there, non_blocking=True)
            start = stop

    def _collect(self) -> None:
        """Reads the times of what was ordered in earlier steps, if that is due; of what came before it, too."""
        for pending in self._pending:
            pending.steps_left -= 1
        due = max((i for i, pending in enumerate(self._pending, 1) if pending.steps_left <= 0), default=0)
        for pending in self._pending[:due]:
            pending.ended.synchronize()
            ns = round(pending.started.elapsed_time(pending.ended) * 1e6)
            self._ready.append(Transfer(pending.kind, pending.request, pending.bytes, ns))
        del self._pending[:due]

    def wait_for_host(self) -> None:
        torch.cuda.current_stream(self._device).wait_stream(self._side)

    def close(self) -> None:
        self._side.synchronize()
        self.host, self.followers, self._pending = None, Followers(), []
        self._rings.clear()
        del self.addresses

    def take_transfers(self) -> list[Transfer]:
        done, self._ready = self._ready, []
        return done

    def measure(self) -> int | None:
        if self.host is None or not len(self.host):
            return None
        flat = self.host.flatten()[: 16 << 20]
        target = torch.empty_like(flat, device=self._device)
        times = []
        for _ in range(3):
            started, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            started.record()
            target.copy_(flat, non_blocking=True)
            ended.record()
            ended.synchronize()
            times.append(started.elapsed_time(ended) * 1e6)
        return max(1, round(min(times) * (1 << 20) / len(flat)))
