"""The step after the one in progress, staged before anybody knows that it will come."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.engine.gpu.buffers import StepBuffers
from workbench.engine.plan import Chunk, StepPlan
from workbench.memory.block_table import MoveKind


@dataclass
class Guess:
    """The decodes that will probably make up the next step, staged while the one before is still running.

    Attributes:
        grown: the pages that some of them will get: row, sequence, place in its table, page.
        size: rows of the graph.
    """

    chunks: list[Chunk]
    grown: list[tuple[int, int, int, int]]
    size: int


class GuessingBuffers(StepBuffers):
    """Buffers that can stage the next decode step while the last one staged is still running.

    A guess touches what the host keeps for its rows, so it has to end in one of two ways before anything else is
    staged: the next plan is the guessed one (`fits`), or the guess is taken back (`withdraw`).
    """

    def guess(self, chunks: list[Chunk], size: int) -> Guess | None:
        """Stages the next step, all but its tokens, as if it decoded ``chunks`` and nothing else happened before.

        There must be one layer group. None if it can't be known which pages they would get. Otherwise the next step is
        this one, if it `fits`, or the guess has to be taken back (`withdraw`).
        """
        self.decode.wait()
        guess = Guess(chunks, [], size)

        def grow(group: int, rows: list[tuple[int, int]]) -> None:
            for (row, sequence), block in zip(rows, self._memory.peek(len(rows)), strict=False):
                page = int(self._known[group, row])
                self._tables[group, row, page] = block
                self._known[group, row] = page + 1
                self._growth.append((self._cell(group, row, page), block))
                guess.grown.append((row, sequence, page, block))

        self._fill_decodes(chunks, self.decode.host, grow)
        self._drawn = self.decode.host["uniforms"], self._decodes, []
        if (self._computed[self._decodes.rows] // self._block_size >= self._known[0, self._decodes.rows]).any():
            self.withdraw(guess)
            return None
        self._fill_rest(len(chunks), size)
        return guess

    def stage_tokens(self) -> None:
        """Puts the tokens into a guessed step, now that they are known."""
        rows = self._decodes.rows
        self.decode.host["ids"][: len(rows)] = self._next_token[rows]

    def fits(self, guess: Guess, plan: StepPlan) -> bool:
        """Whether the guessed step is the one that was planned, pages included."""
        table = self._memory.block_table
        if (
            plan.prefills
            or plan.samples_mass
            or any(move.kind is MoveKind.COPY for move in self._memory.moves)
            or plan.decodes != guess.chunks
            or guess.chunks != self._decodes.chunks
            or any(table(sequence)[page : page + 1] != [block] for _, sequence, page, block in guess.grown)
        ):
            return False
        self.sampling_rows, self.special = self._decodes.rows, self._decodes.special
        return True

    def withdraw(self, guess: Guess) -> None:
        """Takes a guess back, as if it had never been made."""
        for row, sequence, _, _ in guess.grown:
            if self._rows.get(sequence) == row:
                self._known[0, row] -= 1
        self._growth.clear()
        self.put_draws_back()
