"""How sequences and requests end: their memory is taken back, and the bus is told."""

from __future__ import annotations

from workbench.engine.queues import Queues
from workbench.engine.request import Request
from workbench.engine.sequence import Sequence
from workbench.events.bus import EventBus
from workbench.events.types import Cause, FinishReason, RequestFinished, SequenceFinished
from workbench.memory.protocol import MemoryManager


class Endings:
    """Ends sequences, and with the last of them their request."""

    def __init__(self, memory: MemoryManager, bus: EventBus | None, queues: Queues) -> None:
        self._memory, self._bus, self._queues = memory, bus, queues

    def cancel(self, request: Request) -> None:
        """Ends all sequences of a request that has not ended yet."""
        if request.finish_reason is None:
            for sequence in list(request.live):
                held_back = sequence.text.finish(stopped=False)
                self.finish_sequence(request, sequence, FinishReason.CANCELLED, held_back)

    def finish_sequence(self, request: Request, sequence: Sequence, reason: FinishReason, text: str) -> None:
        """Takes a sequence out, gives its memory back and says so. ``text`` is what was held back of its output.

        With its last sequence, the request is complete.
        """
        sequence.finish_reason = reason
        request.live.remove(sequence)
        if reason is FinishReason.CANCELLED:
            cause = Cause.CANCELLED
            for other in request.pending:
                other.finish_reason = reason
            request.pending = []
        else:
            cause = Cause.SEQUENCE_FINISHED if request.live else Cause.REQUEST_FINISHED
        self._take_back(sequence, cause)
        if len(request.sequences) > 1 and self._bus is not None:
            self._bus.emit(
                SequenceFinished(request.request, sequence.sequence, reason, sequence.num_output_tokens, text)
            )
            text = ""
        if not request.live:
            first = request.sequences[0].finish_reason
            self._finish(request, first or reason, text)

    def _take_back(self, sequence: Sequence, cause: Cause) -> None:
        if self._memory.has(sequence.sequence):
            self._memory.free(sequence.sequence, cause)
            self._queues.freed.append(sequence.sequence)

    def finish_beams(self, request: Request) -> None:
        """A beam search is over: its results are known, its beams give their memory back."""
        for sequence in request.live:
            sequence.finish_reason = FinishReason.LENGTH
            self._take_back(sequence, Cause.REQUEST_FINISHED)
        request.live = []
        self._finish(request, request.chosen[0].reason, "")

    def _finish(self, request: Request, reason: FinishReason, text: str) -> None:
        request.finish_reason = reason
        self._queues.leave(request)
        if self._bus is not None:
            self._bus.emit(RequestFinished(request.request, reason, request.num_output_tokens, text))
