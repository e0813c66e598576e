"""The tree of what sequences have in common: runs of pages that the same sequences use, and what continues them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from workbench.events import PageMap
from workbench.events.types import Tier

#: A page by its tier and number; None where it lay behind the sliding window.
Place = tuple[Tier, int] | None


@dataclass
class Node:
    """Pages that the same sequences have one behind the other.

    Attributes:
        first: logical index of the first of them.
        places: the pages.
        sequences: those that have all of them in their tables.
        children: what continues them, in the order of the sequences.
        ends: sequences that have nothing behind them.
    """

    first: int
    places: list[Place]
    sequences: list[int]
    children: list[Node] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)

    @property
    def num_pages(self) -> int:
        """Pages that are there."""
        return sum(place is not None for place in self.places)

    def walk(self) -> Iterator[Node]:
        """The node and all behind it, each before what continues it."""
        work = [self]
        while work:
            node = work.pop()
            yield node
            work += reversed(node.children)

    @property
    def saved(self) -> int:
        """Pages that would be needed more if each sequence had its own, here and in what follows."""
        return sum(node.num_pages * (len(node.sequences) - 1) for node in self.walk())

    @property
    def leaves(self) -> list[int]:
        """The sequences, in the order in which they are drawn: what ends somewhere comes before what goes on."""
        return [name for node in self.walk() for name in node.ends]


def sharing_forest(page_map: PageMap) -> list[Node]:
    """The trees of all sequences in the first layer group, those that begin alike together.

    Other layer groups share the same way. Where pages lie behind a sliding window, what they had in common can't be
    seen any more: sequences that share a page later on are taken to have come the same way.
    """
    tables = {name: _places(page_map, name) for name in sorted(page_map.sequences)}
    roots: list[Node] = []
    work = [(roots, group, 0) for group in _split(tables, [name for name in tables if tables[name]], 0)]
    while work:
        siblings, sequences, first = work.pop(0)
        node = Node(first, [], sequences)
        siblings.append(node)
        index = first
        while True:
            node.places.append(tables[sequences[0]][index])
            index += 1
            node.ends = [name for name in sequences if len(tables[name]) == index]
            going_on = [name for name in sequences if len(tables[name]) > index]
            parts = _split(tables, going_on, index)
            if node.ends or len(parts) != 1:
                break
        work += [(node.children, part, index) for part in parts]
    return roots


def _places(page_map: PageMap, sequence: int) -> list[Place]:
    tables = page_map.sequences[sequence].tables
    if not tables:
        return []
    table = tables[0]
    return [
        (Tier.DEVICE, block) if block >= 0 else (Tier.HOST, table.host[index]) if index in table.host else None
        for index, block in enumerate(table.blocks)
    ]


def _split(tables: dict[int, list[Place]], sequences: Sequence[int], index: int) -> list[list[int]]:
    """Sequences by the page that they have there; those whose page is gone by the next one that is not."""
    parts: dict[object, list[int]] = {}
    for name in sequences:
        parts.setdefault(_next(tables[name], index), []).append(name)
    return list(parts.values())


def _next(places: list[Place], index: int) -> object:
    return next(((place, at) for at, place in enumerate(places[index:], index) if place is not None), None)
