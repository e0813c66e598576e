"""A whole run over its steps: requests, pages, waste, traffic, speed and batch, with one cursor over all of them."""

from __future__ import annotations

import numpy as np

from workbench.events.cause_words import milliseconds, size
from workbench.views.palette import DARK, LIGHT
from workbench.views.series import RunSeries
from workbench.views.series_figure import (
    Panel,
    area,
    changes,
    empty_figure,
    every,
    line,
    stacked_figure,
    step_window,
    thin,
)
from workbench.views.timeline_lanes import MAX_LANES, are_specks, choose_lanes, lanes_panel, present
from workbench.views.view import Cell, Table, View
from workbench.views.words import percent, plural

_TABLE_ROWS = 60
_BLUE, _ORANGE, _GREEN, _RED, _PINK, _SKY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9"


def timeline_view(
    series: RunSeries, step: int | None = None, dark: bool = False, steps: tuple[int, int] | None = None
) -> View:
    """The run as panels above each other that share the steps.

    Requests as lanes; pages in use; the use of the slots, stacked as in Fig. 2 of Kwon et al.; traffic between the
    tiers if there was any; tokens per second, measured; sequences computed per step.

    Args:
        step: the step shown: a cursor over all panels, and what the caption speaks of. None: the last one.
        steps: first and last step to draw; None: all.

    Raises:
        ValueError: the window is empty.
    """
    if series.run is None:
        return View(empty_figure("No run yet", dark), "No run yet.")
    window = step_window((series.first_step, series.last_step), steps)
    shown = _slice(series, window)
    tracks = list(series.requests.values())
    lanes = choose_lanes(tracks, window, step)
    panel, hidden = lanes_panel(lanes, window, series.last_step, dark)
    panels = [panel] if lanes else []
    more = len(present(tracks, *window)) - len(lanes)
    crowded = more > 0 and are_specks(lanes, window, series.last_step)
    if crowded:
        panels = [_requests_panel(series, shown, dark)]
    panels += [_memory_panel(series, shown, dark), waste_panel(series, shown, dark)]
    if any(series.column(name)[shown].any() for name in ("bytes_out", "bytes_in", "bytes_streamed")):
        panels.append(_traffic_panel(series, shown, dark))
    panels += [_speed_panel(series, shown, dark), _batch_panel(series, shown, dark)]
    figure = stacked_figure(panels, window, step, dark, f"timeline {window if steps else ''}")
    notes = []
    if crowded:
        notes.append(f"{more + len(lanes):,} requests are too many and too short for lanes: zoom into fewer steps.")
    elif more > 0:
        around = f"around step {step:,}" if step is not None else "that came first"
        notes.append(f"{MAX_LANES} requests {around} have a lane; {more:,} more are not drawn.")
    if hidden and not crowded:
        notes.append(f"{plural(hidden, 'short interval')} in these lanes are not drawn: zoom into fewer steps.")
    caption = " ".join([timeline_words(series, series.last_step if step is None else step), *notes])
    return View(figure, caption, timeline_table(series, window))


def timeline_words(series: RunSeries, step: int) -> str:
    """What the run is at in a step, in sentences."""
    now = series.at(step)
    memory = "paged" if series.is_paged else "contiguous"
    waiting = f"{now['waiting']:,} waiting"
    if now["swapped"]:
        waiting += f" ({now['swapped']:,} of them swapped out)"
    first = f"Step {step:,} of {series.last_step:,}, {memory} memory: {now['running']:,} running, {waiting}"
    used = series.num_slots - now["free_slots"] - now["cached_slots"] - now["external"]
    if series.is_paged:
        place = f"{now['used']:,} of {plural(series.num_pages, 'page')} in use"
    else:
        place = f"{plural(now['regions'], 'region')} with {used:,} of {series.num_slots:,} slots"
    held = now["token_states"] + now["reserved"]
    filled = f", {percent(now['token_states'], held)} of what is held filled with tokens" if held else ""
    sentences = [f"{first}; {place}{filled}."]
    if now["sequences"]:
        did = f"The step computed {plural(now['sequences'], 'sequence')}"
        did += f" and generated {plural(now['generated'], 'token')}"
        sentences.append(did + (f" in {milliseconds(now['busy_ns'])} (measured)." if now["busy_ns"] else "."))
    happened = [
        (now["preemptions"], plural(now["preemptions"], "preemption")),
        (now["bytes_out"], f"{size(now['bytes_out'])} swapped out"),
        (now["bytes_in"], f"{size(now['bytes_in'])} swapped in"),
        (now["bytes_streamed"], f"{size(now['bytes_streamed'])} read from the host tier"),
        (now["copies"], plural(now["copies"], "page") + " copied on write"),
        (now["evicted"], plural(now["evicted"], "page") + " evicted from the prefix cache"),
    ]
    said = [words for count, words in happened if count]
    if said:
        sentences.append(f"In it: {', '.join(said)}.")
    return " ".join(sentences)


def timeline_table(series: RunSeries, window: tuple[int, int]) -> Table:
    """The numbers of at most `_TABLE_ROWS` steps, evenly spaced, the last one always."""
    shown = _slice(series, window)
    rows = list(range(*shown.indices(len(series))))
    distance = every(len(rows), _TABLE_ROWS)
    chosen = rows[::distance]
    if rows and chosen[-1] != rows[-1]:
        chosen.append(rows[-1])
    steps, speed = series.steps, series.tokens_per_second()
    names = ["running", "waiting", "swapped", "used", "cached", "free", "host_used"]
    heads = ["Running", "Waiting", "Swapped", "Pages in use", "Cached", "Free", "Host pages"]
    if not series.is_paged:
        names, heads = ["running", "waiting", "regions"], ["Running", "Waiting", "Regions"]
    names += ["token_states", "reserved", "external", "sequences", "preemptions"]
    heads += ["Token slots", "Reserved slots", "External slots", "Batch", "Preemptions"]
    columns = [series.column(name) for name in names]
    body: list[list[Cell]] = []
    for row in chosen:
        measured = None if np.isnan(speed[row]) else round(float(speed[row]))
        body.append([int(steps[row]), *(int(column[row]) for column in columns), measured])
    title = "The run" if distance == 1 else f"The run, every {distance} steps"
    return Table(["Step", *heads, "Tokens/s (measured)"], body, title)


