"""Sequences larger than the device's pool: attention over pages on the device and on the host, put together.

Pages on the host are brought over layer by layer, some at a time, into a staging window; attention over each part is
merged by log-sum-exp. Exact, up to rounding, unless only the most promising pages are brought (``attention_pages``).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from paged_kernels.merge import merge_partial
from paged_kernels.page_bounds import choose_pages, score_bounds
from workbench.engine.reading.pages import Pages, rounded
from workbench.events.types import AnyEvent, BlocksStreamed, PageMassSampled
from workbench.memory.block_table import BlockTable
from workbench.models.paged_batch import Options


@dataclass
class Stream:
    """A sequence of the step with pages in the host tier. Per layer group:

    Attributes:
        start, stop: its tokens among the step's.
        num_tokens: of its context, the step's included.
        resident: logical indices of its pages on the device; blocks: these pages, as a table ``[1, num_pages]``.
        host: logical indices of those on the host; rows: these pages.
        tables: all of them.
    """

    sequence: int
    start: int
    stop: int
    num_tokens: int
    resident: list[Tensor]
    blocks: list[Tensor]
    host: list[Tensor]
    rows: list[Tensor]
    tables: list[BlockTable]
    pages_read: list[int] = field(default_factory=list)
    bytes_read: int = 0
    mass: list[Tensor] = field(default_factory=list)


class StreamReader:
    """Attends for sequences with pages in the host tier."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        k, v = pages.storage.caches[0]
        staged = min(pages.config.staging_blocks, max(1, pages.config.num_host_blocks))
        self._staging = k.new_zeros(staged, *k.shape[1:]), v.new_zeros(staged, *v.shape[1:])
        self._in_order = torch.arange(staged, dtype=torch.int32, device=k.device)[None]
        self._samples_mass = False
        self.streams: list[Stream] = []

    def begin(self, samples_mass: bool) -> None:
        """A new step; ``samples_mass``: it notes how much attention each page gets."""
        self.streams, self._samples_mass = [], samples_mass

    def add(self, sequence: int, start: int, stop: int, num_tokens: int, table: list[BlockTable]) -> None:
        """A sequence of the step, with its tokens' places among the step's."""
        used = -(-num_tokens // self._pages.block_size)
        resident = [[i for i in range(part.first, used) if part.blocks[i] >= 0] for part in table]
        on_device = [[part.blocks[i] for i in places] for part, places in zip(table, resident, strict=True)]
        host = [sorted(part.host) for part in table]
        rows = [[part.host[i] for i in places] for part, places in zip(table, host, strict=True)]
        self.streams.append(
            Stream(
                sequence,
                start,
                stop,
                num_tokens,
                [self._pages.tensor(numbers) for numbers in resident],
                [self._pages.tensor(numbers)[None] for numbers in on_device],
                [self._pages.tensor(numbers) for numbers in host],
                [self._pages.tensor(numbers) for numbers in rows],
                table,
            )
        )

    def attend(self, layer: int, group: int, q: Tensor, out: Tensor, options: Options) -> None:
        """Writes what these sequences get to their rows of ``out``; ``q``: of all tokens of the step."""
        for stream in self.streams:
            rows = slice(stream.start, stream.stop)
            if len(stream.rows[group]) and options.window is not None and options.window < stream.num_tokens:
                out[rows] = self._attend_window(stream, layer, group, q[rows], options, options.window)
            elif len(stream.rows[group]):
                out[rows] = self._attend_stream(stream, layer, group, q[rows], options)
            elif self._samples_mass and stream.stop - stream.start == 1:
                stream.mass.append(self._resident_mass(stream, layer, group, q[rows], options))

    def is_alone(self, group: int, num_tokens: int) -> bool:
        """Whether one of these sequences makes up the whole step, and needs the host's pages in this layer group."""
        first = self.streams[0] if len(self.streams) == 1 else None
        return first is not None and (first.start, first.stop) == (0, num_tokens) and len(first.rows[group]) > 0

    def _attend_stream(self, stream: Stream, layer: int, group: int, q: Tensor, options: Options) -> Tensor:
        """Attention over the pages on the device, and then over those on the host, a window at a time."""
        k_cache, v_cache = self._pages.caches[layer]
        block_size, count = self._pages.block_size, stream.stop - stream.start
        on_host = stream.rows[group].shape[0] * block_size
        length = stream.num_tokens - on_host
        partial, lse = self._pages.ops.attend(q, k_cache, v_cache, stream.blocks[group], length, 0, options)
        out = partial.float()
        rest = Options(options.scale, None, options.softcap, None)  # a sink belongs to one part
        rows, host = self._chosen_rows(stream, layer, group, q)
        k_stage, v_stage = self._staging
        window = len(k_stage)
        samples = self._samples_mass and count == 1
        masses: list[tuple[Tensor, Tensor, Tensor]] = []
        if samples:
            mass = self._pages.ops.mass(q, k_cache, stream.blocks[group], self._pages.number(length), lse, rest)
            masses.append((stream.resident[group], mass, lse))
        for start in range(0, len(rows), window):
            part = rows[start : start + window]
            self._stage(part, layer)
            table = self._in_order[:, : len(part)]
            keys = len(part) * block_size
            staged, staged_lse = self._pages.ops.attend(q, k_stage, v_stage, table, keys, count, rest)
            if samples:
                mass = self._pages.ops.mass(q, k_stage, table, self._pages.number(keys), staged_lse, rest)
                masses.append((host[start : start + window], mass, staged_lse))
            out, lse = merge_partial(out, lse, staged, staged_lse)
        stream.pages_read.append(len(rows))
        stream.bytes_read += len(rows) * block_size * _bytes_per_token(k_cache, v_cache)
        if samples:
            stream.mass.append(self._whole_mass(stream, masses, lse))
        return out.to(q.dtype)

    def _attend_window(
        self, stream: Stream, layer: int, group: int, q: Tensor, options: Options, window: int
    ) -> Tensor:
        """Attention of a layer that sees only the end of the text: its pages, of both tiers, in their order."""
        k_cache, v_cache = self._pages.caches[layer]
        block_size, count, table = self._pages.block_size, q.shape[0], stream.tables[group]
        first, stop = max(0, stream.num_tokens - count - window + 1) // block_size, -(-stream.num_tokens // block_size)
        there = [i for i in range(first, stop) if i in table.host]
        here = [i for i in range(first, stop) if i not in table.host]
        blocks = self._pages.tensor([table.blocks[i] for i in here])
        k_pages, v_pages, order = k_cache, v_cache, blocks[None]
        if there:
            k_pages, v_pages = (cache.new_empty(stop - first, *cache.shape[1:]) for cache in (k_cache, v_cache))
            order = torch.arange(stop - first, dtype=torch.int32, device=q.device)[None]
            places = self._pages.tensor([i - first for i in here]).long()
            k_pages[places], v_pages[places] = k_cache[blocks.long()], v_cache[blocks.long()]
            for start in range(0, len(there), len(self._staging[0])):
                part = there[start : start + len(self._staging[0])]
                self._stage(self._pages.tensor([table.host[i] for i in part]), layer)
                places = self._pages.tensor([i - first for i in part]).long()
                k_pages[places], v_pages[places] = (pages[: len(part)] for pages in self._staging)
        length = stream.num_tokens - first * block_size
        out, lse = self._pages.ops.attend(q, k_pages, v_pages, order, length, 0, options)
        stream.pages_read.append(len(there))
        stream.bytes_read += len(there) * block_size * _bytes_per_token(k_cache, v_cache)
        if self._samples_mass and count == 1:
            mass = self._pages.ops.mass(q, k_pages, order, self._pages.number(length), lse, options)
            indices = torch.arange(first, stop, device=q.device)
            stream.mass.append(self._whole_mass(stream, [(indices, mass, lse)], lse))
        return out

    def _stage(self, rows: Tensor, layer: int) -> None:
        """Brings pages of a layer from the host to the staging window."""
        assert self._pages.storage.host is not None
        self._pages.ops.stage(self._pages.storage.host, rows, self._offset(layer), self._staging)

    def _offset(self, layer: int) -> int:
        """Where a layer's keys begin in a row of the host tier, in bytes; its values follow them."""
        before = self._pages.storage.caches[: self._pages.storage.groups.place_of[layer]]
        return sum(pages[0].numel() * pages.element_size() for pair in before for pages in pair)

    def _chosen_rows(self, stream: Stream, layer: int, group: int, q: Tensor) -> tuple[Tensor, Tensor]:
        """Host pages to be read, and their logical indices: all, or with ``attention_pages`` the most promising.

        The pages on the device are there anyway and always read, so what is chosen is for the rest of the number.
        """
        rows, host = stream.rows[group], stream.host[group]
        top = self._pages.config.attention_pages
        if top is None or len(q) > 1:
            return rows, host
        room = max(1, top - stream.resident[group].shape[0])
        if len(rows) <= room:
            return rows, host
        lo, hi = self._pages.host_bounds[layer]
        length = self._pages.number(len(rows) * self._pages.block_size)
        scores = score_bounds(q, lo, hi, rows[None], length, self._pages.block_size)
        chosen = choose_pages(
            scores, length, self._pages.block_size, room, num_kv_heads=lo.shape[1], per_head=False, first=1, recent=0
        )[0]
        return rows[chosen], host[chosen]

    def _resident_mass(self, stream: Stream, layer: int, group: int, q: Tensor, options: Options) -> Tensor:
        """Mass per logical page in a layer group whose pages are all on the device, though others' are not."""
        k_cache, v_cache = self._pages.caches[layer]
        gone = -(-stream.num_tokens // self._pages.block_size) - stream.resident[group].shape[0]
        table, length = stream.blocks[group], self._pages.tensor([stream.num_tokens - gone * self._pages.block_size])
        _, lse = self._pages.ops.decode(q, k_cache, v_cache, table, length, options)
        mass = self._pages.ops.mass(q, k_cache, table, length, lse, options)
        return self._whole_mass(stream, [(stream.resident[group], mass, lse)], lse)

    def _whole_mass(self, stream: Stream, masses: list[tuple[Tensor, Tensor, Tensor]], lse: Tensor) -> Tensor:
        """Mass per logical page. A part's weights add up to 1; its log-sum-exp says what share of the whole it is."""
        whole = torch.zeros(-(-stream.num_tokens // self._pages.block_size), device=lse.device)
        for places, mass, part_lse in masses:
            share = torch.exp(part_lse - lse)[0]
            whole[places.long()] = (mass[0] * share[:, None]).mean(dim=0)
        return whole

    def tell(self) -> list[AnyEvent]:
        """What the step read."""
        events: list[AnyEvent] = []
        for stream in self.streams:
            if stream.pages_read:
                pages = sum(stream.pages_read) / len(stream.pages_read)
                held = max(len(rows) for rows in stream.rows)
                events.append(BlocksStreamed(stream.sequence, round(pages, 2), held, stream.bytes_read))
            if stream.mass:
                mass = torch.stack(stream.mass).mean(dim=0).tolist()
                events.append(PageMassSampled(stream.sequence, stream.num_tokens - 1, rounded(mass)))
        return events


def _bytes_per_token(k: Tensor, v: Tensor) -> int:
    return k.shape[2] * (k.shape[3] * k.element_size() + v.shape[3] * v.element_size())
