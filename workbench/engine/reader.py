"""Steps that do more than read all pages of the device.

Three things ask for it, alone or together:

- a sequence that is larger than the device's pool: its pages in the host tier are brought over layer by layer, some at
  a time, into a staging window; attention over each part is merged by log-sum-exp. Exact, up to rounding;
- *selective* attention: of a context, only the pages with the highest upper bound of their scores are read (Quest, Tang
  et al., ICML 2024), always with the first and the most recent one. Not exact; how far off it is can be measured;
- sampling how much attention every page gets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from paged_kernels.merge import merge_partial
from paged_kernels.page_bounds import choose_pages, new_bounds, score_bounds, update_bounds
from workbench.engine.config import EngineConfig
from workbench.engine.plan import StepPlan
from workbench.engine.storage import Storage
from workbench.events.types import AnyEvent, BlocksStreamed, PageMassSampled, SelectionMeasured
from workbench.memory.block_table import BlockTable
from workbench.models.paged_batch import Options


def needs_reader(config: EngineConfig) -> bool:
    """Whether an engine may have steps that ask for it."""
    selects = config.attention_pages is not None
    return selects or config.page_mass_every > 0 or config.num_host_blocks > 0


class PageOps(Protocol):
    """What the reader needs of a device. Pages: ``[num_pages, block_size, num_kv_heads, head_dim]``."""

    def attend(
        self, q: Tensor, k_pages: Tensor, v_pages: Tensor, table: Tensor, length: int, behind: int, options: Options
    ) -> tuple[Tensor, Tensor]:
        """Attention of one sequence's queries ``[num_queries, num_heads, head_dim]`` over ``length`` keys.

        The last query is at ``length - 1 + behind``. Returns the output, and ``[num_queries, num_heads]`` the
        log-sum-exp.
        """

    def mass(self, q: Tensor, k_pages: Tensor, table: Tensor, length: int, lse: Tensor, options: Options) -> Tensor:
        """Weights of one query ``[1, num_heads, head_dim]``, summed over pages: ``[num_heads, num_pages]``."""

    def stage(self, host: Tensor, rows: list[int], offset: int, pages: tuple[Tensor, Tensor]) -> None:
        """Brings rows of the host tier, from a byte on, to the first of ``pages``."""


@dataclass
class _Stream:
    """A sequence of the step with pages in the host tier.

    Attributes:
        start, stop: its tokens among the step's.
        resident, host: by layer group, the logical indices of its pages on the device, and on the host.
        blocks: by layer group, the device pages, as a table ``[1, num_pages]``; rows: the host pages.
        num_tokens: of its context, the step's included.
    """

    sequence: int
    start: int
    stop: int
    num_tokens: int
    resident: list[list[int]]
    blocks: list[Tensor]
    host: list[list[int]]
    rows: list[list[int]]
    pages_read: list[float] = field(default_factory=list)
    bytes_read: int = 0


@dataclass
class _Decode:
    """A sequence that decodes in a step in which mass is sampled or pages are chosen."""

    sequence: int
    row: int
    num_tokens: int
    tables: list[Tensor]
    mass: list[Tensor] = field(default_factory=list)
    pages_read: list[float] = field(default_factory=list)
    covered: list[Tensor] = field(default_factory=list)
    distance: list[Tensor] = field(default_factory=list)


class PageReader:
    """Stands between a layer's attention and its pages, in steps that ask for it.

    Args:
        group_of: per layer, its layer group.
        ops: the device's functions.
    """

    def __init__(self, config: EngineConfig, storage: Storage, group_of: Sequence[int], ops: PageOps) -> None:
        self._config = config
        self._storage = storage
        self._group_of = group_of
        self._ops = ops
        self._caches = storage.by_layer
        k, v = storage.caches[0]
        staged = min(config.staging_blocks, max(1, config.num_host_blocks))
        self._staging = k.new_zeros(staged, *k.shape[1:]), v.new_zeros(staged, *v.shape[1:])
        self._streams: list[_Stream] = []
        self._decodes: list[_Decode] = []
        self._slots: list[Tensor] = []
        self._samples_mass = False
        #: per layer, smallest and largest keys of every page: of the device's, and of the host's
        self.bounds: list[tuple[Tensor, Tensor]] = []
        self.host_bounds: list[tuple[Tensor, Tensor]] = []
        if config.attention_pages is not None:
            for layer_k, _ in self._caches:
                shape = layer_k.shape[2], layer_k.shape[3]
                self.bounds.append(new_bounds(layer_k.shape[0], *shape, device=layer_k.device))
                self.host_bounds.append(new_bounds(max(1, config.num_host_blocks), *shape, device=layer_k.device))

    # -- a step ----------------------------------------------------------------------------------------------------

    def begin(
        self, plan: StepPlan, tables: list[list[BlockTable]], spans: list[tuple[int, int]], slots: list[Tensor]
    ) -> bool:
        """Looks at a step; False if there is nothing to do but to read all pages of the device.

        Args:
            tables: per chunk, its sequence's block tables; ``spans``: first position, and position after the last.
            slots: per layer group, int64 ``[num_tokens]``.
        """
        self._streams, self._decodes, self._slots = [], [], slots
        self._samples_mass = plan.samples_mass
        selects = self._config.attention_pages is not None
        start = 0
        for index, (chunk, table, (first, stop)) in enumerate(zip(plan.chunks, tables, spans, strict=True)):
            count = stop - first
            if any(part.host for part in table):
                self._streams.append(self._stream(chunk.sequence.sequence, start, start + count, stop, table))
            elif index < len(plan.decodes) and (selects or plan.samples_mass):
                used = -(-stop // self._block_size)
                blocks = [self._tensor([max(0, b) for b in part.blocks[:used]])[None] for part in table]
                self._decodes.append(_Decode(chunk.sequence.sequence, start, stop, blocks))
            start += count
        return bool(self._streams or self._decodes or selects)

    @property
    def _block_size(self) -> int:
        return self._storage.caches[0][0].shape[1]

    def _tensor(self, numbers: list[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int32, device=self._storage.caches[0][0].device)

    def _stream(self, sequence: int, start: int, stop: int, num_tokens: int, table: list[BlockTable]) -> _Stream:
        used = -(-num_tokens // self._block_size)
        resident = [[i for i in range(part.first, used) if part.blocks[i] >= 0] for part in table]
        blocks = [
            self._tensor([part.blocks[i] for i in places])[None] for part, places in zip(table, resident, strict=True)
        ]
        host = [sorted(part.host) for part in table]
        rows = [[part.host[i] for i in places] for part, places in zip(table, host, strict=True)]
        return _Stream(sequence, start, stop, num_tokens, resident, blocks, host, rows)

    def attend(
        self, layer: int, q: Tensor, k: Tensor, attend_plainly: Callable[[], Tensor], options: Options
    ) -> Tensor:
        """One layer's attention ``[num_tokens, num_heads, value_head_dim]``; K and V of the step are stored already.

        Args:
            q: ``[num_tokens, num_heads, head_dim]``; ``k``: ``[num_tokens, num_kv_heads, head_dim]``.
            attend_plainly: reads all pages on the device, of all sequences.
        """
        group = self._group_of[layer]
        if self.bounds:
            update_bounds(k, self._slots[group], *self.bounds[layer], self._block_size)
        streams = [stream for stream in self._streams if stream.rows[group]]
        alone = len(streams) == 1 and streams[0].start == 0 and streams[0].stop == q.shape[0]
        v_dim = self._caches[layer][1].shape[3]
        out = q.new_empty(*q.shape[:2], v_dim) if alone else attend_plainly()
        for stream in streams:
            rows = slice(stream.start, stream.stop)
            out[rows] = self._attend_stream(stream, layer, group, q[rows], options)
        for decode in self._decodes:
            self._look_at(decode, layer, group, q, out, options)
        return out

    # -- larger than the device ------------------------------------------------------------------------------------

    def _attend_stream(self, stream: _Stream, layer: int, group: int, q: Tensor, options: Options) -> Tensor:
        """Attention over the pages on the device, and then over those on the host, a window at a time."""
        k_cache, v_cache = self._caches[layer]
        block_size, count = self._block_size, stream.stop - stream.start
        places = stream.resident[group]
        last = stream.num_tokens - (len(places) - 1 + len(stream.host[group])) * block_size
        length = (len(places) - 1) * block_size + last
        partial, lse = self._ops.attend(q, k_cache, v_cache, stream.blocks[group], length, 0, options)
        out = partial.float()
        rest = Options(options.scale, None, options.softcap, None)  # a sink belongs to one part
        assert self._storage.host is not None
        rows, host = self._chosen_rows(stream, layer, group, q)
        k_stage, v_stage = self._staging
        window = len(k_stage)
        masses: list[tuple[list[int], Tensor, Tensor]] = []
        if self._samples_mass and count == 1:
            masses.append((places, self._ops.mass(q, k_cache, stream.blocks[group], length, lse, rest), lse))
        for start in range(0, len(rows), window):
            part = rows[start : start + window]
            self._ops.stage(self._storage.host, part, self._offset(layer), self._staging)
            table = torch.arange(len(part), dtype=torch.int32, device=q.device)[None]
            keys = len(part) * block_size
            staged, staged_lse = self._ops.attend(q, k_stage, v_stage, table, keys, count, rest)
            if self._samples_mass and count == 1:
                mass = self._ops.mass(q, k_stage, table, keys, staged_lse, rest)
                masses.append((host[start : start + window], mass, staged_lse))
            out, lse = merge_partial(out, lse, staged, staged_lse)
        stream.pages_read.append(len(rows))
        stream.bytes_read += len(rows) * block_size * _bytes_per_token(k_cache, v_cache)
        if masses:
            self._note_stream_mass(stream, masses, lse)
        return out.to(q.dtype)

    def _offset(self, layer: int) -> int:
        """Where a layer's keys begin in a row of the host tier, in bytes; its values follow them."""
        before = self._storage.caches[: self._storage.groups.place_of[layer]]
        return sum(pages[0].numel() * pages.element_size() for pair in before for pages in pair)

    def _chosen_rows(self, stream: _Stream, layer: int, group: int, q: Tensor) -> tuple[list[int], list[int]]:
        """Host pages to be read, and their logical indices: all, or with ``attention_pages`` the most promising.

        The pages on the device are there anyway and always read, so what is chosen is for the rest of the number.
        """
        rows, host = stream.rows[group], stream.host[group]
        top = self._config.attention_pages
        if top is None or len(q) > 1:
            return rows, host
        room = max(1, top - len(stream.resident[group]))
        if len(rows) <= room:
            return rows, host
        lo, hi = self.host_bounds[layer]
        length = torch.tensor([len(rows) * self._block_size], device=q.device)
        scores = score_bounds(q, lo, hi, self._tensor(rows)[None], length, self._block_size)
        first = int(host[0] == 0 and room > 1)
        chosen = choose_pages(
            scores, length, self._block_size, room, num_kv_heads=lo.shape[1], per_head=False, first=first, recent=0
        )[0].tolist()
        return [rows[i] for i in chosen if i >= 0], [host[i] for i in chosen if i >= 0]

    def _note_stream_mass(self, stream: _Stream, masses: list[tuple[list[int], Tensor, Tensor]], lse: Tensor) -> None:
        """Every part's weights add up to 1; what a part has of the whole, its log-sum-exp says."""
        pages = -(-stream.num_tokens // self._block_size)
        whole = torch.zeros(pages, device=lse.device)
        for places, mass, part_lse in masses:
            share = torch.exp(part_lse - lse)[0]
            whole[self._tensor(places).long()] = (mass[:, : len(places)] * share[:, None]).mean(dim=0)
        decode = next((d for d in self._decodes if d.sequence == stream.sequence), None)
        if decode is None:
            decode = _Decode(stream.sequence, -1, stream.num_tokens, [])
            self._decodes.append(decode)
        decode.mass.append(whole)

    # -- looking at decodes ----------------------------------------------------------------------------------------

    def _look_at(self, decode: _Decode, layer: int, group: int, q: Tensor, out: Tensor, options: Options) -> None:
        """Samples the mass of one sequence's pages, and attends to the chosen ones instead of all."""
        if decode.row < 0:  # in the host tier: done there
            return
        row = slice(decode.row, decode.row + 1)
        k_cache, v_cache = self._caches[layer]
        table, length = decode.tables[group], decode.num_tokens
        top = self._config.attention_pages
        selects = top is not None and options.window is None and table.shape[1] > top
        mass: Tensor | None = None
        if self._samples_mass or (selects and self._config.measure_selection):
            _, lse = self._ops.attend(q[row], k_cache, v_cache, table, length, 0, options)
            mass = self._ops.mass(q[row], k_cache, table, length, lse, options)
            if self._samples_mass:
                decode.mass.append(mass.mean(dim=0))
        if not selects or top is None:
            return
        lo, hi = self.bounds[layer]
        lengths = torch.tensor([length], device=q.device)
        scores = score_bounds(q[row], lo, hi, table, lengths, self._block_size)
        heads = lo.shape[1]
        chosen = choose_pages(scores, lengths, self._block_size, top, num_kv_heads=heads)[0]
        selected = self._attend_chosen(q[row], k_cache, v_cache, table[0], chosen, length, options)
        decode.pages_read.append(float(top))
        if mass is not None and self._config.measure_selection:
            per_head = mass.view(heads, -1, mass.shape[1])
            covered = per_head.gather(2, chosen[:, None].expand(-1, per_head.shape[1], -1)).sum(dim=2)
            decode.covered.append((covered / per_head.sum(dim=2)).mean())
            exact = out[row].float()
            decode.distance.append((selected.float() - exact).norm() / exact.norm())
        out[row] = selected

    def _attend_chosen(
        self, q: Tensor, k_cache: Tensor, v_cache: Tensor, table: Tensor, chosen: Tensor, length: int, options: Options
    ) -> Tensor:
        """Each KV head reads its own choice of pages (``chosen``: ``[num_kv_heads, top_k]``, ascending)."""
        heads, top = chosen.shape
        group = q.shape[1] // heads
        left_out = table.shape[0] - top
        blocks = table[chosen.flatten()].view(heads, top)
        parts = []
        for head in range(heads):
            mine = slice(head * group, (head + 1) * group)
            sinks = options.sinks[mine] if options.sinks is not None else None
            part, _ = self._ops.attend(
                q[:, mine],
                k_cache[:, :, head : head + 1],
                v_cache[:, :, head : head + 1],
                blocks[head][None],
                length - left_out * self._block_size,
                0,
                Options(options.scale, None, options.softcap, sinks),
            )
            parts.append(part)
        return torch.cat(parts, dim=1)

    # -- telling ---------------------------------------------------------------------------------------------------

    def take_readings(self) -> list[AnyEvent]:
        """What the last step showed, as events."""
        events: list[AnyEvent] = []
        for stream in self._streams:
            if stream.pages_read:
                pages = sum(stream.pages_read) / len(stream.pages_read)
                held = max(len(rows) for rows in stream.rows)
                events.append(BlocksStreamed(stream.sequence, round(pages, 2), held, stream.bytes_read))
        for decode in self._decodes:
            query = decode.num_tokens - 1
            if decode.mass:
                mass = torch.stack(decode.mass).mean(dim=0).tolist()
                events.append(PageMassSampled(decode.sequence, query, [round(share, 4) for share in mass]))
            if decode.covered:
                pages = -(-decode.num_tokens // self._block_size)
                read = sum(decode.pages_read) / len(decode.pages_read)
                covered = torch.stack(decode.covered).mean().item()
                distance = torch.stack(decode.distance).mean().item()
                events.append(
                    SelectionMeasured(decode.sequence, query, read, pages, round(covered, 4), round(distance, 4))
                )
        self._streams, self._decodes = [], []
        return events


def _bytes_per_token(k: Tensor, v: Tensor) -> int:
    return k.shape[2] * (k.shape[3] * k.element_size() + v.shape[3] * v.element_size())
