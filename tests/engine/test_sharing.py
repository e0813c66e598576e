"""Several sequences of one request share their pages: samples, forks, copy-on-write."""

from __future__ import annotations

import dataclasses

import pytest

from tests.conftest import assert_page_map_matches
from tests.engine.driving import GREEDY, alone, engine, finish, random_prompts, run, sampled
from workbench.engine import LLM, ConfigError, EngineConfig, SamplingParams
from workbench.events import types as ev
from workbench.events.types import Cause, FinishReason
from workbench.memory import SharingError
from workbench.models import LoadedModel

PROMPTS = random_prompts(0, [5, 17, 32, 1, 24, 40])


@pytest.fixture(scope="module")
def singles(llama: LoadedModel) -> list[list[list[int]]]:
    """Per prompt, three requests by themselves, with seeds that follow each other."""
    return [[alone(llama, (p, sampled(10 * i + j)))[0] for j in range(3)] for i, p in enumerate(PROMPTS)]


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"block_size": 1, "num_blocks": 600},
        {"block_size": 16, "max_num_batched_tokens": 7},
        {"num_blocks": 45, "watermark": 0.0},
        {"prefix_caching": True, "num_blocks": 45, "watermark": 0.0},
    ],
)
def test_n_samples_are_what_n_requests_with_their_seeds_give(
    llama: LoadedModel, singles: list[list[list[int]]], config: dict[str, object]
) -> None:
    jobs = [(prompt, sampled(10 * i, n=3)) for i, prompt in enumerate(PROMPTS)]
    result = run(llama, jobs, **config)
    assert result.tokens == singles
    assert (result.state.totals.preemptions > 0) == ("watermark" in config)


def test_samples_share_the_prompt_and_copy_its_last_page(llama: LoadedModel) -> None:
    """10 tokens are 2 full pages of 4, and one with 2 tokens, of which all but one of 4 samples need a copy."""
    llm = engine(llama)
    llm.add_request(PROMPTS[1][:10], sampled(3, n=4))
    first = llm.step().events
    assert llm.page_map.sharing() == (12, 3)
    assert [e.ref_count for e in first if isinstance(e, ev.BlockShared)] == [2, 2, 2, 3, 3, 3, 4, 4, 4]
    assert {(e.parent, e.num_tokens, e.cause) for e in first if isinstance(e, ev.SequenceForked)} == {
        (0, 10, Cause.FORK)
    }
    second = llm.step().events
    assert llm.page_map.sharing() == (12, 2 + 4)
    copied = [e for e in second if isinstance(e, ev.BlockCopied)]
    assert [(e.logical_index, e.filled, e.ref_count, e.cause) for e in copied] == [
        (2, 2, left, Cause.COPY_ON_WRITE) for left in (3, 2, 1)
    ]
    finish(llm)
    assert llm.page_map.totals.blocks_copied == 3


def test_a_prompt_of_full_pages_is_never_copied(llama: LoadedModel) -> None:
    result = run(llama, [(PROMPTS[4][:12], sampled(3, n=4))])
    assert result.state.totals.blocks_copied == 0
    assert len(result.of(ev.BlockShared)) == 9


# -- forks -------------------------------------------------------------------------------------------------------------


def advance(llm: LLM, moment: str) -> None:
    """Steps until request 1 is in a certain state."""
    state = llm.page_map
    for _ in range(200):
        state = llm.page_map
        request = state.requests.get(1)
        computed = sum(q.num_computed_tokens for q in state.sequences.values() if q.request == 1)
        if request is not None and {
            "in the prompt": 0 < computed < 17,
            "decoding": request.status == "running" and len(request.token_ids) == 6,
            "preempted": request.status == "preempted",
            "swapped": request.status == "swapped",
            "computed again": request.status == "running" and request.preemptions > 0 and 4 <= computed < 17,
        }.get(moment, True):
            return
        llm.step()
    raise AssertionError(f"request 1 was never {moment}")


