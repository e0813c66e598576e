"""What the scheduler asks of KV memory. Paged and contiguous memory answer; the scheduler does not know which."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from workbench.events.types import Cause, LiveWaste


@dataclass(frozen=True)
class Shortfall:
    """Why memory was refused. ``needed`` and ``available`` are in ``unit``."""

    cause: Cause
    needed: int
    available: int
    unit: str


@dataclass(frozen=True)
class MemoryTables:
    """The manager's own books, for comparison with a `PageMap`.

    Attributes:
        block_tables: per sequence, its pages in logical order (paged).
        ref_counts: per page (paged).
        free_blocks: pages on the free list (paged).
        regions: per sequence, ``(start, size, requested)`` in slots (contiguous).
        num_tokens: per sequence, how many tokens are stored.
    """

    block_tables: dict[int, list[int]] = field(default_factory=dict)
    ref_counts: list[int] = field(default_factory=list)
    free_blocks: list[int] = field(default_factory=list)
    regions: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    num_tokens: dict[int, int] = field(default_factory=dict)


class MemoryManager(Protocol):
    """Books of one pool of ``num_blocks * block_size`` slots. Moves no tensor; every change is an event with a cause.

    Lengths are in tokens. A sequence stores at most its prompt and all but the last of its ``max_tokens``: the last
    generated token is never fed back, so it needs no slot.
    """

    block_size: int
    num_blocks: int

    def never_fits(self, prompt_tokens: int, max_tokens: int) -> Shortfall | None:
        """Why a request could not even run alone in an empty pool; None if it could."""

    def can_allocate(self, num_tokens: int, prompt_tokens: int, max_tokens: int, alone: bool) -> Shortfall | None:
        """Why a waiting sequence with ``num_tokens`` known tokens can't start now; None if it can.

        ``alone`` says that nothing else runs: then no reserve is kept back.
        """

    def allocate(self, sequence: int, num_tokens: int, prompt_tokens: int, max_tokens: int) -> None:
        """Gives a sequence memory for its ``num_tokens`` known tokens. `can_allocate` must have said yes."""

    def try_append(self, sequence: int, num_tokens: int) -> bool:
        """Makes room for ``num_tokens`` tokens in total; returns False, and changes nothing, if there is none."""

    def peek(self, count: int) -> list[int]:
        """The pages that the next ``count`` sequences to need one more will get, if nothing else happens before.

        Fewer if so many are not free. Nothing is taken. Contiguous memory never needs one more.
        """

    def commit(self, sequence: int, count: int, cause: Cause) -> None:
        """Notes that the keys and values of the next ``count`` tokens have been stored."""

    def free(self, sequence: int, cause: Cause) -> int:
        """Takes all memory of a sequence back; returns how many pages or regions that were."""

    def block_table(self, sequence: int) -> list[int]:
        """Physical blocks in logical order. Contiguous memory answers with consecutive ones."""

    def waste(self, head_waits: bool) -> LiveWaste:
        """What every slot does now. ``head_waits``: a request waits because the pool has no room for it."""

    def tables(self) -> MemoryTables:
        """A copy of the books."""
