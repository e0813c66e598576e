"""The scheduler: which sequences run in the next step, and on how many tokens. First come, first served.

Every step it makes one explicit plan. Running requests come first, in the order of their arrival; a prompt that is
longer than what is left of the token budget is computed in chunks. If memory runs out, a request gives way, with all
its sequences: its pages move to the host tier, or are thrown away and computed again later (Kwon et al., SOSP 2023,
section 4.5). Only then are waiting requests let in.

Nobody waits for ever. The queue is in the order of arrival, whatever was preempted, and nobody overtakes its head; the
oldest running request never gives way, and alone it always fits, or it would have been rejected. So it ends, and then
the next one is the oldest.
"""

from __future__ import annotations

import bisect
from collections import deque

from workbench.engine.branching import Branching, common_prefix
from workbench.engine.config import EngineConfig
from workbench.engine.plan import Chunk, StepPlan
from workbench.engine.preemption import Candidate, PreemptionPolicy, Speeds, decide
from workbench.engine.request import Debt, Request
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
    SequenceFinished,
)
from workbench.memory.protocol import MemoryManager, Shortfall

#: `Scheduler._place` found no room.
_NO_ROOM = -1


class Scheduler:
    """Queues and policy. Touches memory only through the protocol, and tokens not at all."""

    def __init__(self, config: EngineConfig, memory: MemoryManager, bus: EventBus | None) -> None:
        self._config = config
        self._memory = memory
        self._bus = bus
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.branching = Branching(config, memory, bus)
        self.speeds = Speeds(config.transfer_bandwidth, config.prefill_speed)
        self._victims = config.victim_policy
        self._preemption = PreemptionPolicy(config.preemption)
        self._blocked: tuple[int, Shortfall] | None = None
        self._cancelled: dict[int, Request] = {}
        self._freed = self.branching.freed

    @property
    def has_unfinished(self) -> bool:
        return bool(self.waiting or self.running)

    @property
    def num_swapped(self) -> int:
        """Waiting requests with pages in the host tier."""
        return sum(request.preempted is PreemptionMode.SWAP for request in self.waiting)

    @property
    def head_waits_for_memory(self) -> bool:
        """Whether the head of the queue waits because no page or region is large enough."""
        return self._blocked is not None and self._blocked[1].cause is Cause.POOL_EXHAUSTED

    def add(self, request: Request) -> str | None:
        """Queues a request, or rejects it if it could never run; then says why, with the arithmetic."""
        shortfall = self._memory.never_fits(request.num_prompt_tokens, request.max_tokens, request.width)
        if shortfall is None:
            self.waiting.append(request)
            return None
        reason = _explain_rejection(request, shortfall, self._config, self._memory.num_blocks)
        if self._bus is not None:
            self._bus.emit(
                RequestRejected(request.request, reason, shortfall.cause, shortfall.needed, shortfall.available)
            )
        return reason

    def find(self, request: int) -> Request | None:
        """An unfinished request by its number."""
        return next((r for r in (*self.running, *self.waiting) if r.request == request), None)

    def cancel(self, request: int) -> bool:
        """Marks a request; its memory is taken back when the next step begins. False if it is not here any more."""
        found = self.find(request)
        if found is not None:
            self._cancelled[request] = found
        return found is not None

    # -- planning --------------------------------------------------------------------------------------------------

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
            request = self.running[index]
            live = request.live
            # In the long run every step is this: one token of each sequence, in the chunk that it had before.
            chunk = live[0].decode_chunk
            if chunk is not None and len(live) == 1 and not request.pending:
                sequence = live[0]
                is_next = len(sequence.token_ids) == sequence.num_computed_tokens + 1
                if is_next and try_append(sequence.sequence, len(sequence.token_ids)):
                    decodes.append(chunk)
                    budget -= 1
                    index += 1
                    continue
            used = self._place(plan, request, budget)
            if used != _NO_ROOM:
                budget -= used
                index += 1
            elif not self._make_room_for_oldest(index):
                preempted = True
                self._preempt(self._choose_victim(index))
        if preempted:
            self._block(self.waiting[0].request, Shortfall(Cause.JUST_PREEMPTED, 0, 0, ""))
        elif self.waiting:
            self._admit(plan, budget, step)
        plan.freed = list(self._freed)
        self._freed.clear()
        every = self._config.page_mass_every
        plan.samples_mass = every > 0 and step % every == 0
        return plan

    def _place(self, plan: StepPlan, request: Request, budget: int) -> int:
        """Plans a request's tokens; returns how many, or `_NO_ROOM`, and then nothing of it is in the plan."""
        marks = len(plan.decodes), len(plan.prefills)
        used = 0
        live = request.live
        # Beams go on together: the newest token of each is held back until all others are computed.
        holds = request.beams is not None and any(s.is_absent or s.num_uncomputed_tokens > 1 for s in live)
        holds = holds and len(live) > 1
        if request.beams is not None and not holds and len(live) > 1 and budget < len(live):
            return 0
        largest = self._memory.largest_chunk or budget
        stops: dict[Sequence, int] = {}
        # Before their siblings go on: a sliding window may take what they share away.
        for sequence in live:
            if sequence.is_absent and not self._bring_back(request, sequence, holds, stops):
                return _NO_ROOM
        for sequence in live:
            most = stops.get(sequence, sequence.num_tokens) - sequence.num_computed_tokens
            count = min(sequence.num_uncomputed_tokens - holds, budget - used, largest, most)
            if count <= 0 or sequence.is_absent:
                continue
            if not self._memory.try_append(sequence.sequence, sequence.num_computed_tokens + count):
                del plan.decodes[marks[0] :], plan.prefills[marks[1] :]
                return _NO_ROOM
            self._plan(plan, request, sequence, count)
            used += count
        return used

    def _bring_back(self, request: Request, sequence: Sequence, holds: bool, stops: dict[Sequence, int]) -> bool:
        """Gives memory to a sequence that lost it with its siblings, sharing what they have in common again.

        If it has to wait for a sibling to be computed, it stays absent, and ``stops`` says how far the sibling may go.
        False: there is no room.
        """
        shared, donor = 0, None
        for sibling in request.live:
            if not sibling.is_absent:
                common = common_prefix(sibling.token_ids, sequence.token_ids)
                common = min(common, sequence.num_tokens - 1, sibling.num_tokens - holds)
                common -= common % self._memory.block_size
                if common > shared:
                    shared, donor = common, sibling
        stored = 0
        if donor is not None:
            if donor.num_computed_tokens < shared:
                stops[donor] = min(shared, stops.get(donor, shared))
                return True
            stored = self._memory.fork(donor.sequence, sequence.sequence, sequence.token_ids, shared)
        if not stored:
            limits = sequence.token_ids, sequence.num_prompt_tokens, sequence.max_tokens
            if self._memory.can_allocate(*limits, alone=True) is not None:
                return False
            stored = self._memory.allocate(sequence.sequence, *limits)
        sequence.num_computed_tokens = stored
        sequence.is_absent = False
        return True

    def _plan(self, plan: StepPlan, request: Request, sequence: Sequence, count: int) -> None:
        is_last = count == sequence.num_uncomputed_tokens
        is_decode = count == 1 and is_last and sequence.num_computed_tokens > 0 and not request.pending
        if sequence.num_computed_tokens < sequence.num_lost_tokens:
            cause = Cause.RECOMPUTE
        else:
            cause = Cause.DECODE if sequence.num_computed_tokens >= sequence.num_prompt_tokens else Cause.PREFILL
        also = tuple(request.pending) if is_last else ()
        chunk = sequence.decode_chunk
        if not (is_decode and cause is Cause.DECODE):
            chunk = Chunk(sequence, count, is_last, is_decode, cause, also)
        elif chunk is None:
            chunk = sequence.decode_chunk = Chunk(sequence, count, is_last, is_decode, cause)
        (plan.decodes if is_decode else plan.prefills).append(chunk)

    # -- letting in ------------------------------------------------------------------------------------------------

    def _admit(self, plan: StepPlan, budget: int, step: int) -> None:
        while self.waiting:
            request = self.waiting[0]
            if budget == 0:
                limit = self._config.max_num_batched_tokens
                tokens = request.live[0].num_uncomputed_tokens
                shortfall: Shortfall | None = Shortfall(Cause.TOKEN_BUDGET, tokens, limit, "tokens")
            else:
                shortfall = self._shortfall(request)
            if shortfall is not None:
                self._block(request.request, shortfall)
                return
            self.waiting.popleft()
            if request.preempted is PreemptionMode.SWAP:
                self._swap_in(request)
                continue
            first = request.live[0]
            kept = self._memory.allocate(first.sequence, first.token_ids, first.num_prompt_tokens, first.max_tokens)
            first.num_computed_tokens = kept
            self._run(request)
            if self._bus is not None:
                if request.preempted is not None:
                    lost = max(0, request.num_lost - kept)
                    self._bus.emit(RequestResumed(request.request, lost, PreemptionMode.RECOMPUTE, kept))
                else:
                    self._bus.emit(RequestAdmitted(request.request, step - request.queued_step))
            request.preempted = None
            # Should there be no room after all, the next step sees to it.
            budget -= max(0, self._place(plan, request, budget))

    def _swap_in(self, request: Request) -> None:
        """Orders the pages back. The request goes on in the next step: this one need not wait for them."""
        self._memory.swap_in(request.request, request.present, Cause.RESUMPTION)
        self._run(request)
        request.preempted = None
        if self._bus is not None:
            self._bus.emit(RequestResumed(request.request, 0, PreemptionMode.SWAP))
        if request.debt is not None:
            request.debt.to_move += 1

    def _run(self, request: Request) -> None:
        bisect.insort(self.running, request, key=lambda r: r.request)
        self._blocked = None
        if request.debt is not None:
            request.debt.is_resumed = True

    def _shortfall(self, request: Request) -> Shortfall | None:
        limit = self._config.max_num_seqs
        running = sum(r.width for r in self.running)
        if running + request.width > limit:
            return Shortfall(Cause.MAX_RUNNING, running + request.width, limit, "running sequences")
        alone = not self.running  # then it fits as a whole, or it would have been rejected
        if request.preempted is PreemptionMode.SWAP:
            return self._memory.can_swap_in(request.present, alone)
        first = request.live[0]
        return self._memory.can_allocate(
            first.token_ids,
            request.num_prompt_tokens,
            request.max_tokens,
            alone=alone,
            more_blocks=0 if alone else self._blocks_of_siblings(request),
        )

    def _blocks_of_siblings(self, request: Request) -> int:
        """Blocks that a request's other sequences need beside those that they share with an earlier one."""
        size, needed = self._memory.block_size, 0
        for number, sequence in enumerate(request.live[1:], 1):
            shared = max(common_prefix(s.token_ids, sequence.token_ids) for s in request.live[:number])
            needed += -(-sequence.num_tokens // size) - min(shared, sequence.num_tokens - 1) // size
        return needed * len(self._memory.windows)

    def _block(self, request: int, shortfall: Shortfall) -> None:
        if self._blocked == (request, shortfall):
            return
        self._blocked = (request, shortfall)
        if self._bus is not None:
            self._bus.emit(AdmissionBlocked(request, shortfall.cause, shortfall.needed, shortfall.available))

    # -- making room -----------------------------------------------------------------------------------------------

    def _choose_victim(self, index: int) -> Request:
        """Who gives way so that the running request at ``index``, or an older one, can go on."""
        candidates = self.running[max(1, index) :]
        if not candidates:
            raise RuntimeError(f"request {self.running[0].request} does not fit although it runs alone: this is a bug")

        def key(request: Request) -> tuple[object, int]:
            footprint = self._memory.footprint(request.present)
            candidate = Candidate(request.request, footprint, request.remaining_tokens)
            return self._victims.key(candidate), -request.request

        return min(candidates, key=key)

    def _make_room_for_oldest(self, index: int) -> bool:
        """Moves pages of a request that runs alone, and is larger than the device, to the host. False: it can't."""
        if len(self.running) > 1 or index:
            return False
        request = self.running[0]
        if len(request.live) > 1 or request.pending:
            return False
        sequence = request.live[0]
        largest = self._memory.largest_chunk or 1
        count = min(sequence.num_uncomputed_tokens, self._config.max_num_batched_tokens, largest)
        total = sequence.num_computed_tokens + count
        while not self._memory.offload(request.request, sequence.sequence, total):
            swapped = [r for r in self.waiting if r.preempted is PreemptionMode.SWAP]
            if not swapped:
                return False
            self._throw_away(swapped[-1])
        self._freed.append(sequence.sequence)
        return True

    def _throw_away(self, request: Request) -> None:
        """A request's pages in the host tier make room for one that could not run at all without."""
        lost = self._forget_memory(request, Cause.HOST_FULL)
        if self._bus is not None:
            self._bus.emit(RequestPreempted(request.request, PreemptionMode.RECOMPUTE, Cause.HOST_FULL, lost, 0))

    def _forget_memory(self, request: Request, cause: Cause) -> int:
        """Takes all memory of a request that will be computed again; returns how many tokens that are."""
        before = max((s.num_computed_tokens for s in request.live), default=0)
        for sequence in request.live:
            if self._memory.has(sequence.sequence):
                self._memory.free(sequence.sequence, cause)
                self._freed.append(sequence.sequence)
            sequence.num_lost_tokens = max(sequence.num_lost_tokens, sequence.num_computed_tokens)
            sequence.num_computed_tokens = 0
            sequence.decode_chunk = None
            sequence.is_absent = sequence is not request.live[0]
        request.num_lost = before
        request.preempted = PreemptionMode.RECOMPUTE
        request.debt = Debt(PreemptionMode.RECOMPUTE, -1)
        return before

    def _preempt(self, victim: Request) -> None:
        sequences = victim.present
        footprint = self._memory.footprint(sequences)
        is_fixed = self._preemption is PreemptionPolicy.RECOMPUTE
        shortfall = None if is_fixed else self._memory.can_swap_out(sequences)
        estimate = self.speeds.estimate(footprint, shortfall)
        mode, why = decide(self._preemption, estimate, shortfall)
        self.running.remove(victim)
        lost = 0
        if mode is PreemptionMode.SWAP:
            self._memory.swap_out(victim.request, sequences, Cause.PREEMPTION_VICTIM)
            self._freed.extend(sequences)
            for sequence in victim.live:
                sequence.decode_chunk = None
            victim.preempted = mode
            victim.debt = Debt(mode, estimate.swap_ns, to_move=1)
        else:
            lost = footprint.tokens + footprint.tokens_kept
            self._forget_memory(victim, Cause.PREEMPTION_VICTIM)
            victim.num_lost = lost
            victim.debt = Debt(mode, estimate.recompute_ns)
        index = bisect.bisect_left(self.waiting, victim.request, key=lambda r: r.request)
        self.waiting.insert(index, victim)
        self._blocked = None
        if self._bus is not None:
            self._bus.emit(
                RequestPreempted(
                    victim.request,
                    mode,
                    Cause.POOL_EXHAUSTED,
                    lost,
                    footprint.blocks,
                    self._victims.name,
                    "" if is_fixed else why,
                    None if is_fixed else estimate,
                )
            )

    # -- ending ----------------------------------------------------------------------------------------------------

    def _apply_cancellations(self) -> None:
        for request in self._cancelled.values():
            if request.finish_reason is None:
                for sequence in list(request.live):
                    held_back = sequence.text.finish(stopped=False)
                    self.finish_sequence(request, sequence, FinishReason.CANCELLED, held_back)
        self._cancelled.clear()

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
            self._freed.append(sequence.sequence)

    def finish_beams(self, request: Request) -> None:
        """A beam search is over: its results are known, its beams give their memory back."""
        for sequence in request.live:
            sequence.finish_reason = FinishReason.LENGTH
            self._take_back(sequence, Cause.REQUEST_FINISHED)
        request.live = []
        self._finish(request, request.chosen[0].reason, "")

    def _finish(self, request: Request, reason: FinishReason, text: str) -> None:
        request.finish_reason = reason
        if request in self.running:
            self.running.remove(request)
            # There is room now; whether it is enough for the head of the queue, the next step finds out.
            self._blocked = None
        else:
            self.waiting.remove(request)
            if self._blocked is not None and self._blocked[0] == request.request:
                self._blocked = None
        if self._bus is not None:
            self._bus.emit(RequestFinished(request.request, reason, request.num_output_tokens, text))


def _explain_rejection(request: Request, shortfall: Shortfall, config: EngineConfig, num_blocks: int) -> str:
    """The arithmetic behind a rejection."""
    stored = request.num_prompt_tokens + request.max_tokens - 1
    lengths = f"{request.num_prompt_tokens} prompt tokens + {request.max_tokens} new tokens - 1 = {stored} slots"
    if request.width > 1:
        lengths += f", {request.width} times, the prompt's full blocks shared"
    if config.memory == "paged":
        pool = "both pools together have" if shortfall.available > num_blocks else "the pool has"
        return (
            f"request {request.request} can never fit: {lengths}, in blocks of {config.block_size}: "
            f"needs {shortfall.needed} blocks, {pool} {shortfall.available}"
        )
    return (
        f"request {request.request} can never fit: {lengths}; under reservation {config.reservation!r} it needs "
        f"{shortfall.needed} adjacent slots, the largest region of the pool has {shortfall.available}"
    )
