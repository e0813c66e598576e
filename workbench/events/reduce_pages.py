"""What events about pages and regions do to a `PageMap`: reference counts, block tables, contents of both tiers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from workbench.events import types as ev
from workbench.events.state import BlockTable, Page, Region, SequenceState
from workbench.events.types import Tier

if TYPE_CHECKING:
    from workbench.events.page_map import PageMap


def _page(state: PageMap, block: int, tier: Tier = Tier.DEVICE) -> Page:
    """A page by its number. Negative numbers would index from the end."""
    if block < 0:
        raise IndexError(f"page {block} does not exist")
    return (state.pages if tier is Tier.DEVICE else state.host_pages)[block]


def _unused(state: PageMap, block: int, tier: Tier = Tier.DEVICE) -> None:
    """Makes sure that a page can be taken."""
    page = _page(state, block, tier)
    if page.ref_count != 0 or page.hash:
        raise ValueError(f"{tier} page {block} is not free: ref_count {page.ref_count}, cached {bool(page.hash)}")


def _sequence(state: PageMap, sequence: int) -> SequenceState:
    """The sequence's memory; made on the first page or region that it gets."""
    if sequence not in state.sequences:
        request = state.request_of(sequence)
        if request is None:
            raise ValueError(f"sequence {sequence} belongs to no request")
        state.sequences[sequence] = SequenceState(request)
    return state.sequences[sequence]


def _table(state: PageMap, sequence: SequenceState, group: int) -> BlockTable:
    groups = len(state.run.group_windows) if state.run is not None else 0
    if not 0 <= group < groups:
        raise ValueError(f"group {group}: there are {groups}")
    while len(sequence.tables) <= group:
        sequence.tables.append(BlockTable())
    return sequence.tables[group]


def _append(state: PageMap, event: ev.BlockShared | ev.PrefixHit, group: int, tier: Tier) -> None:
    """One more sequence has the page, with all the tokens in it."""
    page = _page(state, event.block, tier)
    if event.ref_count != page.ref_count + 1:
        raise ValueError(f"{tier} page {event.block} has ref_count {page.ref_count}")
    if (event.logical_index, group) != (page.logical_index, page.group):  # its content depends on what is before it
        raise ValueError(f"{tier} page {event.block} is a sequence's page {page.logical_index}, group {page.group}")
    sequence = _sequence(state, event.sequence)
    table = _table(state, sequence, group)
    gone = event.logical_index - len(table.blocks)  # pages behind a sliding window are not there to be shared
    if gone < 0:
        raise ValueError(f"sequence {event.sequence} has {len(table.blocks)} pages")
    table.blocks += [-1] * gone
    if tier is Tier.DEVICE:
        table.blocks.append(event.block)
    else:
        table.blocks.append(-1)
        table.host[event.logical_index] = event.block
    page.ref_count = event.ref_count
    if page.ref_count == 1:
        page.owner, page.logical_index = event.sequence, event.logical_index
        page.cause, page.since_step = event.cause, event.step
    if group == 0:
        sequence.num_computed_tokens += gone * state.block_size + page.filled


def _allocated(state: PageMap, event: ev.BlockAllocated) -> None:
    _unused(state, event.block, event.tier)
    table = _table(state, _sequence(state, event.sequence), event.group)
    if event.logical_index != len(table.blocks) or event.tier is not Tier.DEVICE:
        raise ValueError(f"the table has {len(table.blocks)} pages, tier {event.tier}")
    table.blocks.append(event.block)
    state.pages[event.block] = Page(1, 0, event.sequence, event.logical_index, event.cause, event.step, event.group)


def _slots_written(state: PageMap, event: ev.SlotsWritten) -> None:
    sequence = state.sequences[event.sequence]
    if event.count < 1:
        raise ValueError(f"count={event.count}: must be at least 1")
    if event.block is not None:
        page = _page(state, event.block)
        if page.ref_count != 1 or event.first != page.filled or event.first + event.count > state.block_size:
            raise ValueError(f"page {event.block} has ref_count {page.ref_count}, {page.filled} slots filled")
        if page.owner != event.sequence or page.group != event.group:
            raise ValueError(f"page {event.block} is sequence {page.owner}'s, group {page.group}")
        page.filled += event.count
        if event.group:
            return  # the same tokens, in other layers
    else:
        region = sequence.region
        if region is None or event.first != region.start + region.filled:
            raise ValueError(f"region is {region}")
        if region.filled + event.count > region.requested:
            raise ValueError(f"region holds {region.requested} slots, {region.filled} are filled")
        region.filled += event.count
    sequence.num_computed_tokens += event.count


