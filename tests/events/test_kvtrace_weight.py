"""A payload's weight is no less than what it takes when it is decoded, and not much more for what engines record."""

from __future__ import annotations

import io
import struct
import tracemalloc
from collections.abc import Callable

import msgspec
import pytest

from tests.events.synthetic import Simulation
from workbench.events import EventBatch, EventBus, PageMap, Recorder
from workbench.events.keyframes import decode_archive
from workbench.events.kvtrace import ARCHIVE, KEYFRAME, TraceReader
from workbench.events.kvtrace_weight import weigh
from workbench.events.page_map import decode_page_map, encode_page_map
from workbench.events.state import Page

N = 20_000
EVERYTHING = 1 << 40
pack = msgspec.msgpack.encode


def head(kind: int, count: int) -> bytes:
    return bytes([kind]) + struct.pack(">I", count)


def numbered(value: bytes, count: int = N) -> bytes:
    """A map from numbers of four bytes."""
    return head(0xDF, count) + b"".join(head(0xCE, 70_000 + number) + value for number in range(count))


def texts(value: bytes, count: int = N) -> bytes:
    return head(0xDF, count) + b"".join(b"\xa4" + f"{number:04x}".encode() + value for number in range(count))


def sequences(**fields: bytes) -> bytes:
    body = b"".join(pack(name) + value for name, value in fields.items())
    return b"\x81" + pack("sequences") + b"\x81\x00" + bytes([0x81 + len(fields)]) + pack("request") + b"\x00" + body


def requests(outputs: bytes) -> bytes:
    required = pack({"prompt": "", "prompt_tokens": 1, "max_tokens": 1, "sequence": 0})
    request = bytes([required[0] + 1]) + required[1:] + pack("outputs") + outputs
    return b"\x81" + pack("requests") + b"\x81\x00" + request


def event(name: str, last: str, value: bytes, **fields: object) -> bytes:
    known = pack({"type": name, "step": 1, **fields})
    inner = bytes([known[0] + 1]) + known[1:] + pack(last) + value
    return b"\x82" + pack("step") + b"\x01" + pack("events") + b"\x91" + inner


WIDE = {"prompt": "a" * N + "\U0001f600", "prompt_tokens": 1, "max_tokens": 1, "sequence": 0}
STATES = {
    "block tables of a byte": sequences(tables=head(0xDD, N) + b"\x80" * N),
    "numbers that nothing shares": b"\x81" + pack("running") + head(0xDD, N) + b"\xe0" * N,
    "numbers that become floats": sequences(mass=head(0xDD, N) + b"\x01" * N),
    "pages of a byte": b"\x81" + pack("pages") + head(0xDD, N) + b"\x80" * N,
    "outputs of a byte": requests(numbered(b"\x80")),
    "outputs with an empty text": requests(numbered(b"\x81" + pack("text") + b"\xa0")),
    "a map of numbers": b"\x81" + pack("request_ids") + numbered(b"\x01"),
    "numbers of two bytes": b"\x81" + pack("waiting") + head(0xDD, N) + b"\xd0\x80" * N,
    "numbers of nine bytes": b"\x81" + pack("waiting") + head(0xDD, N) + b"\xcf" * (9 * N),
    "a wide text": pack({"requests": {0: WIDE}}),
    "a host tier": sequences(tables=b"\x91\x81" + pack("host") + numbered(b"\x01")),
}
BATCHES = {
    "pairs": event("BlocksSwappedOut", "pairs", head(0xDD, N) + b"\x92\x00\x00" * N, request=0, bytes=0, cause="fork"),
    "a configuration": event("RunStarted", "config", texts(b"\x00")),
    "words in a configuration": event("RunStarted", "config", texts(b"\xa1x")),
    "events without fields": b"\x82" + pack("step") + b"\x01" + pack("events") + pack([{"type": "RunFinished"}] * N),
}


def taken(decode: Callable[[bytes], object], payload: bytes) -> int:
    """Peak of the memory that decoding takes, also if it ends in an error."""
    tracemalloc.start()
    try:
        decode(payload)
    except msgspec.MsgspecError:
        pass
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return peak


@pytest.mark.parametrize("name", [*STATES, *BATCHES])
def test_nothing_takes_more_than_it_weighs(name: str) -> None:
    if name in STATES:
        payload, peak = STATES[name], taken(decode_page_map, STATES[name])
    else:
        payload, peak = BATCHES[name], taken(msgspec.msgpack.Decoder(EventBatch).decode, BATCHES[name])
    assert peak > N, "it was not even read"
    assert peak <= weigh(payload, EVERYTHING)


@pytest.mark.parametrize("memory", ["paged", "contiguous"])
def test_what_is_recorded_weighs_some_ten_times_its_length(memory: str) -> None:
    bus, file = EventBus(), io.BytesIO()
    simulation = Simulation(memory=memory, bus=bus)
    with Recorder(bus, file, 16):
        for _ in range(200):
            simulation.step()
    reader = TraceReader(file, "run")
    decoders = {KEYFRAME: decode_page_map, ARCHIVE: decode_archive}
    assert {frame.kind for frame in reader.frames} > {KEYFRAME, ARCHIVE}
    for frame in reader.frames:
        payload = reader.read(frame)
        weight = weigh(payload, EVERYTHING)
        decode = decoders.get(frame.kind, msgspec.msgpack.Decoder(EventBatch).decode)
        assert taken(decode, payload) <= weight + 4096  # an empty state has defaults
        assert weight <= 20 * len(payload) + 4096
    pages = [Page(1, 16, 0, number, "admission", number, hits=3) for number in range(N)]
    payload = encode_page_map(PageMap(pages=pages))
    assert len(payload) < weigh(payload, EVERYTHING) < 12 * len(payload)


@pytest.mark.parametrize(
    "payload", [b"", b"\xc1", b"\xdd\xff\xff\xff\xff", b"\xdb\xff", b"\xbf", b"\xdf\xff\xff\xff\xff\x01"]
)
def test_nonsense_weighs_little(payload: bytes) -> None:
    assert weigh(payload, EVERYTHING) < 1000


def test_it_stops_where_it_is_too_much() -> None:
    payload = b"\x90" * 10_000_000
    assert 1000 < weigh(payload, 1000) < 1200


def test_a_long_run_of_fields_takes_no_memory_itself() -> None:
    payload = pack({"seq": 70_000})[1:] * 200_000
    assert taken(lambda data: weigh(data, EVERYTHING), payload) < 1 << 20
