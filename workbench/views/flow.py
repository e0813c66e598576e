"""Where pages go over a run: free, allocated, cached and host, step by step, and what moved between these states."""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from workbench.events import History
from workbench.views.palette import DARK, LIGHT
from workbench.views.series import RunSeries
from workbench.views.series_figure import Panel, area, changes, empty_figure, stacked_figure, thin
from workbench.views.series_pool import FLOWS
from workbench.views.view import Cell, Table, View
from workbench.views.words import plural

#: State: colour, pattern.
_STATES = {"allocated": ("#0072B2", ""), "cached": ("#E69F00", "-"), "free": ("", ""), "host": ("#CC79A7", "/")}
_ROW, _AXIS = 25, 70


def flow_view(source: RunSeries | History, step: int | None = None, dark: bool = False) -> View:
    """Pages by state over the steps, stacked, and below how many changed from one state to another up to a step.

    Contiguous memory has no pages: its slots are shown, and there are no flows.

    Args:
        step: up to which step to count; None: the last one.
    """
    series = source if isinstance(source, RunSeries) else RunSeries.of(source)
    if series.run is None:
        return View(empty_figure("No run yet", dark), "No run yet.")
    shown = series.last_step if step is None else step
    window = (series.first_step, series.last_step)
    if not series.is_paged:
        figure = stacked_figure([_slots_panel(series, dark)], window, step, dark, "flow")
        return View(figure, _contiguous_words(series, shown), _slots_table(series, shown))
    panels = [_device_panel(series, dark)]
    if series.run.num_host_blocks:
        panels.append(_host_panel(series, dark))
    totals, now = flow_totals(series, shown), series.at(shown)
    flows = [flow for flow in FLOWS if series.run.num_host_blocks or "host" not in flow[1:3]]
    if not series.column("kept").any():
        flows = [flow for flow in flows if "cached" not in flow[1:3]]
    below = _AXIS + _ROW * len(flows)
    figure = stacked_figure(panels, window, step, dark, "flow", below)
    _add_bars(figure, flows, totals, shown, len(panels), below, dark)
    rows: list[list[Cell]] = [
        [source_state, target, words, totals[name], now[name]] for name, source_state, target, words in flows
    ]
    title = f"Pages that changed state up to step {shown}"
    return View(figure, flow_words(series, shown), Table(["From", "To", "Why", "So far", "In this step"], rows, title))


def flow_totals(series: RunSeries, step: int) -> dict[str, int]:
    """How many pages took each of the `FLOWS`, from the series' beginning up to and with a step."""
    stop = series.row_of(step) + 1
    return {name: int(series.column(name)[:stop].sum()) for name, *_ in FLOWS}


def flow_words(series: RunSeries, step: int) -> str:
    """Where the pages are after a step, and how they got there, in sentences whose numbers add up."""
    now, totals = series.at(step), flow_totals(series, step)
    states = f"{now['used']:,} allocated, {now['cached']:,} cached, {now['free']:,} free"
    sentences = [f"After step {step:,}, of {plural(series.num_pages, 'page')}: {states}."]
    came = [
        (totals["allocated"], "handed out"),
        (totals["swapped_in"], "swapped in"),
        (totals["reused"], "taken out of the prefix cache"),
    ]
    went = [(totals["freed"], "given back or moved out"), (totals["kept"], "kept for reuse")]
    sentences.append(
        f"So far {_listed(came)}; {_listed(went)}. What came less what went is what is allocated now"
        + (f", with the {series.column('used')[0]:,} at the beginning." if series.column("used")[0] else ".")
    )
    if totals["evicted"]:
        sentences.append(f"{plural(totals['evicted'], 'cached page')} gave way to others (eviction).")
    if series.run is not None and series.run.num_host_blocks:
        moved = f"{totals['swapped_out']:,} moved there, {totals['swapped_in']:,} came back"
        gone = f", {totals['host_freed']:,} were given up there" if totals["host_freed"] else ""
        tier = plural(series.run.num_host_blocks, "page")
        sentences.append(f"Host tier: {now['host_used']:,} of {tier} in use; {moved}{gone}.")
    return " ".join(sentences)


def _listed(counts: list[tuple[int, str]]) -> str:
    said = [f"{count:,} {words}" for count, words in counts if count]
    return ", ".join(said) if said else "none"


# -- panels ------------------------------------------------------------------------------------------------------------


