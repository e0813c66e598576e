"""The Lab: what comes in is checked, runs wait in line, end when told to, and count the same every time."""

from __future__ import annotations

import csv
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from tests.app.conftest import Clock
from workbench.models import LoadedModel
from workbench.views.lab_charts import Bars, bars_view, thinned
from workbench_app.lab import desk as desk_module
from workbench_app.lab.desk import LabDesk, LabError, LabRun
from workbench_app.lab.experiments import EXPERIMENTS
from workbench_app.lab.findings import as_csv, equality, findings_json, verdict
from workbench_app.lab.handlers import progress_json
from workbench_app.lab.measure import Plan, Result, compare_with, make_plan, run_variant
from workbench_app.lab.measures import MEASURES
from workbench_app.lab.settings import LabSettings, parse_lab
from workbench_app.settings import SettingError

GOOD: dict[str, Any] = {
    "experiment": "reservation",
    "values": ["paged", "max"],
    "requests": 4,
    "lengths": "short",
    "pool_tokens": 512,
    "block_size": 16,
    "max_model_len": 256,
    "link_mb": 1000,
    "repetitions": 1,
    "seed": 0,
}
#: More than the pool of `GOOD` holds.
PRESSED = {"requests": 18}
WAIT = Callable[..., None]


def settings(**changes: Any) -> LabSettings:
    return parse_lab(**{**GOOD, **changes})


def run_of(model: LoadedModel, **changes: Any) -> LabRun:
    plan = make_plan(model, settings(**changes))
    results = [run_variant(model, variant, plan.settings.repetitions, lambda *_: None) for variant in plan.variants]
    return LabRun(1, plan, [compare_with(results[0], result) for result in results])


def counted(run: LabRun) -> list[dict[str, float]]:
    return [{k: v for k, v in r.figures.items() if not MEASURES[k].is_measured} for r in run.results]


@pytest.fixture(scope="module")
def found(tiny: LoadedModel) -> LabRun:
    return run_of(tiny, values=["paged", "max", "oracle"])


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("experiment", "alchemy", "Experiment: 'alchemy'"),
        ("experiment", None, "Experiment"),
        ("values", [], "Memory: [] is not possible"),
        ("values", None, "Memory: None"),
        ("values", ["paged", "best"], "Memory: 'best'"),
        ("values", [True], "Memory: True"),
        ("values", [["max"]], "Memory"),
        ("requests", 1, "Requests: 1 "),
        ("requests", 1e9, "Requests"),
        ("requests", float("nan"), "Requests: nan"),
        ("requests", "6", "Requests: '6'"),
        ("lengths", "long", "Lengths: 'long'"),
        ("pool_tokens", 1000, "Pool size: 1000"),
        ("block_size", 12, "Block size: 12"),
        ("max_model_len", 300, "Longest sequence: 300"),
        ("link_mb", 0, "Link speed: 0"),
        ("repetitions", 6, "Repetitions: 6"),
        ("seed", -1, "Seed: -1"),
        ("seed", True, "Seed: True"),
    ],
)
def test_what_is_not_possible_is_named(field: str, value: Any, named: str) -> None:
    with pytest.raises(SettingError, match=r"Allowed are|at least one") as caught:
        settings(**{field: value})
    assert named in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"requests": 48, "lengths": "sharegpt", "pool_tokens": 8192, "max_model_len": 2048}, "Requests: 48"),
        ({"lengths": "sharegpt"}, "Pool size: 512"),
        ({"lengths": "sharegpt", "pool_tokens": 8192}, "Longest sequence: 256"),
        ({"max_model_len": 1024}, "Longest sequence: 1024"),
        (
            {"experiment": "block_size", "values": [1], "pool_tokens": 8192},
            "Block size: 1 is not possible. 8,192 slots would be 8,192 pages",
        ),
    ],
)
def test_what_would_not_fit_is_refused_before_it_runs(tiny: LoadedModel, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingError) as caught:
        make_plan(tiny, settings(**changes))
    assert named in str(caught.value)


