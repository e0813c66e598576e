"""Jumps, tables and traces: read back, they say what the history says."""

from __future__ import annotations

import io
import itertools
import json
from pathlib import Path

import pandas as pd
import pytest

from tests.events import scenario
from tests.events.synthetic import Simulation
from workbench.cli import main
from workbench.events import EventBus, PageMap, Recorder, Recording, Timeline
from workbench.events import types as ev
from workbench.events.history import History
from workbench.events.jumps import KINDS, JumpIndex, kinds_of
from workbench.events.kvtrace import BATCH, RecordingError, TraceReader
from workbench.events.perfetto import write_perfetto
from workbench.events.table_files import event_table, step_table, write_csv, write_parquet


@pytest.fixture(scope="module")
def simulated() -> Timeline:
    simulation = Simulation(5, num_blocks=10)
    timeline = Timeline(simulation.bus)
    simulation.run(120).close()
    return timeline


@pytest.fixture(scope="module")
def scripted() -> tuple[Timeline, dict[int, PageMap]]:
    bus = EventBus()
    timeline = Timeline(bus)
    return timeline, {batch.step: bus.page_map.copy() for batch in scenario.play(bus)}


# --- jumps -------------------------------------------------------------------------------------------------------


def expected_steps(history: History, kind: str) -> list[int]:
    return sorted({event.step for event in history.events() if kind in kinds_of(event)})


def test_jumps_lead_to_what_happened(simulated: Timeline, scripted: tuple[Timeline, dict[int, PageMap]]) -> None:
    index = JumpIndex(scripted[0])
    known = {kind: index.steps(kind) for kind in KINDS}
    assert known == {"preemption": [3, 8], "swap": [3, 5, 7, 8], "copy": [2], "eviction": [7], "oom": [3, 8]} | {
        "finish": [6]
    }
    assert (index.next(3, "swap"), index.previous(3, "swap"), index.next(8, "swap")) == (5, None, None)
    assert (index.next(-1, "swap"), index.previous(99, "swap")) == (3, 8)
    index = JumpIndex(simulated)
    for kind in KINDS:
        assert index.steps(kind) == expected_steps(simulated, kind)
    assert len(index.steps("oom")) > len(index.steps("preemption")) > 3
    with pytest.raises(ValueError, match="kind='bang': allowed are preemption, swap, copy"):
        index.next(1, "bang")


def test_an_index_grows_with_the_run_and_reads_only_what_is_new() -> None:
    simulation = Simulation(5, num_blocks=10)
    timeline = Timeline(simulation.bus, max_steps=40, keyframe_every=8)
    index = JumpIndex(timeline)
    for _ in range(25):
        simulation.run(5)
        simulation.add_request(3, 3)
        simulation.bus.flush()  # a second batch of the same step
        index.update(timeline)
        for kind in KINDS:
            assert [s for s in index.steps(kind) if s > timeline.first_step] == [
                s for s in expected_steps(timeline, kind) if s > timeline.first_step
            ]
    asked = []
    batches = timeline.batches
    timeline.batches = lambda first=None, last=None: asked.append(first) or batches(first, last)  # type: ignore[method-assign,func-returns-value]
    index.update(timeline)
    assert asked == [timeline.last_step]


# --- tables ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["simulated", "scripted"])
def test_the_events_as_csv_and_parquet(which: str, simulated: Timeline, scripted: tuple[Timeline, object]) -> None:
    history = simulated if which == "simulated" else scripted[0]
    text, binary = io.StringIO(), io.BytesIO()
    write_csv(*event_table(history), text)
    write_parquet(*event_table(history), binary)
    whole = history.to_pandas()
    csv, parquet = pd.read_csv(io.StringIO(text.getvalue())), pd.read_parquet(binary)
    assert list(csv.columns) == list(parquet.columns)
    # What may be missing as a whole has columns for its parts, whether or not it is there.
    assert {name for name in csv if "estimate" not in name} == {name for name in whole if "estimate" not in name}
    assert "estimate.swap_ns" in csv
    for frame in (csv, parquet):
        assert frame["type"].tolist() == whole["type"].tolist()
        for name in ("seq", "step", "t_ns", "request", "block", "count", "waste.token_states", "index"):
            assert frame[name].dropna().astype(int).tolist() == whole[name].dropna().astype(int).tolist(), name
        assert frame["text"].dropna().tolist() == [t for t in whole["text"].dropna().tolist() if t or frame is parquet]
    if which == "scripted":
        pairs = parquet.loc[parquet["type"] == "BlocksSwappedIn", "pairs"].item()
        assert json.loads(pairs) == [[5, 1], [4, 2], [3, 3], [2, 4], [1, 5], [0, 9]]
        assert json.loads(parquet["outputs"].dropna().item())[0]["token_ids"] == [10, 11]
        assert parquet["estimate.swap_ns"].dropna().tolist() == [2_000_000]
        assert parquet["config.num_host_blocks"].dropna().tolist() == [6]


