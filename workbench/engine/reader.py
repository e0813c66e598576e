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
from paged_kernels.page_bounds import choose_pages, chosen_tables, new_bounds, score_bounds, update_bounds
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

    def decode(
        self, q: Tensor, k_pages: Tensor, v_pages: Tensor, tables: Tensor, lengths: Tensor, options: Options
    ) -> tuple[Tensor, Tensor]:
        """Attention of one query per sequence ``[num_seqs, num_heads, head_dim]``, and its log-sum-exp."""

    def mass(
        self, q: Tensor, k_pages: Tensor, tables: Tensor, lengths: Tensor, lse: Tensor, options: Options
    ) -> Tensor:
        """The weights of `decode`, summed over pages: ``[num_seqs, num_heads, num_pages]``."""

    def stage(self, host: Tensor, rows: Tensor, offset: int, pages: tuple[Tensor, Tensor]) -> None:
        """Brings rows of the host tier (int32, on the device), from a byte on, to the first of ``pages``."""


@dataclass
class _Stream:
    """A sequence of the step with pages in the host tier. Per layer group:

    Attributes:
        start, stop: its tokens among the step's.
        num_tokens: of its context, the step's included.
        resident: logical indices of its pages on the device; blocks: these pages, as a table ``[1, num_pages]``.
        host: logical indices of those on the host; rows: these pages.
    """

    sequence: int
    start: int
    stop: int
    num_tokens: int
    resident: list[Tensor]
    blocks: list[Tensor]
    host: list[Tensor]
    rows: list[Tensor]
    pages_read: list[int] = field(default_factory=list)
    bytes_read: int = 0
    mass: list[Tensor] = field(default_factory=list)


