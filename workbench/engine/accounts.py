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
        settled: list[AnyEvent] = []
        for transfer in transfers:
            if transfer.kind is not MoveKind.COPY:
                self._scheduler.speeds.note_transfer(transfer.bytes, transfer.ns)
                settled += self._note_transfer(transfer)
        if plan.prefills:
            tokens = sum(chunk.count for chunk in plan.chunks)
            self._scheduler.speeds.note_prefill(tokens, forward_ns)
        recomputed: dict[int, int] = {}
        for chunk in plan.chunks:
            if chunk.cause is Cause.RECOMPUTE:
                number = chunk.sequence.request
                recomputed[number] = recomputed.get(number, 0) + chunk.count
        if recomputed:
            tokens = sum(chunk.count for chunk in plan.chunks)
            for number, count in recomputed.items():
                self._note_recomputed(number, count, forward_ns * count // tokens)
        for request in self._scheduler.running:
            if request.debt is not None and request.debt.mode is PreemptionMode.RECOMPUTE and _is_back(request):
                settled += self._settle(request)
        return settled

    def _note_transfer(self, transfer: Transfer) -> list[AnyEvent]:
        request = self._scheduler.queues.find(transfer.request)
        if request is None or request.debt is None or request.debt.mode is not PreemptionMode.SWAP:
            return []
        debt = request.debt
        debt.spent_ns += transfer.ns
        debt.bytes += transfer.bytes
        debt.to_move -= 1
        return self._settle(request) if debt.is_resumed and debt.to_move == 0 else []

    def _note_recomputed(self, number: int, tokens: int, ns: int) -> None:
        request = self._scheduler.queues.find(number)
        if request is not None and request.debt is not None:
            request.debt.tokens += tokens
            request.debt.spent_ns += ns

    def _settle(self, request: Request) -> list[AnyEvent]:
        debt, request.debt = request.debt, None
        if debt is None:
            return []
        return [
            PreemptionSettled(request.request, debt.mode, debt.tokens, debt.bytes, debt.estimated_ns, debt.spent_ns)
        ]


def _is_back(request: Request) -> bool:
    """Whether all that was lost is computed again, or was found again."""
    return all(s.num_computed_tokens >= s.num_lost_tokens and not s.is_absent for s in request.live)
