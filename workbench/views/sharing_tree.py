"""Who shares what: sequences as the leaves of a tree whose branches are the pages that they have in common."""

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
from workbench.views.palette import DARK, LIGHT, mix, request_color, request_label, text_color
from workbench.views.sharing_tree_nodes import Node, sharing_forest
from workbench.views.view import Cell, Table, View
from workbench.views.words import percent, plural

#: Sequences that are drawn.
MAX_LEAVES = 48
_MAX_TABLE_ROWS = 512
_ROW_HEIGHT = 24
_GAP = 0.3  # pages between a branch and what continues it, where the edge is drawn
_WIDTH = 760  # pixels for the branches, for which labels are chosen


@dataclass(frozen=True)
class _Placed:
    node: Node
    y: float
    height: float

    @property
    def left(self) -> float:
        return self.node.first + (_GAP if self.node.first else 0.0)

    @property
    def right(self) -> float:
        return float(self.node.first + len(self.node.places))


def sharing_tree_view(page_map: PageMap, request: int | None = None, dark: bool = False) -> View:
    """Prefixes and beams as trees, from left to right: a bar is a run of pages that the same sequences use, as long as
    it has pages and the thicker the more sequences they are; what continues it is joined to it by a line.

    Pages that nobody uses but that are kept for reuse lie below, by their place in a sequence; which tree they continue
    is not known.

    Args:
        request: only the trees with sequences of this request. None: all, those first that save most.

    Raises:
        ValueError: contiguous memory shares nothing, or the request has no pages.
    """
    if page_map.run is not None and not page_map.is_paged:
        raise ValueError("memory: must be paged, contiguous memory has nothing to share")
    forest = sharing_forest(page_map)
    if request is not None:
        own = {name for name, sequence in page_map.sequences.items() if sequence.request == request}
        forest = [root for root in forest if own & set(root.sequences)]
        if not forest:
            raise ValueError(f"request={request}: must be one that holds pages")
    forest.sort(key=lambda root: (-root.saved, min(root.sequences)))
    names = _drawn_leaves(forest)
    placed, edges = _place(forest, names)
    theme = DARK if dark else LIGHT
    kept = _kept(page_map) if request is None else Counter[int]()
    figure = _figure(page_map, placed, edges, names, kept, theme)
    return View(figure, _caption(page_map, request, forest, len(names)), _table(page_map, forest))


def _drawn_leaves(forest: Sequence[Node]) -> dict[int, int]:
    """Sequence to row. Trees are drawn whole; only if the first is too large, a part of it."""
    names: list[int] = []
    for root in forest:
        more = root.leaves
        if names and len(names) + len(more) > MAX_LEAVES:
            continue
        names += more[: MAX_LEAVES - len(names)]
    return {name: row for row, name in enumerate(names)}


def _place(forest: Sequence[Node], names: dict[int, int]) -> tuple[list[_Placed], list[tuple[_Placed, _Placed]]]:
    """Every branch with something drawn behind it is in the middle of that."""
    placed, edges = [], []
    for root in forest:
        work: list[tuple[Node, _Placed | None]] = [(root, None)]
        while work:
            node, parent = work.pop()
            rows = [names[name] for name in node.sequences if name in names]
            if not rows:
                continue
            span = len(rows)
            here = _Placed(node, (min(rows) + max(rows)) / 2, min(0.7 * span, 0.5 + 0.2 * (span - 1)))
            placed.append(here)
            if parent is not None:
                edges.append((parent, here))
            work += [(child, here) for child in node.children]
    return placed, edges


def _kept(page_map: PageMap) -> Counter[int]:
    """Cached pages by their place in a sequence, as far as that is known."""
    return Counter(page.logical_index for page in page_map.pages if page.is_cached and page.logical_index >= 0)


# -- words ---------------------------------------------------------------------------------------------------------


def _caption(page_map: PageMap, request: int | None, forest: Sequence[Node], num_drawn: int) -> str:
    if not forest:
        return "No sequence has any pages." if page_map.run is not None else "No run yet."
    sequences = sum(len(root.sequences) for root in forest)
    different = sum(node.num_pages for root in forest for node in root.walk())
    saved = sum(root.saved for root in forest)
    words = f"After step {page_map.step}, {plural(sequences, 'sequence')} "
    if request is not None and _others(page_map, request, forest):
        words += f"of request {request_label(request)} and of those that begin like it "
    elif request is not None:
        words += f"of request {request_label(request)} "
    words += "uses " if sequences == 1 else "use "
    words += plural(different, "page")
    if saved:
        words += (
            f" instead of {different + saved:,}: {plural(saved, 'page')} saved ({percent(saved, different + saved)})"
        )
        words += " by what they have in common."
    else:
        words += "; nothing is shared."
    groups = len(page_map.run.group_windows) if page_map.run is not None else 1
    if groups > 1:
        words += f" This is layer group 0 of {groups}."
    left = sequences - num_drawn
    if left:
        words += f" {plural(left, 'more sequence')} {'is' if left == 1 else 'are'} not drawn."
    cached = sum(page.is_cached for page in page_map.pages) if request is None else 0
    if cached:
        words += f" {plural(cached, 'page')} that nobody uses {'is' if cached == 1 else 'are'} kept for reuse."
    return words


