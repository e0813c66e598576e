"""The tree's Plotly traces: bars for pages, lines for what continues them, the sequences at their ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.events import PageMap
from workbench.events.types import Tier
from workbench.views.block_table_parts import names_of, sequence_label
from workbench.views.palette import mix, request_color, request_label, text_color
from workbench.views.sharing_tree_nodes import Node
from workbench.views.words import plural

_ROW_HEIGHT = 24
_GAP = 0.3  # pages between a branch and what continues it, where the edge is drawn
_WIDTH = 760  # pixels for the branches, for which labels are chosen


@dataclass(frozen=True)
class Placed:
    node: Node
    y: float
    height: float

    @property
    def left(self) -> float:
        return self.node.first + (_GAP if self.node.first else 0.0)

    @property
    def right(self) -> float:
        return float(self.node.first + len(self.node.places))


def requests_of(page_map: PageMap, node: Node) -> list[int]:
    return sorted({page_map.sequences[name].request for name in node.sequences})


def _node_words(page_map: PageMap, node: Node) -> str:
    pages = [f"{'host ' if tier is Tier.HOST else ''}{block}" for tier, block in filter(None, node.places)]
    listed = ", ".join(pages[:8]) + (", …" if len(pages) > 8 else "")
    who = names_of(page_map, node.sequences, 6)
    words = f"{plural(node.num_pages, 'page')} ({listed}) from logical page {node.first}<br>used by {who}"
    gone = len(node.places) - node.num_pages
    return words + (f"<br>{plural(gone, 'page')} behind the window" if gone else "")


def tree_figure(
    page_map: PageMap,
    placed: Sequence[Placed],
    edges: Sequence[tuple[Placed, Placed]],
    names: dict[int, int],
    kept: Counter[int],
    theme: dict[str, str],
) -> go.Figure:
    longest = max([part.right for part in placed] + [index + 1 for index in kept], default=1.0)
    rows = max(1, len(names)) + (1.6 if kept else 0)
    traces = [
        _edges(edges, theme),
        *_bars(page_map, placed, theme),
        *_labels(page_map, placed, longest, theme),
        *([_leaf_names(page_map, placed, theme)] if placed else []),
        *(_kept_row(kept, len(names) + 0.6, longest, theme) if kept else []),
        *_legend(page_map, placed, kept, theme),
    ]
    title = f"What sequences have in common, step {page_map.step}<br>"
    title += f"from left to right: logical pages of {plural(page_map.block_size, 'token')}"
    figure = go.Figure(traces, _layout(theme, rows, title))
    every = max(1, -(-int(longest) // 12))
    figure.update_xaxes(range=[-0.02 * longest, 1.2 * longest + 0.3], zeroline=False, fixedrange=True, side="top")
    figure.update_xaxes(gridcolor=theme["cached"], tickvals=list(range(0, int(longest) + 1, every)))
    figure.update_yaxes(range=[rows - 0.4, -0.7], visible=False, fixedrange=True)
    return figure


def _edges(edges: Sequence[tuple[Placed, Placed]], theme: dict[str, str]) -> go.Scatter:
    x: list[float | None] = []
    y: list[float | None] = []
    for parent, child in edges:
        x += [parent.right, parent.right + _GAP / 2, parent.right + _GAP / 2, child.left, None]
        y += [parent.y, parent.y, child.y, child.y, None]
    line = {"color": theme["hatch"], "width": 1.5}
    return go.Scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False, name="edges")


def _color(page_map: PageMap, node: Node, theme: dict[str, str]) -> str:
    requests = requests_of(page_map, node)
    if len(requests) > 1:
        return theme["rounding"]
    color = request_color(requests[0])
    return color if len(node.sequences) > 1 else mix(color, theme["free"], 0.6)


def _bars(page_map: PageMap, placed: Sequence[Placed], theme: dict[str, str]) -> list[go.Scatter]:
    """Bars of equal colour in one trace; a thick frame is around what several sequences share."""
    kinds: dict[tuple[str, bool], tuple[list[float | None], list[float | None]]] = {}
    for part in placed:
        x, y = kinds.setdefault((_color(page_map, part.node, theme), len(part.node.sequences) > 1), ([], []))
        top, bottom = part.y - part.height / 2, part.y + part.height / 2
        x += [part.left, part.right, part.right, part.left, part.left, None]
        y += [top, top, bottom, bottom, top, None]
    return [
        go.Scatter(
            x=x,
            y=y,
            mode="lines",
            fill="toself",
            fillcolor=color,
            line={"color": theme["text"], "width": 2.5 if shared else 1},
            hoverinfo="skip",
            showlegend=False,
            name="bars",
        )
        for (color, shared), (x, y) in kinds.items()
    ]


def _labels(page_map: PageMap, placed: Sequence[Placed], longest: float, theme: dict[str, str]) -> list[go.Scatter]:
    """Pages and sequences in the bars that have room for it; every bar tells more when pointed at."""
    by_color: dict[str, list[tuple[Placed, str]]] = {}
    for part in placed:
        count, pages = len(part.node.sequences), part.node.num_pages
        choices = [f"{plural(pages, 'page')} × {plural(count, 'sequence')}", f"{pages}×{count}"]
        choices = choices if count > 1 else [plural(pages, "page"), str(pages)]
        if pages and any(place and place[0] is Tier.HOST for place in part.node.places):
            choices.insert(0, f"{choices[0]}, on the host")
        room = (part.right - part.left) / (1.2 * longest) * _WIDTH
        text = next((text for text in choices if 6.5 * len(text) < room), "")
        by_color.setdefault(text_color(_color(page_map, part.node, theme)), []).append((part, text))
    result = []
    for color, parts in by_color.items():
        places = [next((place for place in part.node.places if place is not None), None) for part, _ in parts]
        result.append(
            go.Scatter(
                x=[(part.left + part.right) / 2 for part, _ in parts],
                y=[part.y for part, _ in parts],
                text=[text for _, text in parts],
                mode="markers+text",
                marker={"size": 14, "opacity": 0},
                textfont={"color": color, "size": 11},
                hovertext=[_node_words(page_map, part.node) for part, _ in parts],
                hoverinfo="text",
                customdata=[_click(place) for place in places],
                showlegend=False,
                name="branches",
            )
        )
    return result


def _click(place: tuple[Tier, int] | None) -> list[str | int] | None:
    if place is None:
        return None
    return ["host_page" if place[0] is Tier.HOST else "page", place[1]]


def _leaf_names(page_map: PageMap, placed: Sequence[Placed], theme: dict[str, str]) -> go.Scatter:
    """The sequences, at the ends of their last pages."""
    ends = [(part, name) for part in placed for name in part.node.ends]
    rows: list[tuple[float, float, int]] = []
    for part, name in ends:
        among = len(part.node.ends)
        offset = (part.node.ends.index(name) - (among - 1) / 2) if among > 1 and not part.node.children else 0.0
        rows.append((part.right, part.y + offset, name))
    tokens = [page_map.sequences[name].num_computed_tokens for *_, name in rows]
    return go.Scatter(
        x=[x for x, _, _ in rows],
        y=[y for _, y, _ in rows],
        mode="text",
        text=[
            f" <b>{sequence_label(page_map, name)}</b>, {plural(count, 'token')}"
            for (*_, name), count in zip(rows, tokens, strict=True)
        ],
        textposition="middle right",
        textfont={"color": theme["text"], "size": 12},
        customdata=[["sequence", name] for *_, name in rows],
        hoverinfo="skip",
        showlegend=False,
        name="sequences",
    )


def _kept_row(kept: Counter[int], y: float, longest: float, theme: dict[str, str]) -> list[go.Scatter]:
    x_of: list[float | None] = []
    y_of: list[float | None] = []
    for index in sorted(kept):
        x_of += [index, index + 1, index + 1, index, index, None, index, index + 1, None]
        y_of += [y - 0.35, y - 0.35, y + 0.35, y + 0.35, y - 0.35, None, y + 0.25, y + 0.25, None]
    room = _WIDTH / (1.2 * longest)
    texts = [(index + 0.5, str(count)) for index, count in sorted(kept.items()) if 7 * len(str(count)) < room]
    line = {"color": theme["hatch"], "width": 1}
    boxes = go.Scatter(x=x_of, y=y_of, mode="lines", line=line, hoverinfo="skip", showlegend=False, name="kept")
    heading = go.Scatter(
        x=[max(kept) + 1],
        y=[y],
        text=[" kept for reuse"],
        mode="text",
        textposition="middle right",
        textfont={"color": theme["text"], "size": 12},
        hoverinfo="skip",
        showlegend=False,
        name="kept heading",
    )
    numbers = go.Scatter(
        x=[x for x, _ in texts],
        y=[y] * len(texts),
        text=[text for _, text in texts],
        mode="text",
        textfont={"color": theme["text"], "size": 11},
        hoverinfo="skip",
        showlegend=False,
        name="kept pages",
    )
    return [boxes, numbers, heading]


def _legend(page_map: PageMap, placed: Sequence[Placed], kept: Counter[int], theme: dict[str, str]) -> list[go.Bar]:
    by_color: dict[str, list[str]] = {}
    for number in sorted({number for part in placed for number in requests_of(page_map, part.node)}):
        by_color.setdefault(request_color(number), []).append(request_label(number))
    thin, thick = {"color": theme["hatch"], "width": 1}, {"color": theme["text"], "width": 3}
    entries: list[tuple[str, dict[str, Any]]] = [
        (f"request {', '.join(names[:4])}" + (", …" if len(names) > 4 else ""), {"color": color, "line": thin})
        for color, names in by_color.items()
    ]
    if any(len(part.node.sequences) > 1 for part in placed):
        entries.append(("thick frame: shared", {"color": theme["free"], "line": thick}))
    if any(len(requests_of(page_map, part.node)) > 1 for part in placed):
        entries.append(("shared by several requests", {"color": theme["rounding"], "line": thick}))
    if kept:
        level = {"shape": "-", "fgcolor": theme["hatch"], "size": 5}
        entries.append(
            ("kept for reuse: pages at this place", {"color": theme["free"], "line": thin, "pattern": level})
        )
    return [go.Bar(x=[None], y=[None], name=name, marker=marker, hoverinfo="skip") for name, marker in entries]


def _layout(theme: dict[str, str], rows: float, title: str) -> dict[str, Any]:
    legend = {"orientation": "h", "x": 0, "y": -0.01, "yanchor": "top", "itemclick": False, "itemdoubleclick": False}
    return {
        "template": "none",
        "title": {"text": title, "font": {"size": 14}},
        "height": 160 + int(np.ceil(rows * _ROW_HEIGHT)),
        "margin": {"l": 10, "r": 10, "t": 80, "b": 10},
        "legend": legend,
        "showlegend": True,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": theme["text"]},
        "hovermode": "closest",
        "uirevision": "sharing_tree",
    }
