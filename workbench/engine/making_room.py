"""Takes memory from running requests when there is too little: by preemption, or by moving pages of one to the host."""

from __future__ import annotations

from workbench.engine.config import EngineConfig
from workbench.engine.preemption import Candidate, LastCome, PreemptionPolicy, Speeds, decide
from workbench.engine.queues import Queues
from workbench.engine.request import Debt, Request
from workbench.events.bus import EventBus
from workbench.events.types import Cause, PreemptionMode, RequestPreempted
from workbench.memory.protocol import MemoryManager


class RoomMaker:
    """Carries out what the policies decide, with all its events."""

    def __init__(
        self, config: EngineConfig, memory: MemoryManager, bus: EventBus | None, queues: Queues, speeds: Speeds
    ) -> None:
        self._config, self._memory, self._bus = config, memory, bus
        self._queues, self._speeds = queues, speeds
        self._victims = config.victim_policy
        self._preemption = PreemptionPolicy(config.preemption)

    def choose_victim(self, index: int) -> Request:
        """Who gives way so that the running request at ``index``, or an older one, can go on."""
        candidates = self._queues.running[max(1, index) :]
        if not candidates:
            raise RuntimeError(
                f"request {self._queues.running[0].request} does not fit although it runs alone: this is a bug"
            )

        if isinstance(self._victims, LastCome):
            return candidates[-1]  # without looking at what everybody holds

        def key(request: Request) -> tuple[object, int]:
            footprint = self._memory.footprint(request.present)
            candidate = Candidate(request.request, footprint, request.remaining_tokens)
            return self._victims.key(candidate), -request.request

        return min(candidates, key=key)

    def offload(self, index: int) -> bool:
        """Moves pages of a request that runs alone, and is larger than the device, to the host. False: it can't."""
        if len(self._queues.running) > 1 or index:
            return False
        request = self._queues.running[0]
        if len(request.live) > 1 or request.pending:
            return False
        sequence = request.live[0]
        largest = self._memory.largest_chunk or 1
        count = min(sequence.num_uncomputed_tokens, self._config.max_num_batched_tokens, largest)
        total = sequence.num_computed_tokens + count
        while not self._memory.offload(request.request, sequence.sequence, total):
            swapped = [r for r in self._queues.waiting if r.preempted is PreemptionMode.SWAP]
            if not swapped:
                return False
            self._throw_away(swapped[-1])
        # Whoever keeps its block table has to read it anew.
        self._queues.freed.append(sequence.sequence)
        sequence.decode_chunk = None
        return True

    def _throw_away(self, request: Request) -> None:
        """A request's pages in the host tier make room for one that could not run at all without."""
        lost = max(sequence.num_computed_tokens for sequence in request.live)
        self._forget_memory(request, Cause.HOST_FULL, lost, -1)
        if self._bus is not None:
            self._bus.emit(RequestPreempted(request.request, PreemptionMode.RECOMPUTE, Cause.HOST_FULL, lost, 0))

    def _forget_memory(self, request: Request, cause: Cause, lost: int, estimated_ns: int) -> None:
        """Takes all memory of a request, of whose tokens ``lost`` will be computed again."""
        for sequence in request.live:
            if self._memory.has(sequence.sequence):
                self._memory.free(sequence.sequence, cause)
                self._queues.freed.append(sequence.sequence)
            sequence.num_lost_tokens = max(sequence.num_lost_tokens, sequence.num_computed_tokens)
            sequence.num_computed_tokens = 0
            sequence.decode_chunk = None
            sequence.is_absent = sequence is not request.live[0]
        request.num_lost = lost
        request.preempted = PreemptionMode.RECOMPUTE
        self._queues.owe(request, Debt(PreemptionMode.RECOMPUTE, estimated_ns))

    def preempt(self, victim: Request) -> None:
        """Takes the memory of a running request, and puts it back into the queue."""
        sequences = victim.present
        footprint = self._memory.footprint(sequences)
        is_fixed = self._preemption is PreemptionPolicy.RECOMPUTE
        shortfall = None if is_fixed else self._memory.can_swap_out(sequences)
        estimate = self._speeds.estimate(footprint, shortfall)
        mode, why = decide(self._preemption, estimate, shortfall)
        if not footprint.tokens + footprint.tokens_kept:
            mode, why = PreemptionMode.RECOMPUTE, "nothing of it is stored yet"
        lost = 0
        if mode is PreemptionMode.SWAP:
            self._memory.swap_out(victim.request, sequences, Cause.PREEMPTION_VICTIM)
            self._queues.freed.extend(sequences)
            for sequence in victim.live:
                sequence.decode_chunk = None
            victim.preempted = mode
            self._queues.owe(victim, Debt(mode, estimate.swap_ns))
        else:
            lost = footprint.tokens + footprint.tokens_kept
            self._forget_memory(victim, Cause.PREEMPTION_VICTIM, lost, estimate.recompute_ns)
        self._queues.put_back(victim)
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
