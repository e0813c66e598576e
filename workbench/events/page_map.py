"""PageMap: the state of KV memory and of all requests, rebuilt from events alone.

``state at step N = fold(PageMap.apply, events up to N)``. The engine's own tables must say the same after every step;
the tests compare them. A PageMap is plain data (msgspec structs), so it can be copied, compared, and stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any

import msgspec

from workbench.events import reduce_pages, reduce_requests
from workbench.events import types as ev
from workbench.events.state import Blocked, Page, RequestState, SequenceState, Totals
from workbench.events.types import Cause, LiveWaste

#: A recording from a stranger may claim any pool size; this bounds what opening it can cost.
MAX_BLOCKS = 1 << 22
MAX_BLOCK_SIZE = 1 << 16
MAX_GROUPS = 1 << 10


class InvalidEventError(ValueError):
    """An event contradicts the state that the events before it have built."""


class PageMap(msgspec.Struct):
    """KV memory and requests at one moment.

    Attributes:
        run: the `RunStarted` event, or None before it.
        step: the last step whose events were applied.
        pages: paged memory only, one entry per physical page of the device tier; ``host_pages`` alike for the host's.
        sequences: those that hold memory.
        requests: all requests of the run, in the order of their arrival.
        request_ids: sequence to request, of all sequences that there ever were.
        running: request ids, and ``waiting``, the head of the queue first: both in the order of their arrival.
        blocked: why the head of the queue waits, if it does.
        last: the last `StepFinished`.
    """

    run: ev.RunStarted | None = None
    step: int = 0
    next_seq: int = 0
    pages: Annotated[list[Page], msgspec.Meta(max_length=MAX_BLOCKS)] = []
    host_pages: Annotated[list[Page], msgspec.Meta(max_length=MAX_BLOCKS)] = []
    sequences: dict[int, SequenceState] = {}
    request_ids: dict[int, int] = {}
    requests: dict[int, RequestState] = {}
    running: list[int] = []
    waiting: list[int] = []
    blocked: Blocked | None = None
    last: ev.StepFinished | None = None
    totals: Totals = msgspec.field(default_factory=Totals)

    # -- reading ---------------------------------------------------------------------------------------------------

    @property
    def is_paged(self) -> bool:
        return self.run is not None and self.run.memory == "paged"

    @property
    def block_size(self) -> int:
        return self.run.block_size if self.run else 0

    @property
    def num_slots(self) -> int:
        return self.run.block_size * self.run.num_blocks if self.run else 0

    def waste(self) -> LiveWaste:
        """The use of every slot now; equal to what the engine reports in `StepFinished`."""
        if self.is_paged:
            block_size = self.block_size
            tokens = held = cached = 0
            for page in self.pages:
                if page.ref_count > 0:
                    tokens += page.filled
                    held += block_size
                elif page.hash:
                    cached += block_size
            return LiveWaste(tokens, held - tokens, 0, self.num_slots - held - cached, cached)
        tokens = held = lost = 0
        for sequence in self.sequences.values():
            tokens += sequence.num_computed_tokens
            if sequence.region is not None:
                held += sequence.region.requested
                lost += sequence.region.size - sequence.region.requested
        free = self.num_slots - held - lost
        if self.blocked is not None and self.blocked.cause is Cause.POOL_EXHAUSTED:
            lost, free = lost + free, 0
        return LiveWaste(tokens, held - tokens, lost, free)

    def sharing(self) -> tuple[int, int]:
        """Device pages in the block tables, and how many different ones those are.

        The difference is what sharing saves; relative to the first number it is what Kwon et al. show in Fig. 15.
        """
        used = sum(page.ref_count > 0 for page in self.pages)
        return sum(page.ref_count for page in self.pages), used

    def free_list(self) -> list[int] | None:
        """Free device pages, the next to be handed out first; None if a recording is too old to tell.

        The pool hands them out first in, first out.
        """
        unused = [(page, block) for block, page in enumerate(self.pages) if page.ref_count == 0]
        free = [(page.idle_seq, block) for page, block in unused if not page.hash]
        if any(seq < 0 and self.pages[block].cause for seq, block in free):
            return None
        return [block for _, block in sorted(free)]

    def eviction_order(self) -> list[int] | None:
        """Cached pages, the next to give way first; None if the policy is none that events are enough to follow."""
        cached = [(page, block) for block, page in enumerate(self.pages) if page.is_cached]
        policy = self.run.config.get("eviction") if self.run is not None else None
        if policy not in ("lru", "lfu") or any(page.idle_seq < 0 for page, _ in cached):
            return None
        uses = {block: page.hits if policy == "lfu" else 0 for page, block in cached}
        return [block for _, _, block in sorted((uses[block], page.idle_seq, block) for page, block in cached)]

    def request_of(self, sequence: int) -> int | None:
        """The request that a sequence belongs to, also after it gave its memory back; None if there is none."""
        return self.request_ids.get(sequence)

    def copy(self) -> PageMap:
        """An independent copy; later events do not change it."""
        return decode_page_map(encode_page_map(self))

    # -- building --------------------------------------------------------------------------------------------------

    def apply(self, event: ev.AnyEvent) -> None:
        """Takes one event into account.

        Raises:
            InvalidEventError: the event contradicts the state, or an event before it is missing.
        """
        if event.seq != self.next_seq:
            raise InvalidEventError(f"expected event seq {self.next_seq}, got {event.seq} ({type(event).__name__})")
        try:
            _HANDLERS[type(event)](self, event)
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise InvalidEventError(f"event {event.seq}, {type(event).__name__}: {error!r} ({event})") from error
        self.next_seq += 1
        self.step = event.step

    def apply_all(self, events: Iterable[ev.AnyEvent]) -> None:
        """Takes a batch of events into account, in order."""
        for event in events:
            self.apply(event)

    def _run_started(self, event: ev.RunStarted) -> None:
        if self.run is not None:
            raise ValueError("the run has started already")
        check_pool_size(event)
        self.run = event
        if event.memory == "paged":
            self.pages = [Page() for _ in range(event.num_blocks)]
            self.host_pages = [Page() for _ in range(event.num_host_blocks)]

    def _nothing(self, event: ev.AnyEvent) -> None:
        pass

    def _step_finished(self, event: ev.StepFinished) -> None:
        self.last = event
        self.totals.prefill_tokens += event.prefill_tokens
        self.totals.busy_ns += event.schedule_ns + event.forward_ns + event.sample_ns


def check_pool_size(run: ev.RunStarted) -> None:
    """Refuses a pool that nobody could have.

    Raises:
        ValueError: names the size and what is allowed.
    """
    for name, value, most in (
        ("num_blocks", run.num_blocks, MAX_BLOCKS),
        ("block_size", run.block_size, MAX_BLOCK_SIZE),
        ("layer groups", len(run.group_windows), MAX_GROUPS),
    ):
        if not 1 <= value <= most:
            raise ValueError(f"{name}={value}: must be from 1 to {most}")
    if not 0 <= run.num_host_blocks <= MAX_BLOCKS:
        raise ValueError(f"num_host_blocks={run.num_host_blocks}: must be from 0 to {MAX_BLOCKS}")


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(PageMap)


def encode_page_map(page_map: PageMap) -> bytes:
    """The state as msgpack."""
    return _ENCODER.encode(page_map)


def decode_page_map(data: bytes) -> PageMap:
    """The inverse of `encode_page_map`.

    Raises:
        msgspec.ValidationError: the bytes are not a PageMap.
    """
    return _DECODER.decode(data)


_HANDLERS: dict[type, Callable[[PageMap, Any], None]] = {
    ev.RunStarted: PageMap._run_started,
    ev.RunFinished: PageMap._nothing,
    ev.StepStarted: PageMap._nothing,
    ev.StepFinished: PageMap._step_finished,
    **reduce_requests.HANDLERS,
    **reduce_pages.HANDLERS,
}
