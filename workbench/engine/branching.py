"""One sequence becomes several: parallel samples, beams, and forks that a user asks for (Kwon et al., section 4.4)."""

from __future__ import annotations

import random
from collections.abc import Sequence as Seq

from workbench.engine.beams import BeamMove
from workbench.engine.config import EngineConfig
from workbench.engine.request import Request
from workbench.engine.sequence import Sequence, fork_sequence
from workbench.events.bus import EventBus
from workbench.events.types import AnyEvent, Cause, SequenceFinished, SequenceForked, TokenGenerated
from workbench.memory.protocol import MemoryManager


def common_prefix(a: Seq[int], b: Seq[int]) -> int:
    """How many tokens two texts begin with in common."""
    length = min(len(a), len(b))
    if a[:length] == b[:length]:
        return length
    return next(i for i in range(length) if a[i] != b[i])


class Branching:
    """Numbers sequences, and forks them.

    Args:
        freed: takes the numbers of sequences whose memory is taken back.
    """

    def __init__(self, config: EngineConfig, memory: MemoryManager, bus: EventBus | None, freed: list[int]) -> None:
        self._seed = config.seed
        self._memory = memory
        self._bus = bus
        self._next = 0
        self._freed = freed

    def number(self) -> int:
        """A number for a new sequence."""
        self._next += 1
        return self._next - 1

    def generator(self, seed: int | None, request: int, sample: int) -> random.Random:
        """The random numbers of a request's ``sample``-th sequence: sample ``i`` of seed ``s`` has those of ``s + i``.

        Without a seed they come from the engine's, and differ for all requests and samples.
        """
        if seed is not None:
            return random.Random(seed + sample)
        return random.Random(self._seed * 1_000_003 + request + (sample << 80))

    def begin_samples(self, request: Request) -> None:
        """The prompt is stored: the other samples begin, and share all its pages."""
        parent = request.live[0]
        for child in request.pending:
            self._fork_memory(parent, child)
            request.live.append(child)
        request.pending = []

    def fork(self, request: Request, parent: Sequence, seed: int | None) -> Sequence:
        """One more sequence of a request, which goes on from where ``parent`` is."""
        number = self.number()
        generator = random.Random(seed) if seed is not None else self.generator(None, request.request, number + 1)
        child = fork_sequence(parent, number, generator)
        request.sequences.append(child)
        if not request.num_output_tokens and parent.num_computed_tokens < parent.num_prompt_tokens:
            request.pending.append(child)  # as if it had been asked for from the beginning
            return child
        # What both have in common and is still to be computed, again perhaps, is computed once: the child waits for it.
        shared = (parent.num_tokens - 1) // self._memory.block_size * self._memory.block_size
        self._fork_memory(parent, child, waits=parent.num_computed_tokens < shared)
        request.live.append(child)
        return child

    def _fork_memory(self, parent: Sequence, child: Sequence, waits: bool = False) -> None:
        has_memory = self._memory.has(parent.sequence) and not waits
        stored = self._memory.num_stored(parent.sequence) if has_memory else 0
        stored = min(stored, child.num_tokens)
        self._emit(SequenceForked(child.request, parent.sequence, child.sequence, stored, Cause.FORK))
        if stored:
            child.num_computed_tokens = self._memory.fork(parent.sequence, child.sequence, child.token_ids)
        child.is_absent = not stored

    def move_beams(self, request: Request, moves: list[BeamMove]) -> None:
        """The beams of the next step: each goes on from one of this step's; those that nobody goes on from end."""
        before = request.live
        kept = {move.parent for move in moves}
        for index, beam in enumerate(before):
            if index not in kept:
                self._memory.free(beam.sequence, Cause.BEAM_DROPPED)
                self._freed.append(beam.sequence)
                self._emit(SequenceFinished(request.request, beam.sequence, None, beam.num_output_tokens))
        taken: set[int] = set()
        beams: list[Sequence] = []
        for move in moves:
            beam = before[move.parent]
            if move.parent in taken:  # the first to go on keeps the sequence, the others fork it
                parent, number = beam, self.number()
                beam = fork_sequence(parent, number, random.Random(0))
                self._fork_memory(parent, beam)
            taken.add(move.parent)
            beams.append(beam)
        for beam, move in zip(beams, moves, strict=True):
            beam.token_ids.append(move.token_id)
            text, _ = beam.text.push(move.token_id)
            self._emit(TokenGenerated(request.request, beam.sequence, beam.num_output_tokens - 1, move.token_id, text))
        request.live = beams
        request.sequences = list(beams)

    def _emit(self, event: AnyEvent) -> None:
        if self._bus is not None:
            self._bus.emit(event)
