"""Events about pages and regions in words: one line each (see `workbench.events.words`)."""

from __future__ import annotations

from workbench.events import types as ev
from workbench.events.cause_words import (
    because,
    clean,
    in_group,
    page_list,
    page_name,
    page_place,
    plural,
    sequence_name,
    size,
)
from workbench.events.page_map import PageMap

#: A few characters of a hash are enough to recognize it in other lines.
_HASH_CHARS = 8

PageEvent = (
    ev.BlockAllocated
    | ev.SlotsWritten
    | ev.BlockShared
    | ev.BlockCopied
    | ev.BlockReleased
    | ev.BlockFreed
    | ev.BlockCached
    | ev.PrefixHit
    | ev.BlockEvicted
    | ev.BlocksSwappedOut
    | ev.BlocksSwappedIn
    | ev.BlocksStreamed
    | ev.PageMassSampled
    | ev.SelectionMeasured
    | ev.RegionReserved
    | ev.RegionReleased
)


def describe_page(event: PageEvent, state: PageMap | None, explain: bool) -> str:
    """One line; see `workbench.events.words.describe`."""
    match event:
        case ev.BlockAllocated():
            place = page_place(event.logical_index) + in_group(event.group, state)
            who, why = sequence_name(event.sequence, state), because(event.cause, explain, state)
            return f"{page_name(event.block, event.tier)} -> {who}, {place}, {why}"
        case ev.SlotsWritten():
            where = f"page {event.block} from offset" if event.block is not None else "the arena from slot"
            who = sequence_name(event.sequence, state) + in_group(event.group, state)
            tokens = plural(event.count, "token")
            return f"{who}: {tokens} stored in {where} {event.first}, {because(event.cause, explain, state)}"
        case ev.BlockReleased():
            left = f"{event.ref_count} still {_use(event.ref_count)} it" if event.ref_count else "nobody uses it now"
            page = page_name(event.block, event.tier) + in_group(event.group, state)
            who = sequence_name(event.sequence, state)
            return f"{page} given up by {who}, {left}, {because(event.cause, explain, state)}"
        case ev.BlockFreed():
            return f"{page_name(event.block, event.tier)} is free, {because(event.cause, explain, state)}"
        case ev.BlockShared() | ev.BlockCopied():
            return _describe_sharing(event, state, explain)
        case ev.BlockCached() | ev.PrefixHit() | ev.BlockEvicted():
            return _describe_cache(event, state, explain)
        case ev.BlocksSwappedOut() | ev.BlocksSwappedIn() | ev.BlocksStreamed():
            return _describe_tiers(event, state, explain)
        case ev.PageMassSampled() | ev.SelectionMeasured():
            return _describe_attention(event, state)
        case ev.RegionReserved() | ev.RegionReleased():
            return _describe_region(event, state, explain)


def _use(count: int) -> str:
    return "uses" if count == 1 else "use"


def _describe_sharing(event: ev.BlockShared | ev.BlockCopied, state: PageMap | None, explain: bool) -> str:
    who, why = sequence_name(event.sequence, state), because(event.cause, explain, state)
    place = page_place(event.logical_index) + in_group(event.group, state)
    if isinstance(event, ev.BlockShared):
        shared = f"shared by {event.ref_count} now"
        return f"{page_name(event.block, event.tier)} -> {who}, too, {place}, {shared}, {why}"
    left = f"{event.ref_count} still {_use(event.ref_count)} page {event.source}"
    copied = f"page {event.source} copied to page {event.destination} ({plural(event.filled, 'token')})"
    return f"{copied} for {who}, {place}; {left}, {why}"


def _describe_cache(
    event: ev.BlockCached | ev.PrefixHit | ev.BlockEvicted, state: PageMap | None, explain: bool
) -> str:
    content = f"content {clean(event.hash[:_HASH_CHARS])}"
    why = because(event.cause, explain, state)
    match event:
        case ev.BlockCached():
            return f"page {event.block} is kept for reuse, {content}; nobody uses it now, {why}"
        case ev.PrefixHit():
            place = page_place(event.logical_index)
            who = sequence_name(event.sequence, state)
            users = "it was kept for reuse" if event.ref_count == 1 else f"shared by {event.ref_count} now"
            return f"page {event.block} -> {who}, {place}, computed already ({content}); {users}, {why}"
        case ev.BlockEvicted():
            chosen = f" chosen by policy {clean(event.policy)}," if event.policy else ""
            return f"page {event.block} is free, its {content} is lost;{chosen} {why}"


def _describe_tiers(
    event: ev.BlocksSwappedOut | ev.BlocksSwappedIn | ev.BlocksStreamed, state: PageMap | None, explain: bool
) -> str:
    if isinstance(event, ev.BlocksStreamed):
        who = sequence_name(event.sequence, state)
        read = f"{event.pages:g} of its {plural(event.host_pages, 'page')} in the host tier"
        return f"{who}: {read} read through the staging window, {size(event.bytes)}; they stayed where they are"
    before, after = [pair[0] for pair in event.pairs], [pair[1] for pair in event.pairs]
    count = f"{plural(len(event.pairs), 'page')} of request {event.request}"
    moved = f"({size(event.bytes)})"
    why = because(event.cause, explain, state)
    if isinstance(event, ev.BlocksSwappedOut):
        return f"{count} swapped out: {page_list(before)} -> host {page_list(after)} {moved}, {why}"
    return f"{count} swapped in: host {page_list(before)} -> {page_list(after)} {moved}, {why}"


def _describe_attention(event: ev.PageMassSampled | ev.SelectionMeasured, state: PageMap | None) -> str:
    who = sequence_name(event.sequence, state)
    token = f"token {event.query}"
    if isinstance(event, ev.SelectionMeasured):
        read = f"read {event.pages_read:g} of {plural(event.pages, 'page')}"
        lost = f"{event.mass_covered:.1%} of the attention covered, output off by {event.output_distance:.1%}"
        return f"{who}: {token} {read}, {lost}"
    if not event.mass:
        return f"{who}: {token} looked at no page"
    most = max(range(len(event.mass)), key=lambda index: event.mass[index])
    share = f"most, {event.mass[most]:.0%}, at {page_place(most)}"
    return f"{who}: {token} looked at {plural(len(event.mass), 'page')}, {share}"


def _describe_region(event: ev.RegionReserved | ev.RegionReleased, state: PageMap | None, explain: bool) -> str:
    slots = f"slots {event.start} to {event.start + event.size - 1}"
    who, why = sequence_name(event.sequence, state), because(event.cause, explain, state)
    if isinstance(event, ev.RegionReleased):
        return f"{slots} given up by {who}, {why}"
    rounding = event.size - event.requested
    asked = f"{event.requested} asked for" + (f" and {rounding} lost to rounding" if rounding else "")
    return f"{slots} -> {who}, {asked}, {why}"
