"""The Explore tab's answers to a browser, encoded. Each takes some time: call them in a thread."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from workbench.events import PageMap, Recording
from workbench.events.jumps import KINDS as KINDS_OF_JUMPS
from workbench.views.delta import diff
from workbench.views.frames import explore_frame
from workbench_app.explore import ExploreStore
from workbench_app.explore_views import VIEWS, integer, make_view, read_asked, step_of
from workbench_app.exports import KINDS, file_name
from workbench_app.gallery import ITEMS, path_of
from workbench_app.sources import Source

#: Roughly what a frame's Python objects take, per byte of its JSON.
_OBJECT_FACTOR = 4


def encode(value: Any) -> bytes:
    """Compact JSON."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")


def gallery_answer(store: ExploreStore) -> dict[str, Any]:
    """``{"items": [{"name", "title", "words", "bytes", "steps"}], "limits"}``. Items without a file are left out."""
    items = []
    for name, item in ITEMS.items():
        path = path_of(name, store.gallery)
        if path.is_file():
            history = store.get(store.open_bundled(name)).history
            bytes_, steps = path.stat().st_size, history.num_steps
            items.append({"name": name, "title": item.title, "words": item.words, "bytes": bytes_, "steps": steps})
    return {"items": items, "limits": {"upload_bytes": store.limits.upload_bytes}}


def meta_answer(source: Source) -> bytes:
    """What a run is, and where there is something to see in it.

    ``first`` and ``last`` step, ``running``: whether more may come, ``run``: the `RunStarted` event's fields,
    ``jumps``: kind -> steps, ``views``: names of pictures that suit this run, ``exports``: kind -> words and file name.
    """
    history = source.history
    with source.lock:
        series = source.series()
        run, is_finished = series.run, series.is_finished
        index = source.jumps()
        jumps = {kind: index.steps(kind) for kind in KINDS_OF_JUMPS}
    is_paged = run is not None and run.memory == "paged"
    hidden = ("contiguous",) if is_paged else ("block_table", "block_tables", "sharing_tree")
    return encode(
        {
            "title": source.title,
            "kind": source.kind,
            "bytes": source.file_bytes,
            "first": history.first_step,
            "last": history.last_step,
            "running": source.kind == "live" and not is_finished,
            "damage": history.damage if isinstance(history, Recording) else "",
            "memory": _memory_words(run),
            "run": _run_fields(run),
            "jumps": jumps,
            "views": [name for name in VIEWS if name not in hidden],
            "exports": {name: {"words": kind.words, "file": file_name(source, name)} for name, kind in KINDS.items()},
        }
    )


def _memory_words(run: Any) -> str:
    if run is None:
        return ""
    if run.memory == "paged":
        words = f"Paged memory: {run.num_blocks:,} pages (blocks) of {run.block_size} slots"
        return words + (f", {run.num_host_blocks:,} more in the host tier." if run.num_host_blocks else ".")
    return f"Contiguous memory: {run.num_blocks * run.block_size:,} slots; reservation {run.config.get('reservation')}."


def _run_fields(run: Any) -> dict[str, Any] | None:
    if run is None:
        return None
    return {
        "memory": run.memory,
        "block_size": run.block_size,
        "num_blocks": run.num_blocks,
        "num_host_blocks": run.num_host_blocks,
        "bytes_per_block": run.bytes_per_block,
        "seed": run.seed,
        "model": run.model.name,
        "architecture": run.model.architecture,
        "host_tier": run.host_tier,
        "config": run.config,
    }


def frame_answer(source: Source, query: Mapping[str, str]) -> bytes:
    """The frame of ``step``: ``{"step", "last", "seq", "frame"}``, or for a browser that has another one, ``base`` with
    ``base_seq``, ``{"step", "last", "seq", "base", "patch"}``: see `workbench.views.delta`.

    ``seq`` is the number of events before the frame: the last step of a live run may get more. With ``sequence``, that
    one is in the frame, whatever had to be left out; it must be the same for the base.
    """
    step = step_of(source, query)
    step = source.history.last_step if step is None else step
    sequence = integer(query, "sequence", 0, 1 << 31)
    base, base_seq = step_of(source, query, "base"), integer(query, "base_seq", 0, 1 << 40)
    seq, frame, size = _frame(source, step, sequence)
    answer: dict[str, Any] = {"step": step, "last": source.history.last_step, "seq": seq}
    if base is not None and base_seq is not None:
        known_seq, known, _ = _frame(source, base, sequence)
        if known_seq == base_seq:
            patch = encode({**answer, "base": base, "patch": diff(known, frame)})
            if len(patch) < size:
                return patch
    return encode({**answer, "frame": frame})


def _frame(source: Source, step: int, sequence: int | None) -> tuple[int, dict[str, Any], int]:
    """A frame, how many events are before it, and about how long its text is."""
    key = step, sequence
    kept = source.frames.get(key)
    if kept is not None:
        return kept  # type: ignore[return-value]
    history = source.history
    is_settled = isinstance(history, Recording) or step < history.last_step
    state: PageMap = history.state_at(step)
    with source.doubted():
        frame = explore_frame(state, history.events(step), sequence)
    frame["step"] = frame["map"]["step"] = step
    size = len(encode(frame))
    if is_settled:
        source.frames.put(key, (state.next_seq, frame, size), _OBJECT_FACTOR * size)
    return state.next_seq, frame, size


def view_answer(source: Source, name: str, query: Mapping[str, str]) -> bytes:
    """A picture, as of `View.to_json`."""
    asked = read_asked(source, query)
    history = source.history
    age = () if isinstance(history, Recording) else (history.last_step, history.num_batches)
    key = name, asked, age
    kept = source.views.get(key)
    if isinstance(kept, bytes):
        return kept
    with source.doubted():
        body = encode(make_view(source, name, asked).to_json())
    source.views.put(key, body, len(body))
    return body
