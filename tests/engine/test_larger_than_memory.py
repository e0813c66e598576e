"""A sequence that is larger than the device's pool runs with pages on the host, read through a staging window."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig

from tests.conftest import assert_page_map_matches
from tests.engine.driving import (
    GREEDY,
    Job,
    alone,
    architecture,
    engine,
    finish,
    generate,
    random_prompts,
    run,
    sampled,
)
from tests.engine.test_relevance import true_mass
from tests.models.architectures import NO_SPECIAL, SHAPE
from workbench.engine import SamplingParams
from workbench.events import types as ev
from workbench.events.types import Cause
from workbench.memory.eviction import Key
from workbench.memory.placement import PLACEMENT_POLICIES, PlacedPage
from workbench.models import LoadedModel, prepare_model

LONG, SHORT, OTHER = random_prompts(11, [58, 9, 20])
JOB: Job = (LONG, SamplingParams(max_tokens=40, temperature=0))  # 97 slots: 25 pages
PAGES = 25


class NewestFirst:
    name = "newest"

    def key(self, page: PlacedPage) -> Key:
        return (-page.index,)


@pytest.fixture(scope="module")
def expected(llama: LoadedModel) -> list[list[int]]:
    return alone(llama, JOB)


@pytest.mark.parametrize("placement", PLACEMENT_POLICIES)
@pytest.mark.parametrize(("num_blocks", "staging"), [(2, 1), (3, 64), (7, 4), (20, 3)])
def test_the_same_greedy_tokens(
    llama: LoadedModel, expected: list[list[int]], placement: str, num_blocks: int, staging: int
) -> None:
    config = {"num_host_blocks": PAGES - num_blocks, "staging_blocks": staging, "page_mass_every": 5}
    result = run(llama, [JOB], num_blocks=num_blocks, placement=placement, **config)
    assert result.tokens == [expected]
    streamed = result.of(ev.BlocksStreamed)
    assert streamed[-1].host_pages == PAGES - num_blocks
    assert all(0 < e.pages == e.host_pages for e in streamed)
    assert all(e.bytes == e.pages * 1024 for e in streamed)
    assert result.state.totals.streamed_bytes == sum(e.bytes for e in streamed)
    moved = result.of(ev.BlocksSwappedOut)
    assert {e.cause for e in moved} == {Cause.LARGER_THAN_MEMORY}
    assert sum(len(e.pairs) for e in moved) == PAGES - num_blocks, "no page moves twice"
    assert result.state.totals.preemptions == 0
    # A chunk is as large as the pool without the page that is filled at the moment.
    assert result.steps <= -(-58 // (4 * (num_blocks - 1))) + 40


def test_what_is_sampled_is_the_same(llama: LoadedModel) -> None:
    job = (LONG, sampled(3, max_tokens=40, top_p=0.9))
    assert run(llama, [job], num_blocks=6, num_host_blocks=40).tokens == [alone(llama, job)]


@pytest.mark.parametrize("name", ["gemma2", "gemma3", "gpt_oss", "opt", "qwen3"])
def test_other_architectures(name: str) -> None:
    """Soft caps, sinks, and hybrids, of which only the layers without a window need the host."""
    original, loaded = architecture(name)
    config = {"max_model_len": 128, "max_num_batched_tokens": 8, "num_host_blocks": 40, "num_blocks": 12}
    result = run(loaded, [JOB], staging_blocks=4, **config)
    assert result.tokens == [[generate(original, LONG, 40)]]
    assert result.state.totals.streamed_bytes > 0


@pytest.mark.parametrize("name", ["mistral", "gemma3", "gpt_oss"])
@pytest.mark.parametrize("config", [{"prefix_caching": True}, {"free_behind_window": False, "placement": "newest"}])
def test_windows_that_share_their_pages_with_other_layers(name: str, config: dict[str, Any]) -> None:
    """With one table for all layers, those with a window find a part of what they see on the host."""
    original, loaded = architecture(name)
    config = {**config, "placement": NewestFirst()} if "placement" in config else config
    sizes = {"max_model_len": 128, "num_blocks": 3, "num_host_blocks": 24, "staging_blocks": 1}
    result = run(loaded, [JOB], page_mass_every=4, **sizes, **config)
    assert result.tokens == [[generate(original, LONG, 40)]]
    text = [*LONG, *result.tokens[0][0]]
    if name != "gpt_oss":  # its sinks take a part of each layer's mass
        for event in result.of(ev.PageMassSampled):
            assert event.mass == pytest.approx(true_mass(original, text[: event.query + 1], 4), abs=2e-4)


@pytest.mark.parametrize("preemption", ["recompute", "swap"])
@pytest.mark.parametrize("config", [{}, {"prefix_caching": True}, {"max_num_batched_tokens": 5}])
def test_beside_other_requests(
    llama: LoadedModel, expected: list[list[int]], preemption: str, config: dict[str, Any]
) -> None:
    """It waits until it has the device for itself, or grows until it has; the others wait for it then."""
    grows = (SHORT, SamplingParams(max_tokens=80, temperature=0))
    jobs: list[Job] = [(OTHER, sampled(1, n=2)), grows, JOB, (SHORT, GREEDY), (OTHER, sampled(4)), JOB]
    result = run(llama, jobs, num_blocks=15, num_host_blocks=20, watermark=0.0, preemption=preemption, **config)
    assert result.tokens[2] == result.tokens[5] == expected
    assert result.tokens == [alone(llama, job) for job in jobs]
    assert len({e.sequence for e in result.of(ev.BlocksStreamed)}) == 3


@pytest.mark.parametrize("steps", [1, 3, 12, 30])
def test_cancelled_midway(llama: LoadedModel, steps: int) -> None:
    llm = engine(llama, num_blocks=5, num_host_blocks=25)
    request = llm.add_request(*JOB)
    other = llm.add_request(SHORT, GREEDY)
    for _ in range(steps):
        llm.step()
    llm.cancel(request)
    llm.step()
    assert_page_map_matches(llm)
    assert not any(page.ref_count for page in llm.page_map.host_pages)
    finish(llm)
    assert llm.output(other).outputs[0].token_ids == alone(llama, (SHORT, GREEDY))[0]


def test_a_placement_policy_in_a_few_lines(llama: LoadedModel, expected: list[list[int]]) -> None:
    result = run(llama, [JOB], num_blocks=6, num_host_blocks=25, placement=NewestFirst())
    assert result.tokens == [expected]
    assert result.of(ev.BlocksSwappedOut)[0].cause is Cause.LARGER_THAN_MEMORY


def test_a_sequence_on_the_host_is_not_forked_beyond_the_pool(llama: LoadedModel) -> None:
    llm = engine(llama, num_blocks=6, num_host_blocks=25)
    request = llm.add_request(*JOB)
    for _ in range(8):
        llm.step()
    with pytest.raises(ValueError, match=r"^request=0: with 2 sequences it may need 36 blocks, the pool has 6"):
        llm.fork(request)
    finish(llm)


def test_what_is_let_in_ends_whatever_the_sizes_of_the_pools() -> None:
    """A model with two groups of full layers, and one with a window: their pages come and go in pairs."""
    shape = SHAPE | NO_SPECIAL | {"num_hidden_layers": 3, "head_dim": 16, "sliding_window": 7}
    kinds = ["sliding_attention", "full_attention", "full_attention"]
    torch.manual_seed(1)
    loaded = prepare_model(
        AutoModelForCausalLM.from_config(Gemma3TextConfig(**shape, layer_types=kinds)), None, "three"
    )
    job: Job = (LONG[:20], SamplingParams(max_tokens=14, temperature=0))  # 33 slots: twice 9 pages, and 5
    config = {"max_model_len": 128, "max_num_batched_tokens": 8}
    tokens = run(loaded, [job], **config).tokens
    assert engine(loaded, **config).memory.windows == (7, None, None)
    for num_blocks, num_host in itertools.product((8, 9, 10, 11), (12, 13, 14)):
        result = run(loaded, [job], num_blocks=num_blocks, num_host_blocks=num_host, **config)
        fits = num_blocks >= 5 + 4 and (num_blocks - 5) // 2 + num_host // 2 >= 9
        assert result.tokens == (tokens if fits else [[[]]])


@pytest.mark.parametrize(
    ("num_blocks", "num_host", "n", "message"),
    [
        (6, 18, 1, r"needs 25 blocks, both pools together have 24"),
        (24, 0, 1, r"needs 25 blocks, the pool has 24"),
        (24, 90, 2, r"needs 36 blocks, the pool has 24"),
        (1, 90, 1, r"needs 25 blocks, the pool has 1"),
    ],
)
def test_what_does_not_fit_even_so_is_rejected(
    llama: LoadedModel, num_blocks: int, num_host: int, n: int, message: str
) -> None:
    llm = engine(llama, num_blocks=num_blocks, num_host_blocks=num_host)
    request = llm.add_request(LONG, SamplingParams(max_tokens=40, n=n))
    assert not llm.has_unfinished
    error = llm.output(request).error
    assert error is not None
    assert message in error
