"""Pages that hold the beginning of a text are found again: the same tokens, less to compute."""

from __future__ import annotations

import pytest

from tests.engine.driving import GREEDY, Job, alone, engine, finish, random_prompts, run, sampled
from workbench.engine import SamplingParams
from workbench.events import types as ev
from workbench.events.types import Cause
from workbench.memory.eviction import EVICTION_POLICIES, CachedPage, Key
from workbench.models import LoadedModel

SYSTEM, OTHER, *TAILS = random_prompts(2, [21, 18, 3, 9, 1, 14, 6, 11])
#: Requests that begin alike, in turns.
JOBS: list[Job] = [
    ([*(SYSTEM if i % 3 else OTHER), *tail], sampled(i, max_tokens=9) if i % 2 else SamplingParams(9, temperature=0))
    for i, tail in enumerate(TAILS)
]


@pytest.fixture(scope="module")
def expected(llama: LoadedModel) -> list[list[list[int]]]:
    return [alone(llama, job) for job in JOBS]


@pytest.mark.parametrize("eviction", EVICTION_POLICIES)
@pytest.mark.parametrize("num_blocks", [13, 20, 300])
def test_the_same_tokens(llama: LoadedModel, expected: list[list[list[int]]], eviction: str, num_blocks: int) -> None:
    """Twice in a row, so that there is something to be found, and little room, so that it has to give way."""
    jobs = [*JOBS, *JOBS]
    result = run(
        llama, jobs, prefix_caching=True, eviction=eviction, num_blocks=num_blocks, watermark=0.0, max_num_seqs=3
    )
    assert result.tokens == [*expected, *expected]
    totals = result.state.totals
    hits, evicted = result.of(ev.PrefixHit), result.of(ev.BlockEvicted)
    assert totals.prefix_hit_tokens == 4 * len(hits) > 0
    assert totals.evictions == len(evicted)
    assert (totals.evictions > 0) == (num_blocks < 300)
    assert {e.policy for e in evicted} <= {eviction}
    computed = sum(e.count for e in result.of(ev.SlotsWritten))
    everything = sum(len(prompt) + 9 - 1 for prompt, _ in jobs)
    lost = sum(e.tokens_lost for e in result.of(ev.RequestPreempted))
    assert computed + totals.prefix_hit_tokens == everything + lost


def test_what_is_found_need_not_be_computed(llama: LoadedModel) -> None:
    llm = engine(llama, prefix_caching=True)
    prompt = [*SYSTEM, *TAILS[0]]  # 24 tokens: 5 pages can be found, and somebody has to compute the last token
    first = llm.generate(prompt, GREEDY)[0].outputs[0].token_ids
    assert llm.page_map.waste().cached == (24 + 19) // 4 * 4
    llm.add_request(prompt, GREEDY)
    events = llm.step().events
    hits = [e for e in events if isinstance(e, ev.PrefixHit)]
    assert [e.logical_index for e in hits] == [0, 1, 2, 3, 4]
    assert {e.ref_count for e in hits} == {1}
    assert [e.prefill_tokens for e in events if isinstance(e, ev.StepFinished)] == [4]
    third = llm.add_request(prompt, GREEDY)
    hits = [e for e in llm.step().events if isinstance(e, ev.PrefixHit)]
    assert {e.ref_count for e in hits} == {2}, "the second request is using them"
    assert llm.page_map.sharing() == (7 + 6, 8)
    finish(llm)
    assert llm.output(third).outputs[0].token_ids == llm.output(1).outputs[0].token_ids == first


def test_without_it_nothing_is_kept(llama: LoadedModel) -> None:
    llm = engine(llama)
    llm.generate([SYSTEM, SYSTEM], GREEDY)
    assert llm.page_map.totals.prefix_hit_tokens == 0
    assert llm.page_map.waste().free == llm.page_map.num_slots


def test_a_found_page_is_never_written_to(llama: LoadedModel) -> None:
    """A prompt that is one page of another's, to the token: the last token's page is computed anew, not changed."""
    llm = engine(llama, prefix_caching=True)
    llm.generate(SYSTEM[:12], GREEDY)
    for length in (8, 12, 13):
        assert (
            llm.generate(SYSTEM[:length], GREEDY)[0].outputs[0].token_ids == alone(llama, (SYSTEM[:length], GREEDY))[0]
        )


