"""Block tables: from the pages that a sequence counts, in order, to the pages of the pool in which its tokens lie."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from workbench.events import PageMap
from workbench.events.types import AnyEvent, BlockCopied, Tier
from workbench.views.block_table_parts import (
    Entry,
    check_sequence,
    copies_for,
    copy_words,
    names_of,
    sequence_label,
    table_entries,
    visible,
    visible_text,
)
from workbench.views.palette import DARK, LIGHT, RESERVED_TINT, mix, request_color, text_color
from workbench.views.view import Cell, Table, View
from workbench.views.words import plural

#: Rows that are drawn; of a longer table the first few and the last ones.
MAX_ROWS, _FIRST_ROWS = 40, 6
_ROW_HEIGHT = 30
#: Rows of the table that goes with the figure.
_MAX_TABLE_ROWS = 512
#: Slots of a row whose texts fit side by side.
_MAX_TEXT_SLOTS = 16
#: Widths of the columns, as shares of the picture.
_SLOTS, _PAGE, _NOTE = (0.08, 0.56), (0.61, 0.74), 0.75


def block_table_view(
    page_map: PageMap,
    sequence: int,
    group: int = 0,
    events: Iterable[AnyEvent] | None = None,
    dark: bool = False,
) -> View:
    """One sequence's block table: a row per logical page with its tokens, joined to the physical page that holds them.

    Pages that other sequences use, too, are framed and say who; pages on the host have strokes; pages that lay behind
    a sliding window are empty and say so.

    Args:
        group: the layer group whose table it is.
        events: those of the step, to show copy-on-write as it happened: from which page to which.

    Raises:
        ValueError: the sequence has no such table.
    """
    check_sequence(page_map, sequence, group)
    entries = table_entries(page_map, sequence, group)
    copies = copies_for(events, sequence, group)
    theme = DARK if dark else LIGHT
    color = request_color(page_map.sequences[sequence].request)
    drawn = _chosen(entries, copies)
    rows = {entry.index: row for row, entry in enumerate(drawn)}
    figure = go.Figure(
        [
            *_slots(page_map, drawn, color, theme),
            _empty(page_map, drawn, theme),
            *_pages(page_map, drawn, color, theme),
            *_texts(page_map, sequence, drawn, copies, theme, len(entries)),
            *_legend(page_map, drawn, color, theme),
        ],
        _layout(
            theme, max(1, len(drawn)), f"Block table of {sequence_label(page_map, sequence)}, step {page_map.step}"
        ),
    )
    for index, event in copies.items():
        if index in rows:
            _draw_copy(figure, rows[index], event, theme)
    caption = " ".join(
        [_caption(page_map, sequence, group, entries, drawn), *(copy_words(page_map, e) for e in copies.values())]
    )
    return View(figure, caption, _table(page_map, sequence, entries, copies))


def _chosen(entries: Sequence[Entry], copies: dict[int, BlockCopied]) -> list[Entry]:
    """What is drawn: all, or of a long table its ends, with the pages that were just copied."""
    if len(entries) <= MAX_ROWS:
        return list(entries)
    kept = set(range(_FIRST_ROWS)) | set(copies)
    place = len(entries) - 1
    while len(kept) < MAX_ROWS:
        kept.add(place)
        place -= 1
    return [entry for entry in entries if entry.index in kept]


def _caption(page_map: PageMap, sequence: int, group: int, entries: Sequence[Entry], drawn: Sequence[Entry]) -> str:
    name = sequence_label(page_map, sequence)
    held = [entry for entry in entries if entry.tier is not None]
    tokens = sum(entry.filled for entry in held)
    words = f"After step {page_map.step}, {name} has {plural(tokens, 'token')} in {plural(len(held), 'page')}"
    of_run = page_map.run.group_windows if page_map.run is not None else [0]
    if len(of_run) > 1:
        window = f"a window of {plural(of_run[group], 'token')}" if of_run[group] else "no window"
        words += f" of layer group {group}, which has {window}"
    shared, host = sum(bool(entry.others) for entry in held), sum(entry.tier is Tier.HOST for entry in held)
    gone = len(entries) - len(held)
    parts = [words]
    if shared:
        parts.append(f"{shared:,} of them {'is' if shared == 1 else 'are'} shared with other sequences")
    if host:
        parts.append(f"{host:,} of them {'is' if host == 1 else 'are'} on the host")
    if gone:
        parts.append(
            f"{plural(gone, 'more page')} lay behind the sliding window and {'is' if gone == 1 else 'are'} gone"
        )
    left = len(entries) - len(drawn)
    more = f" {plural(left, 'page')} in the middle {'is' if left == 1 else 'are'} not drawn." if left else ""
    return "; ".join(parts) + "." + more


# -- traces --------------------------------------------------------------------------------------------------------


def _slots(page_map: PageMap, drawn: Sequence[Entry], color: str, theme: dict[str, str]) -> list[go.Heatmap]:
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


def _empty(page_map: PageMap, drawn: Sequence[Entry], theme: dict[str, str]) -> go.Scatter:
    """Strokes over what is held and still empty."""
    step = (_SLOTS[1] - _SLOTS[0]) / page_map.block_size
    stride = max(step, 0.02)
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


def _pages(page_map: PageMap, drawn: Sequence[Entry], color: str, theme: dict[str, str]) -> list[go.Scatter]:
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
            text=[f"<b>{entry.place}</b>" for entry, _ in places],
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


def _texts(
    page_map: PageMap,
    sequence: int,
    drawn: Sequence[Entry],
    copies: dict[int, BlockCopied],
    theme: dict[str, str],
    total: int,
) -> list[go.Scatter]:
    """Headings, numbers of logical pages, tokens in their slots, and what is to be said of each page."""
    size = page_map.block_size
    texts: dict[tuple[str, int, str], list[tuple[float, float, str]]] = {}

    def put(x: float, y: float, text: str, color: str = theme["text"], font: int = 12, at: str = "right") -> None:
        texts.setdefault((color, font, "middle center" if at == "center" else f"middle {at}"), []).append((x, y, text))

    step = (_SLOTS[1] - _SLOTS[0]) / size
    for x, heading in ((0.0, "Logical"), (_SLOTS[0], "Tokens, slot by slot"), (_PAGE[0], "Physical"), (_NOTE, "Of it")):
        put(x, -0.35, f"<i>{heading}</i>")
    own = text_color(request_color(page_map.sequences[sequence].request))
    for row, entry in enumerate(drawn):
        put(0.0, row + 0.5, f"page {entry.index}")
        if entry.tier is None:
            put((_SLOTS[0] + _SLOTS[1]) / 2, row + 0.5, "behind the sliding window: gone", at="center")
            continue
        if size <= _MAX_TEXT_SLOTS:
            for slot, token in enumerate(entry.tokens):
                if token:
                    put(_SLOTS[0] + (slot + 0.5) * step, row + 0.5, visible(token), own, 10, "center")
        elif any(entry.tokens):
            joined = "".join(entry.tokens)
            put(_SLOTS[0] + 0.005, row + 0.5, visible_text(joined), own, 11)
        if entry.index not in copies:
            put(_NOTE, row + 0.5, _note(page_map, entry))
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
        for (color, font, position), written in texts.items()
    ]


def _note(page_map: PageMap, entry: Entry) -> str:
    if entry.others:
        return f"×{len(entry.others) + 1}, also {names_of(page_map, entry.others, 2)}"
    return f"{entry.filled} of {page_map.block_size} filled"


def _legend(page_map: PageMap, drawn: Sequence[Entry], color: str, theme: dict[str, str]) -> list[go.Bar]:
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


def _draw_copy(figure: go.Figure, row: int, event: BlockCopied, theme: dict[str, str]) -> None:
    """An arrow from where the source is named to the page that now holds the copy."""
    figure.add_annotation(
        x=_PAGE[1],
        y=row + 0.5,
        ax=36,
        ay=0,
        text=f"copied from page {event.source} ({plural(event.filled, 'slot')})",
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


def _layout(theme: dict[str, str], rows: int, title: str) -> dict[str, Any]:
    axis = {"visible": False, "fixedrange": True}
    legend = {"orientation": "h", "x": 0, "y": -0.01, "yanchor": "top", "itemclick": False, "itemdoubleclick": False}
    return {
        "template": "none",
        "title": {"text": title, "font": {"size": 14}},
        "height": 110 + (rows + 1) * _ROW_HEIGHT,
        "margin": {"l": 10, "r": 10, "t": 40, "b": 10},
        "legend": legend,
        "showlegend": True,
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": theme["text"]},
        "hovermode": "closest",
        "uirevision": "block_table",
        "xaxis": {**axis, "range": [0, 1]},
        "yaxis": {**axis, "range": [rows, -0.8]},
    }


def _table(page_map: PageMap, sequence: int, entries: Sequence[Entry], copies: dict[int, BlockCopied]) -> Table:
    columns = (
        "Logical page",
        "Tier",
        "Physical page",
        "Slots filled",
        "Sequences",
        "Also used by",
        "Text",
        "Copied from",
    )
    rows: list[list[Cell]] = [
        [
            entry.index,
            entry.tier.value if entry.tier is not None else "gone",
            entry.block if entry.tier is not None else None,
            entry.filled if entry.tier is not None else None,
            entry.page.ref_count if entry.page is not None else None,
            ", ".join(sequence_label(page_map, other) for other in entry.others[:20]),
            "".join(entry.tokens),
            copies[entry.index].source if entry.index in copies else None,
        ]
        for entry in entries[:_MAX_TABLE_ROWS]
    ]
    title = f"Block table of {sequence_label(page_map, sequence)}"
    if len(entries) > len(rows):
        title += f" (the first {len(rows):,} of {plural(len(entries), 'page')})"
    return Table(columns, rows, title)
