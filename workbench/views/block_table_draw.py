"""A block table's Plotly traces: slots with their tokens, physical pages, the lines between them, and a legend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.events import PageMap
from workbench.events.types import BlockCopied, Tier
from workbench.views.block_table_parts import Entry, names_of, visible, visible_text
from workbench.views.palette import RESERVED_TINT, mix, request_color, text_color
from workbench.views.words import plural

#: Slots of a row whose texts fit side by side.
_MAX_TEXT_SLOTS = 16
#: Widths of the columns, as shares of the picture.
_SLOTS, _PAGE, _NOTE = (0.08, 0.56), (0.61, 0.74), 0.75
#: By whether the picture is narrow.
_HEADINGS = (
    ((0.0, "Logical"), (_SLOTS[0], "Tokens, slot by slot"), (_PAGE[0], "Physical"), (_NOTE, "Of it")),
    ((0.0, "#"), (_SLOTS[0], "Tokens"), (_PAGE[0], "Physical")),
)


def slots(page_map: PageMap, drawn: Sequence[Entry], color: str, theme: dict[str, str]) -> list[go.Heatmap]:
    """Logical pages, slot by slot: 0 filled, 1 held and empty, 2 gone."""
    size = page_map.block_size
    z = np.full((len(drawn), size), 2, np.uint8)
    for row, entry in enumerate(drawn):
        if entry.tier is not None:
            z[row, : entry.filled], z[row, entry.filled :] = 0, 1
    left, right = _SLOTS
    step = (right - left) / size
    colors = (color, mix(color, theme["free"], RESERVED_TINT), theme["free"])
    hover = [[_slot_words(entry, slot, size) for slot in range(size)] for entry in drawn] if size <= 64 else None
    return [
        go.Heatmap(
            z=z,
            x0=left + step / 2,
            dx=step,
            y0=0.5,
            dy=1,
            xgap=1 if size <= 64 else 0,
            ygap=6,
            zmin=-0.5,
            zmax=2.5,
            colorscale=[[(n + end) / 3, colors[n]] for n in range(3) for end in (0, 1)],
            showscale=False,
            showlegend=False,
            text=hover,
            hovertemplate="%{text}<extra></extra>" if hover is not None else None,
            hoverinfo="skip" if hover is None else None,
            name="slots",
        )
    ]


def empty_slots(page_map: PageMap, drawn: Sequence[Entry], theme: dict[str, str]) -> go.Scatter:
    """Strokes over what is held and still empty."""
    step = (_SLOTS[1] - _SLOTS[0]) / page_map.block_size
    stride = 0.03
    x: list[float | None] = []
    y: list[float | None] = []
    for row, entry in enumerate(drawn):
        place = _SLOTS[0] + entry.filled * step
        while entry.tier is not None and place < _SLOTS[1] - 1e-9:
            stop = min(place + stride, _SLOTS[1])
            x += [round(place, 4), round(stop, 4), None]
            y += [row + 0.88, row + 0.88 - 0.76 * (stop - place) / stride, None]
            place += stride
    return _lines(x, y, theme["hatch"], 0.8, "empty")


def _slot_words(entry: Entry, slot: int, size: int) -> str:
    place = f"logical page {entry.index}, slot {slot}: token {entry.index * size + slot}"
    if entry.tier is None:
        return f"{place}, gone"
    if slot >= entry.filled:
        return f"logical page {entry.index}, slot {slot}: reserved, still empty"
    text = entry.tokens[slot] if slot < len(entry.tokens) else ""
    return f"{place}, “{visible(text)}”" if text else place


def _box(left: float, right: float, top: float, bottom: float) -> tuple[list[float | None], list[float | None]]:
    return [left, right, right, left, left, None], [top, top, bottom, bottom, top, None]


def physical_pages(
    page_map: PageMap, drawn: Sequence[Entry], color: str, theme: dict[str, str], narrow: bool
) -> list[go.Scatter]:
    """Physical pages as boxes, and the lines that join them to the logical ones."""
    left, right = _PAGE
    kinds: dict[str, tuple[list[float | None], list[float | None]]] = {}
    host: tuple[list[float | None], list[float | None]] = ([], [])
    links: tuple[list[float | None], list[float | None]] = ([], [])
    places: list[tuple[Entry, float]] = []
    for row, entry in enumerate(drawn):
        if entry.tier is None:
            continue
        places.append((entry, row + 0.5))
        kind = "shared" if entry.others else "alone"
        for values, more in zip(
            kinds.setdefault(kind, ([], [])), _box(left, right, row + 0.12, row + 0.88), strict=True
        ):
            values += more
        links[0].extend([_SLOTS[1] + 0.004, left, None])
        links[1].extend([row + 0.5, row + 0.5, None])
        if entry.tier is Tier.HOST:
            for place in np.linspace(left, right - 0.02, 8).tolist():
                host[0].extend([place, place + 0.02, None])
                host[1].extend([row + 0.12, row + 0.88, None])
    fill = mix(color, theme["free"], 0.55)
    traces = [_lines(*links, theme["hatch"], 1.5, "links")]
    for kind, (x, y) in kinds.items():
        line = {"color": theme["text"], "width": 3 if kind == "shared" else 1}
        traces.append(
            go.Scatter(
                x=x,
                y=y,
                mode="lines",
                fill="toself",
                fillcolor=fill,
                line=line,
                hoverinfo="skip",
                showlegend=False,
                name=kind,
            )
        )
    traces.append(_lines(*host, theme["hatch"], 1, "on the host"))
    traces.append(
        go.Scatter(
            x=[(left + right) / 2] * len(places),
            y=[y for _, y in places],
            mode="text",
            text=[f"<b>{entry.place.replace('page ', '') if narrow else entry.place}</b>" for entry, _ in places],
            textfont={"color": text_color(fill), "size": 13},
            customdata=[["host_page" if entry.tier is Tier.HOST else "page", entry.block] for entry, _ in places],
            hovertext=[_page_words(page_map, entry) for entry, _ in places],
            hoverinfo="text",
            showlegend=False,
            name="pages",
        )
    )
    return traces


def _page_words(page_map: PageMap, entry: Entry) -> str:
    assert entry.page is not None
    words = f"{entry.place}: {entry.filled} of {plural(page_map.block_size, 'slot')} filled, "
    words += f"used by {plural(entry.page.ref_count, 'sequence')}, since step {entry.page.since_step}"
    return words + (f"<br>also used by {names_of(page_map, entry.others)}" if entry.others else "")


def _lines(x: list[Any], y: list[Any], color: str, width: float, name: str) -> go.Scatter:
    line = {"color": color, "width": width}
    return go.Scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", showlegend=False, name=name)


def texts(
    page_map: PageMap,
    sequence: int,
    drawn: Sequence[Entry],
    copies: dict[int, BlockCopied],
    theme: dict[str, str],
    total: int,
    narrow: bool,
) -> list[go.Scatter]:
    """Headings, numbers of logical pages, tokens in their slots, and what is to be said of each page."""
    size = page_map.block_size
    written_by: dict[tuple[str, int, str], list[tuple[float, float, str]]] = {}

    def put(x: float, y: float, text: str, color: str = theme["text"], font: int = 12, at: str = "right") -> None:
        written_by.setdefault((color, font, "middle center" if at == "center" else f"middle {at}"), []).append(
            (x, y, text)
        )

    step = (_SLOTS[1] - _SLOTS[0]) / size
    for x, heading in _HEADINGS[narrow]:
        put(x, -0.35, f"<i>{heading}</i>")
    own = text_color(request_color(page_map.sequences[sequence].request))
    for row, entry in enumerate(drawn):
        put(0.0, row + 0.5, str(entry.index) if narrow else f"page {entry.index}")
        if entry.tier is None:
            put((_SLOTS[0] + _SLOTS[1]) / 2, row + 0.5, "behind the sliding window: gone", at="center")
            continue
        if size <= _MAX_TEXT_SLOTS and not narrow:
            for slot, token in enumerate(entry.tokens):
                if token:
                    put(_SLOTS[0] + (slot + 0.5) * step, row + 0.5, visible(token), own, 10, "center")
        elif any(entry.tokens):
            joined = "".join(entry.tokens)
            put(_SLOTS[0] + 0.005, row + 0.5, visible_text(joined, 22 if narrow else 64), own, 11)
        if entry.index not in copies:
            put(_NOTE, row + 0.5, _note(page_map, entry, narrow))
    left = total - len(drawn)
    if left:
        at = next(row for row, entry in enumerate(drawn) if row and entry.index != drawn[row - 1].index + 1)
        put(0.0, at, f"⋮ {left:,} not drawn", font=10)
    return [
        go.Scatter(
            x=[x for x, _, _ in written],
            y=[y for _, y, _ in written],
            text=[text for *_, text in written],
            mode="text",
            textposition=position,
            textfont={"color": color, "size": font},
            hoverinfo="skip",
            showlegend=False,
            name="tokens" if font in (10, 11) else "notes",
        )
        for (color, font, position), written in written_by.items()
    ]


def _note(page_map: PageMap, entry: Entry, narrow: bool) -> str:
    if narrow:
        return f"×{len(entry.others) + 1}" if entry.others else f"{entry.filled}/{page_map.block_size}"
    if entry.others:
        return f"×{len(entry.others) + 1}, also {names_of(page_map, entry.others, 2)}"
    return f"{entry.filled} of {page_map.block_size} filled"


def legend(page_map: PageMap, drawn: Sequence[Entry], color: str, theme: dict[str, str]) -> list[go.Bar]:
    def strokes(shape: str) -> dict[str, Any]:
        return {"shape": shape, "fgcolor": theme["hatch"], "size": 5}

    tint = mix(color, theme["free"], RESERVED_TINT)
    thin, thick = {"color": theme["hatch"], "width": 1}, {"color": theme["text"], "width": 3}
    page = mix(color, theme["free"], 0.55)
    entries: list[tuple[str, dict[str, Any]]] = [("holds a token", {"color": color, "line": thin})]
    if any(entry.tier is not None and entry.filled < page_map.block_size for entry in drawn):
        entries.append(("reserved, still empty", {"color": tint, "line": thin, "pattern": strokes("/")}))
    if any(entry.others for entry in drawn):
        entries.append(("thick frame: shared with other sequences", {"color": page, "line": thick}))
    if any(entry.tier is Tier.HOST for entry in drawn):
        entries.append(("on the host", {"color": page, "line": thin, "pattern": strokes("\\")}))
    if any(entry.tier is None for entry in drawn):
        entries.append(("gone", {"color": theme["free"], "line": thin}))
    return [go.Bar(x=[None], y=[None], name=name, marker=marker, hoverinfo="skip") for name, marker in entries]


def draw_copy(figure: go.Figure, row: int, event: BlockCopied, theme: dict[str, str], narrow: bool) -> None:
    """An arrow from where the source is named to the page that now holds the copy."""
    figure.add_annotation(
        x=_PAGE[1],
        y=row + 0.5,
        ax=14 if narrow else 36,
        ay=0,
        text=f"from {event.source}" if narrow else f"copied from page {event.source} ({plural(event.filled, 'slot')})",
        showarrow=True,
        arrowhead=3,
        arrowwidth=2,
        arrowcolor=theme["text"],
        xanchor="left",
        font={"color": theme["text"], "size": 12},
        bgcolor=theme["free"],
        bordercolor=theme["text"],
        name="copy",
    )
