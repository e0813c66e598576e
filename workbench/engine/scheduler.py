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

from collections import deque

from workbench.engine.branching import Branching, common_prefix
from workbench.engine.config import EngineConfig
from workbench.engine.endings import Endings
from workbench.engine.making_room import RoomMaker
from workbench.engine.plan import Chunk, StepPlan
from workbench.engine.preemption import Speeds
from workbench.engine.queues import Queues
from workbench.engine.request import Request
from workbench.engine.sequence import Sequence
from workbench.events.bus import EventBus
from workbench.events.types import Cause, PreemptionMode, RequestAdmitted, RequestRejected, RequestResumed
from workbench.memory.protocol import MemoryManager, Shortfall

#: `Scheduler._place` found no room.
_NO_ROOM = -1


class Scheduler:
    """Queues and policy. Touches memory only through the protocol, and tokens not at all."""

    def __init__(self, config: EngineConfig, memory: MemoryManager, bus: EventBus | None) -> None:
        self._config = config
        self._memory = memory
        self._bus = bus
        self.queues = Queues(bus)
        self.speeds = Speeds(config.transfer_bandwidth, config.prefill_speed)
        self.branching = Branching(config, memory, bus, self.queues.freed)
        self.endings = Endings(memory, bus, self.queues)
        self._room = RoomMaker(config, memory, bus, self.queues, self.speeds)
        self._cancelled: dict[int, Request] = {}

    @property
    def running(self) -> list[Request]:
        return self.queues.running

    @property
    def waiting(self) -> deque[Request]:
        return self.queues.waiting

    @property
    def has_unfinished(self) -> bool:
        return bool(self.waiting or self.running)

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

    def cancel(self, request: int) -> bool:
        """Marks a request; its memory is taken back when the next step begins. False if it is not here any more."""
        found = self.queues.find(request)
        if found is not None:
            self._cancelled[request] = found
        return found is not None

    # -- planning --------------------------------------------------------------------------------------------------

    def schedule(self, step: int) -> StepPlan:
        """Makes the plan for a step, with memory for all that it computes."""
        for cancelled in self._cancelled.values():
            self.endings.cancel(cancelled)
        self._cancelled.clear()
        plan = StepPlan()
        budget = self._config.max_num_batched_tokens
        try_append, decodes = self._memory.try_append, plan.decodes
        preempted = False
        index, running = 0, self.running
        while index < len(running) and budget > 0:
            request = running[index]
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
            elif not self._room.offload(index):
                preempted = True
                self._room.preempt(self._room.choose_victim(index))
        if preempted:
            self.queues.block(Shortfall(Cause.JUST_PREEMPTED, 0, 0, ""))
        elif self.waiting:
            self._admit(plan, budget, step)
        plan.freed = list(self.queues.freed)
        self.queues.freed.clear()
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
        # Before their siblings go on: then a sliding window has not taken away yet what they share.
        for sequence in live:
            if sequence.is_absent and not self._bring_back(request, sequence, holds):
                return _NO_ROOM
        for sequence in live:
            count = min(sequence.num_uncomputed_tokens - holds, budget - used, largest)
            if count <= 0 or sequence.is_absent:
                continue
            if not self._memory.try_append(sequence.sequence, sequence.num_computed_tokens + count):
                del plan.decodes[marks[0] :], plan.prefills[marks[1] :]
                return _NO_ROOM
            self._plan(plan, request, sequence, count)
            used += count
        return used

    def _bring_back(self, request: Request, sequence: Sequence, holds: bool) -> bool:
        """Gives memory to a sequence that lost it with its siblings, sharing what they have in common again.

        If it has to wait for a sibling to be computed, it stays absent. False: there is no room.
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
                self.queues.block(shortfall)
                return
            self.waiting.popleft()
            if request.preempted is PreemptionMode.SWAP:
                self._swap_in(request)
                continue
            first = request.live[0]
            kept = self._memory.allocate(first.sequence, first.token_ids, first.num_prompt_tokens, first.max_tokens)
            first.num_computed_tokens = kept
            self.queues.start(request)
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
        self.queues.start(request)
        request.preempted = None
        if self._bus is not None:
            self._bus.emit(RequestResumed(request.request, 0, PreemptionMode.SWAP))

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
