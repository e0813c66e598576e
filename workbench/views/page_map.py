"""The page map: every page of both tiers at one moment, whether there are eight or a hundred thousand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from workbench.events import PageMap
from workbench.events.holdings import holdings
from workbench.events.types import Tier
from workbench.views import page_map_draw as draw
from workbench.views import page_map_labels as labels
from workbench.views.grid import is_starved
from workbench.views.page_map_cells import Level, cells_of, choose_level, paint_of
from workbench.views.page_map_columns import Columns, tier_columns
from workbench.views.page_map_draw import Placed
from workbench.views.page_map_modes import ORDERS, color_mode
from workbench.views.page_map_words import map_caption, map_table
from workbench.views.palette import DARK, LIGHT
from workbench.views.view import View
from workbench.views.words import host_words, plural


def page_map_view(
    page_map: PageMap,
    color_by: str = "request",
    order: str | None = None,
    tier: Tier | str | None = None,
    dark: bool = False,
    window: tuple[int, int] | None = None,
    title: str | None = None,
) -> View:
    """Physical pages, in rows: slot by slot where there are few, a cell per page or per run of pages where many.

    Full colour holds tokens; a hatched tint is held and still empty; crossed grey is lost to rounding; grey with level
    lines is kept for reuse; plain grey is free; a frame is around what several sequences share. What the colour
    stands for is written in the cells, too, where there is room.

    ``layout.meta`` says where pages are: ``columns`` cells in a row, ``pages_per_cell``, and per tier its ``kind``
    ("page" or "host_page"), ``first_row``, ``rows``, ``first_page`` and ``pages``. Coordinates are counted in cells.

    Args:
        color_by: "request", "refs" (sequences that use the page), "fill", "age" (steps since it was taken, moved or
            given back), "mass" (attention) or "cause" (why it was).
        order: "free": numbers say in which order free device pages will be handed out; "eviction": in which order
            cached ones will give way.
        tier: only this one; None: both.
        window: first and last page to show, of the device unless ``tier`` is the host; they are drawn as closely as
            their number allows. `zoom_window` makes one from a visitor's zoom.

    Raises:
        ValueError: an argument is none of those.
    """
    theme = DARK if dark else LIGHT
    mode = color_mode(color_by, page_map, dark)
    if order is not None and order not in ORDERS:
        raise ValueError(f"order={order!r}: must be one of {', '.join(ORDERS)}, or None")
    only = Tier(tier) if tier is not None else None
    if page_map.run is None:
        return View(go.Figure(layout=_layout(theme, 120, title or "No run yet")), "No run yet.")
    if only is Tier.HOST and not page_map.host_pages:
        return View(go.Figure(layout=_layout(theme, 120, title or "No host tier")), "This run has no host tier.")
    tiers = [tier_columns(page_map, only or Tier.DEVICE, window)]
    if only is None and window is None and page_map.host_pages:
        tiers.append(tier_columns(page_map, Tier.HOST))
    level = choose_level(sum(map(len, tiers)), page_map.block_size)
    places, order_words = _order(page_map, order, tiers[0], level)
    paint = paint_of(mode, theme)
    placed: list[Placed] = []
    for columns in tiers:
        above = placed[-1].first_row + placed[-1].rows + 1 if placed else 0  # with an empty row for the heading
        placed.append(Placed(cells_of(columns, mode, paint, level), above, level.columns))
    scattered = is_starved(page_map) and level.per_cell == 1
    figure = go.Figure(
        [
            *(trace for part in placed for trace in draw.heatmaps(part, mode, paint, level)),
            *draw.strokes(placed, level, theme, scattered),
            *([draw.edges(placed, level, theme, page_map.is_paged)] if level.slots > 1 else []),
            *labels.labels(placed, mode, paint, level, places, page_map.is_paged),
            *labels.legend(placed, mode, paint, level, theme, scattered),
        ]
    )
    rows = placed[-1].first_row + placed[-1].rows
    kind = "Paged" if page_map.is_paged else "Contiguous"
    pages = f"{plural(page_map.run.num_blocks, 'page')} of {plural(page_map.block_size, 'slot')}"
    if window is not None:
        pages = f"{tiers[0].noun}s {window[0]:,} to {window[1]:,}"
    figure.update_layout(
        _layout(theme, 40 + max(2, rows) * level.row_height + 90, title or f"{kind}, step {page_map.step}: {pages}"),
        legend={"title": {"text": mode.title, "side": "top"}},
        meta=_meta(placed, level),
    )
    is_fixed = level.slots > 1
    figure.update_xaxes(range=[0, level.columns], visible=False, fixedrange=is_fixed)
    figure.update_yaxes(range=[rows, 0], visible=False, fixedrange=is_fixed)
    if len(placed) > 1:
        place = {"x": 0, "y": placed[1].first_row - 0.5, "xanchor": "left", "yanchor": "middle"}
        text = host_words(page_map, holdings(page_map))
        figure.add_annotation(text=text, showarrow=False, font={"size": 12}, **place)
    caption = " ".join([*map_caption(page_map, tiers, mode, level, window), *order_words])
    return View(figure, caption, map_table(page_map, tiers, mode, places, order))


def _order(page_map: PageMap, order: str | None, columns: Columns, level: Level) -> tuple[dict[int, int], list[str]]:
    """Page to its place, counted from 1, and what to say about it."""
    if order is None:
        return {}, []
    if columns.tier is Tier.HOST or not page_map.is_paged:
        return {}, ["There is no such order: only pages on the device are on a free list or are evicted."]
    pages = page_map.free_list() if order == "free" else page_map.eviction_order()
    if pages is None and order == "free":
        return {}, ["The order of the free list is not known: this recording is too old to tell."]
    if pages is None:
        return {}, ["The order of eviction is not known: this policy's choices can't be followed from events."]
    if not pages:
        return {}, ["No page is free." if order == "free" else "No page is kept for reuse."]
    what = "free pages will be handed out" if order == "free" else "pages kept for reuse will give way"
    words = f"Numbers say in which order {what}: page {pages[0]:,} is next."
    if level.per_cell > 1 or not any(0 <= page - columns.first < len(columns) for page in pages):
        words = f"Of the order in which {what}, only this is seen here: page {pages[0]:,} is next."
    return {page: place for place, page in enumerate(pages, 1)}, [words]


def _meta(placed: Sequence[Placed], level: Level) -> dict[str, Any]:
    tiers = [
        {
            "kind": "host_page" if part.cells.columns.tier is Tier.HOST else "page",
            "first_row": part.first_row,
            "rows": part.rows,
            "first_page": part.cells.columns.first,
            "pages": len(part.cells.columns),
        }
        for part in placed
    ]
    shape = {"columns": level.columns, "page_rows": placed[0].rows, "pages_per_cell": level.per_cell}
    return {"click": "page", **shape, "tiers": tiers}


def zoom_window(meta: Mapping[str, Any], top: float, bottom: float) -> tuple[int, int] | None:
    """First and last page of the rows between two heights of a page map, for another `page_map_view` of just those.

    Args:
        meta: the figure's ``layout.meta``.
        top, bottom: the range of the y axis, in either order.

    Returns:
        None where none of its first tier's pages are.
    """
    tier = meta["tiers"][0]
    low, high = sorted((top, bottom))
    first_row, last_row = max(0, int(low)), min(tier["rows"] - 1, int(high) - (1 if high == int(high) else 0))
    if low >= tier["rows"] or high <= 0 or last_row < first_row:
        return None
    per_row = meta["columns"] * meta["pages_per_cell"]
    first = tier["first_page"]
    return first + first_row * per_row, first + min(tier["pages"], (last_row + 1) * per_row) - 1


def _layout(theme: dict[str, str], height: int, title: str) -> dict[str, Any]:
    return {
        "template": "none",
        "title": {"text": title, "font": {"size": 14}},
        "height": height,
        "margin": {"l": 10, "r": 10, "t": 40, "b": 10},
        "showlegend": True,
        "legend": {
            "orientation": "h",
            "y": -0.01,
            "yanchor": "top",
            "x": 0,
            "itemclick": False,
            "itemdoubleclick": False,
            "font": {"size": 12},
        },
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"color": theme["text"]},
        "hovermode": "closest",
        "uirevision": "page_map",
    }
