"""Who shares what: sequences as the leaves of a tree whose branches are the pages that they have in common."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from workbench.events import PageMap
from workbench.events.types import Tier
from workbench.views.block_table_parts import names_of
from workbench.views.palette import DARK, LIGHT, request_label
from workbench.views.sharing_tree_draw import Placed, requests_of, tree_figure
from workbench.views.sharing_tree_nodes import Node, sharing_forest
from workbench.views.view import Cell, Table, View
from workbench.views.words import percent, plural

#: Sequences that are drawn.
MAX_LEAVES = 48
_MAX_TABLE_ROWS = 512


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
    figure = tree_figure(page_map, placed, edges, names, kept, theme)
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


def _place(forest: Sequence[Node], names: dict[int, int]) -> tuple[list[Placed], list[tuple[Placed, Placed]]]:
    """Every branch with something drawn behind it is in the middle of that."""
    placed, edges = [], []
    for root in forest:
        work: list[tuple[Node, Placed | None]] = [(root, None)]
        while work:
            node, parent = work.pop()
            rows = [names[name] for name in node.sequences if name in names]
            if not rows:
                continue
            span = len(rows)
            here = Placed(node, (min(rows) + max(rows)) / 2, min(0.7 * span, 0.5 + 0.2 * (span - 1)))
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
            requests = [request_label(number) for number in requests_of(page_map, node)]
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
