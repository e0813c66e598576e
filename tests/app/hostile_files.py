"""Recordings that are made to hurt whoever opens them: small files that unfold.

Run as a module it opens those in a folder, and says by how much the process grew: a process that has made such files
has freed memory that would hide it.
"""

from __future__ import annotations

import io
import json
import resource
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from workbench.events import kvtrace as fmt
from workbench.events import types as ev
from workbench.events.event_parts import ModelGeometry
from workbench.events.kvtrace import ARCHIVE, BATCH, KEYFRAME, TraceWriter
from workbench.events.page_map import PageMap, encode_page_map
from workbench.events.recording import new_header
from workbench.events.types import EventBatch, RunStarted

MB = 1 << 20
pack = msgspec.msgpack.encode


def run_started(step: int = 0, seq: int = 0, **fields: Any) -> RunStarted:
    """The beginning of a run with 16 pages."""
    model = ModelGeometry("m", "a", 1, 1, 1, 1, 1, "float32", 8)
    known: dict[str, Any] = {"memory": "paged", "block_size": 16, "num_blocks": 16, "bytes_per_block": 128, "seed": 0}
    return RunStarted(seq=seq, step=step, schema_version=1, model=model, **{"config": {}, **known, **fields})


def recording(*frames: tuple[int, int, bytes]) -> bytes:
    """A file with these frames, all with good checksums."""
    file = io.BytesIO()
    _written(file, *frames).finish()
    return file.getvalue()


def _written(file: io.BytesIO, *frames: tuple[int, int, bytes]) -> TraceWriter:
    writer = TraceWriter(file, new_header())
    for frame in frames:
        writer.frame(*frame)
    return writer


def batch(step: int, *events: ev.AnyEvent) -> tuple[int, int, bytes]:
    return BATCH, step, pack(EventBatch(step, list(events)))


def one_request(**run: Any) -> PageMap:
    """A state with a request that runs, and its sequence 0."""
    state = PageMap()
    state.apply(run_started(**run))
    state.apply(ev.RequestQueued(seq=1, step=0, request=0, sequence=0, prompt="", prompt_tokens=1, max_tokens=1))
    state.apply(ev.RequestAdmitted(seq=2, step=0, request=0, waited_steps=0))
    return state


def many(count: int, value: bytes = b"\x80") -> bytes:
    return b"\xdd" + struct.pack(">I", count) + value * count


def numbered(count: int, value: bytes) -> bytes:
    pairs = (b"\xce" + struct.pack(">I", number) + value for number in range(count))
    return b"\xdf" + struct.pack(">I", count) + b"".join(pairs)


def snapshot(name: str, value: bytes) -> tuple[int, int, bytes]:
    known = pack({"run": run_started()})
    return KEYFRAME, 0, bytes([known[0] + 1]) + known[1:] + pack(name) + value


EMPTY = KEYFRAME, 0, encode_page_map(PageMap())
BEGIN = batch(0, run_started())


def tables() -> bytes:
    sequence = b"\x81\x00\x82" + pack("request") + b"\x00" + pack("tables")
    return recording(snapshot("sequences", sequence + many(2 * MB)), BEGIN)


def outputs() -> bytes:
    required = pack({"prompt": "", "prompt_tokens": 1, "max_tokens": 1, "sequence": 0})
    request = b"\x81\x00\x85" + required[1:] + pack("outputs") + numbered(MB, b"\x80")
    return recording(snapshot("requests", request), BEGIN)


