"""The scheduler: which sequences run in the next step, and on how many tokens. First come, first served.

Every step it makes one explicit plan. Running sequences come first, in the order of their arrival; a prompt that is
longer than what is left of the token budget is computed in chunks. If memory runs out, the sequence that arrived last
gives way and is computed again later (Kwon et al., SOSP 2023, section 4.5). Only then are waiting ones let in.
"""

from __future__ import annotations

from collections import deque

from workbench.engine.config import EngineConfig
from workbench.engine.plan import Chunk, StepPlan
from workbench.engine.sequence import Sequence
from workbench.events.bus import EventBus
from workbench.events.types import (
    AdmissionBlocked,
    Cause,
    FinishReason,
    PreemptionMode,
    RequestAdmitted,
    RequestFinished,
    RequestPreempted,
    RequestRejected,
    RequestResumed,
)
from workbench.memory.protocol import MemoryManager, Shortfall


class Scheduler:
    """Queues and policy. Touches memory only through the protocol, and tokens not at all."""

    def __init__(self, config: EngineConfig, memory: MemoryManager, bus: EventBus | None) -> None:
        self._config = config
        self._memory = memory
        self._bus = bus
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._blocked: tuple[int, Shortfall] | None = None
        self._cancelled: dict[int, Sequence] = {}
        self._freed: list[int] = []

    @property
    def has_unfinished(self) -> bool:
        return bool(self.waiting or self.running)

    @property
    def head_waits_for_memory(self) -> bool:
        """Whether the head of the queue waits because no page or region is large enough."""
        return self._blocked is not None and self._blocked[1].cause is Cause.POOL_EXHAUSTED

    def add(self, sequence: Sequence) -> str | None:
        """Queues a sequence, or rejects it if it could never run; then says why, with the arithmetic."""
        shortfall = self._memory.never_fits(sequence.num_prompt_tokens, sequence.max_tokens)
        if shortfall is None:
            self.waiting.append(sequence)
            return None
        reason = _explain_rejection(sequence, shortfall, self._config)
        if self._bus is not None:
            self._bus.emit(
                RequestRejected(sequence.request, reason, shortfall.cause, shortfall.needed, shortfall.available)
            )
        return reason

    def cancel(self, request: int) -> bool:
        """Marks a request; its memory is taken back when the next step begins. False if it is not here any more."""
        for sequence in (*self.running, *self.waiting):
            if sequence.request == request:
                self._cancelled[request] = sequence
                return True
        return False

    def schedule(self, step: int) -> StepPlan:
        """Makes the plan for a step, with memory for all that it computes."""
        if self._cancelled:
            self._apply_cancellations()
        plan = StepPlan()
        budget = self._config.max_num_batched_tokens
        try_append, decodes = self._memory.try_append, plan.decodes
        preempted = False
        index = 0
        while index < len(self.running) and budget > 0:
            sequence = self.running[index]
            computed = sequence.num_computed_tokens
            count = min(len(sequence.token_ids) - computed, budget)
            while not try_append(sequence.sequence, computed + count):
                preempted = True
                victim = self.running.pop()
                self._preempt(victim)
                if victim is sequence:
                    break
            else:
                chunk: Chunk | None = sequence.decode_chunk
                # In the long run every step is this: one token of each sequence, in the chunk that it had before.
                if chunk is not None and count == 1:
                    decodes.append(chunk)
                else:
                    self._plan(plan, sequence, count)
                budget -= count
                index += 1
        if preempted:
            self._block(self.waiting[0].request, Shortfall(Cause.JUST_PREEMPTED, 0, 0, ""))
        elif self.waiting:
            self._admit(plan, budget, step)
        plan.freed, self._freed = self._freed, []
        return plan

    def _plan(self, plan: StepPlan, sequence: Sequence, count: int) -> None:
        is_decode = count == 1 and sequence.num_uncomputed_tokens == 1 and sequence.num_computed_tokens > 0
        if sequence.num_computed_tokens < sequence.num_lost_tokens:
            cause = Cause.RECOMPUTE
        else:
            cause = Cause.DECODE if sequence.num_computed_tokens >= sequence.num_prompt_tokens else Cause.PREFILL
        chunk = Chunk(sequence, count, count == sequence.num_uncomputed_tokens, is_decode, cause)
        if is_decode and cause is Cause.DECODE:
            sequence.decode_chunk = chunk
        (plan.decodes if is_decode else plan.prefills).append(chunk)

    def _admit(self, plan: StepPlan, budget: int, step: int) -> None:
        while self.waiting:
            sequence = self.waiting[0]
            if budget == 0:
                limit = self._config.max_num_batched_tokens
                shortfall: Shortfall | None = Shortfall(Cause.TOKEN_BUDGET, sequence.num_tokens, limit, "tokens")
            else:
                shortfall = self._shortfall(sequence)
            if shortfall is not None:
                self._block(sequence.request, shortfall)
                return
            self._memory.allocate(
                sequence.sequence, sequence.num_tokens, sequence.num_prompt_tokens, sequence.max_tokens
            )
            self.waiting.popleft()
            self.running.append(sequence)
            self._blocked = None
            if self._bus is not None:
                if sequence.was_preempted:
                    self._bus.emit(RequestResumed(sequence.request, sequence.num_lost_last))
                else:
                    self._bus.emit(RequestAdmitted(sequence.request, step - sequence.queued_step))
            count = min(sequence.num_tokens, budget)
            self._plan(plan, sequence, count)
            budget -= count

    def _shortfall(self, sequence: Sequence) -> Shortfall | None:
        limit = self._config.max_num_seqs
        if len(self.running) >= limit:
            return Shortfall(Cause.MAX_RUNNING, len(self.running) + 1, limit, "running requests")
        return self._memory.can_allocate(
            sequence.num_tokens, sequence.num_prompt_tokens, sequence.max_tokens, alone=not self.running
        )

    def _block(self, request: int, shortfall: Shortfall) -> None:
        if self._blocked == (request, shortfall):
            return
        self._blocked = (request, shortfall)
        if self._bus is not None:
            self._bus.emit(AdmissionBlocked(request, shortfall.cause, shortfall.needed, shortfall.available))

    def _preempt(self, victim: Sequence) -> None:
        blocks = self._memory.free(victim.sequence, Cause.PREEMPTION_VICTIM)
        self._freed.append(victim.sequence)
        lost = victim.num_computed_tokens
        victim.decode_chunk = None
        victim.num_computed_tokens = 0
        victim.num_lost_last = lost
        victim.num_lost_tokens = max(victim.num_lost_tokens, lost)
        victim.was_preempted = True
        self.waiting.appendleft(victim)
        self._blocked = None
        if self._bus is not None:
            mode = PreemptionMode.RECOMPUTE
            self._bus.emit(RequestPreempted(victim.request, mode, Cause.POOL_EXHAUSTED, lost, blocks))

    def _apply_cancellations(self) -> None:
        for sequence in self._cancelled.values():
            if sequence in self.running or sequence in self.waiting:
                self.finish(sequence, FinishReason.CANCELLED, sequence.text.finish(stopped=False))
        self._cancelled.clear()

    def finish(self, sequence: Sequence, reason: FinishReason, text: str) -> None:
        """Takes a sequence out, gives its memory back and says so. ``text`` is what was held back of its output."""
        sequence.finish_reason = reason
        if sequence in self.running:
            self.running.remove(sequence)
            cause = Cause.CANCELLED if reason is FinishReason.CANCELLED else Cause.REQUEST_FINISHED
            self._memory.free(sequence.sequence, cause)
            self._freed.append(sequence.sequence)
            # There is room now; whether it is enough for the head of the queue, the next step finds out.
            self._blocked = None
        else:
            self.waiting.remove(sequence)
            if self._blocked is not None and self._blocked[0] == sequence.request:
                self._blocked = None
        if self._bus is not None:
            self._bus.emit(RequestFinished(sequence.request, reason, sequence.num_output_tokens, text))


def _explain_rejection(sequence: Sequence, shortfall: Shortfall, config: EngineConfig) -> str:
    """The arithmetic behind a rejection."""
    stored = sequence.num_prompt_tokens + sequence.max_tokens - 1
    lengths = f"{sequence.num_prompt_tokens} prompt tokens + {sequence.max_tokens} new tokens - 1 = {stored} slots"
    if config.memory == "paged":
        return (
            f"request {sequence.request} can never fit: {lengths}, in blocks of {config.block_size}: "
            f"needs {shortfall.needed} blocks, the pool has {shortfall.available}"
        )
    return (
        f"request {sequence.request} can never fit: {lengths}; under reservation {config.reservation!r} it needs "
        f"{shortfall.needed} adjacent slots, the largest region of the pool has {shortfall.available}"
    )