MOMENTS = ["before it starts", "in the prompt", "decoding", "preempted", "swapped", "computed again"]


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("num_forks", [1, 2])
def test_a_fork_goes_on_as_if_it_had_been_a_request(llama: LoadedModel, moment: str, num_forks: int) -> None:
    """Greedy forks equal their parent; a sampled one equals a request whose prompt is what it took over."""
    needs_pressure = moment in ("preempted", "swapped", "computed again")
    pressure = {"num_blocks": 15, "watermark": 0.0, "max_num_batched_tokens": 7}
    for params in (GREEDY, sampled(5)):
        llm = engine(
            llama,
            num_host_blocks=40,
            preemption="swap" if moment == "swapped" else "recompute",
            **(pressure if needs_pressure else {"max_num_batched_tokens": 7}),
        )
        llm.add_request(PROMPTS[5], dataclasses.replace(GREEDY, max_tokens=18))
        request = llm.add_request(PROMPTS[1], params)
        advance(llm, moment)
        before = llm.output(request).outputs[0].token_ids
        if needs_pressure and num_forks == 2:
            with pytest.raises(ConfigError, match="with 3 sequences it may need 19 blocks, the pool has 15"):
                _ = [llm.fork(request, seed=90 + i) for i in range(2)]
            return
        children = [llm.fork(request, seed=90 + i) for i in range(num_forks)]
        assert len(set(children)) == num_forks
        finish(llm)
        outputs = [output.token_ids for output in llm.output(request).outputs]
        assert outputs[0] == alone(llama, (PROMPTS[1], params))[0]
        rest = params.max_tokens - len(before)
        for i, output in enumerate(outputs[1:]):
            job = [*PROMPTS[1], *before], dataclasses.replace(params, max_tokens=rest, seed=90 + i)
            assert output == before + alone(llama, job)[0]
            assert (output == outputs[0]) == params.is_greedy


def test_a_fork_of_what_is_computed_again_waits_for_it(llama: LoadedModel) -> None:
    """The pool has just what two sequences need that share the prompt: neither may compute it for itself."""
    params = SamplingParams(max_tokens=9, temperature=0)
    prompt = random_prompts(5, [20])[0]
    llm = engine(llama, num_blocks=9, watermark=0.0, max_num_batched_tokens=4)
    llm.add_request(PROMPTS[0], GREEDY)
    request = llm.add_request(prompt, params)
    while not (llm.page_map.running == [request] and llm.page_map.requests[request].preemptions):
        llm.step()
    assert 0 < llm.page_map.sequences[1].num_computed_tokens < 16
    assert len(llm.output(request).outputs[0].token_ids) > 1
    llm.fork(request)
    finish(llm)
    assert [o.token_ids for o in llm.output(request).outputs] == alone(llama, (prompt, params)) * 2


def test_a_fork_shares_all_pages_and_copies_only_the_last(llama: LoadedModel) -> None:
    llm = engine(llama)
    request = llm.add_request(PROMPTS[1], GREEDY)
    for _ in range(5):
        llm.step()
    child = llm.fork(request)  # 17 + 4 tokens are stored: 6 pages
    llm.step()
    assert llm.page_map.sharing() == (12, 5 + 2)
    assert llm.page_map.totals.blocks_copied == 1
    assert llm.page_map.requests[request].outputs[child].parent == 0
    grandchild = llm.fork(request, sequence=child)
    assert llm.page_map.requests[request].width == 1, "as many as were asked for at first"
    finish(llm)
    outputs = llm.output(request).outputs
    assert len(outputs) == 3
    assert len({tuple(output.token_ids) for output in outputs}) == 1
    assert llm.page_map.requests[request].outputs[grandchild].parent == child