def test_every_experiment_brings_values_that_can_run(tiny: LoadedModel) -> None:
    for experiment in EXPERIMENTS.values():
        chosen = settings(experiment=experiment.key, values=list(experiment.start), pool_tokens=1024, **{})
        plan = make_plan(tiny, replace(chosen, **experiment.defaults))
        assert len(plan.variants) == len(experiment.start) >= 3
        assert {*experiment.measures, *experiment.verdict} <= set(MEASURES)
        assert len({variant.label for variant in plan.variants}) == len(plan.variants)


def test_the_same_seed_counts_the_same_and_another_one_asks_for_other_things(tiny: LoadedModel, found: LabRun) -> None:
    again = run_of(tiny, values=["paged", "max"])
    paged, reserved = again.results
    assert counted(found)[:2] == counted(again)
    assert [result.outputs for result in found.results[:2]] == [paged.outputs, reserved.outputs]
    assert make_plan(tiny, settings(seed=1)).variants[0].jobs != found.plan.variants[0].jobs
    assert paged.figures["peak"] > reserved.figures["peak"] == 512 // 256
    assert paged.figures["steps"] < reserved.figures["steps"]
    assert paged.outputs == reserved.outputs


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        (
            {"experiment": "preemption", "values": ["recompute", "swap", "adaptive"], **PRESSED, "link_mb": 1000},
            lambda a, b, c: (
                a["recomputed"] > 0 == a["moved_bytes"] and b["moved_bytes"] > 0 == b["recomputed"] and b == c
            ),
        ),
        (
            {"experiment": "eviction", "values": ["no cache", "lru"], "requests": 6},
            lambda a, b: a["hits"] == 0 < b["hits"] and b["prefill"] < a["prefill"],
        ),
        (
            {"experiment": "samples", "values": [1, 4], "requests": 2},
            lambda a, b: a["saved_share"] == 0 < b["saved_share"] and b["copies"] > 0,
        ),
        (
            {"experiment": "preemption", "values": ["adaptive"], **PRESSED, "link_mb": 5},
            lambda a: a["recomputed"] > 0 == a["moved_bytes"],
        ),
    ],
)
def test_what_is_varied_makes_the_difference_and_the_outputs_stay_equal(
    tiny: LoadedModel, changes: dict[str, Any], check: Callable[..., bool]
) -> None:
    run = run_of(tiny, **changes)
    assert check(*counted(run))
    if len(run.results) > 1:
        assert equality(run)["state"] == "equal"
        assert f"{run.results[1].tokens_compared:,} tokens" in equality(run)["words"]


def test_a_difference_is_found_and_said(found: LabRun) -> None:
    first, second, *_ = found.results
    changed = [[list(sample) for sample in request] for request in first.outputs]
    changed[1][0][3] += 1
    wrong = compare_with(first, replace(second, outputs=changed))
    assert equality(LabRun(1, found.plan, [first, wrong])) == {
        "state": "differ",
        "words": "Outputs differ: Max: request 2, sample 1, token 4. This is a bug: please report it.",
    }


def test_repetitions_must_agree_and_give_a_spread(tiny: LoadedModel) -> None:
    run = run_of(tiny, requests=2, values=["paged"], repetitions=2)
    (result,) = run.results
    assert len(result.rates) == 2
    assert min(result.rates) <= result.figures["rate"] <= max(result.rates)
    assert "medians of 2" in verdict(run)[-1]


# -- what is said ---------------------------------------------------------------------------------------------------


def test_the_verdict_names_the_best_the_last_and_by_how_much(found: LabRun) -> None:
    peaks = [result.figures["peak"] for result in found.results]
    first = verdict(found)[0]
    assert first.startswith("Most requests at once: Paged")
    assert f"Max is last with {peaks[1]:.0f} ({peaks[0] / peaks[1]:.1f} times)" in first
    assert verdict(found)[-1].startswith("Measured on this machine")
    alike = LabRun(1, found.plan, [found.results[0], replace(found.results[0], label="Twin")])
    assert verdict(alike)[0] == f"Most requests at once: the same everywhere, {peaks[0]:.0f}."