def _shared(state: PageMap, event: ev.BlockShared) -> None:
    if event.ref_count < 2:
        raise ValueError(f"ref_count={event.ref_count}: a shared page has at least 2")
    _append(state, event, event.group, event.tier)


def _prefix_hit(state: PageMap, event: ev.PrefixHit) -> None:
    page = _page(state, event.block)
    if page.filled != state.block_size or (page.ref_count == 0 and page.hash != event.hash):
        raise ValueError(f"page {event.block} has {page.filled} slots filled and the hash {page.hash!r}")
    _append(state, event, 0, Tier.DEVICE)
    page.hits += 1
    state.totals.prefix_hit_tokens += page.filled


def _copied(state: PageMap, event: ev.BlockCopied) -> None:
    _unused(state, event.destination)
    source = _page(state, event.source)
    sequence = state.sequences[event.sequence]
    is_there = _has(sequence, event.group, event.logical_index, event.source, Tier.DEVICE)
    if not is_there or source.filled != event.filled:
        raise ValueError(f"page {event.source} has {source.filled} slots filled, or is elsewhere")
    sequence.tables[event.group].blocks[event.logical_index] = event.destination
    state.pages[event.destination] = Page(
        1, event.filled, event.sequence, event.logical_index, event.cause, event.step, event.group
    )
    _drop(state, source, event.source, event.sequence, event.ref_count)
    if event.ref_count < 1:
        raise ValueError(f"page {event.source} was not shared")
    state.totals.blocks_copied += 1


def _drop(state: PageMap, page: Page, block: int, sequence: int, left: int, tier: Tier = Tier.DEVICE) -> None:
    """A sequence, whose table no longer has the page, gives up its reference."""
    page.ref_count -= 1
    if page.ref_count != left or left < 0:
        raise ValueError(f"{tier} page {block} would have ref_count {page.ref_count}")
    if left and page.owner == sequence:
        page.owner = _other_owner(state, page, block, tier)


def _other_owner(state: PageMap, page: Page, block: int, tier: Tier) -> int:
    """A sequence that has the page."""
    for name, sequence in state.sequences.items():
        if _has(sequence, page.group, page.logical_index, block, tier):
            return name
    raise ValueError(f"{tier} page {block} has ref_count {page.ref_count}, but no sequence has it")


def _has(sequence: SequenceState, group: int, index: int, block: int, tier: Tier) -> bool:
    if not 0 <= group < len(sequence.tables) or index < 0 or block < 0:
        return False
    table = sequence.tables[group]
    if tier is Tier.HOST:
        return table.host.get(index) == block
    return index < len(table.blocks) and table.blocks[index] == block


def _released(state: PageMap, event: ev.BlockReleased) -> None:
    page = _page(state, event.block, event.tier)
    sequence = state.sequences[event.sequence]
    index = event.logical_index
    if index < 0 and event.tier is Tier.DEVICE:  # a recording from before sharing: a sequence has a page once
        index = sequence.block_table.index(event.block)
    if not _has(sequence, event.group, index, event.block, event.tier):
        raise ValueError(f"sequence {event.sequence} does not have it as page {index}")
    table = sequence.tables[event.group]
    if event.tier is Tier.HOST:
        del table.host[index]
    table.blocks[index] = -1
    if index == len(table.blocks) - 1:
        table.blocks.pop()
    _drop(state, page, event.block, event.sequence, event.ref_count, event.tier)
    if not any(t.num_held for t in sequence.tables):
        del state.sequences[event.sequence]


def _freed(state: PageMap, event: ev.BlockFreed) -> None:
    if _page(state, event.block, event.tier).ref_count != 0:
        raise ValueError(f"{event.tier} page {event.block} is still referenced")
    pages = state.pages if event.tier is Tier.DEVICE else state.host_pages
    pages[event.block] = Page(cause=event.cause, since_step=event.step, idle_seq=event.seq)


def _cached(state: PageMap, event: ev.BlockCached) -> None:
    page = _page(state, event.block)
    if page.ref_count != 0 or page.filled != state.block_size or not event.hash:
        raise ValueError(f"page {event.block} has ref_count {page.ref_count}, {page.filled} slots filled")
    state.pages[event.block] = Page(
        filled=page.filled,
        cause=event.cause,
        since_step=event.step,
        hash=event.hash,
        logical_index=page.logical_index,
        idle_seq=event.seq,
        hits=page.hits,
    )