def test_forks_without_a_seed_differ_and_are_repeatable(llama: LoadedModel) -> None:
    def outputs() -> list[list[int]]:
        llm = engine(llama, seed=4)
        request = llm.add_request(PROMPTS[1], SamplingParams(max_tokens=12, temperature=1.0, n=2))
        llm.fork(request)
        llm.step()
        llm.fork(request)
        finish(llm)
        return [output.token_ids for output in llm.output(request).outputs]

    first = outputs()
    assert first == outputs()
    assert len({tuple(tokens) for tokens in first}) == 4


def test_the_text_of_samples_and_forks_is_that_of_their_tokens(tiny: LoadedModel) -> None:
    llm = LLM(tiny, EngineConfig(num_blocks=64))
    request = llm.add_request("Once upon a time", sampled(1, n=2, max_tokens=24))
    for _ in range(9):
        llm.step()
    llm.fork(request, seed=3)
    finish(llm)
    outputs = llm.output(request).outputs
    assert len({output.text for output in outputs}) == 3
    for output, told in zip(outputs, llm.page_map.requests[request].outputs.values(), strict=True):
        assert output.text == tiny.tokenizer.decode(output.token_ids, skip_special_tokens=True)
        assert (told.text, told.token_ids, told.reason) == (output.text, output.token_ids, output.finish_reason)


# -- ends --------------------------------------------------------------------------------------------------------------


def test_one_sample_stops_and_the_others_go_on(llama: LoadedModel, singles: list[list[list[int]]]) -> None:
    stop = next(t for t in singles[1][1] if t not in singles[1][0] and t not in singles[1][2])
    end = singles[1][1].index(stop) + 1
    assert end < 20
    result = run(llama, [(PROMPTS[1], sampled(10, n=3, stop_token_ids=[stop]))])
    assert result.tokens[0] == [singles[1][0], singles[1][1][:end], singles[1][2]]
    assert result.reasons[0] == ["length", "stop", "length"]
    finished = result.of(ev.SequenceFinished)
    assert [(e.sequence, e.reason, e.output_tokens) for e in finished] == [
        (1, FinishReason.STOP, end),
        (0, FinishReason.LENGTH, 20),
        (2, FinishReason.LENGTH, 20),
    ]
    released = [e for e in result.of(ev.BlockReleased) if e.sequence == 1]
    assert {e.cause for e in released} == {Cause.SEQUENCE_FINISHED}
    assert [e.output_tokens for e in result.of(ev.RequestFinished)] == [40 + end]


@pytest.mark.parametrize("steps", [0, 1, 2, 6])
def test_a_cancelled_request_ends_all_its_sequences(llama: LoadedModel, steps: int) -> None:
    llm = engine(llama, max_num_batched_tokens=12)
    request = llm.add_request(PROMPTS[1], sampled(3, n=3))
    for _ in range(steps):
        llm.step()
    llm.fork(request)
    assert llm.cancel(request)
    events = llm.step().events
    assert_page_map_matches(llm)
    assert not llm.has_unfinished
    assert llm.page_map.sequences == {}
    output = llm.output(request)
    assert output.is_finished
    assert [o.finish_reason for o in output.outputs] == ["cancelled"] * 4
    assert {e.cause for e in events if isinstance(e, ev.BlockReleased)} == ({Cause.CANCELLED} if steps else set())


# -- errors ------------------------------------------------------------------------------------------------------------


