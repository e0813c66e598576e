"""Tables as files: the events of a history, or one row per step, as CSV or Parquet, row by row."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, TextIO

from workbench.events import types as ev
from workbench.events.columns import Columns, WideNumbers, event_columns, plain
from workbench.events.history import History
from workbench.events.kvtrace import RecordingError
from workbench.events.table import event_row
from workbench.events.windows import HostPages, Progress, steps_of

Row = dict[str, Any]

_ROWS_AT_ONCE = 20_000
_MAX_CONFIG = 256
_COUNTED: dict[type, str] = {
    ev.RequestQueued: "queued",
    ev.RequestFinished: "finished",
    ev.RequestPreempted: "preempted",
    ev.BlockAllocated: "pages_allocated",
    ev.BlockCopied: "pages_copied",
    ev.BlockEvicted: "pages_evicted",
}
_WASTE = ("token_states", "reserved", "external", "free", "cached")
#: Columns of the table of steps: `StepFinished`, then how often something happened in the step. Slots are device slots.
STEP_COLUMNS: Columns = {
    **dict.fromkeys(("step", "t_ns", "running", "waiting", "swapped", "prefill_tokens", "decode_tokens"), "int"),
    **dict.fromkeys((f"slots_{name}" for name in _WASTE), "int"),
    **dict.fromkeys(("pages_used", "pages_cached", "host_pages_used"), "int"),
    **dict.fromkeys(("schedule_ns", "forward_ns", "sample_ns", "copy_ns", "swap_ns"), "int"),
    **dict.fromkeys(_COUNTED.values(), "int"),
    **dict.fromkeys(("swapped_out_bytes", "swapped_in_bytes", "streamed_bytes"), "int"),
}
_BYTES: dict[type, str] = {
    ev.BlocksSwappedOut: "swapped_out_bytes",
    ev.BlocksSwappedIn: "swapped_in_bytes",
    ev.BlocksStreamed: "streamed_bytes",
}


def event_table(
    history: History, first: int | None = None, last: int | None = None, progress: Progress | None = None
) -> tuple[Columns, Iterator[Row]]:
    """One row per event of steps ``first`` to ``last``. The events are read twice: once to know the columns.

    A column with a number of more than 64 bits is text.

    Raises:
        IndexError: a step is not in this history.
        ValueError: ``last`` comes before ``first``.
        RecordingError: the engine's configuration has more entries than a table has room for.
    """
    last = history.last_step if last is None else last  # the same steps both times, even if the run goes on
    kinds: dict[type, None] = {}
    config: dict[str, Any] = {}
    count, wide = 0, WideNumbers()
    for batch in steps_of(history, first, last)[1]:
        count += len(batch.events)
        for event in batch.events:
            wide.note(event)
            kinds[type(event)] = None
            if isinstance(event, ev.RunStarted):
                config = dict(event.config)
    if len(config) > _MAX_CONFIG:  # no engine has; a stranger's file may claim so
        raise RecordingError(f"config has {len(config):,} entries; at most {_MAX_CONFIG} are allowed in a table")
    columns = event_columns(kinds, {"config": config}) | dict.fromkeys(wide.names, "str")
    batches = steps_of(history, first, last, progress)[1]
    rows = (event_row(event) for batch in batches for event in batch.events)
    return columns, itertools.islice(rows, count)


def step_table(
    history: History, first: int | None = None, last: int | None = None, progress: Progress | None = None
) -> tuple[Columns, Iterator[Row]]:
    """One row per step, from its `StepFinished` and what happened in it.

    Raises:
        IndexError: a step is not in this history.
        ValueError: ``last`` comes before ``first``.
    """
    return dict(STEP_COLUMNS), _step_rows(history, first, last, progress)


def _step_rows(history: History, first: int | None, last: int | None, progress: Progress | None) -> Iterator[Row]:
    state, batches = steps_of(history, first, last, progress)
    host, run = HostPages(state), state.run
    counts = dict.fromkeys([*_COUNTED.values(), *_BYTES.values()], 0)
    for batch in batches:
        for event in batch.events:
            host.note(event)
            kind = type(event)
            if kind in _COUNTED:
                counts[_COUNTED[kind]] += 1
            elif kind in _BYTES:
                counts[_BYTES[kind]] += event.bytes  # type: ignore[union-attr]
            elif isinstance(event, ev.RunStarted):
                run = event
            elif isinstance(event, ev.StepFinished):
                row: Row = {name: getattr(event, name, None) for name in STEP_COLUMNS} | counts
                row |= {f"slots_{name}": getattr(event.waste, name) for name in _WASTE}
                if run is not None and run.memory == "paged":
                    waste = event.waste
                    row["pages_used"] = (waste.token_states + waste.reserved) // run.block_size
                    row["pages_cached"] = waste.cached // run.block_size
                    row["host_pages_used"] = host.used
                yield row
                counts = dict.fromkeys(counts, 0)


def write_csv(columns: Columns, rows: Iterable[Row], file: TextIO) -> None:
    """Writes a table as CSV with a line of names. What is missing is empty; lists are JSON.

    Args:
        file: open with ``newline=""``.
    """
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        writer.writerow([plain(row.get(name), kind) for name, kind in columns.items()])


def write_parquet(columns: Columns, rows: Iterable[Row], file: BinaryIO) -> None:
    """Writes a table as Parquet, some thousand rows at a time. What is missing is null; lists are JSON text.

    Raises:
        RecordingError: a column of numbers has one that takes more than 64 bits.
    """
    import pyarrow as pa
    from pyarrow import parquet

    arrow = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "str": pa.string(), "json": pa.string()}
    schema = pa.schema([(name, arrow[kind]) for name, kind in columns.items()])
    rows = iter(rows)
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        while part := list(itertools.islice(rows, _ROWS_AT_ONCE)):
            arrays = []
            for name, kind in columns.items():
                try:
                    arrays.append(pa.array([plain(row.get(name), kind) for row in part], schema.field(name).type))
                except OverflowError as error:
                    raise RecordingError(f"{name}: a number in it takes more than 64 bits") from error
            writer.write_table(pa.table(arrays, schema=schema))
