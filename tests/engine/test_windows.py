"""Sliding windows: pages behind them are freed, hybrids have a block table for each kind of layer; same tokens."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from tests.conftest import assert_page_map_matches
from tests.engine.driving import (
    GREEDY,
    Job,
    Run,
    architecture,
    engine,
    finish,
    generate,
    random_prompts,
    run,
    sampled,
)
from tests.engine.test_swapping import assert_settled
from workbench.engine import LLM, SamplingParams
from workbench.events import types as ev
from workbench.events.types import Cause
from workbench.models import LoadedModel

NAMES = ["mistral", "gemma2", "gemma3", "gpt_oss"]
WINDOW = 7
LONG, MIDDLE, SHORT = random_prompts(21, [47, 30, 5])
#: The first one grows beside the prompts of the others.
HARD: list[Job] = [
    (SHORT[:4], SamplingParams(max_tokens=60, temperature=0)),
    (LONG, GREEDY),
    (LONG, sampled(1)),
]
BASE: dict[str, Any] = {"max_model_len": 128, "max_num_batched_tokens": 8}


@functools.cache
def model(name: str) -> tuple[Any, LoadedModel]:
    return architecture(name)


def jobs() -> list[Job]:
    return [
        (LONG, SamplingParams(max_tokens=24, temperature=0)),
        (MIDDLE, sampled(3, n=3, max_tokens=18)),
        (SHORT, SamplingParams(max_tokens=30, temperature=0)),
        (MIDDLE[:20], SamplingParams(max_tokens=12, temperature=0, beam_width=3, n=2)),
    ]


@functools.cache
def expected(name: str) -> list[list[list[int]]]:
    """Each alone, with one table for all layers and nothing freed."""
    _, loaded = model(name)
    found = [run(loaded, [job], max_model_len=128, free_behind_window=False).tokens[0] for job in jobs()]
    original, _ = model(name)
    assert found[0] == [generate(original, LONG, 24)]
    assert found[2] == [generate(original, SHORT, 30)]
    return found


def most_held(llm: LLM, group: int) -> int:
    """The most device pages that a sequence holds in a layer group."""
    tables = [q.tables[group] for q in llm.page_map.sequences.values() if len(q.tables) > group]
    return max((sum(block >= 0 for block in table.blocks) for table in tables), default=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("block_size", [1, 4, 16])
def test_pages_behind_the_window_are_freed(name: str, block_size: int) -> None:
    original, loaded = model(name)
    llm = engine(loaded, block_size=block_size, **BASE)
    assert sorted(llm.memory.windows, key=str) == ([WINDOW] if name == "mistral" else [WINDOW, None])
    group = llm.memory.windows.index(WINDOW)
    ids = [llm.add_request(p, SamplingParams(max_tokens=24, temperature=0)) for p in (LONG, SHORT)]
    # A token sees itself and 6 before it; a chunk has 8 tokens: 14 slots, and one page more for where they begin.
    most = -(-14 // block_size) + 1
    freed = 0
    while llm.has_unfinished:
        events = llm.step().events
        assert_page_map_matches(llm)
        assert most_held(llm, group) <= most
        released = [e for e in events if isinstance(e, ev.BlockReleased) and e.cause is Cause.OUT_OF_WINDOW]
        assert {e.group for e in released} <= {group}
        freed += len(released)
    assert freed >= (47 + 24 - 14) // block_size
    assert [llm.output(i).outputs[0].token_ids for i in ids] == [generate(original, p, 24) for p in (LONG, SHORT)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("pool", "config"),
    [
        (200, {}),
        (200, {"max_num_batched_tokens": 64}),
        (0, {"watermark": 0.0}),
        (0, {"watermark": 0.0, "preemption": "swap", "num_host_blocks": 120}),
        (0, {"watermark": 0.0, "preemption": "swap", "num_host_blocks": 14, "victim": "fewest_blocks"}),
    ],
)
def test_samples_beams_and_swapping(name: str, pool: int, config: dict[str, Any]) -> None:
    """In the smallest pool that lets the largest request run, too: preempted samples find each other again."""
    _, loaded = model(name)
    smallest = 15 if name == "mistral" else 37
    result = run(loaded, jobs(), num_blocks=pool or smallest, **(BASE | config))
    assert result.tokens == expected(name)
    if not pool:
        assert result.state.totals.preemptions > 0
        assert (result.state.totals.swapped_out_bytes > 0) == ("preemption" in config)
        assert_settled(result)
    assert result.of(ev.BlockShared)
    assert {e.group for e in result.of(ev.BlockCopied)} == set(range(1 if name == "mistral" else 2))


@pytest.mark.parametrize("name", ["mistral", "gemma3"])
@pytest.mark.parametrize("preemption", ["recompute", "swap"])
@pytest.mark.parametrize("steps", [0, 4, 9, 20, 26])
def test_forks(name: str, preemption: str, steps: int) -> None:
    _, loaded = model(name)
    llm = engine(
        loaded,
        **BASE,
        num_blocks=12 if name == "mistral" else 40,
        num_host_blocks=60,
        preemption=preemption,
        watermark=0.0,
    )
    first = llm.add_request(LONG, SamplingParams(max_tokens=24, temperature=0))
    second = llm.add_request(MIDDLE, SamplingParams(max_tokens=24, temperature=0))
    for _ in range(steps):
        llm.step()
    llm.fork(second)
    llm.fork(first)
    finish(llm)
    for request, prompt in ((first, LONG), (second, MIDDLE)):
        original, _ = model(name)
        assert [o.token_ids for o in llm.output(request).outputs] == [generate(original, prompt, 24)] * 2


@pytest.mark.parametrize("name", ["mistral", "gemma3"])
@pytest.mark.parametrize("config", [{"free_behind_window": False}, {"prefix_caching": True}])
def test_one_table_for_all_where_nothing_is_freed(name: str, config: dict[str, Any]) -> None:
    _, loaded = model(name)
    result = run(loaded, jobs(), **(BASE | config))
    assert result.tokens == expected(name)
    assert result.state.run is not None
    assert result.state.run.group_windows == ([0])
    assert not [e for e in result.of(ev.BlockReleased) if e.cause is Cause.OUT_OF_WINDOW]
    assert {e.group for e in result.of(ev.BlockAllocated)} == {0}


def test_a_hybrid_holds_fewer_bytes(llama: LoadedModel) -> None:
    """Half of gemma3's layers have the window: a page has half the bytes, and only one kind keeps all of them."""
    _, loaded = model("gemma3")

    def peak(**config: Any) -> int:
        llm = engine(loaded, **BASE, **config)
        llm.add_request(LONG, SamplingParams(max_tokens=30, temperature=0))
        most = 0
        while llm.has_unfinished:
            llm.step()
            assert llm.page_map.run is not None
            used = sum(page.ref_count > 0 for page in llm.page_map.pages)
            most = max(most, used * llm.page_map.run.bytes_per_block)
        return most

    assert peak() < 0.7 * peak(free_behind_window=False)
    assert engine(llama).memory.windows == (None,)


