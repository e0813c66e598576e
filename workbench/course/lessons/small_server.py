"""A server of requests and pages that are only counted, for which lesson 7's students write the scheduler.

No solution of 7.2 to 7.4 is here or in the graders: `scheduler_judge` asks the engine's own scheduler.
"""

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