def requests_without_anything() -> bytes:
    required = pack({"prompt": "", "prompt_tokens": 1, "max_tokens": 1, "sequence": 0})
    archive = b"\x81" + pack("requests") + numbered(MB // 4, required)
    return recording(EMPTY, BEGIN, (BATCH, 1, b""), (ARCHIVE, 1, archive), (KEYFRAME, 1, encode_page_map(PageMap())))


def numbers() -> bytes:
    return recording(snapshot("running", many(8 * MB, b"\xe0")), BEGIN)


def pages() -> bytes:
    return recording(snapshot("pages", many(4 * MB)), BEGIN)


def one_step() -> bytes:
    event = pack({"type": "RunFinished", "step": 1})
    return recording(EMPTY, BEGIN, (BATCH, 1, b"\x82" + pack("step") + b"\x01" + pack("events") + many(MB, event)))


def pairs_of_pages() -> bytes:
    event = ev.BlocksSwappedOut(
        seq=1, step=1, request=0, bytes=0, pairs=[(0, 0)] * (2 * MB), cause=ev.Cause.PREEMPTION_VICTIM
    )
    return recording(EMPTY, BEGIN, batch(1, event))


def configuration() -> bytes:
    return recording(EMPTY, batch(0, run_started(config={f"{number:x}": 0 for number in range(200_000)})))


def versions() -> bytes:
    file = io.BytesIO()
    TraceWriter(file, fmt.Header(1, {f"{number:x}": "" for number in range(MB)}))
    return file.getvalue()


def frames() -> bytes:
    file = io.BytesIO()
    _written(file, EMPTY, BEGIN)
    return file.getvalue() + fmt._FRAME.pack(BATCH, 1, 0, fmt._checksum(BATCH, 1, b"")) * MB


def index() -> bytes:
    """An index of frames that are not there."""
    file = io.BytesIO()
    writer = _written(file, EMPTY, BEGIN)
    writer._kinds.extend(bytes([BATCH]) * (2 * MB))
    writer._index.steps.extend([0] * (2 * MB))
    writer._index.lengths.extend([0] * (2 * MB))
    writer.finish()
    return file.getvalue()


def nesting() -> bytes:
    return recording(EMPTY, BEGIN, (BATCH, 1, b"\x81" + pack("events") + b"\x91" * (8 * MB)))


def a_claim() -> bytes:
    return recording(snapshot("waiting", b"\xdd" + struct.pack(">I", 10**9)), BEGIN)


def pool() -> bytes:
    return recording(EMPTY, batch(0, run_started(num_blocks=10**9)))


def second_run() -> bytes:
    end, begin = ev.RunFinished(seq=1, step=1), run_started(step=2, seq=2, num_blocks=1 << 21)
    between = KEYFRAME, 1, encode_page_map(PageMap(step=1, next_seq=2))
    return recording(EMPTY, BEGIN, batch(1, end), between, batch(2, begin))


def forks() -> bytes:
    state = one_request()
    state.requests[0].outputs[0].token_ids = [1] * (MB // 8)
    made = [
        ev.SequenceForked(
            seq=state.next_seq + child, step=1, request=0, parent=0, child=child + 1, num_tokens=1, cause=ev.Cause.FORK
        )
        for child in range(100)
    ]
    return recording((KEYFRAME, 0, encode_page_map(state)), batch(1, *made))


def gap() -> bytes:
    """A page far behind a sliding window, which is found again."""
    state = one_request(group_windows=[8])
    page = state.pages[0]
    page.filled, page.hash, page.logical_index = 16, "x", 1 << 27
    hit = ev.PrefixHit(
        seq=3, step=1, sequence=0, block=0, logical_index=1 << 27, ref_count=1, hash="x", cause=ev.Cause.PREFIX_HIT
    )
    return recording((KEYFRAME, 0, encode_page_map(state)), batch(1, hit))


HOSTILE: dict[str, Callable[[], bytes]] = {
    made.__name__: made
    for made in (tables, outputs, requests_without_anything, numbers, pages, one_step, pairs_of_pages, configuration)
} | {made.__name__: made for made in (versions, frames, index, nesting, a_claim, pool, second_run, forks, gap)}


def peak() -> int:
    """Most bytes that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main(folder: str) -> None:
    """Opens every file and looks at its end; prints by how many bytes the process grew, and the error."""
    from workbench_app.explore import ExploreStore
    from workbench_app.explore_answers import frame_answer, meta_answer
    from workbench_app.limits import ExploreError, Limits

    store = ExploreStore(Limits(memory_bytes=16 * MB, decoded_bytes=64 * MB, frames=20_000, pages=1 << 14))

    def look(key: str) -> None:
        meta_answer(store.get(key))
        frame_answer(store.get(key), {})

    look(store.open_bundled("samples"))  # whatever is loaded once is there now
    found = {}
    for path in sorted(Path(folder).iterdir()):
        before, words = peak(), ""
        try:
            look(store.open_upload(path.open("rb"), path.name, "me"))
        except (ExploreError, fmt.RecordingError) as error:
            words = str(error)
        found[path.name] = [peak() - before, words]
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
