"""A block table's rows: which page each logical page is, what is in it, and who else uses it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from workbench.events import PageMap
from workbench.events.state import Page
from workbench.events.tokens import sequence_tokens
from workbench.events.types import AnyEvent, BlockCopied, Tier
from workbench.views.palette import request_label
from workbench.views.words import plural

#: Characters of a token's text that fit into a slot.
_TOKEN_WIDTH = 7


@dataclass(frozen=True)
class Entry:
    """One logical page.

    Attributes:
        index: its place in the table.
        tier, block: where it is; None and -1: it lay behind the sliding window and is gone.
        page: what is known of the physical page.
        tokens: texts of the tokens in it, "" where unknown; also of a page that is gone.
        others: the other sequences that use the page.
    """

    index: int
    tier: Tier | None
    block: int
    page: Page | None
    tokens: tuple[str, ...]
    others: tuple[int, ...]

    @property
    def place(self) -> str:
        """ "page 3", "host page 3" or "gone"."""
        if self.tier is None:
            return "gone"
        return f"{'host page' if self.tier is Tier.HOST else 'page'} {self.block}"

    @property
    def filled(self) -> int:
        return self.page.filled if self.page is not None else 0


def check_sequence(page_map: PageMap, sequence: int, group: int) -> None:
    """Makes sure that a sequence has a block table in a layer group.

    Raises:
        ValueError: says what there is instead.
    """
    if not page_map.is_paged:
        raise ValueError("memory: must be paged, contiguous memory has no block tables")
    if sequence not in page_map.sequences:
        known = ", ".join(str(name) for name in list(page_map.sequences)[:20]) or "none"
        raise ValueError(f"sequence={sequence}: must be one that holds memory ({known})")
    groups = len(page_map.sequences[sequence].tables)
    if not 0 <= group < groups:
        raise ValueError(f"group={group}: must be from 0 to {groups - 1}")


def users_of_pages(page_map: PageMap, group: int) -> dict[tuple[Tier, int], list[int]]:
    """The sequences that have a page in their tables, of every page in use."""
    users: dict[tuple[Tier, int], list[int]] = {}
    for name, sequence in page_map.sequences.items():
        if group >= len(sequence.tables):
            continue
        table = sequence.tables[group]
        for block in table.blocks:
            if block >= 0:
                users.setdefault((Tier.DEVICE, block), []).append(name)
        for block in table.host.values():
            users.setdefault((Tier.HOST, block), []).append(name)
    return users


def table_entries(
    page_map: PageMap, sequence: int, group: int = 0, users: dict[tuple[Tier, int], list[int]] | None = None
) -> list[Entry]:
    """A sequence's block table in one layer group, in logical order."""
    users = users if users is not None else users_of_pages(page_map, group)
    table = page_map.sequences[sequence].tables[group]
    tokens = sequence_tokens(page_map, sequence)
    size = page_map.block_size
    entries = []
    for index, block in enumerate(table.blocks):
        tier: Tier | None = Tier.DEVICE
        if block < 0:
            tier, block = (Tier.HOST, table.host[index]) if index in table.host else (None, -1)
        page = None
        if tier is not None:
            page = (page_map.pages if tier is Tier.DEVICE else page_map.host_pages)[block]
        held = size if page is None else page.filled
        others = tuple(name for name in users.get((tier, block), ()) if name != sequence) if tier is not None else ()
        entries.append(Entry(index, tier, block, page, tuple(tokens[index * size :][:held]), others))
    return entries


def sequence_label(page_map: PageMap, sequence: int) -> str:
    """ "A", or "A·2" for the second sequence of a request with several."""
    request = page_map.request_of(sequence)
    if request is None:
        return f"sequence {sequence}"
    state = page_map.requests[request]
    if state.width < 2 and len(state.outputs) < 2:
        return request_label(request)
    outputs = list(state.outputs)
    number = outputs.index(sequence) + 1 if sequence in outputs else sequence - state.sequence + 1
    return f"{request_label(request)}·{number}"


def names_of(page_map: PageMap, sequences: Sequence[int], most: int = 3) -> str:
    """ "A·2 and B", "A·2, A·3, A·4 and 9 more"."""
    names = [sequence_label(page_map, sequence) for sequence in sequences[:most]]
    more = len(sequences) - most
    if more > 0:
        return ", ".join(names) + f" and {more} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def copies_for(events: Iterable[AnyEvent] | None, sequence: int, group: int) -> dict[int, BlockCopied]:
    """By logical page, the last copy that a sequence got among the events."""
    return {
        event.logical_index: event
        for event in events or ()
        if isinstance(event, BlockCopied) and (event.sequence, event.group) == (sequence, group)
    }


def copy_words(page_map: PageMap, event: BlockCopied) -> str:
    """What happened, in a sentence."""
    others = plural(event.ref_count, "other sequence")
    return (
        f"Copy-on-write in step {event.step}: {sequence_label(page_map, event.sequence)} had to write to page "
        f"{event.source}, which {others} used, too, so {plural(event.filled, 'slot')} of it "
        f"{'was' if event.filled == 1 else 'were'} copied to page {event.destination}."
    )


def visible(token: str) -> str:
    """A token's text with its spaces to be seen, short enough for a slot, and safe in Plotly's markup."""
    shown = token.replace(" ", "·").replace("\n", "↵").replace("\t", "⇥")
    return _safe(shown, _TOKEN_WIDTH)


def visible_text(text: str, width: int = 64) -> str:
    """A page's text in one line, cut, and safe in Plotly's markup."""
    shown = text.replace("\n", "↵").replace("\t", "⇥")
    return _safe(shown, width)


def _safe(text: str, width: int) -> str:
    shown = "".join(char if char.isprintable() else "�" for char in text)
    if len(shown) > width:
        shown = shown[: width - 1] + "…"
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
