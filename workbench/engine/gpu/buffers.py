"""A step's numbers for the device, kept up to date instead of being built anew.

Every running sequence has a *row* from the step that lets it in until its memory is taken back. Per row, the host keeps
the block table, how many tokens are computed, and the token that comes next; the device has a copy of the tables. A
step that decodes costs a few vector operations, and Python work only for sequences that came, went or got a page.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workbench.engine.gpu.staging import Staging
from workbench.engine.plan import Chunk, StepPlan
from workbench.engine.sequence import Sequence
from workbench.memory.block_table import Move
from workbench.memory.protocol import MemoryManager


def _per_sequence(max_seqs: int) -> list[tuple[str, str, int]]:
    return [
        ("uniforms", "float64", max_seqs),
        ("rows", "int64", max_seqs),
        ("temperatures", "float32", max_seqs),
        ("context_lens", "int32", max_seqs),
    ]


def _per_token(max_tokens: int, num_groups: int) -> list[tuple[str, str, int]]:
    slots = [(slots_of(group), "int64", max_tokens) for group in range(num_groups)]
    return [("ids", "int64", max_tokens), ("positions", "int64", max_tokens), *slots]


def slots_of(group: int) -> str:
    """Name of the array with a layer group's slots."""
    return f"slots{group}"


@dataclass
class _Decodes:
    """What stays the same as long as the same sequences decode."""

    chunks: list[Chunk]
    rows: np.ndarray
    temperatures: np.ndarray
    draws: list[Callable[[], float]]
    drawing: np.ndarray
    special: list[tuple[int, Sequence]]
    beams: list[tuple[int, Sequence]]


