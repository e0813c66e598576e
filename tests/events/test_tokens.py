"""The text of each token in memory, and the orders in which pages will be taken."""

from __future__ import annotations

import itertools

import pytest

from workbench import LLM, EngineConfig, SamplingParams
from workbench.events.tokens import sequence_tokens
from workbench.models import LoadedModel

PROMPT = "Der alte König saß am Fenster — «Œuvre» 日本, and"


@pytest.mark.parametrize("width", [1, 3])
def test_tokens_in_memory_join_to_the_text(tiny: LoadedModel, width: int) -> None:
    with LLM(tiny, EngineConfig(num_blocks=64, block_size=4, max_num_batched_tokens=8)) as llm:
        llm.add_request(PROMPT, SamplingParams(max_tokens=20, n=width, seed=3, ignore_eos=True))
        prompt_tokens = len(tiny.tokenizer.encode(PROMPT))
        while llm.has_unfinished:
            llm.step()
            state = llm.page_map
            for number, held in state.sequences.items():
                pieces = sequence_tokens(state, number)
                text = PROMPT + state.requests[0].outputs[number].text
                assert len(pieces) == held.num_computed_tokens
                assert text.startswith("".join(pieces))
                if len(pieces) > prompt_tokens:
                    assert "".join(pieces[:prompt_tokens]) == PROMPT
        (request,) = llm.page_map.requests.values()
        for output in request.outputs.values():
            assert len(output.ends) == len(output.token_ids) == 20
            assert all(a <= b for a, b in itertools.pairwise(output.ends))


def test_tokens_of_a_prompt_of_ids_have_no_text(tiny: LoadedModel) -> None:
    with LLM(tiny, EngineConfig(num_blocks=16)) as llm:
        llm.add_request([5, 6, 7, 8], SamplingParams(max_tokens=4, ignore_eos=True, temperature=0))
        llm.step()
        llm.step()
        (sequence,) = llm.page_map.sequences
        pieces = sequence_tokens(llm.page_map, sequence)
        assert pieces[:4] == [""] * 4
        assert len(pieces) == 5
        with pytest.raises(KeyError):
            sequence_tokens(llm.page_map, 99)


@pytest.mark.parametrize("eviction", ["lru", "lfu", "fifo"])
def test_orders_are_those_of_the_pool(tiny: LoadedModel, eviction: str) -> None:
    config = EngineConfig(num_blocks=24, block_size=4, prefix_caching=True, eviction=eviction)
    known = 0
    with LLM(tiny, config) as llm:
        for text in ("One two three four five", "One two three four six", "A fox", PROMPT, "One two three four five"):
            llm.add_request(text, SamplingParams(max_tokens=12, seed=1, ignore_eos=True))
        while llm.has_unfinished:
            llm.step()
            books, state = llm.memory.tables(), llm.page_map
            assert state.free_list() == books.free_blocks
            order = state.eviction_order()
            assert order is None if eviction == "fifo" else order == books.cached_blocks
            known += len(books.cached_blocks)
    assert known > 0