@pytest.mark.parametrize("preemption", ["recompute", "swap"])
def test_samples_that_span_many_windows_are_let_in_again(preemption: str) -> None:
    """They never hold more than a few pages each in the layers with a window: that is what they need."""
    _, loaded = model("gemma3")
    jobs_ = [([3], SamplingParams(max_tokens=80, temperature=0)), (SHORT, sampled(2, n=3, max_tokens=60))]
    result = run(loaded, jobs_, **BASE, num_blocks=61, num_host_blocks=90, preemption=preemption, watermark=0.0)
    lost = [e.blocks_released for e in result.of(ev.RequestPreempted)]
    assert lost
    assert max(lost) > 40
    for job, tokens in zip(jobs_, result.tokens, strict=True):
        assert run(loaded, [job], max_model_len=128, free_behind_window=False).tokens == [tokens]


@pytest.mark.parametrize("num_blocks", [5, 6, 7, 8])
def test_swapped_within_a_long_prompt(num_blocks: int) -> None:
    """The rest of the prompt is many times what a window holds: it needs only the next chunk's pages to come back."""
    _, loaded = model("mistral")
    result = run(loaded, HARD, **BASE, num_blocks=num_blocks, num_host_blocks=20, preemption="swap", watermark=0.0)
    assert result.tokens == [run(loaded, [job], max_model_len=128).tokens[0] for job in HARD]
    if num_blocks == 6:
        assert result.state.totals.swapped_out_bytes > 0


def test_lost_tokens_behind_the_window_count() -> None:
    """What was freed has to be computed again, too, when a request is preempted."""
    _, loaded = model("mistral")
    result: Run = run(loaded, HARD, **BASE, num_blocks=6, watermark=0.0)
    preempted = result.of(ev.RequestPreempted)
    assert max(e.tokens_lost for e in preempted) > 5 * 4, "more than it held at that time"
    resumed = {e.request: e for e in result.of(ev.RequestResumed)}
    stored: dict[int, int] = {}
    for event in result.events:
        if isinstance(event, ev.SlotsWritten):
            stored[event.sequence] = stored.get(event.sequence, 0) + event.count
        elif isinstance(event, ev.RequestPreempted):
            assert event.tokens_lost == stored.pop(event.request)
    assert all(event.tokens_to_recompute > 0 for event in resumed.values())