@pytest.mark.parametrize(("eviction", "victims"), [("lru", {0, 1, 2}), ("leaf_first", {3, 4, 5})])
def test_leaf_first_keeps_the_beginning_of_a_chain(llama: LoadedModel, eviction: str, victims: set[int]) -> None:
    """A text of 6 pages, whose beginning was used longest ago: LRU cuts it there, leaf first takes its end."""
    llm = engine(llama, prefix_caching=True, eviction=eviction, num_blocks=9, watermark=0.0)
    llm.generate(OTHER[:12], SamplingParams(1, temperature=0))
    llm.add_request([*OTHER[:12], *SYSTEM[:12]], SamplingParams(1, temperature=0))
    llm.step()
    # LRU's order: a sequence gives up its last page first, so make the beginning the least recently used by hand.
    cache = llm.memory._cache  # type: ignore[attr-defined]
    depths = {}
    for age, page in enumerate(sorted(cache._by_block.values(), key=lambda page: page.depth)):
        depths[page.block], page.last_used = page.depth, age
        cache._push(page)
    events: list[ev.AnyEvent] = []
    llm.add_request(TAILS[3] * 2, SamplingParams(1, temperature=0))
    events += llm.step().events
    evicted = [e for e in events if isinstance(e, ev.BlockEvicted)]
    order = [depths[e.block] for e in evicted]
    assert len(order) == 4
    assert set(order[:3]) == victims
    assert {e.cause for e in evicted} == {Cause.PREFIX_EVICTION}


def test_a_policy_in_a_few_lines(llama: LoadedModel, expected: list[list[list[int]]]) -> None:
    class Deepest:
        name = "deepest"

        def key(self, page: CachedPage) -> Key:
            return (-page.depth,)

    result = run(llama, JOBS, prefix_caching=True, eviction=Deepest(), num_blocks=13, watermark=0.0)
    assert result.tokens == expected
    assert {e.policy for e in result.of(ev.BlockEvicted)} == {"deepest"}
    assert result.state.run is not None
    assert result.state.run.config["eviction"] == "deepest"


def test_a_preempted_request_finds_its_pages_again(llama: LoadedModel) -> None:
    jobs = [(SYSTEM, SamplingParams(20, temperature=0)), (OTHER, sampled(1))]
    tokens = [alone(llama, job) for job in jobs]
    result = run(llama, jobs, prefix_caching=True, num_blocks=15, watermark=0.0)
    assert result.tokens == tokens
    preempted, resumed = result.of(ev.RequestPreempted), result.of(ev.RequestResumed)
    assert len(preempted) == len(resumed) > 0
    assert sum(e.tokens_kept for e in resumed) > 0
    for lost, back in zip(preempted, resumed, strict=True):
        assert back.tokens_to_recompute + back.tokens_kept == lost.tokens_lost
    again = sum(e.count for e in result.of(ev.SlotsWritten) if e.cause is Cause.RECOMPUTE)
    assert again >= sum(e.tokens_to_recompute for e in resumed) == result.state.totals.recomputed_tokens


def test_what_is_found_as_a_whole_is_settled_at_once(llama: LoadedModel) -> None:
    """A second request with the same 20 tokens is preempted when it has just computed the last of them."""
    llm = engine(llama, prefix_caching=True, num_blocks=7, watermark=0.0)
    events: list[ev.AnyEvent] = []
    for _ in range(2):
        llm.add_request(SYSTEM[:20], SamplingParams(4, temperature=0))
        events += [*llm.step().events, *llm.step().events]
    finish(llm, events)
    assert [e.tokens_lost for e in events if isinstance(e, ev.RequestPreempted)] == [20]
    settled = [e for e in events if isinstance(e, ev.PreemptionSettled)]
    assert [(e.request, e.tokens_recomputed, e.bytes_moved) for e in settled] == [(1, 0, 0)]
    assert llm.output(0).outputs[0].token_ids == llm.output(1).outputs[0].token_ids


def test_samples_and_beams_find_prefixes(llama: LoadedModel) -> None:
    jobs: list[Job] = [
        (SYSTEM, sampled(0, n=3)),
        ([*SYSTEM, 5], SamplingParams(12, temperature=0, beam_width=3, n=2)),
        ([*SYSTEM[:16], 7, 8], sampled(9, n=2)),
    ]
    llm = engine(llama, prefix_caching=True, num_blocks=60)
    for job in (*jobs, *jobs):
        assert [o.token_ids for o in llm.generate(*job)[0].outputs] == alone(llama, job)
    finish(llm)
    assert llm.page_map.totals.prefix_hit_tokens >= 4 * (5 + 4 + 5 + 5 + 4)
