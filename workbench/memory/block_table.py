"""Logical to physical pages of one sequence, and the moves of pages that a step has to make."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(slots=True)
class BlockTable:
    """The pages of one sequence in one layer group.

    Attributes:
        blocks: device pages by logical index; -1 where the page is not on the device.
        host: those in the host tier instead: logical index to host page. What is in neither lay behind the window.
        first: pages before this one are gone.
    """

    blocks: list[int] = field(default_factory=list)
    host: dict[int, int] = field(default_factory=dict)
    first: int = 0


class MoveKind(StrEnum):
    """From where to where a page's content goes."""

    COPY = "copy"  #: device to device
    OUT = "out"  #: device to host
    IN = "in"  #: host to device


@dataclass(frozen=True, slots=True)
class Move:
    """Contents of pages to be copied before a step's tokens are computed, in the order of the list that it stands in.

    Attributes:
        pairs: source page, destination page.
        request: for whom; -1: for whoever has the sequence in ``place``.
        place: sequence, layer group and logical index whose page is another one now (copy-on-write).
    """

    kind: MoveKind
    pairs: list[tuple[int, int]]
    request: int
    place: tuple[int, int, int] | None = None
