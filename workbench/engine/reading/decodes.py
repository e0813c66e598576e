"""Decodes that are looked at: how much attention each page gets, and reading only the most promising pages.

Pages are chosen by an upper bound of their scores (Quest, Tang et al., ICML 2024), always with the first and the most
recent one. That is not exact; how far off it is can be measured.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from paged_kernels.page_bounds import choose_pages, chosen_tables, score_bounds
from workbench.engine.plan import StepPlan
from workbench.engine.reading.pages import Pages, rounded
from workbench.events.types import AnyEvent, PageMassSampled, SelectionMeasured
from workbench.memory.block_table import BlockTable
from workbench.models.paged_batch import Options


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


class DecodeReader:
    """Looks at decodes of sequences that have all their pages on the device."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._decodes: _Decodes | None = None
        self._samples_mass = False

    def begin(
        self, plan: StepPlan, indices: list[int], tables: list[list[BlockTable]], spans: list[tuple[int, int]]
    ) -> None:
        """A new step, and which of its decodes are looked at; arguments as of `PageReader.begin`."""
        self._decodes, self._samples_mass = None, plan.samples_mass
        if not indices:
            return
        lengths = [spans[i][1] for i in indices]
        pages = [-(-length // self._pages.block_size) for length in lengths]
        widest = max(pages)
        padded: list[Tensor] = []
        for group in range(len(tables[0])):
            blocks = [tables[i][group].blocks[:used] for i, used in zip(indices, pages, strict=True)]
            padded.append(self._pages.tensor([[max(0, b) for b in row] + [0] * (widest - len(row)) for row in blocks]))
        sequences = [plan.decodes[i].sequence.sequence for i in indices]
        self._decodes = _Decodes(
            sequences, self._pages.tensor(indices), lengths, self._pages.tensor(lengths), pages, padded
        )

    def attend(self, layer: int, group: int, q: Tensor, out: Tensor, options: Options) -> None:
        """Samples the mass of pages, and replaces rows of ``out`` by attention to the chosen pages instead of all."""
        decodes = self._decodes
        if decodes is None:
            return
        k_cache, v_cache = self._pages.caches[layer]
        tables, lengths, rows = decodes.tables[group], decodes.lengths, decodes.rows.long()
        queries = q[rows]
        top = self._pages.config.attention_pages
        selects = top is not None and options.window is None and max(decodes.num_pages) > top
        measures = selects and self._pages.config.measure_selection
        mass: Tensor | None = None
        if self._samples_mass or measures:
            _, lse = self._pages.ops.decode(queries, k_cache, v_cache, tables, lengths, options)
            mass = self._pages.ops.mass(queries, k_cache, tables, lengths, lse, options)
            if self._samples_mass:
                decodes.mass.append(mass.mean(dim=1))
        if not selects or top is None:
            return
        lo, hi = self._pages.bounds[layer]
        scores = score_bounds(queries, lo, hi, tables, lengths, self._pages.block_size)
        chosen = choose_pages(scores, lengths, self._pages.block_size, top, num_kv_heads=lo.shape[1])
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
        k_cache, v_cache = self._pages.caches[layer]
        heads = chosen.shape[1]
        group = q.shape[1] // heads
        parts = []
        for head in range(heads):
            mine = slice(head * group, (head + 1) * group)
            sinks = options.sinks[mine] if options.sinks is not None else None
            head_tables, head_lengths = chosen_tables(chosen[:, head], tables, lengths, self._pages.block_size)
            part, _ = self._pages.ops.decode(
                q[:, mine],
                k_cache[:, :, head : head + 1],
                v_cache[:, :, head : head + 1],
                head_tables,
                head_lengths,
                Options(options.scale, None, options.softcap, sinks),
            )
            parts.append(part)
        return torch.cat(parts, dim=1)

    def tell(self) -> list[AnyEvent]:
        """What was seen in the step."""
        events: list[AnyEvent] = []
        decodes = self._decodes
        if decodes is None:
            return events
        masses = torch.stack(decodes.mass).mean(dim=0).tolist() if decodes.mass else []
        covered = torch.stack(decodes.covered).mean(dim=0).tolist() if decodes.covered else []
        distance = torch.stack(decodes.distance).mean(dim=0).tolist() if decodes.distance else []
        top = self._pages.config.attention_pages or 0
        for index, (sequence, tokens, pages) in enumerate(
            zip(decodes.sequences, decodes.num_tokens, decodes.num_pages, strict=True)
        ):
            if masses:
                events.append(PageMassSampled(sequence, tokens - 1, rounded(masses[index][:pages])))
            if covered and pages > top:
                shares = round(covered[index], 4), round(distance[index], 4)
                events.append(SelectionMeasured(sequence, tokens - 1, float(top), pages, *shares))
        return events

    def forget(self) -> None:
        """The step is over."""
        self._decodes = None
