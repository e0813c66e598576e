"""Keyframes: states that are kept on the way, from which reading starts.

A request that has ended never changes again, and a long run has thousands of them. So a *lean* keyframe holds only
what still lives, and those that ended since the keyframe before are kept once, in an *archive* beside it. The states
that are put together from them share the ended requests.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy

import msgspec

from workbench.events import types as ev
from workbench.events.page_map import PageMap, decode_page_map, encode_page_map
from workbench.events.state import RequestState
from workbench.events.types import AnyEvent, EventBatch

#: Rough bytes of an event, and of the parts of a snapshot: only their ratio matters (see `KeyframeClock`).
_EVENT, _PAGE, _REQUEST, _TOKEN = 100, 80, 300, 8

#: Events that change the `RequestState` they name.
_TOUCHES = frozenset(
    {
        ev.RequestAdmitted,
        ev.RequestResumed,
        ev.RequestPreempted,
        ev.SequenceForked,
        ev.TokenGenerated,
        ev.SequenceFinished,
        ev.OutputsChosen,
        ev.RequestFinished,
        ev.RequestRejected,
    }
)


class KeyframeClock:
    """Says when the next keyframe is due: every so many steps, but not before the events weigh half a keyframe.

    The second condition keeps a long run's recording linear in its length: a keyframe holds everything that lives, so
    with a queue that grows, keyframes at fixed distances would grow with the square. It counts things, not bytes: bytes
    depend on times, and the same seed must place the same keyframes.
    """

    def __init__(self, keyframe_every: int, snapshot: PageMap) -> None:
        if type(keyframe_every) is not int or keyframe_every < 1:
            raise ValueError(f"keyframe_every={keyframe_every!r}: must be an integer of at least 1")
        self._every = keyframe_every
        self.restart(snapshot)

    def restart(self, snapshot: PageMap) -> None:
        """Counts from here: ``snapshot`` is being kept."""
        self._step = snapshot.step
        self._events = 0
        live = [snapshot.requests[number] for number in (*snapshot.running, *snapshot.waiting)]
        tokens = sum(len(output.token_ids) for request in live for output in request.outputs.values())
        pages = len(snapshot.pages) + len(snapshot.host_pages)
        self._enough = (_PAGE * pages + _REQUEST * len(live) + _TOKEN * tokens) / 2 / _EVENT

    def is_due(self, batch: EventBatch) -> bool:
        """Whether the state after ``batch`` should be kept. Call it once per batch."""
        self._events += len(batch.events)
        return batch.step - self._step >= self._every and self._events >= self._enough


class Archive(msgspec.Struct):
    """Requests that have ended, by number, and their sequences."""

    requests: dict[int, RequestState] = {}
    request_ids: dict[int, int] = {}

    def __or__(self, newer: Archive) -> Archive:
        return Archive(self.requests | newer.requests, self.request_ids | newer.request_ids)


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Archive)
_REQUEST_DECODER = msgspec.msgpack.Decoder(RequestState)


def encode_archive(archive: Archive) -> bytes:
    """The archive as msgpack."""
    return _ENCODER.encode(archive)


def decode_archive(data: bytes) -> Archive:
    """The inverse of `encode_archive`.

    Raises:
        msgspec.ValidationError: the bytes are not an archive.
    """
    return _DECODER.decode(data)


def _is_live(state: PageMap, number: int) -> bool:
    return number in state.running or number in state.waiting


def ended_requests(state: PageMap, among: Iterable[int] | None = None) -> Archive:
    """Those of a state's requests (or of some of them) that neither run nor wait. Nothing is copied."""
    live = {*state.running, *state.waiting}
    numbers = state.requests if among is None else sorted(among)
    requests = {n: state.requests[n] for n in numbers if n not in live and n in state.requests}
    return Archive(requests, {s: n for n, request in requests.items() for s in request.outputs})


class EndedSince:
    """Collects what a keyframe's archive has to hold: requests that changed since the keyframe before, and ended."""

    def __init__(self) -> None:
        self._changed: set[int] = set()

    def note(self, batch: EventBatch) -> None:
        """Takes a batch into account; it need not be folded yet."""
        self._changed.update(event.request for event in batch.events if type(event) in _TOUCHES)  # type: ignore[union-attr]

    def take(self, state: PageMap) -> Archive:
        """The archive for a keyframe of ``state``, the one after all batches so far; begins anew."""
        archive = ended_requests(state, self._changed)
        self._changed.clear()
        return archive


def _lean(state: PageMap) -> PageMap:
    """The same state without its ended requests. It shares everything else."""
    lean = PageMap(*(getattr(state, name) for name in PageMap.__struct_fields__))
    live = (number for number in (*state.running, *state.waiting) if number in state.requests)
    lean.requests = {number: state.requests[number] for number in live}
    lean.request_ids = {s: number for number, request in lean.requests.items() for s in request.outputs}
    return lean


def encode_lean(state: PageMap) -> bytes:
    """A state without its ended requests."""
    return encode_page_map(_lean(state))


def complete(lean: PageMap, archives: Iterable[Archive]) -> PageMap:
    """Puts ended requests back into a decoded lean keyframe, in place. They are shared, not copied."""
    requests: dict[int, RequestState] = {}
    ids: dict[int, int] = {}
    for archive in archives:
        requests.update(archive.requests)
        ids.update(archive.request_ids)
    requests.update(lean.requests)
    ids.update(lean.request_ids)
    lean.requests = dict(sorted(requests.items()))  # numbers are given in the order of arrival
    lean.request_ids = ids
    return lean


def copy_sharing(state: PageMap) -> PageMap:
    """A copy that later events do not change. Ended requests are shared with the original."""
    lean = _lean(state)
    lean.pages, lean.host_pages = [], []
    copied = decode_page_map(encode_page_map(lean))
    copied.pages = [copy(page) for page in state.pages]  # flat: four times as fast as encoding them
    copied.host_pages = [copy(page) for page in state.host_pages]
    copied.requests = state.requests | copied.requests
    copied.request_ids = dict(state.request_ids)
    return copied


def own_request(state: PageMap, event: AnyEvent) -> None:
    """To be called before an event is applied to a state that shares ended requests: gives it one of its own.

    No engine changes a request that has ended, but a file may claim so.
    """
    if type(event) in _TOUCHES:
        number: int = event.request  # type: ignore[union-attr]
        if not _is_live(state, number) and number in state.requests:
            state.requests[number] = _REQUEST_DECODER.decode(_ENCODER.encode(state.requests[number]))
