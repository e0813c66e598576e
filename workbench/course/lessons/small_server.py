"""A server of requests and pages that are only counted, for which lesson 7's students write the scheduler."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Request:
    """One request, as the scheduler sees it.

    Attributes:
        number: in the order of arrival.
        known: its tokens so far, the prompt and what it has written.
        left: how many it may still write.
        stored: how many of the known tokens have their keys and values in memory.
        pages: how many pages it holds.
    """

    number: int
    known: int
    left: int
    stored: int = 0
    pages: int = 0

    @property
    def missing(self) -> int:
        """Known tokens that must still be computed: 1 for a request that writes, more for a prompt."""
        return self.known - self.stored


class Server:
    """What a scheduler decides about. Pages are only counted: which one it is does not matter here.

    Attributes:
        block_size: slots per page.
        free: how many pages are free.
        budget: most tokens that one step computes.
        max_running: most requests that run at once.
        reserve: pages that must stay free when a request is let in (the watermark).
        running, waiting: requests in the order of their arrival.
    """

    def __init__(self, num_pages: int, block_size: int, budget: int, max_running: int, reserve: int) -> None:
        self.free = num_pages
        self.block_size, self.budget = block_size, budget
        self.max_running, self.reserve = max_running, reserve
        self.running: list[Request] = []
        self.waiting: list[Request] = []

    def pages_for(self, tokens: int) -> int:
        return -(-tokens // self.block_size)

    def give(self, request: Request, tokens: int) -> None:
        """Pages for ``tokens`` tokens in all; as many as it has already count."""
        more = max(0, self.pages_for(tokens) - request.pages)
        request.pages += more
        self.free -= more

    def take_back(self, request: Request) -> None:
        """All its pages, and with them its keys and values."""
        self.free += request.pages
        request.pages = request.stored = 0


class Reference(Server):
    """What `workbench.engine.scheduler.Scheduler` does, for requests with one sequence; the tests hold it to that."""

    def admit(self, budget: int) -> dict[int, int]:
        plan: dict[int, int] = {}
        while self._can_admit(budget):
            head = self.waiting.pop(0)
            self.running.append(head)
            self.give(head, head.known)
            plan[head.number] = min(head.missing, budget)
            budget -= plan[head.number]
        return plan

    def _can_admit(self, budget: int) -> bool:
        if not self.waiting or budget < 1 or len(self.running) >= self.max_running:
            return False
        reserve = self.reserve if self.running else 0
        return self.pages_for(self.waiting[0].known) <= self.free - reserve

    def make_room(self, index: int, tokens: int) -> bool:
        wanted = self.running[index]
        while self.pages_for(tokens) - wanted.pages > self.free and index < len(self.running):
            self.waiting.insert(0, self.running.pop())
            self.take_back(self.waiting[0])
        if index >= len(self.running):
            return False
        self.give(wanted, tokens)
        return True

    def step(self) -> dict[int, int]:
        plan: dict[int, int] = {}
        budget, before = self.budget, len(self.running)
        while len(plan) < len(self.running) and budget:
            request = self.running[len(plan)]
            count = min(request.missing, budget)
            if self.make_room(len(plan), request.stored + count):
                plan[request.number] = count
                budget -= count
        return plan if len(self.running) < before else plan | self.admit(budget)


def advance(server: Server, plan: dict[int, int]) -> None:
    """What the model does with a plan: tokens are stored, a request whose last one is stored writes one more."""
    for request in list(server.running):
        request.stored += plan.get(request.number, 0)
        if request.missing == 0:
            request.known += 1
            request.left -= 1
            if request.left == 0:
                server.take_back(request)
                server.running.remove(request)
