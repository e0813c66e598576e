"""A `PageMap` as a few kilobytes of plain data, for a browser that draws it and builds the hover text itself."""

from __future__ import annotations

from typing import Any

from workbench.events import PageMap, RequestStatus
from workbench.views.grid import grid_columns, is_starved
from workbench.views.words import CAUSE_WORDS, map_words

#: Causes are sent as positions in this list.
CAUSES = list(CAUSE_WORDS)

_STATUS_LETTER = {
    RequestStatus.WAITING: "w",
    RequestStatus.RUNNING: "r",
    RequestStatus.PREEMPTED: "p",
    RequestStatus.FINISHED: "f",
    RequestStatus.CANCELLED: "c",
    RequestStatus.REJECTED: "x",
}


def map_payload(page_map: PageMap) -> dict[str, Any]:
    """All that the browser needs to draw the page map and to explain any slot of it.

    Paged: parallel arrays with one entry per page (``owner`` is a request, -1 for a free page). Contiguous: one row
    ``[request, start, size, requested, filled, since_step]`` per region. ``waste`` is in the order of `LiveWaste`.
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
        "waste": [waste.token_states, waste.reserved, waste.external, waste.free],
        "words": map_words(page_map),
    }
    if page_map.is_paged:
        pages = page_map.pages
        payload["owner"] = [page_map.sequences[p.owner].request if p.ref_count else -1 for p in pages]
        payload["filled"] = [p.filled for p in pages]
        payload["logical"] = [p.logical_index for p in pages]
        payload["cause"] = [CAUSES.index(p.cause) for p in pages]
        payload["since"] = [p.since_step for p in pages]
    else:
        payload["regions"] = [
            [s.request, s.region.start, s.region.size, s.region.requested, s.region.filled, s.region.since_step]
            for s in page_map.sequences.values()
            if s.region is not None
        ]
        payload["starved"] = is_starved(page_map)
    return payload


def request_rows(page_map: PageMap, tail: int | None = None) -> list[list[Any]]:
    """One row per request: ``[request, status, prompt_tokens, output_tokens, max_tokens, pages_or_slots, preemptions,
    text, reason]``.

    Args:
        tail: send at most this many characters from the end of each text; None sends all. A cut text begins with "…".
    """
    rows: list[list[Any]] = []
    for request, state in page_map.requests.items():
        memory = page_map.sequences.get(state.sequence)
        held = 0
        if memory is not None:
            held = memory.region.size if memory.region is not None else len(memory.block_table)
        text = state.text
        if tail is not None and len(text) > tail:
            text = "…" + text[-tail:]
        reason = state.reason if state.status is RequestStatus.REJECTED else ""
        numbers = [state.prompt_tokens, len(state.token_ids), state.max_tokens, held, state.preemptions]
        rows.append([request, _STATUS_LETTER[state.status], *numbers, text, reason])
    return rows
