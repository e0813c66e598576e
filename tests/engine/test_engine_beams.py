"""Beam search through the whole engine: what transformers' `generate(num_beams=...)` says, on shared pages."""

from __future__ import annotations

from typing import Any

import pytest

from tests.engine.driving import GREEDY, alone, architecture, engine, finish, random_prompts, run, sampled
from tests.engine.test_beams import reference
from workbench.engine import SamplingParams
from workbench.events import types as ev
from workbench.events.types import Cause
from workbench.models import LoadedModel

PROMPTS = random_prompts(4, [3, 17, 30, 9])


def beams(width: int, **how: Any) -> SamplingParams:
    return SamplingParams(**({"max_tokens": 16, "temperature": 0, "beam_width": width, "n": min(2, width)} | how))


def expected(original: Any, prompt: list[int], params: SamplingParams) -> list[Any]:
    return reference(
        original,
        prompt,
        params.beam_width,
        list(params.stop_token_ids or ()),
        max_tokens=params.max_tokens,
        length_penalty=params.length_penalty,
        early_stopping=params.early_stopping,
        num_return=params.n,
    )


@pytest.mark.parametrize(
    ("name", "pool"), [("llama", 26), ("qwen3", 26), ("gemma3", 38), ("opt", 26), ("gpt_neox", 26)]
)
def test_equal_to_generate_whatever_the_memory(name: str, pool: int) -> None:
    original, loaded = architecture(name)
    jobs = [(prompt, beams(1 + i, length_penalty=(1.0, 0.5)[i % 2])) for i, prompt in enumerate(PROMPTS)]
    found = [expected(original, *job) for job in jobs]
    assert len({tuple(h.token_ids) for hypotheses in found for h in hypotheses}) > 4
    tight = {"num_blocks": pool, "watermark": 0.0, "max_model_len": 128, "max_num_batched_tokens": 8}
    for config in (
        {"max_model_len": 128},
        {"block_size": 1, "num_blocks": 600, "max_num_batched_tokens": 5, "max_model_len": 128},
        tight,
        tight | {"num_host_blocks": 60, "preemption": "swap"},
    ):
        llm = engine(loaded, **config)
        ids = [llm.add_request(*job) for job in jobs]
        finish(llm)
        outputs = [llm.output(i).outputs for i in ids]
        assert [[o.token_ids for o in each] for each in outputs] == [[h.token_ids for h in each] for each in found]
        for each, hypotheses in zip(outputs[1:], found[1:], strict=True):
            assert [o.score for o in each] == pytest.approx([h.score for h in hypotheses], rel=1e-3)
        assert (llm.page_map.totals.preemptions > 0) == ("watermark" in config)
        assert (llm.page_map.totals.swapped_out_bytes > 0) == ("preemption" in config)


@pytest.mark.parametrize("stopping", [True, False, "never"])
def test_hypotheses_that_end(stopping: bool | str) -> None:
    original, loaded = architecture("llama")
    params = beams(4, n=4, stop_token_ids=list(range(0, 97, 9)), early_stopping=stopping)
    reasons = set()
    for prompt in PROMPTS:
        found = expected(original, prompt, params)
        llm = engine(loaded, max_model_len=128)
        output = llm.generate(prompt, params)[0]
        assert [o.token_ids for o in output.outputs] == [h.token_ids for h in found]
        reasons |= {o.finish_reason for o in output.outputs}
        told = llm.page_map.requests[0]
        assert [(o.token_ids, o.score) for o in told.chosen] == [(o.token_ids, o.score) for o in output.outputs]
        assert told.token_ids == output.outputs[0].token_ids
    assert "stop" in reasons


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"max_num_batched_tokens": 9, "block_size": 2},
        {"num_blocks": 45, "watermark": 0.0},
        {"num_blocks": 45, "watermark": 0.0, "preemption": "swap", "num_host_blocks": 30},
        {"num_blocks": 45, "watermark": 0.0, "prefix_caching": True, "eviction": "leaf_first"},
    ],
)
def test_beams_samples_and_greedy_in_one_batch(llama: LoadedModel, config: dict[str, object]) -> None:
    jobs = [
        (PROMPTS[0], beams(3)),
        (PROMPTS[1], sampled(8, n=3)),
        (PROMPTS[2], GREEDY),
        (PROMPTS[3], beams(4, n=1)),
        (PROMPTS[1], beams(2)),
        (PROMPTS[2], sampled(1, top_k=9)),
    ]
    result = run(llama, jobs, **config)
    assert result.tokens == [alone(llama, job) for job in jobs]
    assert (result.state.totals.preemptions > 0) == ("watermark" in config)


def test_beams_share_pages_and_drop_them(llama: LoadedModel) -> None:
    result = run(llama, [(PROMPTS[2], beams(4))])
    forks, dropped = result.of(ev.SequenceForked), [e for e in result.of(ev.SequenceFinished) if e.reason is None]
    assert len(forks) == len(dropped) + 3, "there are always 4"
    released = [e for e in result.of(ev.BlockReleased) if e.cause is Cause.BEAM_DROPPED]
    assert {e.sequence for e in released} == {e.sequence for e in dropped}
    assert result.state.totals.blocks_copied == len(result.of(ev.BlockCopied)) > 0
    chosen = result.of(ev.OutputsChosen)
    assert [[o.token_ids for o in e.outputs] for e in chosen] == [result.tokens[0]]


def test_cancelled_beams_give_all_back(llama: LoadedModel) -> None:
    llm = engine(llama)
    request = llm.add_request(PROMPTS[2], beams(3))
    for _ in range(5):
        llm.step()
    assert len(llm.output(request).outputs) == 3
    llm.cancel(request)
    finish(llm)
    assert [o.finish_reason for o in llm.output(request).outputs] == ["cancelled"] * 3
    assert llm.page_map.requests[request].status == "cancelled"
