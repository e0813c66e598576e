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

import pytest
from transformers import AutoModelForCausalLM, LlamaConfig

from tests.models.architectures import NO_SPECIAL, SHAPE
from workbench.engine import LLM
from workbench.events import PageMap
from workbench.models import LoadedModel, load_model, prepare_model

# With as many threads as cores, another busy process makes every step ten times slower (docs/benchmarks.md).
torch.set_num_threads(1)


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
    assert {s: q.num_computed_tokens for s, q in state.sequences.items()} == books.num_tokens
    assert state.last is not None
    assert state.waste() == state.last.waste == llm.memory.waste(llm._scheduler.head_waits_for_memory)
    waste = state.waste()
    total = waste.token_states + waste.reserved + waste.external + waste.free
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
    assert {s: q.block_table for s, q in state.sequences.items()} == books.block_tables
    assert [page.ref_count for page in state.pages] == books.ref_counts
    free = {block for block, page in enumerate(state.pages) if page.ref_count == 0}
    assert free == set(books.free_blocks)
    assert len(books.free_blocks) == len(free), "a block is on the free list twice"
    references = [0] * len(state.pages)
    for table in books.block_tables.values():
        for block in table:
            references[block] += 1
    assert references == books.ref_counts