@dataclass
class _Decodes:
    """The sequences that decode, all their pages on the device, in a step in which these are looked at.

    Attributes:
        rows: their places among the step's tokens; lengths: int32 ``[num_seqs]``, of their contexts.
        num_pages: of each; tables: per layer group, int32 ``[num_seqs, max_pages]``.
        mass, covered, distance: per layer, and per sequence in the first dimension.
    """

    sequences: list[int]
    rows: Tensor
    num_tokens: list[int]
    lengths: Tensor
    num_pages: list[int]
    tables: list[Tensor]
    mass: list[Tensor] = field(default_factory=list)
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
        self._in_order = torch.arange(staged, dtype=torch.int32, device=k.device)[None]
        self._streams: list[_Stream] = []
        self._decodes: _Decodes | None = None
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
        self._streams, self._decodes, self._slots = [], None, slots
        self._samples_mass = plan.samples_mass
        selects = self._config.attention_pages is not None
        looked_at: list[int] = []
        start = 0
        for index, (chunk, table, (first, stop)) in enumerate(zip(plan.chunks, tables, spans, strict=True)):
            count = stop - first
            if any(part.host for part in table):
                self._streams.append(self._stream(chunk.sequence.sequence, start, start + count, stop, table))
            elif index < len(plan.decodes) and (selects or plan.samples_mass):
                looked_at.append(index)
            start += count
        if looked_at:
            self._decodes = self._look(plan, looked_at, tables, spans)
        return bool(self._streams or looked_at or selects)

    @property
    def _block_size(self) -> int:
        return self._storage.caches[0][0].shape[1]

    def _tensor(self, numbers: list[int] | list[list[int]]) -> Tensor:
        """Numbers on the device, int32, for which the host does not wait."""
        device = self._storage.caches[0][0].device
        tensor = torch.tensor(numbers, dtype=torch.int32)
        return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)

    def _number(self, value: int) -> Tensor:
        """One number on the device. (Pinned memory for each would take far longer than what it is for.)"""
        return torch.full((1,), value, dtype=torch.int32, device=self._storage.caches[0][0].device)

    def _stream(self, sequence: int, start: int, stop: int, num_tokens: int, table: list[BlockTable]) -> _Stream:
        used = -(-num_tokens // self._block_size)
        resident = [[i for i in range(part.first, used) if part.blocks[i] >= 0] for part in table]
        on_device = [[part.blocks[i] for i in places] for part, places in zip(table, resident, strict=True)]
        host = [sorted(part.host) for part in table]
        rows = [[part.host[i] for i in places] for part, places in zip(table, host, strict=True)]
        return _Stream(
            sequence,
            start,
            stop,
            num_tokens,
            [self._tensor(numbers) for numbers in resident],
            [self._tensor(numbers)[None] for numbers in on_device],
            [self._tensor(numbers) for numbers in host],
            [self._tensor(numbers) for numbers in rows],
        )

    def _look(
        self, plan: StepPlan, indices: list[int], tables: list[list[BlockTable]], spans: list[tuple[int, int]]
    ) -> _Decodes:
        lengths = [spans[i][1] for i in indices]
        pages = [-(-length // self._block_size) for length in lengths]
        widest = max(pages)
        padded: list[Tensor] = []
        for group in range(len(tables[0])):
            blocks = [tables[i][group].blocks[:used] for i, used in zip(indices, pages, strict=True)]
            padded.append(self._tensor([[max(0, b) for b in row] + [0] * (widest - len(row)) for row in blocks]))
        sequences = [plan.decodes[i].sequence.sequence for i in indices]
        return _Decodes(sequences, self._tensor(indices), lengths, self._tensor(lengths), pages, padded)

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
        streams = [stream for stream in self._streams if len(stream.rows[group])]
        alone = len(streams) == 1 and streams[0].start == 0 and streams[0].stop == q.shape[0]
        v_dim = self._caches[layer][1].shape[3]
        out = q.new_empty(*q.shape[:2], v_dim) if alone else attend_plainly()
        for stream in streams:
            rows = slice(stream.start, stream.stop)
            out[rows] = self._attend_stream(stream, layer, group, q[rows], options)
        for stream in self._streams if self._samples_mass else []:
            if not len(stream.rows[group]) and stream.stop - stream.start == 1:
                stream.mass.append(self._resident_mass(stream, layer, group, q[stream.start : stream.stop], options))
        if self._decodes is not None:
            self._look_at(self._decodes, layer, group, q, out, options)
        return out

    # -- larger than the device ------------------------------------------------------------------------------------

    def _attend_stream(self, stream: _Stream, layer: int, group: int, q: Tensor, options: Options) -> Tensor:
        """Attention over the pages on the device, and then over those on the host, a window at a time."""
        k_cache, v_cache = self._caches[layer]
        block_size, count = self._block_size, stream.stop - stream.start
        on_host = stream.rows[group].shape[0] * block_size
        length = stream.num_tokens - on_host
        partial, lse = self._ops.attend(q, k_cache, v_cache, stream.blocks[group], length, 0, options)
        out = partial.float()
        rest = Options(options.scale, None, options.softcap, None)  # a sink belongs to one part
        assert self._storage.host is not None
        rows, host = self._chosen_rows(stream, layer, group, q)
        k_stage, v_stage = self._staging
        window = len(k_stage)
        samples = self._samples_mass and count == 1
        masses: list[tuple[Tensor, Tensor, Tensor]] = []
        if samples:
            mass = self._ops.mass(q, k_cache, stream.blocks[group], self._number(length), lse, rest)
            masses.append((stream.resident[group], mass, lse))
        for start in range(0, len(rows), window):
            part = rows[start : start + window]
            self._ops.stage(self._storage.host, part, self._offset(layer), self._staging)
            table = self._in_order[:, : len(part)]
            keys = len(part) * block_size
            staged, staged_lse = self._ops.attend(q, k_stage, v_stage, table, keys, count, rest)
            if samples:
                mass = self._ops.mass(q, k_stage, table, self._number(keys), staged_lse, rest)
                masses.append((host[start : start + window], mass, staged_lse))
            out, lse = merge_partial(out, lse, staged, staged_lse)
        stream.pages_read.append(len(rows))
        stream.bytes_read += len(rows) * block_size * _bytes_per_token(k_cache, v_cache)
        if samples:
            stream.mass.append(self._whole_mass(stream, masses, lse))
        return out.to(q.dtype)

    def _offset(self, layer: int) -> int:
        """Where a layer's keys begin in a row of the host tier, in bytes; its values follow them."""
        before = self._storage.caches[: self._storage.groups.place_of[layer]]
        return sum(pages[0].numel() * pages.element_size() for pair in before for pages in pair)

    def _chosen_rows(self, stream: _Stream, layer: int, group: int, q: Tensor) -> tuple[Tensor, Tensor]:
        """Host pages to be read, and their logical indices: all, or with ``attention_pages`` the most promising.

        The pages on the device are there anyway and always read, so what is chosen is for the rest of the number.
        """
        rows, host = stream.rows[group], stream.host[group]
        top = self._config.attention_pages
        if top is None or len(q) > 1:
            return rows, host
        room = max(1, top - stream.resident[group].shape[0])
        if len(rows) <= room:
            return rows, host
        lo, hi = self.host_bounds[layer]
        length = self._number(len(rows) * self._block_size)
        scores = score_bounds(q, lo, hi, rows[None], length, self._block_size)
        chosen = choose_pages(
            scores, length, self._block_size, room, num_kv_heads=lo.shape[1], per_head=False, first=1, recent=0
        )[0]
        return rows[chosen], host[chosen]

    def _resident_mass(self, stream: _Stream, layer: int, group: int, q: Tensor, options: Options) -> Tensor:
        """Mass per logical page in a layer group whose pages are all on the device, though others' are not."""
        k_cache, v_cache = self._caches[layer]
        gone = -(-stream.num_tokens // self._block_size) - stream.resident[group].shape[0]
        table, length = stream.blocks[group], self._tensor([stream.num_tokens - gone * self._block_size])
        _, lse = self._ops.decode(q, k_cache, v_cache, table, length, options)
        mass = self._ops.mass(q, k_cache, table, length, lse, options)
        return self._whole_mass(stream, [(stream.resident[group], mass, lse)], lse)

    def _whole_mass(self, stream: _Stream, masses: list[tuple[Tensor, Tensor, Tensor]], lse: Tensor) -> Tensor:
        """Mass per logical page. A part's weights add up to 1; its log-sum-exp says what share of the whole it is."""
        whole = torch.zeros(-(-stream.num_tokens // self._block_size), device=lse.device)
        for places, mass, part_lse in masses:
            share = torch.exp(part_lse - lse)[0]
            whole[places.long()] = (mass[0] * share[:, None]).mean(dim=0)
        return whole

    # -- looking at decodes ----------------------------------------------------------------------------------------

    def _look_at(self, decodes: _Decodes, layer: int, group: int, q: Tensor, out: Tensor, options: Options) -> None:
        """Samples the mass of pages, and attends to the chosen ones instead of all."""
        k_cache, v_cache = self._caches[layer]
        tables, lengths, rows = decodes.tables[group], decodes.lengths, decodes.rows.long()
        queries = q[rows]
        top = self._config.attention_pages
        selects = top is not None and options.window is None and max(decodes.num_pages) > top
        measures = selects and self._config.measure_selection
        mass: Tensor | None = None
        if self._samples_mass or measures:
            _, lse = self._ops.decode(queries, k_cache, v_cache, tables, lengths, options)
            mass = self._ops.mass(queries, k_cache, tables, lengths, lse, options)
            if self._samples_mass:
                decodes.mass.append(mass.mean(dim=1))
        if not selects or top is None:
            return
        lo, hi = self.bounds[layer]
        scores = score_bounds(queries, lo, hi, tables, lengths, self._block_size)
        chosen = choose_pages(scores, lengths, self._block_size, top, num_kv_heads=lo.shape[1])
        selected = self._attend_chosen(queries, layer, tables, lengths, chosen, options)
        if measures and mass is not None:
            heads = lo.shape[1]
            per_head = mass.unflatten(1, (heads, -1))
            index = chosen.clamp(min=0)[:, :, None].expand(-1, -1, per_head.shape[2], -1)
            read = (per_head.gather(3, index) * (chosen >= 0)[:, :, None]).sum(dim=3)
            decodes.covered.append((read / per_head.sum(dim=3)).mean(dim=(1, 2)))
            exact = out[rows].float().flatten(1)
            decodes.distance.append((selected.float().flatten(1) - exact).norm(dim=1) / exact.norm(dim=1))
        out[rows] = selected

    def _attend_chosen(
        self, q: Tensor, layer: int, tables: Tensor, lengths: Tensor, chosen: Tensor, options: Options
    ) -> Tensor:
        """Each KV head reads its own choice of pages (``chosen``: ``[num_seqs, num_kv_heads, top_k]``, ascending)."""
        k_cache, v_cache = self._caches[layer]
        heads = chosen.shape[1]
        group = q.shape[1] // heads
        parts = []
        for head in range(heads):
            mine = slice(head * group, (head + 1) * group)
            sinks = options.sinks[mine] if options.sinks is not None else None
            head_tables, head_lengths = chosen_tables(chosen[:, head], tables, lengths, self._block_size)
            part, _ = self._ops.decode(
                q[:, mine],
                k_cache[:, :, head : head + 1],
                v_cache[:, :, head : head + 1],
                head_tables,
                head_lengths,
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
            if stream.mass:
                mass = torch.stack(stream.mass).mean(dim=0).tolist()
                events.append(PageMassSampled(stream.sequence, stream.num_tokens - 1, _rounded(mass)))
        if self._decodes is not None:
            events += self._tell(self._decodes)
        self._streams, self._decodes = [], None
        return events

    def _tell(self, decodes: _Decodes) -> list[AnyEvent]:
        events: list[AnyEvent] = []
        masses = torch.stack(decodes.mass).mean(dim=0).tolist() if decodes.mass else []
        covered = torch.stack(decodes.covered).mean(dim=0).tolist() if decodes.covered else []
        distance = torch.stack(decodes.distance).mean(dim=0).tolist() if decodes.distance else []
        top = self._config.attention_pages or 0
        for index, (sequence, tokens, pages) in enumerate(
            zip(decodes.sequences, decodes.num_tokens, decodes.num_pages, strict=True)
        ):
            if masses:
                events.append(PageMassSampled(sequence, tokens - 1, _rounded(masses[index][:pages])))
            if covered and pages > top:
                shares = round(covered[index], 4), round(distance[index], 4)
                events.append(SelectionMeasured(sequence, tokens - 1, float(top), pages, *shares))
        return events


def _rounded(shares: list[float]) -> list[float]:
    return [round(share, 4) for share in shares]


def _bytes_per_token(k: Tensor, v: Tensor) -> int:
    return k.shape[2] * (k.shape[3] * k.element_size() + v.shape[3] * v.element_size())
