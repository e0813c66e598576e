"""PageMap: the state of KV memory and of all requests, rebuilt from events alone.

``state at step N = fold(PageMap.apply, events up to N)``. The engine's own tables must say the same after every step;
the tests compare them. A PageMap is plain data (msgspec structs), so it can be copied, compared, and stored.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Any

import msgspec

from workbench.events import types as ev
from workbench.events.state import Blocked, Page, Region, RequestState, RequestStatus, SequenceState, Totals
from workbench.events.types import Cause, LiveWaste

#: A recording from a stranger may claim any pool size; this bounds what opening it can cost.
MAX_BLOCKS = 1 << 22
MAX_BLOCK_SIZE = 1 << 16


class InvalidEventError(ValueError):
    """An event contradicts the state that the events before it have built."""


class PageMap(msgspec.Struct):
    """KV memory and requests at one moment.

    Attributes:
        run: the `RunStarted` event, or None before it.
        step: the last step whose events were applied.
        pages: paged memory only, one entry per physical page.
        sequences: those that hold memory.
        requests: all requests of the run, in the order of their arrival.
        running: request ids in the order of their admission.
        waiting: request ids, the head of the queue first.
        blocked: why the head of the queue waits, if it does.
        last: the last `StepFinished`.
    """

    run: ev.RunStarted | None = None
    step: int = 0
    next_seq: int = 0
    pages: Annotated[list[Page], msgspec.Meta(max_length=MAX_BLOCKS)] = []
    sequences: dict[int, SequenceState] = {}
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
        tokens = held = lost = 0
        for sequence in self.sequences.values():
            tokens += sequence.num_computed_tokens
            if sequence.region is not None:
                held += sequence.region.requested
                lost += sequence.region.size - sequence.region.requested
        if self.is_paged:
            tokens = sum(page.filled for page in self.pages)
            held = sum(page.ref_count > 0 for page in self.pages) * self.block_size
        free = self.num_slots - held - lost
        if not self.is_paged and self.blocked is not None and self.blocked.cause is Cause.POOL_EXHAUSTED:
            lost, free = lost + free, 0
        return LiveWaste(tokens, held - tokens, lost, free)

    def request_of(self, sequence: int) -> int | None:
        """The request that a sequence belongs to, also after it gave its memory back; None if there is none."""
        if sequence in self.sequences:
            return self.sequences[sequence].request
        first = self.requests.get(sequence)
        if first is not None and first.sequence == sequence:  # so the engine numbers them: saves the search
            return sequence
        return next((request for request, state in self.requests.items() if state.sequence == sequence), None)

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

    def _run_finished(self, event: ev.RunFinished) -> None:
        pass

    def _step_started(self, event: ev.StepStarted) -> None:
        pass

    def _step_finished(self, event: ev.StepFinished) -> None:
        self.last = event
        self.totals.prefill_tokens += event.prefill_tokens
        self.totals.busy_ns += event.schedule_ns + event.forward_ns + event.sample_ns

    def _request_queued(self, event: ev.RequestQueued) -> None:
        if event.request in self.requests:
            raise ValueError(f"request {event.request} was queued before")
        self.requests[event.request] = RequestState(
            event.prompt, event.prompt_tokens, event.max_tokens, event.sequence, queued_step=event.step
        )
        self.waiting.append(event.request)

    def _start(self, request: int, step: int) -> RequestState:
        self.waiting.remove(request)
        self.running.append(request)
        self.totals.max_running = max(self.totals.max_running, len(self.running))
        self.blocked = None
        state = self.requests[request]
        state.status = RequestStatus.RUNNING
        if state.admitted_step < 0:
            state.admitted_step = step
        return state

    def _request_admitted(self, event: ev.RequestAdmitted) -> None:
        self._start(event.request, event.step)

    def _request_resumed(self, event: ev.RequestResumed) -> None:
        self._start(event.request, event.step)
        self.totals.recomputed_tokens += event.tokens_to_recompute

    def _admission_blocked(self, event: ev.AdmissionBlocked) -> None:
        self.blocked = Blocked(event.request, event.cause, event.needed, event.available)

    def _request_preempted(self, event: ev.RequestPreempted) -> None:
        self.running.remove(event.request)
        self.waiting.insert(0, event.request)
        self.blocked = None
        state = self.requests[event.request]
        state.status = RequestStatus.PREEMPTED
        state.preemptions += 1
        state.tokens_lost += event.tokens_lost
        self.totals.preemptions += 1

    def _token_generated(self, event: ev.TokenGenerated) -> None:
        state = self.requests[event.request]
        if event.index != len(state.token_ids):
            raise ValueError(f"expected token index {len(state.token_ids)}")
        state.token_ids.append(event.token_id)
        state.text += event.text
        self.totals.generated_tokens += 1

    def _leave(self, request: int) -> RequestState:
        (self.running if request in self.running else self.waiting).remove(request)
        if self.blocked is not None and self.blocked.request == request:
            self.blocked = None
        return self.requests[request]

    def _request_finished(self, event: ev.RequestFinished) -> None:
        if event.request in self.running:
            self.blocked = None  # there is room now: the next step finds out whether it is enough
        state = self._leave(event.request)
        state.status = RequestStatus.CANCELLED if event.reason is ev.FinishReason.CANCELLED else RequestStatus.FINISHED
        state.reason = event.reason
        state.text += event.text
        state.finished_step = event.step

    def _request_rejected(self, event: ev.RequestRejected) -> None:
        state = self._leave(event.request)
        state.status = RequestStatus.REJECTED
        state.reason = event.reason
        state.finished_step = event.step

    def _sequence(self, sequence: int) -> SequenceState:
        """The sequence's memory; made on the first page or region that it gets."""
        if sequence not in self.sequences:
            request = self.request_of(sequence)
            if request is None:
                raise ValueError(f"sequence {sequence} belongs to no request")
            self.sequences[sequence] = SequenceState(request)
        return self.sequences[sequence]

    def _block_allocated(self, event: ev.BlockAllocated) -> None:
        page = self.pages[_checked(event.block)]
        table = self._sequence(event.sequence).block_table
        if page.ref_count != 0 or event.logical_index != len(table):
            raise ValueError(f"page {event.block} has ref_count {page.ref_count}, table has {len(table)} pages")
        table.append(event.block)
        self.pages[event.block] = Page(1, 0, event.sequence, event.logical_index, event.cause, event.step)

    def _slots_written(self, event: ev.SlotsWritten) -> None:
        sequence = self.sequences[event.sequence]
        if event.count < 1:
            raise ValueError(f"count={event.count}: must be at least 1")
        if event.block is not None:
            page = self.pages[_checked(event.block)]
            if page.ref_count < 1 or event.first != page.filled or event.first + event.count > self.block_size:
                raise ValueError(f"page {event.block} has ref_count {page.ref_count}, {page.filled} slots filled")
            page.filled += event.count
        else:
            region = sequence.region
            if region is None or event.first != region.start + region.filled:
                raise ValueError(f"region is {region}")
            if region.filled + event.count > region.requested:
                raise ValueError(f"region holds {region.requested} slots, {region.filled} are filled")
            region.filled += event.count
        sequence.num_computed_tokens += event.count

    def _block_released(self, event: ev.BlockReleased) -> None:
        page = self.pages[_checked(event.block)]
        page.ref_count -= 1
        if page.ref_count != event.ref_count or page.ref_count < 0:
            raise ValueError(f"page {event.block} would have ref_count {page.ref_count}")
        sequence = self.sequences[event.sequence]
        sequence.block_table.remove(event.block)
        if not sequence.block_table:
            del self.sequences[event.sequence]

    def _block_freed(self, event: ev.BlockFreed) -> None:
        if self.pages[_checked(event.block)].ref_count != 0:
            raise ValueError(f"page {event.block} is still referenced")
        self.pages[event.block] = Page(cause=event.cause, since_step=event.step)

    def _region_reserved(self, event: ev.RegionReserved) -> None:
        if self.is_paged:
            raise ValueError("paged memory has no regions")
        if not 0 < event.requested <= event.size or event.start < 0 or event.start + event.size > self.num_slots:
            raise ValueError(f"the arena has {self.num_slots} slots")
        sequence = self._sequence(event.sequence)
        if sequence.region is not None:
            raise ValueError(f"region is {sequence.region}")
        sequence.region = Region(event.start, event.size, event.requested, since_step=event.step)

    def _region_released(self, event: ev.RegionReleased) -> None:
        region = self.sequences.pop(event.sequence).region
        if region is None or (region.start, region.size) != (event.start, event.size):
            raise ValueError(f"region is {region}")