def test_numbers_of_more_than_64_bits_are_text() -> None:
    huge = (1 << 64) - 1
    geometry = ev.ModelGeometry("m", "a", 1, 1, 1, 1, 1, "float32", huge)
    bus = EventBus()
    with Timeline(bus) as timeline:
        bus.emit(
            ev.RunStarted(
                schema_version=1, seed=huge, model=geometry, config={"wide": huge, "narrow": 3}, memory="contiguous",
                block_size=1, num_blocks=4, bytes_per_block=8,
            )
        )  # fmt: skip
        bus.flush()
    binary = io.BytesIO()
    write_parquet(*event_table(timeline), binary)
    row = pd.read_parquet(binary).iloc[0]
    for name in ("seed", "model.kv_bytes_per_token", "config.wide"):
        assert row[name] == str(huge), name
    assert row["config.narrow"] == 3
    with pytest.raises(RecordingError, match="n: a number in it takes more than 64 bits"):
        write_parquet({"n": "int"}, [{"n": huge}], io.BytesIO())


def test_a_row_per_step(simulated: Timeline, scripted: tuple[Timeline, dict[int, PageMap]]) -> None:
    columns, rows = step_table(scripted[0])
    table = list(rows)
    assert all(set(row) == set(columns) for row in table)
    for row, (step, state) in zip(table, scripted[1].items(), strict=True):
        assert row["step"] == step
        assert row["pages_used"] == sum(page.ref_count > 0 for page in state.pages)
        assert row["pages_cached"] == sum(page.is_cached for page in state.pages)
        assert row["host_pages_used"] == sum(page.ref_count > 0 for page in state.host_pages)
        assert row["running"] == len(state.running)
    assert sum(row["pages_copied"] for row in table) == 2
    part = list(step_table(simulated, 30, 40)[1])
    assert part == [row for row in step_table(simulated)[1] if 30 <= row["step"] <= 40]
    assert len(part) == 11
    text = io.StringIO()
    write_csv(columns, part, text)
    assert pd.read_csv(io.StringIO(text.getvalue()))["step"].tolist() == list(range(30, 41))


# --- perfetto ----------------------------------------------------------------------------------------------------


def trace_of(history: History, first: int | None = None, last: int | None = None) -> list[dict[str, object]]:
    file = io.StringIO()
    write_perfetto(history, file, first, last)
    document = json.loads(file.getvalue())
    assert set(document) == {"traceEvents", "displayTimeUnit", "otherData"}
    again = io.StringIO()
    write_perfetto(history, again, first, last)
    assert again.getvalue() == file.getvalue()
    return document["traceEvents"]


def test_a_trace_has_phases_steps_counters_and_instants(scripted: tuple[Timeline, dict[int, PageMap]]) -> None:
    records = trace_of(scripted[0])
    slices = [r for r in records if r["ph"] == "X"]
    phases = {
        number: [r["name"] for r in slices if r["cat"] == "request" and r["args"] == {"request": number}]
        for number in range(3)
    }
    assert phases[0] == ["queued", "prefill", "decode", "swapped", "decode"]
    assert phases[1] == ["queued", "prefill", "decode"]
    assert phases[2] == ["queued", "prefill", "decode", "swapped", "preempted"]
    steps = [r["name"] for r in slices if str(r["name"]).startswith("step ")]
    assert steps == [f"step {number}" for number in range(1, 9)]
    for part in ("schedule", "forward", "sample", "copy", "swap"):
        assert sum(r["name"] == part for r in slices) == 8
    instants = [r["name"] for r in records if r["ph"] == "i"]
    assert [instants.count(n) for n in ("preemption", "swap out", "swap in", "copy", "eviction", "end")] == [
        *(3, 3, 1, 2, 1, 2)
    ]
    host = [r["args"] for r in records if r["ph"] == "C" and r["name"] == "host pages in use"]
    assert host == [{"pages": sum(page.ref_count > 0 for page in state.host_pages)} for state in scripted[1].values()]
    assert all(r["dur"] >= 0 for r in slices)  # type: ignore[operator]