def test_charts_table_and_csv_say_the_same(found: LabRun) -> None:
    told = json.loads(findings_json(found))
    names = found.plan.settings.about.measures
    assert len(told["charts"]) == len(names) + 1
    for name, chart in zip(names, told["charts"], strict=False):
        values = [result.figures.get(name) for result in found.results]
        assert chart["light"]["data"][0]["x"] == chart["dark"]["data"][0]["x"] == values
        assert chart["kind"] in chart["caption"]
    (course,) = told["charts"][-1:]
    assert [len(trace["x"]) > 1 for trace in course["light"]["data"]] == [True] * 3
    rows = list(csv.DictReader(io.StringIO(told["csv"])))
    assert told["csv"] == as_csv([found])
    assert [row["variant"] for row in rows] == ["Paged", "Max", "Oracle"]
    assert [float(row["Steps until all were done (counted)"]) for row in rows] == [
        result.figures["steps"] for result in found.results
    ]
    assert all("seed 0" in row["fixed"] for row in rows)
    assert [row[1] for row in told["table"]["rows"]] == ["Paged", "Max", "Oracle"]
    assert len(findings_json(found)) < 60_000


def test_two_runs_lie_in_the_same_charts(found: LabRun) -> None:
    other = LabRun(2, found.plan, found.results[:2])
    told = json.loads(findings_json(found, other))
    for chart in told["charts"]:
        mine, theirs = chart["light"]["data"]
        assert (mine["name"], theirs["name"]) == ("Run 1", "Run 2")
        assert mine["x"][:2] == theirs["x"][:2]
        assert theirs["x"][2] is None
    assert [block["title"][:5] for block in told["blocks"]] == ["Run 1", "Run 2"]


# -- who runs what --------------------------------------------------------------------------------------------------


class Held:
    """Variants that take one step each, when the test says so."""

    def __init__(self) -> None:
        self.go = threading.Semaphore(0)

    def __call__(self, model: Any, variant: Any, repetitions: int, tick: Callable[[int, int, float], None]) -> Result:
        tick(1, 0, 0.0)
        while not self.go.acquire(timeout=0.005):
            tick(2, 1, 0.0)
        return Result(variant.label, dict.fromkeys(MEASURES, 1.0), [1.0], [[[1, 2]]], ([1], [1.0]))


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    made = Held()
    monkeypatch.setattr(desk_module, "run_variant", made)
    yield made
    made.go.release(100)


@pytest.fixture
def plan(tiny: LoadedModel) -> Plan:
    return make_plan(tiny, settings())


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def desk(tiny: LoadedModel, clock: Clock, held: Held, wait: WAIT) -> Iterator[LabDesk]:
    made = LabDesk(lambda: tiny, max_running=1, max_waiting=2, max_seconds=100, clock=clock)
    yield made
    made.close()
    wait(lambda: made.is_quiet)


def test_visitors_wait_in_line_and_see_their_place(desk: LabDesk, held: Held, plan: Plan, wait: WAIT) -> None:
    a, b, c = (desk.submit(key, plan) for key in "abc")
    assert [desk.look(ticket) for ticket in (a, b, c)] == [0, 1, 2]
    assert json.loads(progress_json(c, 2))["words"] == "Waiting: 2 before you."
    with pytest.raises(LabError, match="2 runs are waiting"):
        desk.submit("d", plan)
    with pytest.raises(LabError, match="still going on"):
        desk.submit("a", plan)
    wait(lambda: a.step > 0)
    told = json.loads(progress_json(a))
    assert told["live"] == "Running 1 of 2: Paged."
    assert told["words"].startswith("Running 1 of 2: Paged. Step ")
    held.go.release(2)
    wait(lambda: a.is_over)
    assert [desk.look(ticket) for ticket in (b, c)] == [0, 1]
    assert (a.state, len(desk.runs("a")), desk.runs("b")) == ("done", 1, [])
    assert json.loads(progress_json(a))["share"] == 1


