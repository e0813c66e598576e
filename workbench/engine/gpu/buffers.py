"""A step's numbers for the device, kept up to date instead of being built anew.

Every running sequence has a *row* from the step that lets it in until its memory is taken back. Per row, the host keeps
the block table, how many tokens are computed, and the token that comes next; the device has a copy of the tables. A
step that decodes costs a few vector operations, and Python work only for sequences that came, went or got a page.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from workbench.engine.gpu.staging import Staging
from workbench.engine.plan import Chunk, StepPlan
from workbench.memory.protocol import MemoryManager


def _per_sequence(max_seqs: int) -> list[tuple[str, str, int]]:
    return [
        ("uniforms", "float64", max_seqs),
        ("rows", "int64", max_seqs),
        ("temperatures", "float32", max_seqs),
        ("context_lens", "int32", max_seqs),
    ]


def _per_token(max_tokens: int) -> list[tuple[str, str, int]]:
    return [("ids", "int64", max_tokens), ("positions", "int64", max_tokens), ("slots", "int64", max_tokens)]


@dataclass
class _Decodes:
    """What stays the same as long as the same sequences decode."""

    chunks: list[Chunk]
    rows: np.ndarray
    temperatures: np.ndarray
    draws: list[Callable[[], float]]
    drawing: np.ndarray
    special: list[tuple[int, Chunk]]


class StepBuffers:
    """Rows of the running sequences, and the staged arrays of a step.

    Args:
        max_blocks: pages of the longest sequence.

    Attributes:
        tables: int32 ``[max_seqs + 1, max_blocks]`` on the device. The last row is for padding.
        decode: arrays of a step that only decodes, at most ``max_seqs`` of each; ``growth_at`` and ``growth_block`` say
            which entries of the flattened ``tables`` changed, and to what (unused ones name the last row).
        mixed: arrays of a step with prompt chunks in it; decodes come first.
        growth: ``pairs``, the changed entries of ``tables`` for a step of the second kind.
        special: the chunks whose token is not chosen by temperature and chance alone, each with its place among those
            that sample.
        sampling_rows: the rows of the sequences that get a token in the staged step.
    """

    def __init__(
        self, memory: MemoryManager, max_seqs: int, max_tokens: int, max_blocks: int, device: torch.device
    ) -> None:
        self._memory = memory
        self._block_size = memory.block_size
        self.max_seqs, self._width = max_seqs, max_blocks
        self.tables = torch.zeros(max_seqs + 1, max_blocks, dtype=torch.int32, device=device)
        growth = [("growth_at", "int64", max_seqs), ("growth_block", "int32", max_seqs)]
        every = ("logit_rows", "int64", max_seqs)
        self.decode = Staging([*_per_sequence(max_seqs), every, *_per_token(max_seqs), *growth], device)
        self.decode.host["logit_rows"][:] = np.arange(max_seqs)
        self.mixed = Staging(
            [
                *_per_sequence(max_seqs),
                ("query_start", "int32", max_seqs + 1),
                ("logit_rows", "int64", max(max_seqs, 2)),
                *_per_token(max_tokens),
            ],
            device,
        )
        self._max_growth = 4 * max_seqs + 4 * max_blocks
        self.growth = Staging([("pairs", "int64", 2 * self._max_growth)], device)
        self._tables = np.zeros((max_seqs + 1, max_blocks), dtype=np.int64)
        self._known = np.zeros(max_seqs + 1, dtype=np.int64)
        self._computed = np.zeros(max_seqs + 1, dtype=np.int64)
        self._next_token = np.zeros(max_seqs + 1, dtype=np.int64)
        self._rows: dict[int, int] = {}
        self._free_rows = list(range(max_seqs - 1, -1, -1))
        none = np.zeros(0, np.int64)
        self._decodes = _Decodes([], none, np.zeros(0, np.float32), [], none, [])
        self.special: list[tuple[int, Chunk]] = []
        self.sampling_rows = np.zeros(0, np.int64)
        #: random numbers that were drawn for a step that did not come: the next ones to use, by sequence
        self._unused: dict[int, float] = {}
        #: the draws of the step that was staged: where they stand; its decodes; and the place of every other chunk's
        self._drawn: tuple[np.ndarray, _Decodes | None, list[tuple[int, Chunk]]] | None = None
        self._padding_cell = max_seqs * max_blocks
        #: changed entries of the device's tables that are still to be sent: place in the flattened table, block
        self._growth: list[tuple[int, int]] = []

    # -- rows ------------------------------------------------------------------------------------------------------

    def forget(self, sequences: Sequence[int]) -> None:
        """Frees the rows of sequences whose memory was taken back."""
        for sequence in sequences:
            row = self._rows.pop(sequence, None)
            if row is None:
                continue
            self._free_rows.append(row)
            self._known[row] = 0
            if self._growth:  # only after a step that failed
                self._growth = [entry for entry in self._growth if entry[0] // self._width != row]

    def _row(self, chunk: Chunk) -> int:
        sequence = chunk.sequence
        row = self._rows.get(sequence.sequence)
        if row is None:
            row = self._rows[sequence.sequence] = self._free_rows.pop()
            self._computed[row] = sequence.num_computed_tokens
            self._next_token[row] = sequence.token_ids[-1]
        return row

    def _grow_now(self, rows: list[tuple[int, int]]) -> None:
        for row, sequence in rows:
            self._grow(row, sequence)

    def _grow(self, row: int, sequence: int) -> None:
        """Takes over the pages that a sequence got since the last look at its table."""
        known = int(self._known[row])
        # A region may be longer than the longest sequence.
        table = self._memory.block_table(sequence)[known : self._width]
        self._tables[row, known : known + len(table)] = table
        self._known[row] = known + len(table)
        first = row * self._width + known
        self._growth.extend(enumerate(table, first))

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
        for name, value in (("ids", 0), ("positions", 0), ("slots", -1), ("context_lens", 0), ("temperatures", 0)):
            arrays[name][n:size] = value
        arrays["rows"][n:size] = self.max_seqs
        if len(self._growth) > self.max_seqs:
            self.send_growth()
        grown = len(self._growth)
        if grown:
            pairs = np.array(self._growth, dtype=np.int64)
            arrays["growth_at"][:grown], arrays["growth_block"][:grown] = pairs[:, 0], pairs[:, 1]
        arrays["growth_at"][grown:size] = self._padding_cell
        arrays["growth_block"][grown:size] = 0

    def _fill_decodes(
        self, chunks: list[Chunk], arrays: dict[str, np.ndarray], grow: Callable[[list[tuple[int, int]]], None]
    ) -> None:
        """Stages the decodes of a step, in the first places of all arrays.

        ``grow`` sees to it that the rows of sequences that need a page have one in their tables.
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
                [(i, chunk) for i, chunk in enumerate(chunks) if not params[i].is_plain],
            )
        rows = decodes.rows
        positions = self._computed[rows]
        page, offset = np.divmod(positions, self._block_size)
        growing = np.flatnonzero(page >= self._known[rows])
        if len(growing):
            grow([(row, chunks[i].sequence.sequence) for i, row in zip(growing, rows[growing].tolist(), strict=True)])
        arrays["ids"][:n] = self._next_token[rows]
        arrays["positions"][:n] = positions
        arrays["slots"][:n] = self._tables[rows, page] * self._block_size + offset
        arrays["context_lens"][:n] = positions + 1
        arrays["rows"][:n] = rows
        arrays["temperatures"][:n] = decodes.temperatures
        if self._unused:
            arrays["uniforms"][decodes.drawing] = [self._draw(chunks[i]) for i in decodes.drawing]
        elif decodes.draws:
            arrays["uniforms"][decodes.drawing] = [draw() for draw in decodes.draws]

    def _draw(self, chunk: Chunk) -> float:
        """The sequence's next random number."""
        unused = self._unused.pop(chunk.sequence.sequence, None)
        return chunk.sequence.random.random() if unused is None else unused

    def fill_mixed(self, plan: StepPlan) -> tuple[int, int]:
        """Stages a step with prompt chunks; returns how many tokens it has, and how many of its chunks sample."""
        self.mixed.wait()
        drawn: list[tuple[int, Chunk]] = []
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
            if (stop - 1) // block_size >= self._known[row]:
                self._grow(row, chunk.sequence.sequence)
            positions = np.arange(start, stop)
            page, offset = np.divmod(positions, block_size)
            arrays["ids"][token:end] = chunk.sequence.token_ids[start:stop]
            arrays["positions"][token:end] = positions
            arrays["slots"][token:end] = self._tables[row, page] * block_size + offset
            arrays["rows"][index + number] = row
            arrays["context_lens"][index + number] = stop
            arrays["query_start"][number + 1] = end - index
            if chunk.samples:
                at, params = len(sampling), chunk.sequence.params
                arrays["logit_rows"][at] = end - 1
                arrays["temperatures"][at] = params.temperature if params.is_plain else 0.0
                if not params.is_plain:
                    self.special.append((at, chunk))
                elif not params.is_greedy:
                    arrays["uniforms"][at] = self._draw(chunk)
                    drawn.append((at, chunk))
                sampling.append(row)
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
            mine = [(i, decodes.chunks[i]) for i in decodes.drawing.tolist()] if decodes is not None else []
            for at, chunk in mine + others:
                if chunk.sequence.finish_reason is None:
                    self._unused[chunk.sequence.sequence] = float(uniforms[at])
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

    def sampled(self, rows: np.ndarray, tokens: Sequence[int] | np.ndarray) -> None:
        """Notes the new tokens of a step: of ``rows``, which were its `sampling_rows`."""
        self._next_token[rows] = tokens
