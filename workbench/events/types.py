"""Event schema, version 1: everything that happens to a request and to a page of KV memory, as typed records.

Every event is a msgspec struct, encoded as a map with a ``type`` tag. Three fields are common to all:

- ``seq``: position in the run, counted from 0 without holes;
- ``step``: the engine step during which it happened (0 is before the first step);
- ``t_ns``: nanoseconds since the run began.

The same seed gives the same events: only ``t_ns`` and the durations of `StepFinished` differ between two runs.
Fields that came later have defaults, so recordings made before them still open.
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
    HOST_FULL = "host_full"  #: the host tier has no room for what would be swapped out
    RESUMPTION = "resumption"  #: a preempted request goes on
    FORK = "fork"  #: a sequence split in two, which share what both have in common
    COPY_ON_WRITE = "copy_on_write"  #: a token has to be stored in a page that others use too
    BEAM_DROPPED = "beam_dropped"  #: a beam is not among the best any more
    PREFIX_HIT = "prefix_hit"  #: the page holds just the tokens with which a sequence begins
    PREFIX_EVICTION = "prefix_eviction"  #: no page was free, so one that was kept for its content gave way
    OUT_OF_WINDOW = "out_of_window"  #: no token to come can see the page: it lies behind the sliding window
    LARGER_THAN_MEMORY = "larger_than_memory"  #: the sequence has more pages than the device's pool
    SEQUENCE_FINISHED = "sequence_finished"  #: one of a request's sequences is complete; others go on
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
    HOST = "host"  #: the computer's own memory; on a CPU a second pool that stands for it


class PreemptionMode(StrEnum):
    """What becomes of a preempted request's KV memory (Kwon et al., SOSP 2023, section 4.5)."""

    RECOMPUTE = "recompute"  #: it is thrown away, and computed again later
    SWAP = "swap"  #: its pages move to the host tier, and back later


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
        free: slots that could be given to a request, and hold nothing of use.
        cached: slots of pages that nobody uses, kept because their content may be wanted again (prefix cache). They,
            too, could be given to a request.
    """

    token_states: int
    reserved: int
    external: int
    free: int
    cached: int = 0


class PreemptionEstimate(msgspec.Struct, frozen=True):
    """What getting a victim back was expected to cost, either way, when it was preempted.

    Attributes:
        swap_ns: time to move its pages out and in again; -1: impossible (no host tier, or it is full).
        recompute_ns: time to compute its tokens again; -1: not known yet.
        tokens: those to compute again, each shared one once, without ``tokens_kept``.
        tokens_kept: tokens that the prefix cache will give back, because other running sequences hold their pages.
        bytes: to be moved, one way.
    """

    swap_ns: int
    recompute_ns: int
    tokens: int
    tokens_kept: int
    bytes: int


class OutputState(msgspec.Struct, frozen=True):
    """One output of a beam search. ``score`` is the sum of log probabilities over length to the length penalty."""

    token_ids: list[int]
    text: str
    score: float
    reason: FinishReason


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
        bytes_per_block: over all layers whose keys and values a page holds.
        num_host_blocks: pages in the host tier.
        group_windows: per layer group, its sliding window in tokens; 0: none. A sequence has a block table per group.
        host_tier: what the host tier is made of, in words.
    """

    schema_version: int
    memory: str
    block_size: int
    num_blocks: int
    bytes_per_block: int
    seed: int
    model: ModelGeometry
    config: dict[str, str | int | float | bool | None]
    num_host_blocks: int = 0
    group_windows: list[int] = msgspec.field(default_factory=lambda: [0])
    host_tier: str = ""


class RunFinished(Event):
    """Last event of a run."""


# --- step --------------------------------------------------------------------------------------------------------


class StepStarted(Event):
    """Numbers of requests when the step begins. ``swapped`` of the waiting ones have pages in the host tier."""

    running: int
    waiting: int
    swapped: int = 0


class StepFinished(Event):
    """What the step did. Durations are in nanoseconds; counts of tokens are those computed in this step.

    ``copy_ns`` is the time that the step spent on copies within the device tier (copy-on-write), ``swap_ns`` on pages
    from and to the host tier. Where such copies run beside the computation, they are counted when they have ended.
    """

    running: int
    waiting: int
    prefill_tokens: int
    decode_tokens: int
    waste: LiveWaste
    schedule_ns: int
    forward_ns: int
    sample_ns: int
    swapped: int = 0
    copy_ns: int = 0
    swap_ns: int = 0


# --- request -----------------------------------------------------------------------------------------------------


class RequestQueued(Event):
    """A request arrived. Its first (and so far only) sequence has the id ``sequence``.

    ``width`` sequences will run at once: samples, or beams if ``is_beam_search``.
    """

    request: int
    sequence: int
    prompt: str
    prompt_tokens: int
    max_tokens: int
    width: int = 1
    is_beam_search: bool = False


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
    """A running request lost its place on the device so that an older one can go on; all its sequences together.

    Attributes:
        tokens_lost: stored tokens that must be computed again; 0 if they were swapped out.
        blocks_released: pages (a shared one once) or regions that it held on the device.
        policy: the victim policy that chose it.
        why: in words, why this mode; empty if there was nothing to decide.
        estimate: what either way was expected to cost, if that was asked.
    """

    request: int
    mode: PreemptionMode
    cause: Cause
    tokens_lost: int
    blocks_released: int
    policy: str = ""
    why: str = ""
    estimate: PreemptionEstimate | None = None


