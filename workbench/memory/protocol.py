"""What the scheduler sees of KV memory, paged and contiguous alike."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from workbench.events.types import Cause, LiveWaste
from workbench.memory.block_table import BlockTable, Move


class SharingError(ValueError):
    """This memory can't do what was asked. The message says why, and what to do instead."""


@dataclass(frozen=True)
class Shortfall:
    """Why memory was refused. ``needed`` and ``available`` are in ``unit``."""

    cause: Cause
    needed: int
    available: int
    unit: str


@dataclass(frozen=True)
class Footprint:
    """What a request's sequences hold together, each page or region counted once.

    Attributes:
        blocks: pages or regions on the device.
        lost: those that nobody else uses: what taking them away makes room for.
        shared: those that other requests use, too.
        tokens: tokens to be computed again if all of it is taken away.
        tokens_kept: tokens beside these that the prefix cache will give back: others hold their pages.
        bytes: size of ``blocks`` that hold tokens.
    """

    blocks: int
    lost: int
    shared: int
    tokens: int
    tokens_kept: int
    bytes: int


@dataclass
class MemoryTables:
    """The manager's own books, for comparison with a `PageMap`.

    Attributes:
        block_tables: per sequence and layer group, device pages in logical order (-1: elsewhere), and host pages by
            logical index (paged).
        ref_counts: per page; ``host_ref_counts`` in the host tier (paged).
        free_blocks: pages on the free list; ``free_host_blocks`` alike (paged).
        cached_blocks: pages without references that are kept for their content, next to be evicted first (paged).
        regions: per sequence, ``(start, size, requested)`` in slots (contiguous).
        num_tokens: per sequence, how many tokens are stored.
    """

    block_tables: dict[int, list[tuple[list[int], dict[int, int]]]] = field(default_factory=dict)
    ref_counts: list[int] = field(default_factory=list)
    free_blocks: list[int] = field(default_factory=list)
    cached_blocks: list[int] = field(default_factory=list)
    host_ref_counts: list[int] = field(default_factory=list)
    free_host_blocks: list[int] = field(default_factory=list)
    regions: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    num_tokens: dict[int, int] = field(default_factory=dict)


class MemoryManager(Protocol):
    """Books of one pool of ``num_blocks * block_size`` slots. Moves no tensor; every change is an event with a cause.

    Lengths are in tokens. A sequence stores at most its prompt and all but the last of its ``max_tokens``: the last
    generated token is never fed back, so it needs no slot.

    Attributes:
        num_host_blocks: pages in the host tier.
        windows: per layer group, its sliding window, or None.
        moves: contents to be copied before the next step's tokens are computed, in order. Who carries them out empties
            the list.
        streamed: sequences that run although some of their pages are in the host tier.
    """

    block_size: int
    num_blocks: int
    num_host_blocks: int
    windows: tuple[int | None, ...]
    moves: list[Move]

    @property
    def streamed(self) -> Collection[int]: ...

    @property
    def why_not_share(self) -> str | None:
        """Why sequences can't share memory here, in words; None if they can."""

    @property
    def largest_chunk(self) -> int | None:
        """Most tokens of one sequence that a step may compute, because of memory; None: as many as it likes."""

    # -- room ------------------------------------------------------------------------------------------------------

    def never_fits(self, prompt_tokens: int, max_tokens: int, width: int = 1) -> Shortfall | None:
        """Why a request of ``width`` sequences could not even run alone in an empty pool; None if it could."""

    def can_allocate(
        self, token_ids: Sequence[int], prompt_tokens: int, max_tokens: int, alone: bool, more_blocks: int = 0
    ) -> Shortfall | None:
        """Why a waiting sequence with these known tokens can't start now; None if it can.

        Args:
            alone: nothing else runs: then no reserve is kept back.
            more_blocks: what the other sequences of its request will need beside it.
        """

    def allocate(self, sequence: int, token_ids: Sequence[int], prompt_tokens: int, max_tokens: int) -> int:
        """Gives a sequence memory for its known tokens. `can_allocate` must have said yes.

        Args:
            token_ids: the sequence's own list; it is kept, and read when it has grown.

        Returns:
            How many of them are stored already, because the prefix cache had them.
        """

    def try_append(self, sequence: int, num_tokens: int) -> bool:
        """Makes room for ``num_tokens`` tokens in total, in pages of its own; False if there is none.

        If False, nothing has changed, but that pages behind a sliding window are given up either way.
        """

    def peek(self, count: int) -> list[int]:
        """The pages that the next ``count`` sequences to need one more will get, if nothing else happens before.

        Fewer if so many are not free. Nothing is taken. Contiguous memory never needs one more.
        """

    def commit(self, sequence: int, count: int, cause: Cause) -> None:
        """Notes that the keys and values of the next ``count`` tokens have been stored."""

    def free(self, sequence: int, cause: Cause) -> int:
        """Takes all memory of a sequence back, in both tiers; returns how many pages or regions that were."""

    # -- sharing ---------------------------------------------------------------------------------------------------

    def fork(self, parent: int, child: int, token_ids: Sequence[int], num_tokens: int | None = None) -> int:
        """Lets a new sequence share the pages of the first ``num_tokens`` stored tokens of another (None: of all).

        If the parent has more than these, only full pages are shared, and none if the child would see pages that lay
        behind the parent's sliding window. Returns how many tokens the child has now; if none, it has no memory either.

        Raises:
            SharingError: contiguous memory can't.
        """

    # -- tiers -----------------------------------------------------------------------------------------------------

    def can_swap_out(self, sequences: Sequence[int]) -> Shortfall | None:
        """Why these sequences' pages can't move to the host tier together; None if they can."""

    def swap_out(self, request: int, sequences: Sequence[int], cause: Cause) -> int:
        """Moves all pages that hold tokens to the host tier, gives up the others; returns the bytes to be moved."""

    def can_swap_in(self, sequences: Sequence[int], alone: bool) -> Shortfall | None:
        """Why they can't come back now, with room to go on; None if they can. ``alone``: nothing else runs."""

    def swap_in(self, request: int, sequences: Sequence[int], cause: Cause) -> int:
        """Moves the pages back to the device; returns the bytes to be moved."""

    def offload(self, request: int, sequence: int, num_tokens: int) -> bool:
        """Moves full pages of a running sequence to the host, so that ``num_tokens`` tokens fit. False: impossible."""

    def note_mass(self, sequence: int, mass: list[float]) -> None:
        """How much attention each of a sequence's pages got, for the placement policy."""

    # -- reading ---------------------------------------------------------------------------------------------------

    def has(self, sequence: int) -> bool:
        """Whether the sequence has memory, in whatever tier."""

    def num_stored(self, sequence: int) -> int:
        """Tokens of the sequence that are stored."""

    def block_table(self, sequence: int) -> list[int]:
        """Physical blocks of the first layer group, in logical order; in contiguous memory consecutive ones."""

    def block_tables(self, sequence: int) -> list[BlockTable]:
        """One table per layer group."""

    def footprint(self, sequences: Sequence[int]) -> Footprint:
        """What these sequences hold together."""

    def waste(self, head_waits: bool) -> LiveWaste:
        """What every slot does now. ``head_waits``: a request waits because the pool has no room for it."""

    def tables(self) -> MemoryTables:
        """A copy of the books."""
