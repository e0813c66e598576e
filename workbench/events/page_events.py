"""Events about pages of KV memory, and about regions of contiguous memory. Read them from `workbench.events.types`."""

from __future__ import annotations

from workbench.events.event_parts import Cause, Event, Tier


class BlockAllocated(Event):
    """A free page became the ``logical_index``-th page of a sequence, with a reference count of 1."""

    tier: Tier
    block: int
    sequence: int
    logical_index: int
    cause: Cause
    group: int = 0


class SlotsWritten(Event):
    """Keys and values of ``count`` tokens were stored.

    Paged: in the page ``block``, from offset ``first``. Contiguous: ``block`` is None and ``first`` counts from the
    beginning of the arena.
    """

    sequence: int
    block: int | None
    first: int
    count: int
    cause: Cause
    group: int = 0


class BlockShared(Event):
    """A page in use became the ``logical_index``-th page of one more sequence; ``ref_count`` now use it."""

    block: int
    sequence: int
    logical_index: int
    ref_count: int
    cause: Cause
    tier: Tier = Tier.DEVICE
    group: int = 0


class BlockCopied(Event):
    """Copy-on-write: a sequence has to write to a shared page, so it got a copy (Kwon et al., section 4.4, Fig. 8).

    ``destination``, a free page before, takes the place of ``source`` in the sequence's table and has ``filled`` slots
    of it; ``ref_count`` sequences still use ``source``.
    """

    source: int
    destination: int
    sequence: int
    logical_index: int
    filled: int
    ref_count: int
    cause: Cause
    group: int = 0


class BlockReleased(Event):
    """A sequence gave up a page; ``ref_count`` references are left."""

    block: int
    sequence: int
    ref_count: int
    cause: Cause
    logical_index: int = -1
    tier: Tier = Tier.DEVICE
    group: int = 0


class BlockFreed(Event):
    """The last reference to a page is gone: it is free, its content is lost."""

    block: int
    cause: Cause
    tier: Tier = Tier.DEVICE


class BlockCached(Event):
    """The last reference to a page is gone, but its content is kept: a sequence that begins alike can have it again.

    ``hash`` stands for the page's tokens and all before them.
    """

    block: int
    hash: str
    cause: Cause


class PrefixHit(Event):
    """A page with just the right content became the ``logical_index``-th page of a sequence, computed already.

    It was cached (then ``ref_count`` is now 1), or others use it, too.
    """

    block: int
    sequence: int
    logical_index: int
    hash: str
    ref_count: int
    cause: Cause = Cause.PREFIX_HIT


class BlockEvicted(Event):
    """A cached page gave up its content and is free. ``policy`` chose it."""

    block: int
    hash: str
    cause: Cause
    policy: str = ""


class BlocksSwappedOut(Event):
    """Pages of a request moved to the host tier. ``pairs``: device page, host page, for each.

    Wherever one of the request's sequences had the device page, it has the host page now, and as many references.
    """

    request: int
    pairs: list[tuple[int, int]]
    bytes: int
    cause: Cause


class BlocksSwappedIn(Event):
    """Pages of a request moved back to the device. ``pairs``: host page, device page, for each."""

    request: int
    pairs: list[tuple[int, int]]
    bytes: int
    cause: Cause


class BlocksStreamed(Event):
    """Pages in the host tier were read for a step's attention through a staging window; they stayed where they are.

    ``pages`` of the sequence's ``host_pages`` were read. ``bytes`` over all layers. Per-layer choices are averaged.
    """

    sequence: int
    pages: float
    host_pages: int
    bytes: int


class PageMassSampled(Event):
    """How much of the newest token's attention each of a sequence's pages got, averaged over layers and heads.

    By logical index; adds up to at most 1 (attention sinks take the rest). ``query`` is that token's position.
    """

    sequence: int
    query: int
    mass: list[float]


class SelectionMeasured(Event):
    """What reading only the most promising pages changed in a step, averaged over layers.

    Attributes:
        pages_read, pages: pages that were read, of how many.
        mass_covered: share of the exact attention weights that lies in the pages that were read.
        output_distance: length of the difference from exact attention's output, relative to the latter's length.
    """

    sequence: int
    query: int
    pages_read: float
    pages: int
    mass_covered: float
    output_distance: float


class RegionReserved(Event):
    """Contiguous memory: a sequence got ``size`` slots from ``start``, of which it asked for ``requested``.

    The rest is rounding by the buddy allocator.
    """

    sequence: int
    start: int
    size: int
    requested: int
    cause: Cause


class RegionReleased(Event):
    """Contiguous memory: a sequence gave its region back."""

    sequence: int
    start: int
    size: int
    cause: Cause
