"""Preemption by swapping, by computing again, or whichever is expected to be faster: same tokens, all or nothing."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.conftest import assert_page_map_matches
from tests.engine.driving import Job, Run, alone, engine, finish, random_prompts, run, sampled
from workbench.engine import EngineConfig, SamplingParams
from workbench.engine.preemption import VICTIM_POLICIES, Candidate
from workbench.events import types as ev
from workbench.events.types import Cause, PreemptionMode, Tier
from workbench.memory.eviction import Key
from workbench.memory.protocol import Footprint
from workbench.models import LoadedModel

P = random_prompts(7, [9, 17, 30, 5, 22, 13])
JOBS: list[Job] = [
    (P[0], sampled(1, n=3, max_tokens=14)),
    (P[1], SamplingParams(max_tokens=24, temperature=0)),
    (P[2], SamplingParams(max_tokens=10, temperature=0, beam_width=3, n=2)),
    (P[3], sampled(5, max_tokens=30)),
    (P[4], sampled(6, n=2, top_k=20, max_tokens=12)),
    (P[5], SamplingParams(max_tokens=9, temperature=0)),
]
TIGHT: dict[str, Any] = {"num_blocks": 28, "watermark": 0.0, "max_num_batched_tokens": 40}


@pytest.fixture(scope="module")
def expected(llama: LoadedModel) -> list[list[list[int]]]:
    return [alone(llama, job) for job in JOBS]


def assert_settled(result: Run) -> None:
    """After a request is resumed, it settles what that took before it ends, or is preempted again before it could.

    What its sequences have in common is computed again once.
    """
    open_: dict[int, PreemptionMode] = {}
    lost: dict[int, int] = {}
    settled = 0
    for event in result.events:
        if isinstance(event, ev.RequestResumed):
            assert event.request not in open_
            open_[event.request] = event.mode
        elif isinstance(event, ev.RequestPreempted):
            open_.pop(event.request, None)
            lost[event.request] = max(event.tokens_lost, lost.get(event.request, 0))
        elif isinstance(event, ev.PreemptionSettled):
            assert open_.pop(event.request) is event.mode
            # Each of three sequences has its newest token computed with it, and a last page of its own now.
            assert event.tokens_recomputed <= lost.pop(event.request) + 3 * 4
            assert (event.measured_ns > 0) == (event.tokens_recomputed + event.bytes_moved > 0)
            assert (event.tokens_recomputed == 0) or event.mode is PreemptionMode.RECOMPUTE
            assert (event.bytes_moved > 0) == (event.mode is PreemptionMode.SWAP)
            settled += 1
        elif isinstance(event, ev.RequestFinished):
            assert event.request not in open_, "it ended and never settled"
    assert settled > 0


@pytest.mark.parametrize("victim", VICTIM_POLICIES)
@pytest.mark.parametrize(
    ("preemption", "num_host", "more"),
    [
        ("recompute", 0, {}),
        ("swap", 60, {}),
        ("swap", 9, {}),
        ("adaptive", 60, {"transfer_bandwidth": 1e6, "prefill_speed": 1800.0}),
        ("swap", 60, {"prefix_caching": True}),
    ],
)
def test_the_same_tokens(
    llama: LoadedModel,
    expected: list[list[list[int]]],
    preemption: str,
    num_host: int,
    victim: str,
    more: dict[str, object],
) -> None:
    result = run(llama, JOBS, preemption=preemption, num_host_blocks=num_host, victim=victim, **TIGHT, **more)
    assert result.tokens == expected
    preempted = result.of(ev.RequestPreempted)
    assert {e.policy for e in preempted} == {victim}
    totals = result.state.totals
    assert totals.preemptions == len(preempted) >= 2
    assert totals.swapped_out_bytes == totals.swapped_in_bytes
    assert (totals.swapped_out_bytes > 0) == (preemption != "recompute")
    if preemption == "adaptive":
        assert len({e.mode for e in preempted}) == 2, "half empty pages are dearer to move than to compute"
    assert_settled(result)


def test_all_sequences_of_a_request_move_together(llama: LoadedModel) -> None:
    llm = engine(llama, preemption="swap", num_host_blocks=40, num_blocks=20, watermark=0.0)
    llm.add_request(P[1], SamplingParams(max_tokens=30, temperature=0))
    llm.add_request(P[0], sampled(1, n=3, max_tokens=20))
    out: list[ev.BlocksSwappedOut] = []
    while llm.has_unfinished and not out:
        before = llm.page_map.copy()
        out = [e for e in llm.step().events if isinstance(e, ev.BlocksSwappedOut)]
    tables = [q.block_table for q in before.sequences.values() if q.request == 1]
    used = {
        b for table, q in zip(tables, before.sequences.values(), strict=False) for b in table if before.pages[b].filled
    }
    assert len(tables) == 3
    assert len(out) == 1, "one event for all of them"
    assert {device for device, _ in out[0].pairs} == used
    assert out[0].bytes == len(out[0].pairs) * 1024
    state = llm.page_map
    mine = [q for q in state.sequences.values() if q.request == 1]
    assert len(mine) == 3
    assert all(q.is_swapped for q in mine)
    assert sum(page.ref_count for page in state.host_pages) == sum(len(t) for t in tables), "shared pages stay shared"
    assert state.requests[1].status == "swapped"
    finish(llm)


def test_a_full_host_tier_falls_back_to_computing_again(llama: LoadedModel, expected: list[list[list[int]]]) -> None:
    result = run(llama, JOBS, preemption="swap", num_host_blocks=6, **TIGHT)
    assert result.tokens == expected
    fell_back = [e for e in result.of(ev.RequestPreempted) if e.mode is PreemptionMode.RECOMPUTE]
    assert fell_back
    for event in fell_back:
        assert event.why.startswith("it can't be swapped out: needs ")
        assert event.why.endswith("are free")
        assert event.estimate is not None
        assert event.estimate.swap_ns == -1
        assert event.tokens_lost > 0
    swapped = [e for e in result.of(ev.RequestPreempted) if e.mode is PreemptionMode.SWAP]
    assert all(e.tokens_lost == 0 for e in swapped)


def test_without_a_host_tier_swapping_falls_back(llama: LoadedModel, expected: list[list[list[int]]]) -> None:
    result = run(llama, JOBS, preemption="swap", **TIGHT)
    assert result.tokens == expected
    assert {e.mode for e in result.of(ev.RequestPreempted)} == {PreemptionMode.RECOMPUTE}


@pytest.mark.parametrize("speed", [1e9, 100.0])
def test_adaptive_chooses_what_it_computes(llama: LoadedModel, expected: list[list[list[int]]], speed: float) -> None:
    """A page of 4 tokens has 1024 bytes: at a megabyte per second, there and back, they take 2 ms."""
    config = {"preemption": "adaptive", "transfer_bandwidth": 1e6, "prefill_speed": speed}
    result = run(llama, JOBS, num_host_blocks=60, **config, **TIGHT)
    assert result.tokens == expected
    preempted = result.of(ev.RequestPreempted)
    for event in preempted:
        estimate = event.estimate
        assert estimate is not None
        assert estimate.bytes % 1024 == 0
        assert estimate.bytes >= 256 * estimate.tokens
        assert estimate.swap_ns == 2 * estimate.bytes * 1000
        assert estimate.recompute_ns == pytest.approx(estimate.tokens * 1e9 / speed, abs=1)
        is_swap = estimate.swap_ns <= estimate.recompute_ns
        assert event.mode is (PreemptionMode.SWAP if is_swap else PreemptionMode.RECOMPUTE)
        assert event.why.startswith("swapping is expected" if is_swap else "recomputing is expected")
    assert {e.mode for e in preempted} == {PreemptionMode.RECOMPUTE if speed == 1e9 else PreemptionMode.SWAP}
    assert_settled(result)
    by_request = {e.request: e.estimate for e in preempted}
    for event in result.of(ev.PreemptionSettled):
        estimate = by_request[event.request]
        assert estimate is not None
        assert event.estimated_ns in (estimate.swap_ns, estimate.recompute_ns) or len(preempted) > len(by_request)


def test_adaptive_measures_what_it_is_not_given(llama: LoadedModel, expected: list[list[list[int]]]) -> None:
    result = run(llama, JOBS, preemption="adaptive", num_host_blocks=60, **TIGHT)
    assert result.tokens == expected
    for event in result.of(ev.RequestPreempted):
        assert event.estimate is not None
        assert event.estimate.swap_ns > 0
        assert event.estimate.recompute_ns > 0
    assert_settled(result)


def test_tokens_that_others_keep_do_not_count(llama: LoadedModel) -> None:
    """Two requests with the same 20 tokens in front: the victim would find those again."""
    jobs = [([*P[4], i], SamplingParams(max_tokens=30, temperature=0)) for i in (1, 2)]
    config = {"prefix_caching": True, "num_blocks": 18, "watermark": 0.0, "max_num_batched_tokens": 23}
    result = run(
        llama,
        jobs,
        preemption="adaptive",
        transfer_bandwidth=1e6,
        prefill_speed=1e9,
        num_host_blocks=30,
        **config,
    )
    first = result.of(ev.RequestPreempted)[0]
    assert first.estimate is not None
    assert first.estimate.tokens_kept == 20
    assert first.tokens_lost == first.estimate.tokens + 20
    resumed = result.of(ev.RequestResumed)[0]
    assert resumed.tokens_kept >= 20
    assert result.tokens == [alone(llama, job) for job in jobs]


def test_cancelled_in_the_host_tier(llama: LoadedModel) -> None:
    llm = engine(llama, preemption="swap", num_host_blocks=40, num_blocks=20, watermark=0.0)
    llm.add_request(P[1], SamplingParams(max_tokens=30, temperature=0))
    request = llm.add_request(P[0], sampled(1, n=3, max_tokens=20))
    while llm.page_map.requests == {} or llm.page_map.requests[request].status != "swapped":
        llm.step()
    llm.cancel(request)
    events = llm.step().events
    assert_page_map_matches(llm)
    released = [e for e in events if isinstance(e, ev.BlockReleased) and e.tier is Tier.HOST]
    assert {e.cause for e in released} == {Cause.CANCELLED}
    assert len([e for e in events if isinstance(e, ev.BlockFreed) and e.tier is Tier.HOST]) > 0
    assert not any(page.ref_count for page in llm.page_map.host_pages)
    finish(llm)


def test_a_larger_request_takes_the_host_pages_of_a_swapped_one(llama: LoadedModel) -> None:
    """The oldest has 45 tokens to store in 10 + 4 pages; what was swapped out in between is thrown away."""
    jobs = [(P[3], SamplingParams(max_tokens=48, temperature=0)), (P[0], SamplingParams(max_tokens=20, temperature=0))]
    result = run(llama, jobs, preemption="swap", num_host_blocks=5, num_blocks=9, watermark=0.0)
    modes = [(e.request, e.mode, e.cause) for e in result.of(ev.RequestPreempted)]
    assert (1, PreemptionMode.SWAP, Cause.POOL_EXHAUSTED) in modes
    assert (1, PreemptionMode.RECOMPUTE, Cause.HOST_FULL) in modes
    assert result.of(ev.BlocksStreamed)
    assert result.tokens == [alone(llama, job) for job in jobs]
    assert result.state.requests[1].preemptions == result.state.totals.preemptions


@pytest.mark.parametrize("victim", VICTIM_POLICIES)
@pytest.mark.parametrize("preemption", ["recompute", "swap"])
def test_nothing_starves(llama: LoadedModel, victim: str, preemption: str) -> None:
    """Short requests arrive all the time beside long ones, in a tiny pool. Whoever is the oldest is done soon."""
    rng = random.Random(5)
    llm = engine(
        llama,
        num_blocks=13,
        num_host_blocks=16,
        watermark=0.0,
        victim=victim,
        preemption=preemption,
        max_num_seqs=6,
        max_num_batched_tokens=16,
    )
    oldest_since: dict[int, int] = {}
    for step in range(260):
        if step < 160:
            if step % 12 == 0:
                llm.add_request(P[4], sampled(step, max_tokens=26))
            if step % 12 == 6:
                llm.add_request(P[3], sampled(step, n=2, max_tokens=12))
            if step % 3 == 0:
                llm.add_request([rng.randrange(97)] * rng.randint(1, 8), sampled(step, max_tokens=rng.randint(1, 5)))
        before = list(llm.page_map.running)
        preempted = [e.request for e in llm.step().events if isinstance(e, ev.RequestPreempted)]
        assert_page_map_matches(llm)
        assert before[:1] not in [[request] for request in preempted], "the oldest goes on, whatever the policy"
        unfinished = llm.page_map.running + llm.page_map.waiting
        if unfinished:
            oldest = min(unfinished)
            since = oldest_since.setdefault(oldest, step)
            # At worst it waits until those that run are done, then computes 22 tokens in 2 steps, and 26 one by one.
            assert step - since <= 26 + 2 + 26 + 2
    assert llm.page_map.totals.preemptions > 5
    steps = finish(llm)
    assert steps < 1200
    assert all(r.status == "finished" for r in llm.page_map.requests.values())


def test_victim_policies_order_candidates() -> None:
    def candidate(request: int, lost: int, shared: int, remaining: int) -> Candidate:
        return Candidate(request, Footprint(lost + shared, lost, shared, 0, 0, 0), remaining)

    candidates = [candidate(1, 5, 5, 9), candidate(2, 2, 4, 20), candidate(3, 9, 1, 3)]
    chosen = {name: min(candidates, key=policy().key).request for name, policy in VICTIM_POLICIES.items()}
    assert chosen == {"last_come": 3, "fewest_blocks": 2, "longest_remaining": 2, "most_shared_last": 3}


def test_a_victim_policy_in_a_few_lines(llama: LoadedModel, expected: list[list[list[int]]]) -> None:
    class Newest:
        name = "most_blocks"

        def key(self, candidate: Candidate) -> Key:
            return (-candidate.footprint.blocks,)

    result = run(llama, JOBS, victim=Newest(), **TIGHT)
    assert result.tokens == expected
    assert {e.policy for e in result.of(ev.RequestPreempted)} == {"most_blocks"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_host_blocks", -1),
        ("preemption", "drop"),
        ("victim", "first"),
        ("victim", object),
        ("eviction", "random"),
        ("placement", "middle"),
        ("transfer_bandwidth", 0),
        ("prefill_speed", True),
        ("staging_blocks", 0),
        ("page_mass_every", -1),
        ("attention_pages", 1),
        ("prefix_caching", 1),
        ("free_behind_window", None),
        ("measure_selection", True),
        ("kv_cache_dtype", "int4"),
    ],
)
def test_wrong_settings_are_named(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"^{field}=") as caught:
        EngineConfig(**{field: value})  # type: ignore[arg-type]
    assert str(caught.value).startswith(f"{field}={value!r}: ")
    assert len(str(caught.value)) > len(f"{field}={value!r}: ") + 5