def test_what_can_not_be_forked_is_refused(llama: LoadedModel) -> None:
    llm = engine(llama, max_num_seqs=3, num_blocks=30)
    with pytest.raises(KeyError, match="request=7"):
        llm.fork(7)
    first = llm.add_request(PROMPTS[1], GREEDY)
    beams = llm.add_request(PROMPTS[0], SamplingParams(max_tokens=4, temperature=0, beam_width=2))
    llm.step()
    for arguments, message in (
        ({"request": beams}, rf"^request={beams}: a beam search forks its beams by itself"),
        ({"request": first, "sequence": 9}, r"^sequence=9: unfinished sequences are \[0\]"),
        ({"request": first}, r"^request=0: max_num_seqs=3 sequences run already"),
    ):
        with pytest.raises(ConfigError, match=message):
            llm.fork(**arguments)
    finish(llm)
    with pytest.raises(ConfigError, match=r"^request=0: it has ended"):
        llm.fork(first)
    last = llm.add_request(PROMPTS[5], dataclasses.replace(GREEDY, max_tokens=70))
    with pytest.raises(ConfigError, match=r"with 2 sequences it may need 46 blocks, the pool has 30"):
        llm.fork(last)
    with pytest.raises(ConfigError, match=r"^seed=-1: None or an integer from 0 to"):
        llm.fork(llm.add_request(PROMPTS[0], GREEDY), seed=-1)
    finish(llm)


@pytest.mark.parametrize(
    ("field", "value", "config"),
    [
        ("n", 5, {"max_num_seqs": 4}),
        ("beam_width", 5, {"max_num_batched_tokens": 4}),
    ],
)
def test_more_than_may_run_at_once_is_refused(
    llama: LoadedModel, field: str, value: int, config: dict[str, object]
) -> None:
    llm = engine(llama, **config)
    with pytest.raises(ConfigError, match=f"^{field}={value}: at most 4 sequences"):
        llm.add_request(PROMPTS[0], SamplingParams(temperature=0 if field == "beam_width" else 1, **{field: value}))
    assert not llm.has_unfinished


def test_a_request_whose_samples_never_fit_is_rejected_with_the_arithmetic(llama: LoadedModel) -> None:
    llm = engine(llama, num_blocks=12)
    request = llm.add_request(PROMPTS[1], sampled(0, n=3))
    assert llm.output(request).error == (
        "request 0 can never fit: 17 prompt tokens + 20 new tokens - 1 = 36 slots, 3 times, the prompt's full blocks "
        "shared, in blocks of 4: needs 19 blocks, the pool has 12"
    )
    assert [o.finish_reason for o in llm.output(request).outputs] == ["rejected"] * 3
    llm.step()
    assert llm.page_map.requests[request].status == "rejected"


@pytest.mark.parametrize(
    ("field", "value", "others"),
    [
        ("n", 0, {}),
        ("n", 257, {}),
        ("beam_width", -1, {}),
        ("n", 3, {"beam_width": 2}),
        ("temperature", 0.5, {"beam_width": 2}),
        ("top_k", 3, {"beam_width": 2}),
        ("stop", ("x",), {"beam_width": 2}),
        ("logprobs", 1, {"beam_width": 2}),
        ("early_stopping", "maybe", {}),
        ("length_penalty", "1", {}),
    ],
)
def test_wrong_parameters_are_named(field: str, value: object, others: dict[str, object]) -> None:
    with pytest.raises(ConfigError) as caught:
        SamplingParams(**{field: value}, **others)  # type: ignore[arg-type]
    assert str(caught.value).startswith(f"{field}={value!r}: ")


def test_contiguous_memory_refuses_and_explains(llama: LoadedModel) -> None:
    llm = engine(llama, memory="contiguous")
    for field, params in (
        ("n=2", sampled(0, n=2)),
        ("beam_width=2", SamplingParams(temperature=0, beam_width=2)),
    ):
        with pytest.raises(SharingError, match=f"^{field}: contiguous memory can't share: .*use paged memory"):
            llm.add_request(PROMPTS[0], params)
    request = llm.add_request(PROMPTS[0], GREEDY)
    llm.step()
    with pytest.raises(SharingError, match=r"^request=0: contiguous memory can't share: a region is one run of slots"):
        llm.fork(request)
    finish(llm)
    for field, value in (("num_host_blocks", 4), ("preemption", "swap"), ("prefix_caching", True)):
        with pytest.raises(ConfigError, match=f"^{field}={value!r}: contiguous memory has no pages to"):
            EngineConfig(memory="contiguous", **{field: value})  # type: ignore[arg-type]
