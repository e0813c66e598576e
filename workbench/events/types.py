"""Event schema, version 1: everything that happens to a request and to a page of KV memory, as typed records.

Every event is a msgspec struct, encoded as a map with a ``type`` tag. Three fields are common to all:

- ``seq``: position in the run, counted from 0 without holes;
- ``step``: the engine step during which it happened (0 is before the first step);
- ``t_ns``: nanoseconds since the run began.

The same seed gives the same events: only ``t_ns`` and the durations of `StepFinished` differ between two runs.
Part 3 of the plan adds the events of sharing, copying and swapping; their names are reserved in the design.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

SCHEMA_VERSION = 1


class Cause(StrEnum):
    """Answers "why did this happen?"."""

    ADMISSION = "admission"  #: a waiting request was let in and got memory for its known tokens
    PREFILL = "prefill"  #: prompt tokens were computed
    DECODE = "decode"  #: one generated token was computed
    RECOMPUTE = "recompute"  #: tokens of a preempted request were computed again, perhaps with new ones behind them
    DECODE_GROWTH = "decode_growth"  #: the last page was full and one more token had to be stored
    POOL_EXHAUSTED = "pool_exhausted"  #: no free page or region is large enough
    WATERMARK = "watermark"  #: free pages are left, but so few that running requests will soon need them
    MAX_RUNNING = "max_running"  #: as many requests run as the configuration allows
    TOKEN_BUDGET = "token_budget"  #: the step computes as many tokens as it may
    JUST_PREEMPTED = "just_preempted"  #: memory ran out in this very step, so nobody is let in
    PREEMPTION_VICTIM = "preemption_victim"  #: the request was put back so that an older one can go on
    REQUEST_FINISHED = "request_finished"
    CANCELLED = "cancelled"
    NEVER_FITS = "never_fits"  #: the request is larger than the whole pool


class FinishReason(StrEnum):
    """Why a request stopped generating."""

    STOP = "stop"  #: a stop token, a stop string or the end-of-text token
    LENGTH = "length"  #: `max_tokens` or the model's last position was reached
    CANCELLED = "cancelled"


class Tier(StrEnum):
    """Where a page lies."""

    DEVICE = "device"


class PreemptionMode(StrEnum):
    """What becomes of a preempted request's KV memory."""

    RECOMPUTE = "recompute"


class ModelGeometry(msgspec.Struct, frozen=True):
    """The shape of the model, as far as its KV cache is concerned. ``kv_bytes_per_token`` counts all layers."""

    name: str
    architecture: str
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    dtype: str
    kv_bytes_per_token: int


class LiveWaste(msgspec.Struct, frozen=True):
    """What every slot of the pool is doing now. The four counts add up to the pool.

    While a request runs nobody knows how long it gets, so reservation and internal fragmentation (Kwon et al.,
    SOSP 2023, Fig. 2) cannot be told apart: both are ``reserved``. `workbench.events.waste` splits them afterwards.

    Attributes:
        token_states: slots that hold the keys and values of a token.
        reserved: slots that belong to a running request and hold nothing yet.
        external: slots that no waiting request can get: rounding by the buddy allocator, and free slots in pieces
            too small for the request at the head of the queue.
        free: slots that could be given to a request.
    """

    token_states: int
    reserved: int
    external: int
    free: int


class Event(msgspec.Struct, tag=True, tag_field="type", kw_only=True, gc=False):
    """Base of all events. The bus fills in ``seq``, ``step`` and ``t_ns``."""

    seq: int = -1
    step: int = -1
    t_ns: int = 0


# --- run ---------------------------------------------------------------------------------------------------------


class RunStarted(Event):
    """First event of a run. ``config`` is the engine's configuration, as plain values.

    Attributes:
        memory: ``"paged"`` or ``"contiguous"``.
        block_size: slots per page. In contiguous memory: the smallest region of the buddy allocator, in slots.
        num_blocks: pages in the pool. The arena of contiguous memory has ``block_size * num_blocks`` slots.
    """

    schema_version: int
    memory: str
    block_size: int
    num_blocks: int
    bytes_per_block: int
    seed: int
    model: ModelGeometry
    config: dict[str, str | int | float | bool | None]