def check_pool_size(run: ev.RunStarted) -> None:
    """Refuses a pool that nobody could have.

    Raises:
        ValueError: names the size and what is allowed.
    """
    for name, value, most in (
        ("num_blocks", run.num_blocks, MAX_BLOCKS),
        ("block_size", run.block_size, MAX_BLOCK_SIZE),
    ):
        if not 1 <= value <= most:
            raise ValueError(f"{name}={value}: must be from 1 to {most}")


def _checked(block: int) -> int:
    """Rejects negative page numbers, which would index from the end."""
    if block < 0:
        raise IndexError(f"page {block} does not exist")
    return block


_HANDLERS: dict[type, Callable[[PageMap, Any], None]] = {
    ev.RunStarted: PageMap._run_started,
    ev.RunFinished: PageMap._run_finished,
    ev.StepStarted: PageMap._step_started,
    ev.StepFinished: PageMap._step_finished,
    ev.RequestQueued: PageMap._request_queued,
    ev.RequestAdmitted: PageMap._request_admitted,
    ev.AdmissionBlocked: PageMap._admission_blocked,
    ev.RequestPreempted: PageMap._request_preempted,
    ev.RequestResumed: PageMap._request_resumed,
    ev.TokenGenerated: PageMap._token_generated,
    ev.RequestFinished: PageMap._request_finished,
    ev.RequestRejected: PageMap._request_rejected,
    ev.BlockAllocated: PageMap._block_allocated,
    ev.SlotsWritten: PageMap._slots_written,
    ev.BlockReleased: PageMap._block_released,
    ev.BlockFreed: PageMap._block_freed,
    ev.RegionReserved: PageMap._region_reserved,
    ev.RegionReleased: PageMap._region_released,
}

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
