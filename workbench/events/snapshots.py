"""Snapshots that come out of a file: older ones are brought up to date, and none is believed without being checked."""

from __future__ import annotations

import msgspec

from workbench.events.page_map import PageMap, check_pool_size, decode_page_map
from workbench.events.state import BlockTable, OutputText, Page, RequestStatus, SequenceState
from workbench.events.types import Cause, Tier


class _OldSequence(msgspec.Struct):
    """As it was when a sequence had one block table, on the device."""

    block_table: list[int] = []


class _OldRequest(msgspec.Struct):
    """As it was when a request had one sequence."""

    text: str = ""
    token_ids: list[int] = []


class _OldSnapshot(msgspec.Struct):
    sequences: dict[int, _OldSequence] = {}
    requests: dict[int, _OldRequest] = {}


_OLD_DECODER = msgspec.msgpack.Decoder(_OldSnapshot)


def decode_snapshot(data: bytes) -> PageMap:
    """A `PageMap` from a recording, perhaps one that was made before sequences could share pages.

    Raises:
        msgspec.ValidationError: the bytes are not a PageMap.
    """
    state = decode_page_map(data)
    if not state.requests or state.request_ids:
        return state
    old = _OLD_DECODER.decode(data)
    for name, sequence in state.sequences.items():
        if blocks := old.sequences[name].block_table:
            sequence.tables = [BlockTable(blocks)]
    for number, request in state.requests.items():
        was = old.requests[number]
        output = OutputText(was.token_ids, was.text)
        if request.status in (RequestStatus.FINISHED, RequestStatus.CANCELLED):
            output.reason = request.reason
        request.outputs = {request.sequence: output}
        state.request_ids[request.sequence] = number
    return state


def check_snapshot(state: PageMap, step: int) -> None:
    """Refuses a snapshot that folding events could not have produced and that would trip its readers.

    Raises:
        ValueError: says what is wrong.
    """
    if state.step != step:
        raise ValueError(f"it is the state of step {state.step}")
    if state.run is not None:
        check_pool_size(state.run)
    is_paged = state.run is not None and state.is_paged
    for tier, pages, expected in (
        (Tier.DEVICE, state.pages, state.run.num_blocks if state.run is not None else 0),
        (Tier.HOST, state.host_pages, state.run.num_host_blocks if state.run is not None else 0),
    ):
        if len(pages) != (expected if is_paged else 0):
            raise ValueError(f"it has {len(pages)} {tier} pages instead of {expected if is_paged else 0}")
        if not all(0 <= page.filled <= state.block_size and page.ref_count >= 0 for page in pages):
            raise ValueError(f"a page holds less than 0 or more than {state.block_size} tokens")
        if not {page.cause for page in pages} <= {"", *Cause}:
            raise ValueError("a page has an unknown cause")
        _check_references(state, pages, tier)
    groups = len(state.run.group_windows) if state.run is not None else 0
    for sequence in state.sequences.values():
        _check_sequence(state, sequence, groups)
    named = [sequence.request for sequence in state.sequences.values()] + state.running + state.waiting
    if not all(request in state.requests for request in [*named, *state.request_ids.values()]):
        raise ValueError("it names a request that was never queued")


def _check_references(state: PageMap, pages: list[Page], tier: Tier) -> None:
    """Every page has as many references as the block tables say, and an owner among them."""
    counts = [0] * len(pages)
    owned = [False] * len(pages)
    for name, sequence in state.sequences.items():
        for group, table in enumerate(sequence.tables):
            for index, block in enumerate(table.blocks) if tier is Tier.DEVICE else table.host.items():
                if tier is Tier.DEVICE and block == -1:
                    continue
                if not 0 <= block < len(pages):
                    raise ValueError(f"a block table names a {tier} page outside 0 to {len(pages) - 1}")
                counts[block] += 1
                page = pages[block]
                owned[block] |= (page.owner, page.group, page.logical_index) == (name, group, index)
    for block, page in enumerate(pages):
        if page.ref_count != counts[block] or (page.ref_count and not owned[block]):
            raise ValueError(
                f"{tier} page {block} has ref_count {page.ref_count} and owner {page.owner}; block tables name it "
                f"{counts[block]} times"
            )


def _check_sequence(state: PageMap, sequence: SequenceState, groups: int) -> None:
    region = sequence.region
    if region is not None and not (
        0 <= region.filled <= region.requested <= region.size and 0 <= region.start <= state.num_slots - region.size
    ):
        raise ValueError(f"a region does not fit into {state.num_slots} slots: {region}")
    if len(sequence.tables) > max(1, groups):
        raise ValueError(f"a sequence has {len(sequence.tables)} block tables, there are {groups} layer groups")
    if not all(0 <= index < len(table.blocks) for table in sequence.tables for index in table.host):
        raise ValueError("a page in the host tier lies behind the end of its block table")
    most = len(sequence.block_table) * state.block_size if region is None else region.filled
    if not 0 <= sequence.num_computed_tokens <= most:
        raise ValueError(f"a sequence holds {sequence.num_computed_tokens} tokens in {most} slots")
    if len(sequence.mass) > len(sequence.block_table):
        raise ValueError(f"a sequence has {len(sequence.block_table)} pages, not {len(sequence.mass)}")
