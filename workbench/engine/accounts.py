"""What preemptions cost: expected beforehand, measured afterwards."""

from __future__ import annotations

from collections.abc import Sequence

from workbench.engine.mover import Mover, Transfer
from workbench.engine.plan import StepPlan
from workbench.engine.request import Request
from workbench.engine.scheduler import Scheduler
from workbench.events.types import AnyEvent, Cause, PreemptionMode, PreemptionSettled
from workbench.memory.block_table import MoveKind


class Accounts:
    """Keeps `Debt` of preempted requests, and the speeds that estimates are made from."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def measure_transfers(self, mover: Mover) -> None:
        """Measures the bandwidth between the tiers, before anything has been moved."""
        ns = mover.measure()
        if ns is not None:
            self._scheduler.speeds.note_transfer(1 << 20, ns)

    def note_step(self, plan: StepPlan, forward_ns: int, transfers: Sequence[Transfer]) -> list[AnyEvent]:
        """Takes a step into account; returns what can be settled now."""
        speeds, owing = self._scheduler.speeds, self._scheduler.queues.owing
        settled: list[AnyEvent] = []
        for transfer in transfers:
            if transfer.kind is not MoveKind.COPY:
                speeds.note_transfer(transfer.bytes, transfer.ns)
                settled += self._note_transfer(transfer)
        if plan.prefills:
            speeds.note_prefill(sum(chunk.count for chunk in plan.chunks), forward_ns)
        if owing:
            settled += self._note_recomputed(plan, forward_ns)
        return settled

    def _note_transfer(self, transfer: Transfer) -> list[AnyEvent]:
        request = self._scheduler.queues.owing.get(transfer.request)
        if request is None or request.debt is None or request.debt.mode is not PreemptionMode.SWAP:
            return []
        debt, is_back = request.debt, transfer.kind is MoveKind.IN
        if is_back and not debt.is_resumed:
            return []  # it came back from an earlier preemption, and went again before this was known
        debt.spent_ns += transfer.ns
        debt.bytes += transfer.bytes
        return self._settle(request) if is_back else []

    def _note_recomputed(self, plan: StepPlan, forward_ns: int) -> list[AnyEvent]:
        """Shares of the forward pass, by tokens, for what is computed again."""
        chunks, owing = plan.chunks, self._scheduler.queues.owing
        tokens = sum(chunk.count for chunk in chunks)
        for chunk in chunks:
            request = owing.get(chunk.sequence.request)
            if chunk.cause is Cause.RECOMPUTE and request is not None and request.debt is not None:
                request.debt.tokens += chunk.count
                request.debt.spent_ns += forward_ns * chunk.count // tokens
        return [
            event
            for request in list(owing.values())
            if request.debt is not None
            and request.debt.is_resumed
            and request.debt.mode is PreemptionMode.RECOMPUTE
            and _is_back(request)
            for event in self._settle(request)
        ]

    def _settle(self, request: Request) -> list[AnyEvent]:
        debt = self._scheduler.queues.settle(request)
        if debt is None:
            return []
        return [
            PreemptionSettled(request.request, debt.mode, debt.tokens, debt.bytes, debt.estimated_ns, debt.spent_ns)
        ]


def _is_back(request: Request) -> bool:
    """Whether all that was lost is computed again, or was found again."""
    return all(s.num_computed_tokens >= s.num_lost_tokens and not s.is_absent for s in request.live)
