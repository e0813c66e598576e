"""The runner of the GPU on CPU tensors: with the kernels' reference in their place, and with Triton's interpreter."""

from __future__ import annotations

import random
import sys
from typing import Any

import msgspec
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.conftest import assert_page_map_matches
from tests.engine.reference_kernels import ReferenceKernels
from tests.models.architectures import supported
from workbench.engine import LLM, ConfigError, EngineConfig, SamplingParams
from workbench.models import LoadedModel, hook, prepare_model

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton has builds for Linux only")

_RNG = random.Random(3)
PROMPTS = [[_RNG.randrange(97) for _ in range(_RNG.randint(1, 40))] for _ in range(8)]
GREEDY = [SamplingParams(max_tokens=3 + 2 * i, temperature=0) for i in range(8)]
#: plain and special ones beside each other
SAMPLED = [
    SamplingParams(
        max_tokens=3 + 2 * i,
        temperature=(0.7, 0.0, 1.2)[i % 3],
        top_k=(0, 20)[i % 4 == 3],
        repetition_penalty=(1.0, 1.2)[i % 5 == 4],
        logprobs=(None, 2)[i % 6 == 5],
        seed=i,
    )
    for i in range(8)
]
PLAIN = [SamplingParams(max_tokens=3 + 3 * i, temperature=(0.8, 0.0)[i == 4], seed=i) for i in range(8)]


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workbench.engine.gpu.runner.Kernels", ReferenceKernels)


def run(
    model: LoadedModel, params: list[SamplingParams], count: int = 8, overlaps: bool = False, **config: object
) -> list[list[int]]:
    settings = {"max_model_len": 128, "num_blocks": 40, **config}
    llm = LLM(model, EngineConfig(**settings))  # type: ignore[arg-type]
    if overlaps:
        llm._runner.overlaps = True
    ids = [llm.add_request(p, s) for p, s in zip(PROMPTS[:count], params[:count], strict=True)]
    while llm.has_unfinished:
        llm.step()
        assert_page_map_matches(llm)
    outputs = [llm.output(i).outputs[0] for i in ids]
    for output, request in zip(outputs, params, strict=False):
        assert (output.logprobs is None) == (request.logprobs is None)
        assert output.logprobs is None or len(output.logprobs) == len(output.token_ids)
    llm.close()
    return [output.token_ids for output in outputs]


@pytest.mark.usefixtures("reference")
@pytest.mark.parametrize("overlaps", [False, True], ids=["", "overlaps"])
@pytest.mark.parametrize("params", [GREEDY, SAMPLED, PLAIN], ids=["greedy", "sampled", "plain"])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"block_size": 4, "num_blocks": 200, "max_num_batched_tokens": 7},
        {"block_size": 1, "num_blocks": 64, "watermark": 0.0},
        {"block_size": 64, "num_blocks": 40, "max_num_seqs": 3},
        {"memory": "contiguous", "reservation": "pow2", "num_blocks": 40},
        {"memory": "contiguous", "reservation": "max", "block_size": 8, "num_blocks": 64},
    ],
)
def test_same_tokens_as_with_torch(
    llama: LoadedModel, params: list[SamplingParams], config: dict[str, object], overlaps: bool
) -> None:
    assert run(llama, params, overlaps=overlaps, attention="triton", **config) == run(llama, params)


def with_changes(model: LoadedModel, overlaps: bool, **config: object) -> tuple[object, int, int]:
    """Requests come, are cancelled, stop. Returns events and tokens, steps launched ahead, and draws left over."""
    rng = random.Random(5)
    settings = {"attention": "triton", "block_size": 4, "num_blocks": 60, "max_num_seqs": 6, **config}
    llm = LLM(model, EngineConfig(**settings))  # type: ignore[arg-type]
    runner: Any = llm._runner
    runner.overlaps = overlaps
    hits, fits = 0, runner.buffers.fits

    def counted(*args: object) -> bool:
        nonlocal hits
        hits += (found := fits(*args))
        return found

    runner.buffers.fits = counted
    requests: list[int] = []
    events: list[dict[str, object]] = []
    for step in range(120):
        if step % 7 == 0 and len(requests) < 12:
            stops = [rng.randrange(97) for _ in range(3)] if len(requests) % 3 == 0 else None
            params = SamplingParams(max_tokens=rng.randint(10, 40), temperature=0.9, stop_token_ids=stops)
            requests.append(llm.add_request(PROMPTS[len(requests) % 8], params))
        if step % 11 == 10:
            llm.cancel(rng.choice(requests))
        if step in (9, 30):
            llm.warm_up()
        for event in llm.step().events:
            fields = msgspec.to_builtins(event)
            if fields["type"] != "StepFinished":
                events.append({name: value for name, value in fields.items() if name != "t_ns"})
        assert_page_map_matches(llm)
    assert not llm.has_unfinished
    tokens = [llm.output(request).outputs[0].token_ids for request in requests]
    left = len(runner.buffers._unused)
    llm.close()
    return (events, tokens), hits, left


@pytest.mark.usefixtures("reference")
def test_a_step_launched_ahead_changes_no_token_and_no_event(llama: LoadedModel) -> None:
    expected, none, _ = with_changes(llama, overlaps=False)
    actual, hits, left = with_changes(llama, overlaps=True)
    assert actual == expected
    assert none == 0
    assert hits > 30, "hardly any step was launched ahead, so this shows nothing"
    assert left == 0, "random numbers are kept for requests that have ended"


