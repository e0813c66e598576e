"""The parts of a `PageMap`: pages, regions, sequences and requests, as plain data."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from workbench.events.types import Cause, OutputState


class RequestStatus(StrEnum):
    """Where a request stands."""

    WAITING = "waiting"
    RUNNING = "running"
    PREEMPTED = "preempted"
    SWAPPED = "swapped"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    REJECTED = "rejected"


class Page(msgspec.Struct, gc=False, omit_defaults=True):
    """One physical page. ``owner`` is a sequence that has it as its ``logical_index``-th page; others may, too.

    A page without references is *cached* if it has a ``hash``: its content can be used again. Else it is *free*.
    Encoded without default values, so that a free page costs next to nothing in a snapshot.
    """

    ref_count: int = 0
    filled: int = 0
    owner: int = -1
    logical_index: int = -1
    cause: str = ""
    since_step: int = 0
    group: int = 0
    hash: str = ""
    idle_seq: int = -1  #: the event with which its last reference, or its content, went
    hits: int = 0  #: how often its content was found in the prefix cache

    @property
    def is_cached(self) -> bool:
        return self.ref_count == 0 and self.hash != ""


class Region(msgspec.Struct):
    """One region of contiguous memory, in slots. ``filled`` slots from ``start`` hold tokens."""

    start: int
    size: int
    requested: int
    filled: int = 0
    since_step: int = 0


class BlockTable(msgspec.Struct, omit_defaults=True):
    """Logical to physical pages of one sequence in one layer group.

    Attributes:
        blocks: device pages by logical index; -1 where the page is not on the device.
        host: those that are in the host tier instead: logical index to host page. A page in neither is gone: it lay
            behind the sliding window.
    """

    blocks: list[int] = []
    host: dict[int, int] = {}

    @property
    def num_held(self) -> int:
        """Pages in either tier."""
        return sum(block >= 0 for block in self.blocks) + len(self.host)


class SequenceState(msgspec.Struct):
    """A sequence's memory: its block tables or its region, and how many tokens lie in it."""

    request: int
    tables: list[BlockTable] = []
    region: Region | None = None
    num_computed_tokens: int = 0
    mass: list[float] = []  #: of attention per logical page, when last sampled
    mass_step: int = -1

    @property
    def block_table(self) -> list[int]:
        """Device pages in logical order, of the first layer group; -1: not on the device."""
        return self.tables[0].blocks if self.tables else []

    @property
    def is_swapped(self) -> bool:
        """Whether all its pages are in the host tier."""
        held = sum(table.num_held for table in self.tables)
        return held > 0 and held == sum(len(table.host) for table in self.tables)


class OutputText(msgspec.Struct):
    """What one sequence of a request has generated. ``parent`` is the sequence that it was forked from, or -1.

    ``ends``: characters of the text that were known after each token.
    """

    token_ids: list[int] = []
    text: str = ""
    parent: int = -1
    reason: str = ""
    is_dropped: bool = False  #: a beam that fell behind
    score: float | None = None
    ends: list[int] = []


class RequestState(msgspec.Struct):
    """A request as its user sees it. Steps are engine steps; -1 means "not yet".

    Attributes:
        sequence: its first sequence.
        width: how many sequences it runs at once.
        outputs: by sequence, what each has generated, those included that were dropped.
        chosen: the results of a beam search, best first, when it has ended.
        prompt_ends: as in `RequestQueued`.
    """

    prompt: str
    prompt_tokens: int
    max_tokens: int
    sequence: int
    width: int = 1
    is_beam_search: bool = False
    status: RequestStatus = RequestStatus.WAITING
    outputs: dict[int, OutputText] = {}
    chosen: list[OutputState] = []
    reason: str = ""
    queued_step: int = 0
    admitted_step: int = -1
    finished_step: int = -1
    preemptions: int = 0
    tokens_lost: int = 0
    prompt_ends: list[int] = []

    @property
    def text(self) -> str:
        """The text of its first output: of the best beam when a beam search has ended."""
        if self.chosen:
            return self.chosen[0].text
        return self.outputs[self.sequence].text if self.sequence in self.outputs else ""

    @property
    def token_ids(self) -> list[int]:
        """The tokens of its first output."""
        if self.chosen:
            return self.chosen[0].token_ids
        return self.outputs[self.sequence].token_ids if self.sequence in self.outputs else []


class Blocked(msgspec.Struct):
    """Why the head of the queue waits (see `workbench.events.types.AdmissionBlocked`)."""

    request: int
    cause: Cause
    needed: int
    available: int


class Totals(msgspec.Struct):
    """Sums over the run so far. ``busy_ns`` is the time spent inside steps."""

    generated_tokens: int = 0
    prefill_tokens: int = 0
    recomputed_tokens: int = 0
    preemptions: int = 0
    max_running: int = 0
    busy_ns: int = 0
    swapped_out_bytes: int = 0
    swapped_in_bytes: int = 0
    streamed_bytes: int = 0
    blocks_copied: int = 0
    prefix_hit_tokens: int = 0
    evictions: int = 0
