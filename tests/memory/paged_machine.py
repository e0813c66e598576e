"""A machine that asks paged memory for everything, in any order, and knows what every page must contain.

Contents are simulated: a slot holds a label that stands for a token and all tokens before it. Moves are carried out on
these labels in the order in which the memory asked for them, tokens are written when they are committed, and after
every rule the block tables must spell each sequence's tokens. The reducer follows by events alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.conftest import assert_books_match
from workbench.events import Cause, EventBus
from workbench.events import types as ev
from workbench.memory import PagedMemory
from workbench.memory.block_table import Move, MoveKind
from workbench.memory.eviction import EVICTION_POLICIES

GEOMETRY = ev.ModelGeometry("m", "M", 1, 1, 1, 1, 1, "float32", 8)
#: Texts begin like one of these, so that prefixes are found again.
BEGINNINGS = ([0] * 12, [1, 0] * 6)
Label = tuple[int, ...]
Pages = list[list[Label]]
CHUNK = 8


@dataclass
class Text:
    """A sequence as the machine sees it: ``tokens`` is the list that the memory reads, ``final`` its longest length."""

    request: int
    tokens: list[int]
    prompt: int
    final: int
    stored: int = 0


@dataclass
class Contents:
    """What is in the pages of both tiers."""

    device: Pages
    host: Pages = field(default_factory=list)

    def copy(self) -> Contents:
        return Contents([list(page) for page in self.device], [list(page) for page in self.host])

    def carry_out(self, moves: Sequence[Move]) -> None:
        for move in moves:
            source = self.host if move.kind is MoveKind.IN else self.device
            destination = self.host if move.kind is MoveKind.OUT else self.device
            assert len({b for _, b in move.pairs}) == len(move.pairs)
            # All pages of a move may be copied at once.
            taken = [(target, list(source[block])) for block, target in move.pairs]
            for target, content in taken:
                destination[target] = content


class PagedMachine(RuleBasedStateMachine):
    """Allocates, writes, forks and frees."""

    memory: PagedMemory
    num_host = 0

    @initialize(
        block_size=st.integers(1, 4),
        num_blocks=st.integers(2, 13),
        num_host=st.integers(1, 12),
        eviction=st.sampled_from([None, *EVICTION_POLICIES]),
        windows=st.sampled_from([(None,), (3,), (None, 5), (2, None, None), (6, 6)]),
    )
    def begin(
        self, block_size: int, num_blocks: int, num_host: int, eviction: str | None, windows: tuple[int | None, ...]
    ) -> None:
        windows = windows if eviction is None else (None,)
        self.num_host = self.num_host and num_host
        self.bus = EventBus()
        self.memory = self.make(num_blocks, block_size, eviction, windows)
        self.bus.emit(
            ev.RunStarted(
                *(1, "paged", block_size, num_blocks, 32, 0, GEOMETRY, {}),
                num_host_blocks=self.num_host,
                group_windows=[window or 0 for window in windows],
            )
        )
        self.contents = Contents([[()] * block_size] * num_blocks, [[()] * block_size] * self.num_host)
        self.texts: dict[int, Text] = {}
        self.swapped: set[int] = set()
        self.next_id = 0

    def make(
        self, num_blocks: int, block_size: int, eviction: str | None, windows: tuple[int | None, ...]
    ) -> PagedMemory:
        policy = EVICTION_POLICIES[eviction]() if eviction else None
        return PagedMemory(num_blocks, block_size, 0.0, self.bus, windows=windows, eviction=policy, max_chunk=CHUNK)

    # -- rules -----------------------------------------------------------------------------------------------------

    @rule(beginning=st.sampled_from(BEGINNINGS), same=st.integers(0, 12), rest=st.lists(st.integers(0, 1), max_size=12))
    def allocate(self, beginning: list[int], same: int, rest: list[int]) -> None:
        tokens = [*beginning[:same], *rest] or [1]
        number, new = self.next_id, 8
        if self.memory.never_fits(len(tokens), new):
            return
        if self.memory.can_allocate(tokens, len(tokens), new, alone=True):
            assert self.texts or self.memory.num_available < self.memory.num_blocks, "in an empty pool it must fit"
            return
        self.next_id += 1
        self.bus.emit(ev.RequestQueued(number, number, "", len(tokens), new))
        kept = self.memory.allocate(number, tokens, len(tokens), new)
        self.bus.emit(ev.RequestAdmitted(number, 0))
        assert kept % self.memory.block_size == 0
        assert kept < len(tokens), "somebody has to compute the next token"
        self.texts[number] = Text(number, tokens, len(tokens), len(tokens) + new - 1, kept)

    @precondition(lambda self: self.on_device())
    @rule(data=st.data())
    def step(self, data: st.DataObject) -> None:
        """Some sequences get room first, then all moves are carried out, then all write: as in an engine's step."""
        chosen = data.draw(st.lists(st.sampled_from(self.on_device()), min_size=1, max_size=4, unique=True))
        writers: list[tuple[int, int]] = []
        for number in chosen:
            text = self.texts[number]
            if text.stored == len(text.tokens):
                if text.stored == text.final:
                    continue
                text.tokens.append(data.draw(st.integers(0, 1)))
            count = data.draw(st.integers(1, min(CHUNK, len(text.tokens) - text.stored)))
            if self.make_room(number, text.stored + count):
                writers.append((number, count))
        self.contents.carry_out(self.memory.moves)
        self.memory.moves.clear()
        for number, count in writers:
            self.write(number, count)
            self.memory.commit(number, count, Cause.DECODE)
            self.texts[number].stored += count

    def make_room(self, number: int, total: int) -> bool:
        return self.memory.try_append(number, total)

    def write(self, number: int, count: int) -> None:
        self.assert_spells(number, self.contents)
        text, size = self.texts[number], self.memory.block_size
        for group, table in enumerate(self.memory.block_tables(number)):
            for position in range(text.stored, text.stored + count):
                block = table.blocks[position // size]
                assert block >= 0
                page = self.contents.device[block] = list(self.contents.device[block])
                page[position % size] = (group, *text.tokens[: position + 1])

    @precondition(lambda self: self.texts)
    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        parent = data.draw(st.sampled_from(sorted(self.texts)))
        text = self.texts[parent]
        length = data.draw(st.one_of(st.none(), st.integers(1, max(1, text.stored))))
        wanted = text.stored if length is None else min(length, text.stored)
        tokens = [*text.tokens[:wanted], *([] if length is None else [1])]
        child = self.next_id
        self.next_id += 1
        self.bus.emit(ev.SequenceForked(text.request, parent, child, wanted, Cause.FORK))
        stored = self.memory.fork(parent, child, tokens, length)
        full = wanted - wanted % self.memory.block_size
        has_windows = any(window is not None for window in self.memory.windows)
        assert stored == (wanted if wanted == text.stored else full) or (stored == 0 and has_windows)
        assert self.memory.has(child) == (stored > 0)
        if stored:
            self.texts[child] = Text(
                text.request, tokens, min(text.prompt, wanted), max(text.final, len(tokens)), stored
            )

    @precondition(lambda self: self.texts)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.texts)))
        self.memory.free(number, Cause.REQUEST_FINISHED)
        del self.texts[number]

    # -- what always holds -----------------------------------------------------------------------------------------

    def on_device(self) -> list[int]:
        return sorted(n for n, text in self.texts.items() if text.request not in self.swapped)

    @invariant()
    def books_match(self) -> None:
        self.bus.flush()
        state, books = self.bus.page_map, self.memory.tables()
        assert_books_match(state, books)
        waste = self.memory.waste(head_waits=False)
        assert state.waste() == waste
        assert waste.token_states + waste.reserved + waste.free + waste.cached == state.num_slots
        assert books.num_tokens == {number: text.stored for number, text in self.texts.items()}
        held = {n for n in self.texts if any(b >= 0 for table in self.memory.block_tables(n) for b in table.blocks)}
        held |= {n for n in self.texts if any(table.host for table in self.memory.block_tables(n))}
        assert {s: q.num_computed_tokens for s, q in state.sequences.items()} == {
            number: self.texts[number].stored for number in held
        }

    @invariant()
    def tables_spell_the_tokens(self) -> None:
        contents = self.contents.copy()
        contents.carry_out(self.memory.moves)
        for number in self.texts:
            self.assert_spells(number, contents)

    def assert_spells(self, number: int, contents: Contents) -> None:
        text, size = self.texts[number], self.memory.block_size
        for group, (table, window) in enumerate(
            zip(self.memory.block_tables(number), self.memory.windows, strict=True)
        ):
            seen_from = 0 if window is None else max(0, text.stored - window + 1)
            for position in range(text.stored):
                index, offset = divmod(position, size)
                block = table.blocks[index]
                if block >= 0:
                    found = contents.device[block][offset]
                elif index in table.host:
                    found = contents.host[table.host[index]][offset]
                else:
                    assert position < seen_from, "a page is gone that tokens to come will see"
                    continue
                assert found == (group, *text.tokens[: position + 1])

    @invariant()
    def windows_bound_what_is_held(self) -> None:
        size = self.memory.block_size
        for number in self.on_device():
            for table, window in zip(self.memory.block_tables(number), self.memory.windows, strict=True):
                if window is not None:
                    most = -(-(window - 1 + CHUNK) // size) + 1
                    assert sum(block >= 0 for block in table.blocks) <= most

    def teardown(self) -> None:
        if not hasattr(self, "memory"):
            return
        for number in sorted(self.texts):
            self.memory.free(number, Cause.CANCELLED)
        self.texts = {}
        self.books_match()
        assert self.memory.num_available == self.memory.num_blocks, "nothing is held when all have ended"