class StepBuffers:
    """Rows of the running sequences, and the staged arrays of a step.

    Args:
        max_blocks: pages of the longest sequence.

    Attributes:
        tables: int32 ``[num_groups, max_seqs + 1, max_blocks]`` on the device: block tables per layer group. The last
            row is for padding.
        decode: arrays of a step that only decodes, at most ``max_seqs`` of each; ``growth_at`` and ``growth_block`` say
            which entries of the flattened ``tables`` changed, and to what (unused ones name the last row).
        mixed: arrays of a step with prompt chunks in it; decodes come first.
        growth: ``pairs``, the changed entries of ``tables`` for a step of the second kind.
        special: the sequences whose token is not chosen by temperature and chance alone, each with its place among
            those that sample.
        sampling_rows: the rows of the sequences that get a token in the staged step; that for padding if one has none.
    """

    def __init__(
        self, memory: MemoryManager, max_seqs: int, max_tokens: int, max_blocks: int, device: torch.device
    ) -> None:
        self._memory = memory
        self._block_size = memory.block_size
        self.max_seqs, self._width = max_seqs, max_blocks
        self.num_groups = groups = len(memory.windows)
        self.tables = torch.zeros(groups, max_seqs + 1, max_blocks, dtype=torch.int32, device=device)
        self.max_decode_growth = groups * max_seqs
        growth = [("growth_at", "int64", groups * max_seqs), ("growth_block", "int32", groups * max_seqs)]
        every = ("logit_rows", "int64", max_seqs)
        self.decode = Staging([*_per_sequence(max_seqs), every, *_per_token(max_seqs, groups), *growth], device)
        self.decode.host["logit_rows"][:] = np.arange(max_seqs)
        self.mixed = Staging(
            [
                *_per_sequence(max_seqs),
                ("query_start", "int32", max_seqs + 1),
                ("logit_rows", "int64", max(max_seqs, 2)),
                *_per_token(max_tokens, groups),
            ],
            device,
        )
        self._max_growth = groups * (4 * max_seqs + 4 * max_blocks)
        self.growth = Staging([("pairs", "int64", 2 * self._max_growth)], device)
        self._tables = np.zeros((groups, max_seqs + 1, max_blocks), dtype=np.int64)
        self._known = np.zeros((groups, max_seqs + 1), dtype=np.int64)
        self._computed = np.zeros(max_seqs + 1, dtype=np.int64)
        self._next_token = np.zeros(max_seqs + 1, dtype=np.int64)
        self._rows: dict[int, int] = {}
        self._free_rows = list(range(max_seqs - 1, -1, -1))
        none = np.zeros(0, np.int64)
        self._decodes = _Decodes([], none, np.zeros(0, np.float32), [], none, [], [])
        self.special: list[tuple[int, Sequence]] = []
        self.sampling_rows = np.zeros(0, np.int64)
        #: random numbers that were drawn for a step that did not come: the next ones to use, by sequence
        self._unused: dict[int, float] = {}
        #: the draws of the step that was staged: where they stand; its decodes; and the place of every other chunk's
        self._drawn: tuple[np.ndarray, _Decodes | None, list[tuple[int, Sequence]]] | None = None
        self._padding_cell = max_seqs * max_blocks  # of the first group
        #: changed entries of the device's tables that are still to be sent: place in the flattened table, block
        self._growth: list[tuple[int, int]] = []

    # -- rows ------------------------------------------------------------------------------------------------------

    def forget(self, sequences: Seq[int]) -> None:
        """Frees the rows of sequences whose memory was taken back, or moved about."""
        for sequence in sequences:
            row = self._rows.pop(sequence, None)
            if row is None:
                continue
            self._free_rows.append(row)
            self._known[:, row] = 0
            if self._growth:  # only after a step that failed
                rows = self.max_seqs + 1
                self._growth = [entry for entry in self._growth if entry[0] // self._width % rows != row]

    def _row(self, chunk: Chunk) -> int:
        sequence = chunk.sequence
        row = self._rows.get(sequence.sequence)
        if row is None:
            row = self._rows[sequence.sequence] = self._free_rows.pop()
            self._known[:, row] = 0
            self._computed[row] = sequence.num_computed_tokens
            self._next_token[row] = sequence.token_ids[-1]
        return row

    def _cell(self, group: int, row: int, page: int) -> int:
        """Where an entry of the flattened tables is."""
        return (group * (self.max_seqs + 1) + row) * self._width + page

    def _grow_now(self, group: int, rows: list[tuple[int, int]]) -> None:
        for row, sequence in rows:
            self._grow(group, row, sequence)

    def _grow(self, group: int, row: int, sequence: int) -> None:
        """Takes over the pages that a sequence got since the last look at its table."""
        known = int(self._known[group, row])
        # A region may be longer than the longest sequence. Pages that are not on the device are not read.
        table = [max(0, b) for b in self._memory.block_tables(sequence)[group].blocks[known : self._width]]
        self._tables[group, row, known : known + len(table)] = table
        self._known[group, row] = known + len(table)
        self._growth.extend(enumerate(table, self._cell(group, row, known)))

    def replace_pages(self, moves: Seq[Move]) -> None:
        """Notes which entries of tables have changed by copy-on-write."""
        for move in moves:
            if move.place is None:
                continue
            sequence, group, index = move.place
            row = self._rows.get(sequence)
            if row is not None and index < self._known[group, row]:
                block = move.pairs[0][1]
                self._tables[group, row, index] = block
                self._growth.append((self._cell(group, row, index), block))

    # -- filling ---------------------------------------------------------------------------------------------------

    def fill_decode(self, chunks: list[Chunk], size: int) -> None:
        """Stages a step that only decodes, with rows of padding up to ``size``."""
        self.decode.wait()
        self._fill_decodes(chunks, self.decode.host, self._grow_now)
        self._drawn = self.decode.host["uniforms"], self._decodes, []
        self._fill_rest(len(chunks), size)
        self.sampling_rows, self.special = self._decodes.rows, self._decodes.special

    def _fill_rest(self, n: int, size: int) -> None:
        """Stages the padding behind ``n`` decodes, and the changes of the tables."""
        arrays = self.decode.host
        for name, value in (("ids", 0), ("positions", 0), ("context_lens", 0), ("temperatures", 0)):
            arrays[name][n:size] = value
        for group in range(self.num_groups):
            arrays[slots_of(group)][n:size] = -1
        arrays["rows"][n:size] = self.max_seqs
        size *= self.num_groups
        if len(self._growth) > size:
            self.send_growth()
        grown = len(self._growth)
        if grown:
            pairs = np.array(self._growth, dtype=np.int64)
            arrays["growth_at"][:grown], arrays["growth_block"][:grown] = pairs[:, 0], pairs[:, 1]
        arrays["growth_at"][grown:size] = self._padding_cell
        arrays["growth_block"][grown:size] = 0

    def _fill_decodes(
        self, chunks: list[Chunk], arrays: dict[str, np.ndarray], grow: Callable[[int, list[tuple[int, int]]], None]
    ) -> None:
        """Stages the decodes of a step, in the first places of all arrays.

        ``grow`` sees to it that the rows of sequences that need a page have one in the tables of a layer group.
        """
        decodes, n = self._decodes, len(chunks)
        # The chunks of sequences that go on decoding are the same objects, so this compares pointers.
        if chunks != decodes.chunks:
            rows = np.array([self._row(chunk) for chunk in chunks], dtype=np.int64)
            params = [chunk.sequence.params for chunk in chunks]
            drawing = [i for i, p in enumerate(params) if not p.is_greedy and p.is_plain]
            decodes = self._decodes = _Decodes(
                chunks,
                rows,
                np.array([p.temperature if p.is_plain else 0.0 for p in params], dtype=np.float32),
                [chunks[i].sequence.random.random for i in drawing],
                np.array(drawing, dtype=np.int64),
                [(i, chunk.sequence) for i, chunk in enumerate(chunks) if not params[i].is_plain],
                [(i, chunk.sequence) for i, chunk in enumerate(chunks) if params[i].beam_width],
            )
        rows = decodes.rows
        positions = self._computed[rows]
        page, offset = np.divmod(positions, self._block_size)
        for group in range(self.num_groups):
            growing = np.flatnonzero(page >= self._known[group, rows])
            if len(growing):
                named = zip(growing, rows[growing].tolist(), strict=True)
                grow(group, [(row, chunks[i].sequence.sequence) for i, row in named])
            arrays[slots_of(group)][:n] = self._tables[group, rows, page] * self._block_size + offset
        arrays["ids"][:n] = self._next_token[rows]
        for i, beam in decodes.beams:  # which token it goes on with was decided by the search
            arrays["ids"][i] = beam.token_ids[-1]
        arrays["positions"][:n] = positions
        arrays["context_lens"][:n] = positions + 1
        arrays["rows"][:n] = rows
        arrays["temperatures"][:n] = decodes.temperatures
        if self._unused:
            arrays["uniforms"][decodes.drawing] = [self._draw(chunks[i].sequence) for i in decodes.drawing]
        elif decodes.draws:
            arrays["uniforms"][decodes.drawing] = [draw() for draw in decodes.draws]

    def _draw(self, sequence: Sequence) -> float:
        """The sequence's next random number."""
        unused = self._unused.pop(sequence.sequence, None)
        return sequence.random.random() if unused is None else unused

    def fill_mixed(self, plan: StepPlan) -> tuple[int, int]:
        """Stages a step with prompt chunks; returns how many tokens it has, and how many of its chunks sample."""
        self.mixed.wait()
        drawn: list[tuple[int, Sequence]] = []
        arrays, block_size = self.mixed.host, self._block_size
        index = token = len(plan.decodes)
        if plan.decodes:
            self._fill_decodes(plan.decodes, arrays, self._grow_now)
            arrays["logit_rows"][:index] = np.arange(index)
        sampling = self._decodes.rows.tolist() if plan.decodes else []
        self.special = list(self._decodes.special) if plan.decodes else []
        arrays["query_start"][0] = 0
        for number, chunk in enumerate(plan.prefills):
            row = self._row(chunk)
            start = int(self._computed[row])
            stop, end = start + chunk.count, token + chunk.count
            positions = np.arange(start, stop)
            page, offset = np.divmod(positions, block_size)
            for group in range(self.num_groups):
                if (stop - 1) // block_size >= self._known[group, row]:
                    self._grow(group, row, chunk.sequence.sequence)
                arrays[slots_of(group)][token:end] = self._tables[group, row, page] * block_size + offset
            arrays["ids"][token:end] = chunk.sequence.token_ids[start:stop]
            arrays["positions"][token:end] = positions
            arrays["rows"][index + number] = row
            arrays["context_lens"][index + number] = stop
            arrays["query_start"][number + 1] = end - index
            for sequence in (chunk.sequence, *chunk.also) if chunk.samples else ():
                at, params = len(sampling), sequence.params
                arrays["logit_rows"][at] = end - 1
                arrays["temperatures"][at] = params.temperature if params.is_plain else 0.0
                if not params.is_plain:
                    self.special.append((at, sequence))
                elif not params.is_greedy:
                    arrays["uniforms"][at] = self._draw(sequence)
                    drawn.append((at, sequence))
                sampling.append(row if sequence is chunk.sequence else self.max_seqs)
            token = end
        arrays["logit_rows"][len(sampling) : 2] = 0
        self.sampling_rows = np.array(sampling, dtype=np.int64)
        self._drawn = arrays["uniforms"], self._decodes if plan.decodes else None, drawn
        self.send_growth()
        return token, len(sampling)

    def send_growth(self) -> None:
        """Brings the device's tables up to date, for steps that do not do so themselves."""
        for first in range(0, len(self._growth), self._max_growth):
            part = self._growth[first : first + self._max_growth]
            self.growth.wait()
            self.growth.host["pairs"][: 2 * len(part)] = np.array(part, dtype=np.int64).ravel()
            self.growth.upload()
            pairs = self.growth.device["pairs"][: 2 * len(part)].view(-1, 2)
            self.write_tables(pairs[:, 0], pairs[:, 1].to(torch.int32))
        self._growth.clear()

    def write_tables(self, at: Tensor, blocks: Tensor) -> None:
        """Sets entries of the flattened tables, on the device: ``at`` int64, ``blocks`` int32."""
        self.tables.view(-1).index_put_((at,), blocks)

    def put_draws_back(self) -> None:
        """After a step that was staged and did not come: the next one takes the same random numbers."""
        if self._drawn is not None:
            uniforms, decodes, others = self._drawn
            drawing = decodes.drawing.tolist() if decodes is not None else []
            mine = [(i, decodes.chunks[i].sequence) for i in drawing] if decodes is not None else []
            for at, sequence in mine + others:
                if sequence.finish_reason is None:
                    self._unused[sequence.sequence] = float(uniforms[at])
        self._drawn = None

    # -- after the launch ------------------------------------------------------------------------------------------

    def launched(self, plan: StepPlan) -> None:
        """Notes that the step is on its way: its tokens count as computed. Until then it can be staged again."""
        self._growth.clear()
        self._drawn = None
        if plan.decodes:
            self._computed[self._decodes.rows] += 1
        for chunk in plan.prefills:
            self._computed[self._rows[chunk.sequence.sequence]] += chunk.count

    def sampled(self, rows: np.ndarray, tokens: Seq[int] | np.ndarray) -> None:
        """Notes the new tokens of a step: of ``rows``, which were its `sampling_rows`."""
        self._next_token[rows] = tokens
