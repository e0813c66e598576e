"""A run worked out by hand in which everything happens that `tests.events.synthetic` leaves out, once at least.

Twelve pages of 4 slots, six more in the host tier, two layer groups of which the second has a window of 8 tokens.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.events.synthetic import GEOMETRY
from workbench.events import EventBus
from workbench.events import types as ev
from workbench.events.types import Cause, FinishReason, PreemptionMode, Tier

NUM_STEPS = 8


def started() -> ev.RunStarted:
    return ev.RunStarted(
        schema_version=ev.SCHEMA_VERSION,
        memory="paged",
        block_size=4,
        num_blocks=12,
        bytes_per_block=1024,
        seed=0,
        model=GEOMETRY,
        config={"prefix_caching": True, "num_host_blocks": 6},
        num_host_blocks=6,
        group_windows=[0, 8],
        host_tier="a second pool",
    )


def page(block: int, sequence: int, index: int, group: int = 0) -> ev.BlockAllocated:
    return ev.BlockAllocated(Tier.DEVICE, block, sequence, index, Cause.ADMISSION, group)


def write(sequence: int, block: int, first: int, count: int, group: int = 0) -> ev.SlotsWritten:
    return ev.SlotsWritten(sequence, block, first, count, Cause.PREFILL, group)


def share(block: int, sequence: int, index: int, refs: int, group: int = 0, tier: Tier = Tier.DEVICE) -> ev.BlockShared:
    return ev.BlockShared(block, sequence, index, refs, Cause.FORK, tier, group)


def release(
    block: int, sequence: int, index: int, refs: int, group: int = 0, tier: Tier = Tier.DEVICE
) -> ev.BlockReleased:
    return ev.BlockReleased(block, sequence, refs, Cause.SEQUENCE_FINISHED, index, tier, group)


def token(request: int, sequence: int, index: int) -> ev.TokenGenerated:
    return ev.TokenGenerated(request, sequence, index, 10 + index, f" t{index}")


def steps() -> list[list[ev.AnyEvent]]:
    """The events of each step, without its frame."""
    done, freed = Cause.REQUEST_FINISHED, Cause.PREEMPTION_VICTIM
    estimate = ev.PreemptionEstimate(2_000_000, 9_000_000, 10, 4, 4096)
    return [
        [  # A with two samples: both share the prompt of 6 tokens, in two layer groups
            ev.RequestQueued(0, 0, "a prompt", 6, 8, 2),
            *(page(0, 0, 0), page(1, 0, 1), page(2, 0, 0, 1), page(3, 0, 1, 1)),
            ev.RequestAdmitted(0, 0),
            *(write(0, 0, 0, 4), write(0, 1, 0, 2), write(0, 2, 0, 4, 1), write(0, 3, 0, 2, 1)),
            ev.SequenceForked(0, 0, 1, 6, Cause.FORK),
            *(share(0, 1, 0, 2), share(1, 1, 1, 2), share(2, 1, 0, 2, 1), share(3, 1, 1, 2, 1)),
            *(token(0, 0, 0), token(0, 1, 0)),
        ],
        [  # the second sample writes to the last page: it gets a copy, in both groups
            ev.BlockCopied(1, 4, 1, 1, 2, 1, Cause.COPY_ON_WRITE),
            ev.BlockCopied(3, 5, 1, 1, 2, 1, Cause.COPY_ON_WRITE, 1),
            *(write(1, 4, 2, 1), write(1, 5, 2, 1, 1), write(0, 1, 2, 1), write(0, 3, 2, 1, 1)),
            *(token(0, 0, 1), token(0, 1, 1)),
            ev.PageMassSampled(0, 6, [0.5, 0.25]),
            ev.SelectionMeasured(0, 6, 1.5, 2, 0.9, 0.02),
        ],
        [  # A gives way: its six pages go out, the shared ones once; one full page stays cached
            ev.BlocksSwappedOut(0, [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 5)], 6144, freed),
            ev.BlockCached(0, "abcdef0123", freed),
            *(ev.BlockFreed(block, freed) for block in range(1, 6)),
            ev.RequestPreempted(
                0, PreemptionMode.SWAP, Cause.POOL_EXHAUSTED, 0, 6, "last_come", "as configured", estimate
            ),
        ],
        [  # B begins like A: it finds the page
            ev.RequestQueued(1, 2, "a prompt, too", 6, 8, 2, True),
            ev.PrefixHit(0, 2, 0, "abcdef0123", 1),
            *(page(6, 2, 1), page(7, 2, 0, 1), page(8, 2, 1, 1)),
            ev.RequestAdmitted(1, 0),
            *(write(2, 6, 0, 2), write(2, 7, 0, 4, 1), write(2, 8, 0, 2, 1)),
            token(1, 2, 0),
            ev.SequenceForked(1, 2, 3, 6, Cause.FORK),
            *(share(0, 3, 0, 2), share(6, 3, 1, 2), share(7, 3, 0, 2, 1), share(8, 3, 1, 2, 1)),
        ],
        [  # a beam falls behind; A comes back; a page behind the window is given up
            *(release(0, 3, 0, 1), release(6, 3, 1, 1), release(7, 3, 0, 1, 1), release(8, 3, 1, 1, 1)),
            ev.SequenceFinished(1, 3, None, 1),
            ev.BlocksSwappedIn(0, [(5, 1), (4, 2), (3, 3), (2, 4), (1, 5), (0, 9)], 6144, Cause.RESUMPTION),
            ev.RequestResumed(0, 0, PreemptionMode.SWAP),
            ev.BlockReleased(7, 2, 0, Cause.OUT_OF_WINDOW, 0, Tier.DEVICE, 1),
            ev.BlockFreed(7, Cause.OUT_OF_WINDOW),
        ],
        [  # what the swap took; the first sample ends, then the second; the search ends
            ev.PreemptionSettled(0, PreemptionMode.SWAP, 0, 12288, 2_000_000, 2_500_000),
            *(release(3, 0, 1, 0, 1), ev.BlockFreed(3, done), release(4, 0, 0, 1, 1)),
            *(release(5, 0, 1, 0), ev.BlockFreed(5, done), release(9, 0, 0, 1)),
            ev.SequenceFinished(0, 0, FinishReason.LENGTH, 2, "."),
            *(release(1, 1, 1, 0, 1), ev.BlockFreed(1, done), release(4, 1, 0, 0, 1), ev.BlockFreed(4, done)),
            *(release(2, 1, 1, 0), ev.BlockFreed(2, done), release(9, 1, 0, 0), ev.BlockFreed(9, done)),
            ev.SequenceFinished(0, 1, FinishReason.STOP, 2),
            ev.RequestFinished(0, FinishReason.LENGTH, 4),
            ev.OutputsChosen(1, [ev.OutputState([10, 11], " t0 t1", -0.5, FinishReason.STOP)]),
            *(release(8, 2, 1, 0, 1), ev.BlockFreed(8, done)),
            *(release(6, 2, 1, 0), ev.BlockFreed(6, done), release(0, 2, 0, 0), ev.BlockCached(0, "abcdef0123", done)),
            ev.RequestFinished(1, FinishReason.STOP, 2),
        ],
        [  # the cached page gives way to C, which is larger than the device: a part of it lies on the host
            ev.BlockEvicted(0, "abcdef0123", Cause.PREFIX_EVICTION, "lru"),
            ev.RequestQueued(2, 4, "a long prompt", 9, 8),
            *(page(0, 4, 0), page(1, 4, 1)),
            ev.RequestAdmitted(2, 0),
            *(write(4, 0, 0, 4), write(4, 1, 0, 4)),
            ev.BlocksSwappedOut(2, [(0, 0)], 1024, Cause.LARGER_THAN_MEMORY),
            ev.BlockFreed(0, Cause.LARGER_THAN_MEMORY),
            *(page(0, 4, 2), write(4, 0, 0, 1)),
            ev.BlocksStreamed(4, 1.0, 1, 1024),
            token(2, 4, 0),
            ev.SequenceForked(2, 4, 5, 9, Cause.FORK),
            *(share(0, 5, 0, 2, tier=Tier.HOST), share(1, 5, 1, 2), share(0, 5, 2, 2)),
        ],
        [  # C swaps out as a whole, and what it has on the host makes room for somebody else
            ev.BlocksSwappedOut(2, [(0, 1), (1, 2)], 2048, freed),
            *(ev.BlockFreed(block, freed) for block in (0, 1)),
            ev.RequestPreempted(2, PreemptionMode.SWAP, Cause.POOL_EXHAUSTED, 0, 2),
            *(
                release(1, 5, 2, 1, tier=Tier.HOST),
                release(2, 5, 1, 1, tier=Tier.HOST),
                release(0, 5, 0, 1, tier=Tier.HOST),
            ),
            *(
                event
                for index, block in ((2, 1), (1, 2), (0, 0))
                for event in (
                    release(block, 4, index, 0, tier=Tier.HOST),
                    ev.BlockFreed(block, Cause.HOST_FULL, Tier.HOST),
                )
            ),
            ev.RequestPreempted(2, PreemptionMode.RECOMPUTE, Cause.HOST_FULL, 9, 0),
        ],
    ]


def play(bus: EventBus) -> Iterator[ev.EventBatch]:
    """Emits the run, step by step, and its end."""
    bus.emit(started())
    bus.flush()
    for number, events in enumerate(steps(), 1):
        state = bus.page_map
        bus.begin_step(number)
        bus.emit(ev.StepStarted(len(state.running), len(state.waiting)))
        bus.emit_many(events)
        bus.emit(_finished(bus))
        yield bus.flush()
    bus.emit(ev.RunFinished())
    bus.flush()


def _finished(bus: EventBus) -> ev.StepFinished:
    state = bus.page_map.copy()
    for event in bus._pending:
        state.apply(event)
    running, waiting = len(state.running), len(state.waiting)
    return ev.StepFinished(running, waiting, 1, 1, state.waste(), 10, 20, 30, copy_ns=5, swap_ns=7)
