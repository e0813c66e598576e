"""A `PageMap` as a few kilobytes of plain data, for a browser that draws it and builds the hover text itself."""

from __future__ import annotations

from typing import Any

from workbench.events import PageMap, RequestStatus
from workbench.events.holdings import Holding, holdings, requests_of_pages
from workbench.events.state import Page, RequestState
from workbench.views.grid import grid_columns, is_starved
from workbench.views.page_map_modes import ORDERS, mode_constants
from workbench.views.palette import CAUSE_FAMILIES
from workbench.views.words import CAUSE_WORDS, map_words

#: Causes are sent as positions in this list.
CAUSES = list(CAUSE_WORDS)

#: A recording may claim any number of samples; a row is made for so many that have not begun.
MAX_SAMPLES = 256

_STATUS_LETTER = {
    RequestStatus.WAITING: "w",
    RequestStatus.RUNNING: "r",
    RequestStatus.PREEMPTED: "p",
    RequestStatus.SWAPPED: "s",
    RequestStatus.FINISHED: "f",
    RequestStatus.CANCELLED: "c",
    RequestStatus.REJECTED: "x",
}


#: ``owner`` of a page that nobody uses.
FREE_PAGE, CACHED_PAGE = -1, -2


#: Free and cached pages are numbered in the order in which they go next up to this many.
MAX_ORDER = 100


def map_constants() -> dict[str, Any]:
    """What the browser must know once to read payloads and to say the same of them as the figures made here.

    ``causes`` in words; ``families`` are ``[name, letter, colour]``; ``family_of`` has one position in it per cause,
    -1 for none. ``modes``: see `mode_constants`. ``orders``: rows ``[name, words]``, in the payload under that name.
    """
    family_of = {cause: index for index, family in enumerate(CAUSE_FAMILIES) for cause in family[3]}
    return {
        "causes": [CAUSE_WORDS[cause] for cause in CAUSES],
        "families": [[name, letter, color] for name, letter, color, _ in CAUSE_FAMILIES],
        "family_of": [family_of.get(cause, -1) for cause in CAUSES],  # type: ignore[call-overload]
        "modes": mode_constants(),
        "orders": [list(row) for row in ORDERS.items()],
    }


def map_payload(page_map: PageMap, orders: bool = False) -> dict[str, Any]:
    """All that the browser needs to draw the page map and to explain any slot of it.

    Paged: parallel arrays with one entry per page: ``owner`` is a request, -1 for a free page, and -2 for one that is
    kept for reuse. ``shared`` has a row ``[page, references, requests]`` for each page with several. If there is a host
    tier, ``host`` has the same for its pages. Contiguous: one row ``[request, start, size, requested, filled,
    since_step]`` per region. ``waste`` is in the order of `LiveWaste`.

    Where attention was sampled, ``mass`` has for each page the most, in thousandths, that a sequence's newest token
    paid to it, and -1 where that is not known. Where a model has several layer groups, ``group`` has each page's.

    Args:
        orders: add those of `ORDERS`: ``free``, the free pages in the order in which they are handed out, and
            ``eviction``, the cached ones in the order in which they go; None where that is not known (at most
            `MAX_ORDER` of each).
    """
    run = page_map.run
    if run is None:
        return {"kind": "none", "step": 0, "words": map_words(page_map)}
    waste = page_map.waste()
    payload: dict[str, Any] = {
        "kind": run.memory,
        "step": page_map.step,
        "block_size": run.block_size,
        "blocks": run.num_blocks,
        "columns": grid_columns(run.num_blocks),
        "bytes_per_block": run.bytes_per_block,
        "waste": [waste.token_states, waste.reserved, waste.external, waste.free, waste.cached],
        "words": map_words(page_map),
    }
    if page_map.is_paged:
        device, host = requests_of_pages(page_map)
        payload |= _page_arrays(page_map, page_map.pages, device)
        if page_map.host_pages:
            count = len(page_map.host_pages)
            payload["host"] = {"blocks": count, "columns": grid_columns(count)}
            payload["host"] |= _page_arrays(page_map, page_map.host_pages, host)
        _put_masses(page_map, payload)
        if orders:
            for name, order in (("free", page_map.free_list()), ("eviction", page_map.eviction_order())):
                payload[name] = None if order is None else order[:MAX_ORDER]
    else:
        payload["regions"] = [
            [s.request, s.region.start, s.region.size, s.region.requested, s.region.filled, s.region.since_step]
            for s in page_map.sequences.values()
            if s.region is not None
        ]
        payload["starved"] = is_starved(page_map)
    return payload


