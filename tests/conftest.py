"""Shared helpers: small random models, and the comparison of the engine's books with the reducer's state."""

from __future__ import annotations

import os

import torch

if not torch.cuda.is_available():
    # Triton chooses its interpreter when it is imported, and transformers imports it: before everything below.
    os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import itertools
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, LlamaConfig

from tests.models.architectures import NO_SPECIAL, SHAPE
from workbench.engine import LLM
from workbench.events import PageMap
from workbench.memory import MemoryTables
from workbench.models import LoadedModel, load_model, prepare_model

# With as many threads as cores, another busy process makes every step ten times slower (docs/benchmarks.md).
torch.set_num_threads(1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests run in one worker; those that drive a browser all in the same one.

    Two browsers with two apps at once leave too little of two cores for either.
    """
    from xdist.scheduler import LoadFileScheduling

    class OneBrowser(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "tests/browser" if file.startswith("tests/browser/") else file

    return OneBrowser(config, log)


def random_llama() -> LoadedModel:
    """A random two-layer Llama with a vocabulary of 97 and no tokenizer."""
    torch.manual_seed(0)
    config = LlamaConfig(**(SHAPE | NO_SPECIAL | {"max_position_embeddings": 256}))
    return prepare_model(AutoModelForCausalLM.from_config(config), None, "random-llama")


@pytest.fixture(scope="session")
def llama() -> LoadedModel:
    return random_llama()


@pytest.fixture(scope="session")
def tiny() -> LoadedModel:
    """The bundled model."""
    return load_model("tiny", device="cpu")


def assert_page_map_matches(llm: LLM, page_map: PageMap | None = None) -> None:
    """The reducer's state says what the engine's books say, and both obey conservation."""
    state = page_map or llm.page_map
    books = llm.memory.tables()
    # A sequence that has been let in but has no page yet is not known to the reducer.
    stored = {s: n for s, n in books.num_tokens.items() if n or s in state.sequences}
    assert {s: q.num_computed_tokens for s, q in state.sequences.items()} == stored
    assert state.last is not None
    assert state.waste() == state.last.waste == llm.memory.waste(llm._scheduler.queues.head_waits_for_memory)
    waste = state.waste()
    total = waste.token_states + waste.reserved + waste.external + waste.free + waste.cached
    assert total == state.num_slots
    assert min(waste.token_states, waste.reserved, waste.external, waste.free) >= 0
    assert [s.request for s in llm._scheduler.running] == state.running
    assert [s.request for s in llm._scheduler.waiting] == state.waiting
    if not state.is_paged:
        regions = {
            s: (q.region.start, q.region.size, q.region.requested) for s, q in state.sequences.items() if q.region
        }
        assert regions == books.regions
        spans = sorted((start, start + size) for start, size, _ in regions.values())
        assert all(stop <= start for (_, stop), (start, _) in itertools.pairwise(spans))
        return
    assert_books_match(state, books)


def _without_empty(tables: list[tuple[list[int], dict[int, int]]]) -> dict[int, tuple[list[int], dict[int, int]]]:
    """Tables by layer group, without those that have never had a page."""
    return {group: table for group, table in enumerate(tables) if table[0] or table[1]}


def assert_books_match(state: PageMap, books: MemoryTables) -> None:
    """Tables, reference counts and free lists of both tiers, and conservation."""
    told = {s: _without_empty([(t.blocks, t.host) for t in q.tables]) for s, q in state.sequences.items()}
    known = {s: _without_empty(tables) for s, tables in books.block_tables.items()}
    assert told == {s: tables for s, tables in known.items() if tables}
    for tier, pages, counts, free in (
        ("device", state.pages, books.ref_counts, books.free_blocks),
        ("host", state.host_pages, books.host_ref_counts, books.free_host_blocks),
    ):
        assert [page.ref_count for page in pages] == counts, tier
        assert {b for b, page in enumerate(pages) if page.ref_count == 0 and not page.is_cached} == set(free), tier
        assert len(set(free)) == len(free), f"a {tier} block is on the free list twice"
        references = [0] * len(pages)
        for tables in books.block_tables.values():
            for blocks, host in tables:
                for block in (b for b in blocks if b >= 0) if tier == "device" else host.values():
                    references[block] += 1
        assert references == counts, tier
    assert state.free_list() == books.free_blocks
    cached = {b for b, page in enumerate(state.pages) if page.is_cached}
    assert cached == set(books.cached_blocks)
    order = state.eviction_order()
    assert order is None or order == books.cached_blocks
    allocated = sum(count > 0 for count in books.ref_counts)
    assert len(books.free_blocks) + len(books.cached_blocks) + allocated == len(state.pages)
