"""What a run of the Lab found: sentences, charts, a table and CSV, as one JSON value for the page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

from workbench.views.lab_charts import Bars, Course, Scale, bars_view, best_of, courses_view
from workbench.views.view import View
from workbench_app.lab.desk import LabRun
from workbench_app.lab.measure import Result
from workbench_app.lab.measures import COURSE, MEASURES


def _values(results: Sequence[Result], name: str) -> list[float | None]:
    return [result.figures.get(name) for result in results]


def verdict(run: LabRun) -> list[str]:
    """Who is best, by how much: a sentence for each figure that the experiment is about, and one on speed."""
    sentences = [_compared(MEASURES[name], run.results, name) for name in run.plan.settings.about.verdict]
    return [*sentences, _speed(run)]


def _compared(scale: Scale, results: Sequence[Result], name: str) -> str:
    known = [(r.label, r.figures[name]) for r in results if name in r.figures]
    best = best_of([value for _, value in known], scale.better)
    if not known:
        return f"{scale.title}: nothing was counted."
    if not best:
        both = "the same everywhere" if len(known) > 1 else known[0][0]
        return f"{scale.title}: {both}, {scale.write(known[0][1])}."
    ahead = [known[i][0] for i in best]
    top = known[best[0]][1]
    worst = (min if scale.better == "more" else max)(value for _, value in known)
    behind = [label for label, value in known if value == worst]
    last = f"{_listed(behind)} {_is(behind)} last with {scale.write(worst)}{_times(top, worst)}"
    return f"{scale.title}: {_listed(ahead)} {_is(ahead)} best with {scale.write(top)}; {last}."


def _times(a: float, b: float) -> str:
    """How many times the smaller one the larger is, if that says something."""
    low, high = min(a, b), max(a, b)
    return f" ({high / low:.1f} times)" if low > 0 and high / low >= 1.05 else ""


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _is(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"


def _speed(run: LabRun) -> str:
    scale, repetitions = MEASURES["rate"], run.plan.settings.repetitions
    parts = []
    for result in run.results:
        spread = f" ({scale.write(min(result.rates))} to {scale.write(max(result.rates))})" if repetitions > 1 else ""
        parts.append(f"{result.label} {scale.write(result.figures['rate'])}{spread}")
    how = f"medians of {repetitions}" if repetitions > 1 else "once each, so small differences mean nothing"
    return f"Measured on this machine, while others use it ({how}): output tokens per second: {', '.join(parts)}."


def equality(run: LabRun) -> dict[str, str]:
    """Whether all variants wrote the same, token by token: ``state`` "equal", "differ" or "alone", and words."""
    differences = [result.difference for result in run.results if result.difference]
    if differences:
        return {
            "state": "differ",
            "words": f"Outputs differ: {'; '.join(differences)}. This is a bug: please report it.",
        }
    if len(run.results) < 2:
        return {"state": "alone", "words": "One variant: there is nothing to compare its outputs with."}
    compared = min(result.tokens_compared for result in run.results[1:])
    what = "the samples that they have in common" if run.plan.settings.about.samples else "all outputs"
    return {
        "state": "equal",
        "words": f"Outputs equal: {what} were compared token by token, {compared:,} tokens in each of "
        f"{len(run.results)} variants.",
    }


def _charts(run: LabRun, beside: LabRun | None, dark: bool) -> list[View]:
    shown = [run] if beside is None else [run, beside]
    labels = list(dict.fromkeys(result.label for each in shown for result in each.results))
    names = list(dict.fromkeys(name for each in shown for name in each.plan.settings.about.measures))
    views = []
    for name in names:
        bars = []
        for each in shown:
            by_label = {result.label: result.figures.get(name) for result in each.results}
            bars.append(Bars(f"Run {each.number}", [by_label.get(label) for label in labels]))
        views.append(bars_view(MEASURES[name], labels, bars, dark))
    if beside is None:
        views.append(courses_view(COURSE, [Course(r.label, *r.course) for r in run.results], dark))
    return views


def table(runs: Sequence[LabRun]) -> tuple[list[str], list[list[str | float | int | None]]]:
    """Columns and rows: one row per variant, counted and measured figures labelled."""
    names = list(dict.fromkeys(name for run in runs for name in run.plan.settings.about.measures))
    columns = ["run", "variant", *(f"{MEASURES[name].title} ({MEASURES[name].kind})" for name in names), "same outputs"]
    rows: list[list[str | float | int | None]] = [
        [run.number, r.label, *(r.figures.get(name) for name in names), "no" if r.difference else "yes"]
        for run in runs
        for r in run.results
    ]
    return columns, rows


def as_csv(runs: Sequence[LabRun]) -> str:
    """The table with the settings of each run, as CSV. Bytes and shares are plain numbers."""
    columns, rows = table(runs)
    plans = {run.number: run.plan for run in runs}
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, "experiment", "fixed"])
    for row in rows:
        plan = plans[int(row[0] or 0)]
        writer.writerow([*row, plan.settings.about.name, plan.fixed_words])
    return text.getvalue()


def findings_json(run: LabRun, beside: LabRun | None = None) -> str:
    """Everything that the page shows of a run, or of two side by side."""
    runs = [run] if beside is None else [run, beside]
    light, dark = _charts(run, beside, False), _charts(run, beside, True)
    names = list(dict.fromkeys(name for each in runs for name in each.plan.settings.about.measures))
    scales = [*(MEASURES[name] for name in names), COURSE]
    charts = []
    for scale, bright, dim in zip(scales, light, dark, strict=False):
        drawn, other = bright.to_json(), dim.to_json()
        charts.append(
            {
                "title": scale.title,
                "kind": scale.kind,
                "better": scale.better,
                "caption": drawn["caption"],
                "light": {"data": drawn["data"], "layout": drawn["layout"]},
                "dark": {"data": other["data"], "layout": other["layout"]},
            }
        )
    columns, rows = table(runs)
    written = [[_written(value, names, i) for i, value in enumerate(row)] for row in rows]
    value: dict[str, Any] = {
        "blocks": [
            {
                "title": each.title,
                "question": each.plan.settings.about.question,
                "fixed": each.plan.fixed_words,
                "note": each.note,
                "sentences": verdict(each),
                "equality": equality(each),
            }
            for each in runs
        ],
        "charts": charts,
        "table": {"columns": columns, "rows": written},
        "csv": as_csv(runs),
        "file": f"kv-lab-run-{'-and-'.join(str(each.number) for each in runs)}.csv",
    }
    return json.dumps(value, separators=(",", ":"))


def _written(value: str | float | int | None, names: Sequence[str], column: int) -> str:
    if value is None:
        return "none"
    index = column - 2
    return MEASURES[names[index]].write(float(value)) if 0 <= index < len(names) else str(value)
