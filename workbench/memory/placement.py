"""Which pages of a sequence that is larger than the device's pool move to the host tier: a protocol, three policies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from workbench.memory.eviction import Key


@dataclass(frozen=True, slots=True)
class PlacedPage:
    """A full page of a sequence, on the device.

    Attributes:
        index: its logical index; the sequence has ``num_pages`` pages in all.
        mass: share of the newest token's attention that it got when that was last sampled (``page_mass_every``); None
            if it never was.
    """

    index: int
    num_pages: int
    mass: float | None


class PlacementPolicy(Protocol):
    """Of the pages that could move to the host, the one with the smallest key moves first."""

    @property
    def name(self) -> str: ...
    def key(self, page: PlacedPage) -> Key: ...


class OldestFirst:
    """The beginning of the text moves first: the recent stays."""

    name = "oldest"

    def key(self, page: PlacedPage) -> Key:
        return (page.index,)


class KeepFirst:
    """As `OldestFirst`, but the very first page stays: models look at it a lot (attention sinks, Xiao et al., 2024)."""

    name = "keep_first"

    def key(self, page: PlacedPage) -> Key:
        return (page.index == 0, page.index)


class LeastAttended:
    """The page that got the least attention moves first; what was never sampled counts as none, the oldest first."""

    name = "least_attended"

    def key(self, page: PlacedPage) -> Key:
        return (page.mass or 0.0, page.index)


PLACEMENT_POLICIES: dict[str, type[OldestFirst] | type[KeepFirst] | type[LeastAttended]] = {
    policy.name: policy for policy in (OldestFirst, KeepFirst, LeastAttended)
}
