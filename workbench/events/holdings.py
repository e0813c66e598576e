"""What requests hold: their sequences' pages in both tiers, each page once."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.events.page_map import PageMap
from workbench.events.state import Page, Region


@dataclass
class Holding:
    """The memory of one request.

    Attributes:
        sequences: those of its sequences that have memory.
        tokens: stored in its pages or its region; those in a shared page count once.
        pages: different pages on the device, of all layer groups.
        host_pages: different pages in the host tier.
        shared: those of ``pages`` that more than one sequence uses, of this request or of others.
        region: contiguous memory.
    """

    sequences: int = 0
    tokens: int = 0
    pages: int = 0
    host_pages: int = 0
    shared: int = 0
    region: Region | None = None


def holdings(page_map: PageMap) -> dict[int, Holding]:
    """By request, what it holds; requests without memory are not there."""
    result: dict[int, Holding] = {}
    device: dict[int, set[int]] = {}
    host: dict[int, set[int]] = {}
    for sequence in page_map.sequences.values():
        request = sequence.request
        holding = result.setdefault(request, Holding())
        holding.sequences += 1
        if sequence.region is not None:
            holding.region = sequence.region
            holding.tokens = sequence.region.filled
        for table in sequence.tables:
            device.setdefault(request, set()).update(block for block in table.blocks if block >= 0)
            host.setdefault(request, set()).update(table.host.values())
    for request, holding in result.items():
        here = [page_map.pages[block] for block in device.get(request, ())]
        there = [page_map.host_pages[block] for block in host.get(request, ())]
        holding.pages, holding.host_pages = len(here), len(there)
        holding.shared = sum(page.ref_count > 1 for page in here)
        if here or there:
            holding.tokens = _tokens([*here, *there])
    return result


def _tokens(pages: list[Page]) -> int:
    """Layer groups store the same tokens, but those with a window not all of them."""
    by_group: dict[int, int] = {}
    for page in pages:
        by_group[page.group] = by_group.get(page.group, 0) + page.filled
    return max(by_group.values())


def requests_of_pages(page_map: PageMap) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """For each page with several references, on the device and on the host: the requests whose sequences use it."""
    device: dict[int, set[int]] = {}
    host: dict[int, set[int]] = {}
    for sequence in page_map.sequences.values():
        for table in sequence.tables:
            for block in table.blocks:
                if block >= 0 and page_map.pages[block].ref_count > 1:
                    device.setdefault(block, set()).add(sequence.request)
            for block in table.host.values():
                if page_map.host_pages[block].ref_count > 1:
                    host.setdefault(block, set()).add(sequence.request)
    return {b: sorted(r) for b, r in sorted(device.items())}, {b: sorted(r) for b, r in sorted(host.items())}