@pytest.mark.usefixtures("reference")
@pytest.mark.parametrize("overlaps", [False, True])
def test_an_interrupted_step_goes_on(llama: LoadedModel, monkeypatch: pytest.MonkeyPatch, overlaps: bool) -> None:
    """Ctrl-C while the device works: nothing is lost, and nothing done twice."""
    expected = run(llama, PLAIN, attention="triton")
    llm = LLM(llama, EngineConfig(num_blocks=40, attention="triton", max_model_len=128))
    runner: Any = llm._runner
    runner.overlaps = overlaps
    requests = [llm.add_request(p, s) for p, s in zip(PROMPTS, PLAIN, strict=True)]
    interrupted = 0
    while llm.has_unfinished:
        if llm.step_number % 2:
            at = ("stage_tokens", "guess", "sampled")[llm.step_number % 3] if overlaps else "sampled"
            with monkeypatch.context() as patch:
                patch.setattr(runner.buffers, at, lambda *_: _raise(KeyboardInterrupt()))
                try:
                    llm.step()
                except KeyboardInterrupt:
                    interrupted += 1
        if llm.has_unfinished:
            llm.step()
            assert_page_map_matches(llm)
    assert interrupted > 2
    assert [llm.output(request).outputs[0].token_ids for request in requests] == expected


def _raise(error: BaseException) -> None:
    raise error


@pytest.mark.usefixtures("reference")
@pytest.mark.parametrize("name", supported())
def test_every_architecture(name: str) -> None:
    torch.manual_seed(1)
    model = prepare_model(AutoModelForCausalLM.from_config(supported()[name]), None, name)
    assert run(model, GREEDY, 3, attention="triton", max_num_batched_tokens=30) == run(model, GREEDY, 3)


def test_with_the_interpreter(llama: LoadedModel) -> None:
    expected = run(llama, GREEDY, 3)
    assert run(llama, GREEDY, 3, attention="triton", max_num_batched_tokens=40) == expected


@pytest.mark.usefixtures("reference")
@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.parametrize("params", [GREEDY, PLAIN], ids=["greedy", "plain"])
def test_a_step_that_fails_before_its_end_can_be_taken_again(
    llama: LoadedModel, monkeypatch: pytest.MonkeyPatch, params: list[SamplingParams], overlaps: bool
) -> None:
    expected = run(llama, params, 3)
    llm = LLM(llama, EngineConfig(num_blocks=40, attention="triton", block_size=4, max_num_batched_tokens=20))
    llm._runner.overlaps = overlaps
    ids = [llm.add_request(p, s) for p, s in zip(PROMPTS[:3], params[:3], strict=True)]
    failed = 0
    while llm.has_unfinished:
        if llm.step_number % 2:
            with monkeypatch.context() as patch:
                patch.setattr("workbench.engine.gpu.runner.pick_tokens", lambda *_: 1 / 0)
                try:
                    llm.step()  # it may have been launched ahead already, and then it does not fail
                except ZeroDivisionError:
                    failed += 1
        if llm.has_unfinished:
            llm.step()
            assert_page_map_matches(llm)
    assert failed > 2
    assert [llm.output(i).outputs[0].token_ids for i in ids] == expected


@pytest.mark.usefixtures("reference")
def test_no_step_is_launched_ahead_while_pages_are_on_the_host(llama: LoadedModel) -> None:
    """A decode graph reads the device's pages only."""
    prompt, params = PROMPTS[0] * 3 + PROMPTS[1], SamplingParams(max_tokens=12, temperature=0)
    expected = LLM(llama, EngineConfig(num_blocks=60, block_size=4)).generate(prompt, params)[0].outputs[0].token_ids
    llm = LLM(llama, EngineConfig(attention="triton", num_blocks=4, num_host_blocks=60, block_size=4, watermark=0.0))
    runner: Any = llm._runner
    runner.overlaps = True
    request = llm.add_request(prompt, params)
    streamed = 0
    while llm.has_unfinished:
        llm.step()
        assert not (llm.memory.streamed and runner._guess is not None)
        streamed += bool(llm.memory.streamed)
    assert streamed > 5
    assert not llm.memory.streamed
    assert llm.output(request).outputs[0].token_ids == expected


@pytest.mark.usefixtures("reference")
def test_warming_up_changes_nothing(llama: LoadedModel) -> None:
    llm = LLM(llama, EngineConfig(num_blocks=8, attention="triton"))
    llm.warm_up()
    assert all(not cache.any() for pair in llm._runner._state.caches for cache in pair)  # type: ignore[attr-defined]
    assert len(llm.step().events) == 1, "the beginning of the run and nothing else"


@pytest.mark.usefixtures("reference")
def test_a_layer_that_skips_the_hook_fails_loudly(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    loaded = prepare_model(AutoModelForCausalLM.from_config(supported()["llama"]), None, "skips")
    llm = LLM(loaded, EngineConfig(num_blocks=8, attention="triton"))
    monkeypatch.setattr(loaded.model.model, "layers", loaded.model.model.layers[:1])
    llm.add_request([1, 2, 3])
    with pytest.raises(hook.HookError, match=r"called \[1, 0\] times"):
        llm.step()


def test_what_can_not_be_had_is_said(llama: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="attention='triton': layer 0: block_size=24"):
        LLM(llama, EngineConfig(attention="triton", block_size=24))
    assert LLM(llama).attention.name == "torch"
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(ConfigError, match="attention='triton': the kernels need a CUDA device, the model is on cpu"):
        LLM(llama, EngineConfig(attention="triton"))
    with pytest.raises(ConfigError, match=r"num_blocks=None: .*only on a CUDA device"):
        LLM(llama, EngineConfig(num_blocks=None))