def _device_panel(series: RunSeries, dark: bool) -> Panel:
    parts = [("allocated", series.column("used")), ("free", series.column("free"))]
    if series.column("cached").any():
        parts.insert(1, ("cached", series.column("cached")))
    traces = _stack(series.steps, parts, "pages", dark)
    return Panel(f"Device pages ({series.num_pages:,})", 170, traces, {"range": [0, max(1, series.num_pages)]})


def _host_panel(series: RunSeries, dark: bool) -> Panel:
    assert series.run is not None
    traces = _stack(series.steps, [("host", series.column("host_used"))], "host pages", dark)
    most = max(4, int(series.column("host_used").max()))
    return Panel(f"Host pages in use (of {series.run.num_host_blocks:,})", 80, traces, {"range": [0, most * 1.06]})


def _slots_panel(series: RunSeries, dark: bool) -> Panel:
    held = series.column("token_states") + series.column("reserved")
    parts = [("in regions", held), ("external fragmentation", series.column("external"))]
    traces = _stack(series.steps, [*parts, ("free", series.column("free_slots"))], "slots", dark)
    return Panel(f"Slots of the arena ({series.num_slots:,})", 200, traces, {"range": [0, max(1, series.num_slots)]})


def _stack(steps: np.ndarray, parts: list[tuple[str, np.ndarray]], unit: str, dark: bool) -> list[go.Scatter]:
    free = (DARK if dark else LIGHT)["free"]
    styles = _STATES | {"in regions": _STATES["allocated"], "external fragmentation": ("#999999", "x")}
    columns = [values for _, values in parts]
    chosen = changes(columns, thin(columns))
    return [
        area(steps[chosen], values[chosen], name, styles[name][0] or free, styles[name][1], unit, dark, unit)
        for name, values in parts
    ]


def _add_bars(
    figure: go.Figure,
    flows: list[tuple[str, str, str, str]],
    totals: dict[str, int],
    step: int,
    panels: int,
    below: int,
    dark: bool,
) -> None:
    colors = DARK if dark else LIGHT
    share = below / (figure.layout.height - figure.layout.margin.b)
    axis = str(panels + 1)
    names = [f"{source} → {target} " for _, source, target, _ in flows]
    targets = {"gone": ("#999999", "x"), "device": _STATES["allocated"]}
    styles = [(targets | _STATES)[target] for _, _, target, _ in flows]
    figure.add_trace(
        go.Bar(
            orientation="h",
            y=names,
            x=[totals[name] for name, *_ in flows],
            text=[f" {totals[name]:,}  {words}" for name, _, _, words in flows],
            textposition="outside",
            textfont={"color": colors["text"], "size": 11},
            cliponaxis=False,
            marker={
                "color": [color or colors["free"] for color, _ in styles],
                "pattern": {"shape": [pattern for _, pattern in styles], "fillmode": "overlay", "solidity": 0.25},
                "line": {"color": colors["hatch"], "width": 0.7},
            },
            hovertemplate="%{y}: %{x:,d} pages<extra></extra>",
            xaxis="x2",
            yaxis=f"y{axis}",
            showlegend=False,
        )
    )
    most = max(1, *totals.values())
    figure.update_layout(
        {
            "xaxis2": {"anchor": f"y{axis}", "range": [0, most * 2], "visible": False, "fixedrange": True},
            f"yaxis{axis}": {
                "domain": [0, share * (below - _AXIS) / below],
                "anchor": "x2",
                "autorange": "reversed",
                "fixedrange": True,
                "automargin": True,
                "tickfont": {"size": 11},
            },
        }
    )
    figure.add_annotation(
        text=f"<b>Pages that changed state, up to step {step:,}</b>",
        x=0,
        y=share * (below - _AXIS + 4) / below,
        xref="paper",
        yref="paper",
        xanchor="left",
        yanchor="bottom",
        showarrow=False,
        font={"size": 13},
    )
    figure.update_layout(margin={"b": 16})


def _contiguous_words(series: RunSeries, step: int) -> str:
    now = series.at(step)
    held = now["token_states"] + now["reserved"]
    return (
        f"Contiguous memory has no pages: whole regions of slots are reserved and released, nothing is cached, and "
        f"there is no host tier. After step {step:,}, {plural(now['regions'], 'region')} with {held:,} of "
        f"{plural(series.num_slots, 'slot')}; {now['external']:,} are lost to external fragmentation, "
        f"{now['free_slots']:,} are free."
    )


def _slots_table(series: RunSeries, step: int) -> Table:
    now = series.at(step)
    held = now["token_states"] + now["reserved"]
    rows: list[list[Cell]] = [["in regions", held], ["external", now["external"]], ["free", now["free_slots"]]]
    return Table(["Slots", "Number"], rows, f"Slots after step {step}")