def _page_arrays(page_map: PageMap, pages: list[Page], shared: dict[int, list[int]]) -> dict[str, Any]:
    return {
        "owner": [
            page_map.sequences[p.owner].request if p.ref_count else CACHED_PAGE if p.is_cached else FREE_PAGE
            for p in pages
        ],
        "filled": [p.filled for p in pages],
        "logical": [p.logical_index for p in pages],
        "cause": [CAUSES.index(p.cause) for p in pages],
        "since": [p.since_step for p in pages],
        "shared": [[block, pages[block].ref_count, requests] for block, requests in shared.items()],
        **({"group": [p.group for p in pages]} if page_map.run and len(page_map.run.group_windows) > 1 else {}),
    }


def _put_masses(page_map: PageMap, payload: dict[str, Any]) -> None:
    if not any(sequence.mass for sequence in page_map.sequences.values()):
        return
    device, host = [-1] * len(page_map.pages), [-1] * len(page_map.host_pages)
    for sequence in page_map.sequences.values():
        for table in sequence.tables:
            for logical, mass in enumerate(sequence.mass[: len(table.blocks)]):
                block = table.blocks[logical]
                where, page = (device, block) if block >= 0 else (host, table.host.get(logical, -1))
                if page >= 0:
                    where[page] = max(where[page], round(1000 * mass))
    payload["mass"] = device
    if host:
        payload["host"]["mass"] = host


def request_rows(page_map: PageMap, tail: int | None = None) -> list[list[Any]]:
    """One row per output of every request: ``[request, status, prompt_tokens, output_tokens, max_tokens,
    pages_or_slots, preemptions, text, reason, sample, host_pages]``.

    A request has as many outputs as it may run sequences: samples that have not begun yet wait for the prompt to be
    computed. Of a beam search, the rows are its beams as they stand, and when it has ended its results, best first.
    ``pages_or_slots`` and ``host_pages`` are those of the whole request, each page once.

    Args:
        tail: send at most this many characters from the end of each text; None sends all. A cut text begins with "…".
    """
    held = holdings(page_map)
    rows: list[list[Any]] = []
    for request, state in page_map.requests.items():
        holding = held.get(request, Holding())
        pages = holding.region.size if holding.region is not None else holding.pages
        reason = state.reason if state.status is RequestStatus.REJECTED else ""
        for sample, (status, tokens, text) in enumerate(_outputs(state)):
            if tail is not None and len(text) > tail:
                text = "…" + text[-tail:]
            numbers = [state.prompt_tokens, tokens, state.max_tokens, pages, state.preemptions]
            rows.append([request, status, *numbers, text, reason, sample, holding.host_pages])
    return rows


def _outputs(state: RequestState) -> list[tuple[str, int, str]]:
    """Status, number of tokens and text of each of a request's outputs."""
    letter = _STATUS_LETTER[state.status]
    if state.chosen:
        return [(letter, len(output.token_ids), output.text) for output in state.chosen]
    outputs = [output for output in state.outputs.values() if not output.is_dropped]
    known = [("f" if o.reason and letter not in "cx" else letter, len(o.token_ids), o.text) for o in outputs]
    most = 1 if state.is_beam_search else min(state.width, MAX_SAMPLES)
    return known + [(letter, 0, "")] * (most - len(known))