def test_cancelling_keeps_what_is_finished_and_lets_the_next_one_run(
    desk: LabDesk, held: Held, plan: Plan, wait: WAIT
) -> None:
    a, b = desk.submit("a", plan), desk.submit("b", plan)
    held.go.release(1)
    wait(lambda: a.variant == 1)
    assert desk.cancel("a")
    wait(lambda: a.is_over)
    assert (a.state, a.note) == ("cancelled", "Cancelled. 1 of 2 variants were finished.")
    (kept,) = desk.runs("a")
    assert [result.label for result in kept.results] == ["Paged"]
    assert not desk.cancel("a")
    wait(lambda: b.state == "running")
    assert desk.cancel("b")
    wait(lambda: b.is_over)
    assert desk.runs("b") == []


def test_who_waits_can_leave_the_line(desk: LabDesk, plan: Plan) -> None:
    desk.submit("a", plan)
    b, c = desk.submit("b", plan), desk.submit("c", plan)
    assert desk.cancel("b")
    assert (b.state, b.note, desk.look(c)) == ("cancelled", "Cancelled while it waited.", 1)


def test_a_run_ends_when_nobody_looks_or_after_its_time(desk: LabDesk, clock: Clock, plan: Plan, wait: WAIT) -> None:
    a, b = desk.submit("a", plan), desk.submit("b", plan)
    wait(lambda: a.step > 0)
    clock.now += 21
    wait(lambda: a.is_over)
    assert a.note == "Nobody was looking any more."
    c = desk.submit("c", plan)
    assert (b.state, b.note) == ("cancelled", "Nobody was looking any more.")
    wait(lambda: c.step > 0)
    for _ in range(6):
        clock.now += 19
        desk.look(c)
    wait(lambda: c.is_over)
    assert c.note == "Ended after 100 seconds, the most that a run may take."


def test_a_failure_is_told_and_does_not_stop_the_line(
    desk: LabDesk, held: Held, plan: Plan, wait: WAIT, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Result:
        raise RuntimeError("the pool is on fire")

    monkeypatch.setattr(desk_module, "run_variant", broken)
    a = desk.submit("a", plan)
    wait(lambda: a.is_over)
    assert (a.state, a.note) == ("failed", "The run stopped: the pool is on fire")
    monkeypatch.setattr(desk_module, "run_variant", held)
    held.go.release(2)
    again = desk.submit("a", plan)
    wait(lambda: again.is_over)
    assert again.state == "done"


def test_a_visitor_who_leaves_is_forgotten(desk: LabDesk, held: Held, plan: Plan, wait: WAIT) -> None:
    held.go.release(2)
    first = desk.submit("a", plan)
    wait(lambda: first.is_over)
    assert desk.runs("a")
    second = desk.submit("a", plan)
    desk.drop("a")
    wait(lambda: second.is_over)
    assert desk.runs("a") == []


def test_the_lab_rests_while_others_watch_live_runs(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch, wait: WAIT
) -> None:
    rests: list[float] = []
    monkeypatch.setattr(desk_module, "time", SimpleNamespace(sleep=rests.append))
    made = LabDesk(lambda: tiny, others_busy=lambda: True, clock=time.monotonic)
    ticket = made.submit("a", make_plan(tiny, settings(requests=2, values=["paged"])))
    wait(lambda: ticket.is_over)
    assert ticket.run is not None
    assert len(rests) == ticket.run.results[0].figures["steps"]
    assert all(0 < rest <= 0.25 for rest in rests)


def test_a_long_course_keeps_its_peaks_and_its_end() -> None:
    values = [0.0] * 5000
    values[1234] = 7.0
    steps, thin = thinned(range(1, 5001), values)
    assert len(steps) <= 162
    assert (max(thin), steps[thin.index(7.0)], steps[-1]) == (7.0, 1235, 5000)


def test_bars_need_a_value_for_every_label_and_ties_are_named_together(found: LabRun) -> None:
    with pytest.raises(ValueError, match="2 given, must be 3"):
        bars_view(MEASURES["steps"], ["a", "b", "c"], [Bars("Run 1", [1, 2])])
    first = found.results[0]
    slow = {**first.figures, "peak": 1.0}
    tied = [first, *(replace(first, label=name, figures=slow) for name in ("B", "C"))]
    assert "B and C are last with 1" in verdict(LabRun(1, found.plan, tied))[0]