def _others(page_map: PageMap, request: int, forest: Sequence[Node]) -> bool:
    return any(page_map.sequences[name].request != request for root in forest for name in root.sequences)


def _requests(page_map: PageMap, node: Node) -> list[int]:
    return sorted({page_map.sequences[name].request for name in node.sequences})


def _node_words(page_map: PageMap, node: Node) -> str:
    pages = [f"{'host ' if tier is Tier.HOST else ''}{block}" for tier, block in filter(None, node.places)]
    listed = ", ".join(pages[:8]) + (", …" if len(pages) > 8 else "")
    who = names_of(page_map, node.sequences, 6)
    words = f"{plural(node.num_pages, 'page')} ({listed}) from logical page {node.first}<br>used by {who}"
    gone = len(node.places) - node.num_pages
    return words + (f"<br>{plural(gone, 'page')} behind the window" if gone else "")


def _table(page_map: PageMap, forest: Sequence[Node]) -> Table:
    columns = ("First logical page", "Pages", "Sequences", "Pages saved", "Requests", "Used by", "Physical pages")
    rows: list[list[Cell]] = []
    total = 0
    for root in forest:
        for node in root.walk():
            total += 1
            if len(rows) == _MAX_TABLE_ROWS:
                continue
            pages = [f"{'host ' if tier is Tier.HOST else ''}{block}" for tier, block in filter(None, node.places)]
            requests = [request_label(number) for number in _requests(page_map, node)]
            rows.append(
                [
                    node.first,
                    node.num_pages,
                    len(node.sequences),
                    node.num_pages * (len(node.sequences) - 1),
                    ", ".join(requests[:8]) + (", …" if len(requests) > 8 else ""),
                    names_of(page_map, node.sequences, 8),
                    ", ".join(pages[:16]) + (", …" if len(pages) > 16 else ""),
                ]
            )
    title = f"What sequences have in common after step {page_map.step}"
    if total > len(rows):
        title += f" (the first {len(rows):,} of {plural(total, 'row')})"
    return Table(columns, rows, title)


# -- figure --------------------------------------------------------------------------------------------------------


def _figure(
    page_map: PageMap,
    placed: Sequence[_Placed],
    edges: Sequence[tuple[_Placed, _Placed]],
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


def _edges(edges: Sequence[tuple[_Placed, _Placed]], theme: dict[str, str]) -> go.Scatter:
    x: list[float | None] = []
    y: list[float | None] = []
    for parent, child in edges:
        x += [parent.right, parent.right + _GAP / 2, parent.right + _GAP / 2, child.left, None]
        y += [parent.y, parent.y, child.y, child.y, None]
    line = {"color": theme["hatch"], "width": 1.5}
    return go.Scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False, name="edges")


def _color(page_map: PageMap, node: Node, theme: dict[str, str]) -> str:
    requests = _requests(page_map, node)
    if len(requests) > 1:
        return theme["rounding"]
    color = request_color(requests[0])
    return color if len(node.sequences) > 1 else mix(color, theme["free"], 0.6)


def _bars(page_map: PageMap, placed: Sequence[_Placed], theme: dict[str, str]) -> list[go.Scatter]:
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


def _labels(page_map: PageMap, placed: Sequence[_Placed], longest: float, theme: dict[str, str]) -> list[go.Scatter]:
    """Pages and sequences in the bars that have room for it; every bar tells more when pointed at."""
    by_color: dict[str, list[tuple[_Placed, str]]] = {}
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


def _leaf_names(page_map: PageMap, placed: Sequence[_Placed], theme: dict[str, str]) -> go.Scatter:
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


def _legend(page_map: PageMap, placed: Sequence[_Placed], kept: Counter[int], theme: dict[str, str]) -> list[go.Bar]:
    by_color: dict[str, list[str]] = {}
    for number in sorted({number for part in placed for number in _requests(page_map, part.node)}):
        by_color.setdefault(request_color(number), []).append(request_label(number))
    thin, thick = {"color": theme["hatch"], "width": 1}, {"color": theme["text"], "width": 3}
    entries: list[tuple[str, dict[str, Any]]] = [
        (f"request {', '.join(names[:4])}" + (", …" if len(names) > 4 else ""), {"color": color, "line": thin})
        for color, names in by_color.items()
    ]
    if any(len(part.node.sequences) > 1 for part in placed):
        entries.append(("thick frame: shared", {"color": theme["free"], "line": thick}))
    if any(len(_requests(page_map, part.node)) > 1 for part in placed):
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
        "title": {"text": title, "font": {"size": 14}, "y": 0.98, "yref": "container", "yanchor": "top"},
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
