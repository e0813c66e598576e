"""The parts of a `PageMap`: pages, regions, sequences and requests, as plain data."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from workbench.events.types import Cause


class RequestStatus(StrEnum):
    """Where a request stands."""

    WAITING = "waiting"
    RUNNING = "running"
    PREEMPTED = "preempted"
    FINISHED = "finished"
    CANCELLED = "cancelled"
    REJECTED = "rejected"


class Page(msgspec.Struct, gc=False, omit_defaults=True):
    """One physical page. ``owner`` is the sequence that holds it, as its ``logical_index``-th page.

    Encoded without default values, so that a free page costs next to nothing in a snapshot.
    """

    ref_count: int = 0
    filled: int = 0
    owner: int = -1
    logical_index: int = -1
    cause: str = ""
    since_step: int = 0


class Region(msgspec.Struct):
    """One region of contiguous memory, in slots. ``filled`` slots from ``start`` hold tokens."""

    start: int
    size: int
    requested: int
    filled: int = 0
    since_step: int = 0


class SequenceState(msgspec.Struct):
    """A sequence's memory: its block table, or its region, and how many tokens lie in it."""

    request: int
    block_table: list[int] = []
    region: Region | None = None
    num_computed_tokens: int = 0


class RequestState(msgspec.Struct):
    """A request as its user sees it. Steps are engine steps; -1 means "not yet"."""

    prompt: str
    prompt_tokens: int
    max_tokens: int
    sequence: int
    status: RequestStatus = RequestStatus.WAITING
    text: str = ""
    token_ids: list[int] = []
    reason: str = ""
    queued_step: int = 0
    admitted_step: int = -1
    finished_step: int = -1
    preemptions: int = 0
    tokens_lost: int = 0


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