class RequestResumed(Event):
    """A preempted request runs again. ``tokens_to_recompute`` is what the preemption costs.

    ``tokens_kept`` more were lost, but found again in the prefix cache.
    """

    request: int
    tokens_to_recompute: int
    mode: PreemptionMode = PreemptionMode.RECOMPUTE
    tokens_kept: int = 0


class PreemptionSettled(Event):
    """A resumed request is where it was when it was preempted. What did that take, and what had been expected?

    Attributes:
        estimated_ns: as of `PreemptionEstimate`; -1: not asked.
        measured_ns: the time for moving its pages out and in, or its share, by tokens, of the forward passes in which
            its tokens were computed again.
        tokens_recomputed, bytes_moved: both directions.
    """

    request: int
    mode: PreemptionMode
    tokens_recomputed: int
    bytes_moved: int
    estimated_ns: int
    measured_ns: int


class SequenceForked(Event):
    """A sequence ``child`` began as a copy of ``parent``'s first ``num_tokens`` tokens.

    If they lie in KV memory it shares those pages (`BlockShared`). The first output tokens it takes over are the
    parent's, too.
    """

    request: int
    parent: int
    child: int
    num_tokens: int
    cause: Cause


class SequenceFinished(Event):
    """One of several sequences of a request is complete. ``text`` is what was still held back."""

    request: int
    sequence: int
    reason: FinishReason | None
    output_tokens: int
    text: str = ""


class OutputsChosen(Event):
    """A beam search has ended: its results, best first."""

    request: int
    outputs: list[OutputState]


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
    group: int = 0


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
    group: int = 0


class BlockShared(Event):
    """A page in use became the ``logical_index``-th page of one more sequence; ``ref_count`` now use it."""

    block: int
    sequence: int
    logical_index: int
    ref_count: int
    cause: Cause
    tier: Tier = Tier.DEVICE
    group: int = 0


class BlockCopied(Event):
    """Copy-on-write: a sequence has to write to a shared page, so it got a copy (Kwon et al., section 4.4, Fig. 8).

    ``destination``, a free page before, takes the place of ``source`` in the sequence's table and has ``filled`` slots
    of it; ``ref_count`` sequences still use ``source``.
    """

    source: int
    destination: int
    sequence: int
    logical_index: int
    filled: int
    ref_count: int
    cause: Cause
    group: int = 0


class BlockReleased(Event):
    """A sequence gave up a page; ``ref_count`` references are left."""

    block: int
    sequence: int
    ref_count: int
    cause: Cause
    logical_index: int = -1
    tier: Tier = Tier.DEVICE
    group: int = 0


class BlockFreed(Event):
    """The last reference to a page is gone: it is free, its content is lost."""

    block: int
    cause: Cause
    tier: Tier = Tier.DEVICE


class BlockCached(Event):
    """The last reference to a page is gone, but its content is kept: a sequence that begins alike can have it again.

    ``hash`` stands for the page's tokens and all before them.
    """

    block: int
    hash: str
    cause: Cause


class PrefixHit(Event):
    """A page with just the right content became the ``logical_index``-th page of a sequence, computed already.

    It was cached (then ``ref_count`` is now 1), or others use it, too.
    """

    block: int
    sequence: int
    logical_index: int
    hash: str
    ref_count: int
    cause: Cause = Cause.PREFIX_HIT


class BlockEvicted(Event):
    """A cached page gave up its content and is free. ``policy`` chose it."""

    block: int
    hash: str
    cause: Cause
    policy: str = ""


class BlocksSwappedOut(Event):
    """Pages of a request moved to the host tier. ``pairs``: device page, host page, for each.

    Wherever one of the request's sequences had the device page, it has the host page now, and as many references.
    """

    request: int
    pairs: list[tuple[int, int]]
    bytes: int
    cause: Cause


class BlocksSwappedIn(Event):
    """Pages of a request moved back to the device. ``pairs``: host page, device page, for each."""

    request: int
    pairs: list[tuple[int, int]]
    bytes: int
    cause: Cause


class BlocksStreamed(Event):
    """Pages in the host tier were read for a step's attention through a staging window; they stayed where they are.

    ``pages`` of the sequence's ``host_pages`` were read. ``bytes`` over all layers. Per-layer choices are averaged.
    """

    sequence: int
    pages: float
    host_pages: int
    bytes: int


class PageMassSampled(Event):
    """How much of the newest token's attention each of a sequence's pages got, averaged over layers and heads.

    By logical index; adds up to at most 1 (attention sinks take the rest). ``query`` is that token's position.
    """

    sequence: int
    query: int
    mass: list[float]


class SelectionMeasured(Event):
    """What reading only the most promising pages changed in a step, averaged over layers.

    Attributes:
        pages_read, pages: pages that were read, of how many.
        mass_covered: share of the exact attention weights that lies in the pages that were read.
        output_distance: length of the difference from exact attention's output, relative to the latter's length.
    """

    sequence: int
    query: int
    pages_read: float
    pages: int
    mass_covered: float
    output_distance: float


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
    | PreemptionSettled
    | SequenceForked
    | SequenceFinished
    | OutputsChosen
    | BlockAllocated
    | SlotsWritten
    | BlockShared
    | BlockCopied
    | BlockReleased
    | BlockFreed
    | BlockCached
    | PrefixHit
    | BlockEvicted
    | BlocksSwappedOut
    | BlocksSwappedIn
    | BlocksStreamed
    | PageMassSampled
    | SelectionMeasured
    | RegionReserved
    | RegionReleased
)


class EventBatch(msgspec.Struct, frozen=True):
    """All events of one step, in order."""

    step: int
    events: list[AnyEvent]
