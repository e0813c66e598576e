"""Who runs when: order of arrival, budgets, preemption, cancelling, rejecting."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import assert_page_map_matches, random_llama
from workbench.engine import LLM, ConfigError, EngineConfig, SamplingParams
from workbench.events import Cause, RequestStatus
from workbench.events import types as ev
from workbench.models import LoadedModel

_MODEL = random_llama()
GREEDY = SamplingParams(max_tokens=8, temperature=0)


def kinds(events: list[ev.AnyEvent], *types: type) -> list[ev.AnyEvent]:
    return [event for event in events if isinstance(event, types)]


def test_a_long_prompt_is_computed_in_chunks_beside_decodes(llama: LoadedModel) -> None:
    llm = LLM(llama, EngineConfig(max_num_batched_tokens=20))
    llm.add_request([5] * 6, GREEDY)
    llm.step()
    llm.add_request([7] * 50, GREEDY)
    steps = []
    for _ in range(3):
        finished = kinds(llm.step().events, ev.StepFinished)[0]
        steps.append((finished.decode_tokens, finished.prefill_tokens))
    assert steps == [(1, 19), (1, 19), (1, 12)], "19 + 19 + 12 prompt tokens, beside one decode each"


def test_first_come_first_served(llama: LoadedModel) -> None:
    llm = LLM(llama, EngineConfig(max_num_seqs=2))
    ids = [llm.add_request([i + 1] * (40 - i), GREEDY) for i in range(6)]
    admitted: list[int] = []
    while llm.has_unfinished:
        admitted += [e.request for e in kinds(llm.step().events, ev.RequestAdmitted)]
        assert len(llm.page_map.running) <= 2
    assert admitted == ids


def test_a_small_request_does_not_overtake_a_blocked_one(llama: LoadedModel) -> None:
    llm = LLM(llama, EngineConfig(block_size=4, num_blocks=10, watermark=0.0, max_model_len=64))
    llm.add_request([1] * 24, SamplingParams(max_tokens=4, temperature=0))
    llm.step()
    big = llm.add_request([2] * 20, GREEDY)
    small = llm.add_request([3], GREEDY)
    llm.step()
    assert llm.page_map.running == [0]
    assert llm.page_map.waiting == [big, small]
    blocked = llm.page_map.blocked
    assert blocked is not None
    assert (blocked.request, blocked.cause, blocked.needed, blocked.available) == (big, Cause.POOL_EXHAUSTED, 5, 3)


def test_the_watermark_keeps_blocks_back(llama: LoadedModel) -> None:
    llm = LLM(llama, EngineConfig(block_size=4, num_blocks=10, watermark=0.25, max_model_len=40))
    llm.add_request([1] * 16, GREEDY)
    llm.step()
    llm.add_request([2] * 16, GREEDY)
    llm.step()
    blocked = llm.page_map.blocked
    assert blocked is not None
    assert (blocked.cause, blocked.needed, blocked.available) == (Cause.WATERMARK, 4 + 3, 5)


def test_preemption_takes_the_last_one_and_it_goes_on_first(llama: LoadedModel) -> None:
    llm = LLM(llama, EngineConfig(block_size=4, num_blocks=6, watermark=0.0, max_model_len=24))
    for token in (1, 2, 3):
        llm.add_request([token] * 7, SamplingParams(max_tokens=10, temperature=0))
    events: list[ev.AnyEvent] = []
    while llm.has_unfinished:
        events += llm.step().events
        assert_page_map_matches(llm)
    preempted = kinds(events, ev.RequestPreempted)
    first = preempted[0]
    assert isinstance(first, ev.RequestPreempted)
    assert (first.request, first.cause, first.blocks_released) == (2, Cause.POOL_EXHAUSTED, 2)
    assert first.tokens_lost == 8
    assert next(e.request for e in events if isinstance(e, ev.RequestFinished)) == 0
    resumed = [e for e in kinds(events, ev.RequestResumed) if e.request == 2]
    assert len(resumed) == len([e for e in preempted if e.request == 2])
    recomputed = [e for e in kinds(events, ev.SlotsWritten) if e.cause is Cause.RECOMPUTE]
    assert sum(e.count for e in recomputed) >= 8
    assert all(len(llm.output(i).outputs[0].token_ids) == 10 for i in range(3))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"block_size": 4, "num_blocks": 5},
            r"20 prompt tokens \+ 8 new tokens - 1 = 27 slots, in blocks of 4: needs 7 blocks, the pool has 5",
        ),
        (
            {"memory": "contiguous", "reservation": "oracle", "block_size": 4, "num_blocks": 6},
            r"= 27 slots; under reservation 'oracle' it needs 32 adjacent slots, the largest region .* has 16",
        ),
        (
            {"memory": "contiguous", "reservation": "max", "block_size": 4, "num_blocks": 8, "max_model_len": 64},
            r"under reservation 'max' it needs 64 adjacent slots, the largest region of the pool has 32",
        ),
    ],
)
def test_what_can_never_fit_is_rejected_with_the_arithmetic(
    llama: LoadedModel, config: dict[str, object], message: str
) -> None:
    llm = LLM(llama, EngineConfig(**config))  # type: ignore[arg-type]
    request = llm.add_request([1] * 20, GREEDY)
    assert not llm.has_unfinished
    events = llm.step().events
    rejected = kinds(events, ev.RequestRejected)
    assert len(rejected) == 1
    output = llm.output(request)
    assert output.outputs[0].finish_reason == "rejected"
    assert output.error == rejected[0].reason
    assert re.search(message, str(output.error))
    assert llm.page_map.requests[request].status is RequestStatus.REJECTED
    assert llm.page_map.waiting == []


def test_exactly_fitting_request_runs(llama: LoadedModel) -> None:
    """The last token is never stored: 20 + 8 - 1 = 27 slots are 7 blocks of 4, not more."""
    llm = LLM(llama, EngineConfig(block_size=4, num_blocks=7, max_model_len=64))
    output = llm.generate([1] * 20, GREEDY)[0]
    assert len(output.outputs[0].token_ids) == 8


def test_cancel_running_and_waiting(llama: LoadedModel) -> None:
    llm = LLM(llama, EngineConfig(max_num_seqs=1))
    first, second = llm.add_request([1] * 20, GREEDY), llm.add_request([2] * 20, GREEDY)
    llm.step()
    assert llm.cancel(first)
    assert llm.cancel(second)
    assert llm.has_unfinished, "the memory is taken back in the next step"
    events = llm.step().events
    assert {e.cause for e in kinds(events, ev.BlockReleased)} == {Cause.CANCELLED}
    assert_page_map_matches(llm)
    assert not llm.has_unfinished
    assert not llm.cancel(first)
    assert llm.output(first).outputs[0].finish_reason == "cancelled"
    assert len(llm.output(first).outputs[0].token_ids) == 1
    with pytest.raises(KeyError, match="request=99"):
        llm.cancel(99)


def test_stops_at_max_model_len(llama: LoadedModel) -> None:
    llm = LLM(llama, EngineConfig(max_model_len=12))
    output = llm.generate([3] * 8, SamplingParams(max_tokens=50, temperature=0))[0]
    assert len(output.outputs[0].token_ids) == 4
    assert output.outputs[0].finish_reason == "length"


def test_close_cancels_and_says_so(llama: LoadedModel) -> None:
    llm = LLM(llama)
    llm.add_request([1, 2, 3], GREEDY)
    llm.step()
    seen: list[ev.AnyEvent] = []
    llm.bus.subscribe(lambda batch: seen.extend(batch.events))
    llm.close()
    llm.close()
    assert isinstance(seen[-1], ev.RunFinished)
    assert llm.page_map.sequences == {}
    with pytest.raises(RuntimeError, match="closed"):
        llm.step()


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "at least one token"),
        ([1, 97], "token id 97 is not an integer from 0 to 96"),
        ([1, -1], "token id -1"),
        ([1] * 256, "has 256 tokens; at most 255 are allowed"),
        ("text", "no tokenizer"),
    ],
)
def test_bad_prompts_change_nothing(llama: LoadedModel, prompt: str | list[int], message: str) -> None:
    llm = LLM(llama)
    with pytest.raises(ConfigError, match=message):
        llm.generate([[1, 2], prompt], GREEDY)  # type: ignore[list-item]
    assert not llm.has_unfinished
    assert llm.step().events[1:] == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("memory", "virtual"),
        ("reservation", "min"),
        ("block_size", 0),
        ("num_blocks", 2.5),
        ("max_model_len", 1),
        ("max_model_len", 257),
        ("max_num_seqs", 0),
        ("max_num_batched_tokens", -1),
        ("watermark", 1.0),
        ("attention", "flash"),
        ("cuda_graphs", 1),
        ("compile", None),
        ("gpu_memory_utilization", 0),
        ("gpu_memory_utilization", 1.5),
        ("seed", -1),
    ],
)
def test_bad_configuration_is_named(llama: LoadedModel, field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=re.escape(f"{field}={value!r}")):
        LLM(llama, EngineConfig(**{field: value}))  # type: ignore[arg-type]


@settings(deadline=None, max_examples=25)
@given(data=st.data(), memory=st.sampled_from(["paged", "max", "pow2", "oracle"]))
def test_random_traffic_keeps_the_books(data: st.DataObject, memory: str) -> None:
    """Arrivals, cancellations and a small pool: after every step the reducer equals the books, and all ends empty."""
    config = EngineConfig(
        memory="paged" if memory == "paged" else "contiguous",
        reservation="max" if memory == "paged" else memory,
        block_size=data.draw(st.sampled_from([1, 2, 4, 8])),
        num_blocks=data.draw(st.integers(16, 60)),
        max_model_len=48,
        max_num_seqs=data.draw(st.integers(1, 6)),
        max_num_batched_tokens=data.draw(st.integers(1, 40)),
        watermark=data.draw(st.sampled_from([0.0, 0.1])),
    )
    llm = LLM(_MODEL, config)
    rng = random.Random(data.draw(st.integers(0, 1000)))
    alive: list[int] = []
    for step in range(400):
        if step < 20 and rng.random() < 0.5:
            prompt = [rng.randrange(97) for _ in range(rng.randint(1, 30))]
            alive.append(llm.add_request(prompt, SamplingParams(max_tokens=rng.randint(1, 14), seed=step)))
        if alive and rng.random() < 0.05:
            llm.cancel(rng.choice(alive))
        if not llm.has_unfinished and step >= 20:
            break
        llm.step()
        if llm.page_map.last is not None:
            assert_page_map_matches(llm)
    assert not llm.has_unfinished
    llm.close()
    assert llm.page_map.sequences == {}
    waste = llm.page_map.waste()
    assert waste.free == llm.page_map.num_slots


def test_every_wait_has_a_cause(llama: LoadedModel) -> None:
    """Whoever waits at the end of a step is told why; only where memory was given back in it, that is not known yet."""
    llm = LLM(
        llama,
        EngineConfig(
            block_size=4, num_blocks=12, watermark=0.1, max_model_len=40, max_num_seqs=4, max_num_batched_tokens=9
        ),
    )
    for number in range(9):
        llm.add_request([number + 1] * (3 + number), SamplingParams(max_tokens=14, temperature=0))
    causes = set()
    while llm.has_unfinished:
        events = llm.step().events
        assert_page_map_matches(llm)
        if llm.page_map.waiting and not kinds(events, ev.RequestFinished):
            blocked = llm.page_map.blocked
            assert blocked is not None
            assert blocked.request == llm.page_map.waiting[0]
            causes.add(blocked.cause)
    assert {Cause.TOKEN_BUDGET, Cause.JUST_PREEMPTED, Cause.MAX_RUNNING} <= causes


def test_peak_counts_requests_that_end_in_their_first_step(llama: LoadedModel) -> None:
    llm = LLM(llama)
    llm.generate([[1], [2], [3]], SamplingParams(max_tokens=1))
    assert llm.page_map.totals.max_running == 3


def test_a_step_that_fails_in_the_sampler_can_be_taken_again(
    llama: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = LLM(llama).generate([[1, 2, 3]], GREEDY)[0].outputs[0].token_ids
    llm = LLM(llama)
    request = llm.add_request([1, 2, 3], GREEDY)
    llm.step()
    with monkeypatch.context() as patch:
        patch.setattr("workbench.engine.runner.sample", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            llm.step()
    while llm.has_unfinished:
        llm.step()
        assert_page_map_matches(llm)
    assert llm.output(request).outputs[0].token_ids == expected
