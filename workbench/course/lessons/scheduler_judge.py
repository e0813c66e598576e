"""The judge of exercises 7.2 to 7.4: the engine's own scheduler, asked what it would do in the state of a small server.

So the lesson ships no solution: what is asked here is one call of `workbench.engine.scheduler.Scheduler.schedule`.
"""

from __future__ import annotations

import random

from workbench import EngineConfig, SamplingParams
from workbench.course.lessons.small_server import Request, Server
from workbench.engine.request import Request as EngineRequest
from workbench.engine.scheduler import Scheduler
from workbench.engine.sequence import Sequence, TextStream
from workbench.events.types import Cause
from workbench.memory.paged import PagedMemory


class Judge(Server):
    """A server that decides as the engine does; each request has one sequence with the same number."""

    def admit(self, budget: int) -> dict[int, int]:
        """What is let in if those that run have nothing to compute."""
        return self._ask(budget, {})

    def make_room(self, index: int, tokens: int) -> bool:
        """What happens if only this one computes, and then the budget is spent."""
        request = self.running[index]
        plan = self._ask(tokens - request.stored, {request.number: tokens})
        return request.number in plan or tokens == request.stored

    def step(self) -> dict[int, int]:
        return self._ask(self.budget, {request.number: request.known for request in self.running})

    def _ask(self, budget: int, known: dict[int, int]) -> dict[int, int]:
        """One step of the engine; afterwards this server is in its state.

        Args:
            known: how many tokens each running request knows; those left out know only what is stored.
        """
        if budget < 1:
            return {}
        requests = {request.number: request for request in [*self.running, *self.waiting]}
        total = self.free + sum(request.pages for request in requests.values())
        # A share whose product with the pool, rounded up, is the reserve.
        watermark = max(0.0, min(self.reserve, total) - 0.5) / total
        memory = PagedMemory(total, self.block_size, watermark, None)
        config = EngineConfig(
            block_size=self.block_size,
            num_blocks=total,
            watermark=watermark,
            max_num_seqs=self.max_running,
            max_num_batched_tokens=budget,
        )
        scheduler = Scheduler(config, memory, None)
        for request in self.running:
            memory.allocate(request.number, [0] * (request.pages * self.block_size), request.known, request.left)
            memory.commit(request.number, request.stored, Cause.PREFILL)
            scheduler.running.append(_queued(request, known.get(request.number, request.stored)))
        scheduler.waiting.extend(_queued(request, request.known) for request in self.waiting)
        plan = scheduler.schedule(1)
        tables = memory.tables()
        for number, request in requests.items():
            request.pages = len(tables.block_tables[number][0][0]) if memory.has(number) else 0
            request.stored = request.stored if memory.has(number) else 0
        self.free = len(tables.free_blocks)
        self.running = [requests[request.request] for request in scheduler.running]
        self.waiting = [requests[request.request] for request in scheduler.waiting]
        return dict(sorted((chunk.sequence.request, chunk.count) for chunk in [*plan.decodes, *plan.prefills]))


def _queued(request: Request, known: int) -> EngineRequest:
    """The engine's request with so many known tokens, of which as many are computed as in the small server."""
    params = SamplingParams(max_tokens=max(1, request.left))
    tokens = [0] * known
    sequence = Sequence(
        request=request.number,
        sequence=request.number,
        params=params,
        token_ids=tokens,
        num_prompt_tokens=known,
        max_tokens=max(1, request.left),
        random=random.Random(0),
        text=TextStream(None),
        num_computed_tokens=request.stored,
    )
    return EngineRequest(request.number, "", params, tokens, max(1, request.left), 0, [sequence], [sequence])