def test_slices_of_a_thread_are_nested_and_requests_have_no_gaps(simulated: Timeline) -> None:
    records = trace_of(simulated)
    threads: dict[object, list[tuple[float, float]]] = {}
    for record in records:
        if record["ph"] == "X" and record["pid"] == 2:
            threads.setdefault(record["tid"], []).append((record["ts"], record["dur"]))  # type: ignore[arg-type]
    queued = sum(isinstance(event, ev.RequestQueued) for event in simulated.events())
    assert len(threads) == queued
    for slices in threads.values():
        for (ts, dur), (after, _) in itertools.pairwise(slices):
            assert ts + dur == pytest.approx(after, abs=1e-6)
    part = trace_of(simulated, 50, 60)
    names = [r["name"] for r in part if r["ph"] == "X" and r["pid"] == 1 and str(r["name"]).startswith("step")]
    assert names == [f"step {number}" for number in range(50, 61)]
    begun = {r["tid"] for r in part if r["ph"] == "M" and r["name"] == "thread_name" and r["pid"] == 2}
    state = simulated.state_at(49)
    assert {number + 1 for number in (*state.running, *state.waiting)} <= begun


# --- the command -------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path, simulation = tmp_path / "run.kvtrace", Simulation(5)
    with Recorder(simulation.bus, path, 16):
        simulation.run(60).close()
    return path


def test_every_kind_from_the_command_line(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kind, name in (("perfetto", "run.perfetto.json"), ("csv", "run.csv"), ("parquet", "run.parquet")):
        assert main(["export", str(file), "--to", kind]) == 0
        assert (file.parent / name).stat().st_size > 1000
        assert name in capsys.readouterr().out
    assert main(["export", str(file), "--to", "kvtrace", "--steps", "10:20"]) == 0
    with Recording.open(file.parent / "run_10-20.kvtrace") as part, Recording.open(file) as whole:
        assert (part.first_step, part.last_step) == (10, 20)
        assert part.state_at(15) == whole.state_at(15)
    assert main(["export", str(file), "--to", "csv", "--table", "steps", "--steps", ":5"]) == 0
    assert pd.read_csv(file.parent / "run_-5.steps.csv")["step"].tolist() == [1, 2, 3, 4, 5]
    assert main(["export", str(file), "-o", str(file.parent / "steps 1.perfetto.json"), "--steps", "1"]) == 0
    assert "traceEvents" in json.loads((file.parent / "steps 1.perfetto.json").read_text())
    assert len(list(file.parent.iterdir())) == 7, "nothing is left beside the files"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--to", "csv", "--steps", "9:4"], "the last step comes before the first"),
        (["--to", "csv", "--steps", "a:b"], "must be A:B, A:, :B or one step"),
        (["--to", "csv", "--steps", "5:99"], "the recording goes from step 0 to step 60"),
        (["--to", "perfetto", "--table", "steps"], "only for --to csv and --to parquet"),
        ([], "--to: needed, unless -o names a file; must be one of perfetto, csv, parquet, html, kvtrace"),
        (["-o", "run.txt"], "-o run.txt: the ending names no format; give --to, or one of the endings .perfetto.json"),
        (["--to", "kvtrace"], "give --steps for a part of the recording, or -o for a copy"),
        (["--to", "csv", "-o", "run.kvtrace"], "that is the recording itself"),
        (["--to", "csv", "-o", "there.csv"], "exists; give another name, or --force"),
        (["--to", "csv", "-o", "nowhere/x.csv"], "No such file"),
    ],
)
def test_clear_errors_and_never_half_a_file(
    arguments: list[str],
    expected: str,
    file: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(file.parent)
    Path("there.csv").write_text("mine")
    assert main(["export", "run.kvtrace", *arguments]) == 2
    assert expected in capsys.readouterr().err
    assert sorted(path.name for path in file.parent.iterdir()) == ["run.kvtrace", "there.csv"]
    assert Path("there.csv").read_text() == "mine"


def test_a_damaged_recording_leaves_no_half_file(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray(file.read_bytes())
    batches = [frame for frame in TraceReader(io.BytesIO(data), "test").frames if frame.kind == BATCH]
    data[batches[40].end - 3] ^= 1
    file.write_bytes(data)
    assert main(["export", str(file), "--to", "csv"]) == 2
    assert "is damaged" in capsys.readouterr().err
    assert [path.name for path in file.parent.iterdir()] == ["run.kvtrace"]