def _evicted(state: PageMap, event: ev.BlockEvicted) -> None:
    page = _page(state, event.block)
    if page.ref_count != 0 or page.hash != event.hash:
        raise ValueError(f"page {event.block} has ref_count {page.ref_count} and the hash {page.hash!r}")
    state.pages[event.block] = Page(cause=event.cause, since_step=event.step, idle_seq=event.seq)
    state.totals.evictions += 1


def _move(state: PageMap, event: ev.BlocksSwappedOut | ev.BlocksSwappedIn, source: Tier, destination: Tier) -> None:
    """Pages of a request change tiers, with everything that is in them and all its references."""
    moved = dict(event.pairs)
    if len(moved) != len(event.pairs) or len(set(moved.values())) != len(moved):
        raise ValueError("a page occurs twice")
    for block in moved.values():
        _unused(state, block, destination)
    to = state.pages if destination is Tier.DEVICE else state.host_pages
    for name, sequence in state.sequences.items():
        if sequence.request != event.request:
            continue
        for group, table in enumerate(sequence.tables):
            places = table.host.items() if source is Tier.HOST else enumerate(table.blocks)
            for index, block in [(i, b) for i, b in places if b in moved]:
                page, new = _page(state, block, source), moved[block]
                if to[new].ref_count == 0:
                    to[new] = Page(0, page.filled, name, index, event.cause, event.step, group)
                to[new].ref_count += 1
                page.ref_count -= 1
                if source is Tier.HOST:
                    del table.host[index]
                    table.blocks[index] = new
                else:
                    table.blocks[index] = -1
                    table.host[index] = new
    for block, new in moved.items():
        page = _page(state, block, source)
        if to[new].ref_count == 0 or page.ref_count < 0:
            raise ValueError(f"{source} page {block} is not the request's")
        if page.ref_count and state.sequences[page.owner].request == event.request:
            page.owner = _other_owner(state, page, block, source)


def _swapped_out(state: PageMap, event: ev.BlocksSwappedOut) -> None:
    _move(state, event, Tier.DEVICE, Tier.HOST)
    state.totals.swapped_out_bytes += event.bytes


def _swapped_in(state: PageMap, event: ev.BlocksSwappedIn) -> None:
    _move(state, event, Tier.HOST, Tier.DEVICE)
    for block, _ in event.pairs:
        if state.host_pages[block].ref_count:
            raise ValueError(f"host page {block} is another request's, too")
        state.host_pages[block] = Page(cause=event.cause, since_step=event.step, idle_seq=event.seq)
    state.totals.swapped_in_bytes += event.bytes


def _streamed(state: PageMap, event: ev.BlocksStreamed) -> None:
    state.totals.streamed_bytes += event.bytes


def _mass_sampled(state: PageMap, event: ev.PageMassSampled) -> None:
    sequence = state.sequences[event.sequence]
    if len(event.mass) > len(sequence.block_table):
        raise ValueError(f"sequence {event.sequence} has {len(sequence.block_table)} pages, not {len(event.mass)}")
    sequence.mass, sequence.mass_step = list(event.mass), event.step


def _nothing(state: PageMap, event: ev.AnyEvent) -> None:
    pass


def _region_reserved(state: PageMap, event: ev.RegionReserved) -> None:
    if state.is_paged:
        raise ValueError("paged memory has no regions")
    if not 0 < event.requested <= event.size or event.start < 0 or event.start + event.size > state.num_slots:
        raise ValueError(f"the arena has {state.num_slots} slots")
    sequence = _sequence(state, event.sequence)
    if sequence.region is not None:
        raise ValueError(f"region is {sequence.region}")
    sequence.region = Region(event.start, event.size, event.requested, since_step=event.step)


def _region_released(state: PageMap, event: ev.RegionReleased) -> None:
    region = state.sequences.pop(event.sequence).region
    if region is None or (region.start, region.size) != (event.start, event.size):
        raise ValueError(f"region is {region}")


HANDLERS: dict[type, Callable[[PageMap, Any], None]] = {
    ev.BlockAllocated: _allocated,
    ev.SlotsWritten: _slots_written,
    ev.BlockShared: _shared,
    ev.BlockCopied: _copied,
    ev.BlockReleased: _released,
    ev.BlockFreed: _freed,
    ev.BlockCached: _cached,
    ev.PrefixHit: _prefix_hit,
    ev.BlockEvicted: _evicted,
    ev.BlocksSwappedOut: _swapped_out,
    ev.BlocksSwappedIn: _swapped_in,
    ev.BlocksStreamed: _streamed,
    ev.PageMassSampled: _mass_sampled,
    ev.SelectionMeasured: _nothing,
    ev.RegionReserved: _region_reserved,
    ev.RegionReleased: _region_released,
}
