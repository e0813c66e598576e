"""Event schema, version 1: everything that happens to a request and to a page of KV memory, as typed records.

Every event is a msgspec struct, encoded as a map with a ``type`` tag. Three fields are common to all:

- ``seq``: position in the run, counted from 0 without holes;
- ``step``: the engine step during which it happened (0 is before the first step);
- ``t_ns``: nanoseconds since the run began.

The same seed gives the same events: only ``t_ns`` and the durations of `StepFinished` differ between two runs.
Fields that came later have defaults, so recordings made before them still open.
"""

from __future__ import annotations

import msgspec

from workbench.events.event_parts import (
    Cause,
    Event,
    FinishReason,
    LiveWaste,
    ModelGeometry,
    OutputState,
    PreemptionEstimate,
    PreemptionMode,
    Tier,
)
from workbench.events.page_events import (
    BlockAllocated,
    BlockCached,
    BlockCopied,
    BlockEvicted,
    BlockFreed,
    BlockReleased,
    BlockShared,
    BlocksStreamed,
    BlocksSwappedIn,
    BlocksSwappedOut,
    PageMassSampled,
    PrefixHit,
    RegionReleased,
    RegionReserved,
    SelectionMeasured,
    SlotsWritten,
)

__all__ = [
    "SCHEMA_VERSION",
    "AdmissionBlocked",
    "AnyEvent",
    "BlockAllocated",
    "BlockCached",
    "BlockCopied",
    "BlockEvicted",
    "BlockFreed",
    "BlockReleased",
    "BlockShared",
    "BlocksStreamed",
    "BlocksSwappedIn",
    "BlocksSwappedOut",
    "Cause",
    "Event",
    "EventBatch",
    "FinishReason",
    "LiveWaste",
    "ModelGeometry",
    "OutputState",
    "OutputsChosen",
    "PageMassSampled",
    "PreemptionEstimate",
    "PreemptionMode",
    "PreemptionSettled",
    "PrefixHit",
    "RegionReleased",
    "RegionReserved",
    "RequestAdmitted",
    "RequestFinished",
    "RequestPreempted",
    "RequestQueued",
    "RequestRejected",
    "RequestResumed",
    "RunFinished",
    "RunStarted",
    "SelectionMeasured",
    "SequenceFinished",
    "SequenceForked",
    "SlotsWritten",
    "StepFinished",
    "StepStarted",
    "Tier",
    "TokenGenerated",
]

SCHEMA_VERSION = 1


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

    ``width`` sequences will run at once: samples, or beams if ``is_beam_search``. ``prompt_ends``: characters of the
    prompt up to the end of each of its tokens; empty if that is not known.
    """

    request: int
    sequence: int
    prompt: str
    prompt_tokens: int
    max_tokens: int
    width: int = 1
    is_beam_search: bool = False
    prompt_ends: list[int] = []


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