class RunFinished(Event):
    """Last event of a run."""


# --- step --------------------------------------------------------------------------------------------------------


class StepStarted(Event):
    """Numbers of requests when the step begins."""

    running: int
    waiting: int


class StepFinished(Event):
    """What the step did. Durations are in nanoseconds; counts of tokens are those computed in this step."""

    running: int
    waiting: int
    prefill_tokens: int
    decode_tokens: int
    waste: LiveWaste
    schedule_ns: int
    forward_ns: int
    sample_ns: int


# --- request -----------------------------------------------------------------------------------------------------


class RequestQueued(Event):
    """A request arrived. Its first (and so far only) sequence has the id ``sequence``."""

    request: int
    sequence: int
    prompt: str
    prompt_tokens: int
    max_tokens: int


class RequestAdmitted(Event):
    """A waiting request began to run."""

    request: int
    waited_steps: int


class AdmissionBlocked(Event):
    """The request at the head of the queue has to wait. Sent when anything about that changes.

    ``needed`` and ``available`` are pages (paged) or slots (contiguous: the largest free region), or requests when
    the cause is `Cause.MAX_RUNNING`. For `Cause.TOKEN_BUDGET` they are the waiting tokens and the budget of a step, for
    `Cause.JUST_PREEMPTED` both are 0.
    """

    request: int
    cause: Cause
    needed: int
    available: int


class RequestPreempted(Event):
    """A running request lost its memory so that an older one can go on. ``tokens_lost`` must be computed again."""

    request: int
    mode: PreemptionMode
    cause: Cause
    tokens_lost: int
    blocks_released: int


class RequestResumed(Event):
    """A preempted request runs again. ``tokens_to_recompute`` is what the preemption costs."""

    request: int
    tokens_to_recompute: int


class TokenGenerated(Event):
    """One token was sampled. ``text`` is what can be shown because of it: whole characters only, perhaps none."""

    request: int
    sequence: int
    index: int
    token_id: int
    text: str


class RequestFinished(Event):
    """A request is complete. ``text`` is what was still held back (see `TokenGenerated`)."""

    request: int
    reason: FinishReason
    output_tokens: int
    text: str = ""


class RequestRejected(Event):
    """A request can never run. ``needed`` and ``available`` are pages (paged) or slots (contiguous)."""

    request: int
    reason: str
    cause: Cause
    needed: int
    available: int


# --- page --------------------------------------------------------------------------------------------------------


class BlockAllocated(Event):
    """A free page became the ``logical_index``-th page of a sequence, with a reference count of 1."""

    tier: Tier
    block: int
    sequence: int
    logical_index: int
    cause: Cause


class SlotsWritten(Event):
    """Keys and values of ``count`` tokens were stored.

    Paged: in the page ``block``, from offset ``first``. Contiguous: ``block`` is None and ``first`` counts from the
    beginning of the arena.
    """

    sequence: int
    block: int | None
    first: int
    count: int
    cause: Cause


class BlockReleased(Event):
    """A sequence gave up a page; ``ref_count`` references are left."""

    block: int
    sequence: int
    ref_count: int
    cause: Cause


class BlockFreed(Event):
    """The last reference to a page is gone: it is free, its content is lost."""

    block: int
    cause: Cause


class RegionReserved(Event):
    """Contiguous memory: a sequence got ``size`` slots from ``start``, of which it asked for ``requested``.

    The rest is rounding by the buddy allocator.
    """

    sequence: int
    start: int
    size: int
    requested: int
    cause: Cause


class RegionReleased(Event):
    """Contiguous memory: a sequence gave its region back."""

    sequence: int
    start: int
    size: int
    cause: Cause


AnyEvent = (
    RunStarted
    | RunFinished
    | StepStarted
    | StepFinished
    | RequestQueued
    | RequestAdmitted
    | AdmissionBlocked
    | RequestPreempted
    | RequestResumed
    | TokenGenerated
    | RequestFinished
    | RequestRejected
    | BlockAllocated
    | SlotsWritten
    | BlockReleased
    | BlockFreed
    | RegionReserved
    | RegionReleased
)


class EventBatch(msgspec.Struct, frozen=True):
    """All events of one step, in order."""

    step: int
    events: list[AnyEvent]