# -- panels ------------------------------------------------------------------------------------------------------------


def _slice(series: RunSeries, window: tuple[int, int]) -> slice:
    return slice(series.row_of(window[0]), series.row_of(window[1]) + 1)


def _requests_panel(series: RunSeries, shown: slice, dark: bool) -> Panel:
    """How many requests run and wait: instead of lanes where those would be specks."""
    steps, swapped = series.steps[shown], series.column("swapped")[shown]
    parts = [
        ("running", series.column("running")[shown], _GREEN, ""),
        ("waiting", series.column("waiting")[shown] - swapped, "#999999", "/"),
    ]
    if swapped.any():
        parts.append(("waiting, swapped out", swapped, _PINK, "-"))
    layers = [values for _, values, *_ in parts]
    chosen = changes(layers, thin(layers))
    traces = [
        area(steps[chosen], values[chosen], name, color, pattern, "requests", dark, "requests")
        for name, values, color, pattern in parts
    ]
    return Panel("Requests", 130, traces, _top(int(sum(layers).max()), 1.1))


def _memory_panel(series: RunSeries, shown: slice, dark: bool) -> Panel:
    steps = series.steps[shown]
    if not series.is_paged:
        held = (series.column("token_states") + series.column("reserved"))[shown]
        traces = [
            line(steps, held, "slots in regions", _SKY if dark else _BLUE, "slots"),
            line(steps, series.column("token_states")[shown], "with tokens", _GREEN, "slots", "dash"),
        ]
        return Panel("Memory in use (contiguous: no pages)", 100, traces, _top(series.num_slots))
    host = series.run.num_host_blocks if series.run is not None else 0
    traces = [
        line(steps, series.column("used")[shown], f"device (of {series.num_pages:,})", _SKY if dark else _BLUE, "pages")
    ]
    if series.column("cached").any():
        traces.append(line(steps, series.column("cached")[shown], "cached", _muted(dark), "pages", "dot"))
    if host:
        traces.append(line(steps, series.column("host_used")[shown], f"host (of {host:,})", _PINK, "pages", "dash"))
    return Panel(
        "Pages in use", 100, traces, _top(max(series.num_pages, host and int(series.column("host_used").max())))
    )


def waste_panel(series: RunSeries, shown: slice, dark: bool) -> Panel:
    """The use of every slot, stacked. Reserved slots are split where all memory has been given back (Fig. 2)."""
    colors = DARK if dark else LIGHT
    steps = series.steps[shown]
    parts = [("token states", series.column("token_states")[shown], _BLUE, "")]
    split = series.split()
    if split is None:
        parts.append(("reserved, empty", series.column("reserved")[shown], _ORANGE, "/"))
    else:
        parts.append(("reservation", split[0][shown], _ORANGE, "/"))
        parts.append(("internal fragmentation", split[1][shown], _RED, "\\"))
    if series.column("external").any():
        parts.append(("external fragmentation", series.column("external")[shown], "#999999", "x"))
    if series.column("cached_slots").any():
        parts.append(("cached", series.column("cached_slots")[shown], colors["cached"], "-"))
    parts.append(("free", series.column("free_slots")[shown], colors["free"], ""))
    layers = [values for _, values, *_ in parts]
    chosen = changes(layers, thin(layers))
    traces = [
        area(steps[chosen], values[chosen], name, color, pattern, "slots", dark, "waste")
        for name, values, color, pattern in parts
    ]
    return Panel("Use of the slots", 130, traces, _top(series.num_slots, 1.0))


def _traffic_panel(series: RunSeries, shown: slice, dark: bool) -> Panel:
    steps = series.steps[shown]
    kinds = (
        ("bytes_out", "out", _RED, "solid"),
        ("bytes_in", "in", _SKY, "dash"),
        ("bytes_streamed", "read", _PINK, "dot"),
    )
    traces = []
    for column, name, color, dash in kinds:
        values = series.column(column)[shown] / 1024
        if values.any():
            traces.append(line(steps, values, name, color, "KiB", dash, digits=1))
    return Panel("Traffic between the tiers, KiB a step", 80, traces, {})


def _speed_panel(series: RunSeries, shown: slice, dark: bool) -> Panel:
    speed = series.tokens_per_second()[shown]
    trace = line(series.steps[shown], speed, "generated", _GREEN, "tokens/s, measured", shape="linear", digits=1)
    return Panel("Tokens per second (measured)", 90, [trace], {})


def _batch_panel(series: RunSeries, shown: slice, dark: bool) -> Panel:
    steps = series.steps[shown]
    traces = [
        line(steps, series.column("sequences")[shown], "sequences computed", _SKY if dark else _BLUE, "sequences"),
        line(steps, series.column("waiting")[shown], "requests waiting", _ORANGE, "requests", "dot"),
    ]
    return Panel("Batch", 80, traces, {})


def _top(most: int, room: float = 1.06) -> dict[str, object]:
    return {"range": [0, max(1, most * room)]}


def _muted(dark: bool) -> str:
    return DARK["hatch"] if dark else LIGHT["hatch"]
