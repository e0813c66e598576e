"""The engine on a CUDA device: same promises, smaller selection. Skipped where there is none."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from tests.conftest import assert_page_map_matches
from tests.engine.test_triton_runner import with_changes
from tests.models.architectures import supported
from workbench.engine import LLM, EngineConfig, SamplingParams
from workbench.engine.sampler import _pick
from workbench.models import LoadedModel, load_model, prepare_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

_RNG = random.Random(7)
PROMPTS = [[_RNG.randrange(1, 97) for _ in range(n)] for n in (3, 40, 17, 29, 8, 55)]
GREEDY = [SamplingParams(max_tokens=32, temperature=0, ignore_eos=True)] * len(PROMPTS)
SAMPLED = [SamplingParams(max_tokens=24, temperature=0.9, seed=i) for i in range(len(PROMPTS))]
SPECIAL = [
    SamplingParams(max_tokens=24, temperature=0.9, top_p=(1.0, 0.9)[i % 2], logprobs=(None, 3)[i % 3 == 2], seed=i)
    for i in range(len(PROMPTS))
]


@pytest.fixture(scope="module", autouse=True)
def _exact_float32() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False


def llama_config() -> LlamaConfig:
    return LlamaConfig(
        vocab_size=97,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=96,
        max_position_embeddings=256,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )


@pytest.fixture(scope="module")
def original() -> torch.nn.Module:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(llama_config()).eval().cuda()


@pytest.fixture(scope="module")
def model(original: torch.nn.Module) -> LoadedModel:
    return prepare_model(copy.deepcopy(original), None, "cuda-llama")


def run(model: LoadedModel, params: list[SamplingParams], **config: object) -> list[list[int]]:
    with LLM(model, EngineConfig(**({"num_blocks": 64} | config))) as llm:  # type: ignore[arg-type]
        requests = [llm.add_request(p, s) for p, s in zip(PROMPTS, params, strict=True)]
        while llm.has_unfinished:
            llm.step()
            assert_page_map_matches(llm)
        return [llm.output(request).outputs[0].token_ids for request in requests]


def generate(original: Any, prompts: list[list[int]] = PROMPTS, new_tokens: int = 32) -> list[list[int]]:
    """transformers' own greedy decoding, one prompt at a time."""
    outputs = []
    for prompt in prompts:
        ids = torch.tensor([prompt], device="cuda")
        output = original.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            min_new_tokens=new_tokens,
            do_sample=False,
        )
        outputs.append(output[0, len(prompt) :].tolist())
    return outputs


@pytest.mark.parametrize("attention", ["triton", "torch"])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"cuda_graphs": False},
        {"block_size": 4, "max_num_batched_tokens": 9, "max_model_len": 96},
        {"block_size": 1, "num_blocks": 150, "watermark": 0.0, "max_model_len": 96},
        {"max_num_seqs": 2},
    ],
    ids=["graphs", "no graphs", "chunks", "preemption", "few"],
)
def test_greedy_equals_generate(
    original: torch.nn.Module, model: LoadedModel, attention: str, config: dict[str, object]
) -> None:
    assert run(model, GREEDY, attention=attention, **config) == generate(original)


@pytest.mark.parametrize("name", supported())
def test_every_architecture(name: str) -> None:
    torch.manual_seed(1)
    # SDPA leaves Gemma 2's soft cap out in transformers 5.17.
    original = AutoModelForCausalLM.from_config(supported()[name], attn_implementation="eager").eval().cuda()
    prompts, new_tokens = PROMPTS[:4], 24
    expected = generate(original, prompts, new_tokens)
    assert len({tuple(tokens) for tokens in expected}) > 1, "a model that always says the same proves nothing"
    loaded = prepare_model(copy.deepcopy(original), None, name)
    params = SamplingParams(max_tokens=new_tokens, temperature=0, ignore_eos=True)
    for config in ({}, {"cuda_graphs": False, "block_size": 4, "max_num_batched_tokens": 11}):
        with LLM(loaded, EngineConfig(attention="triton", num_blocks=64, **config)) as llm:  # type: ignore[arg-type]
            requests = [llm.add_request(prompt, params) for prompt in prompts]
            while llm.has_unfinished:
                llm.step()
                assert_page_map_matches(llm)
            assert [llm.output(request).outputs[0].token_ids for request in requests] == expected
            print(f"{name}: {llm.describe_runner()}")


def test_graphs_are_used(model: LoadedModel) -> None:
    with LLM(model, EngineConfig(num_blocks=64, max_num_seqs=6)) as llm:
        assert llm.attention.name == "triton"
        llm.warm_up()
        assert llm.describe_runner() == "triton attention, CUDA graphs"
        assert len(llm.step().events) == 1, "warming up tells nobody anything"


@pytest.mark.parametrize("params", [SAMPLED, SPECIAL], ids=["plain", "special"])
def test_sampled_tokens_do_not_depend_on_memory(model: LoadedModel, params: list[SamplingParams]) -> None:
    paged = run(model, params)
    assert run(model, params, cuda_graphs=False, block_size=4, max_num_batched_tokens=9) == paged
    assert run(model, params, block_size=1, num_blocks=150, watermark=0.0) == paged
    for reservation in ("max", "pow2", "oracle"):
        assert run(model, params, memory="contiguous", reservation=reservation, max_model_len=128) == paged
    assert run(model, params, attention="torch") == paged


def test_same_seed_same_events(model: LoadedModel) -> None:
    import msgspec

    def events() -> list[dict[str, object]]:
        seen: list[dict[str, object]] = []
        with LLM(model, EngineConfig(block_size=4, num_blocks=40, max_model_len=128, seed=5)) as llm:
            llm.bus.subscribe(lambda batch: seen.extend(msgspec.to_builtins(batch.events)), deferred=True)
            llm.generate(PROMPTS, SAMPLED)
        return [{k: v for k, v in event.items() if not k.endswith("_ns")} for event in seen]

    first = events()
    assert first == events()
    assert [event["seq"] for event in first] == list(range(len(first)))


def test_linear_layers_are_fused(model: LoadedModel, original: torch.nn.Module) -> None:
    assert model.lock is not None
    plain = prepare_model(copy.deepcopy(original), None, "plain", pack=False)
    assert plain.lock is None
    assert run(plain, GREEDY) == run(model, GREEDY)


def test_compiled(original: torch.nn.Module, model: LoadedModel) -> None:
    assert run(model, GREEDY, compile=True) == generate(original)
    assert run(model, GREEDY, compile=True, max_num_batched_tokens=20, max_num_seqs=3) == generate(original)


def test_pool_from_free_memory(model: LoadedModel) -> None:
    with LLM(model, EngineConfig(num_blocks=None, max_num_seqs=4, max_model_len=128)) as llm:
        assert llm.memory.num_blocks == 4 * 8, "no more than the sequences can use"
        assert llm.page_map is not None
    with LLM(model, EngineConfig(num_blocks=None, max_num_seqs=4096, gpu_memory_utilization=0.2)) as llm:
        used = torch.cuda.memory_allocated() / torch.cuda.get_device_properties(0).total_memory
        assert used < 0.21


def test_bundled_model_as_on_the_cpu() -> None:
    prompts = ["Once upon a time", "It was a cold morning, and", "Es war einmal"]
    params = SamplingParams(max_tokens=48, temperature=0, ignore_eos=True)
    texts = []
    for device in ("cpu", "cuda"):
        with LLM(load_model("tiny", device=device, dtype="float32"), EngineConfig(num_blocks=64)) as llm:
            texts.append([output.outputs[0].token_ids for output in llm.generate(prompts, params)])
    assert texts[0] == texts[1]


def test_bundled_model_runs_in_bfloat16() -> None:
    with LLM(load_model("tiny", device="cuda"), EngineConfig(num_blocks=64)) as llm:
        assert llm.model.dtype is torch.bfloat16
        output = llm.generate("Once upon a time", SamplingParams(max_tokens=48, seed=0, ignore_eos=True))[0].outputs[0]
    assert len(output.token_ids) == 48
    assert len(output.text) > 40


@pytest.mark.parametrize("vocab_size", [97, 4096, 151_936, 200_003])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pick_tokens_is_the_inverse_of_the_distribution(vocab_size: int, dtype: torch.dtype) -> None:
    from workbench.engine.gpu.sampling import pick_tokens

    generator = torch.Generator("cuda").manual_seed(0)
    rows = 256
    logits = (torch.randn(rows, vocab_size, device="cuda", generator=generator) * 4).to(dtype)
    temperatures = torch.linspace(0.0, 2.0, rows, device="cuda")
    uniforms = torch.rand(rows, dtype=torch.float64, device="cuda", generator=generator)
    out = torch.full((rows,), -1, dtype=torch.int64, device="cuda")
    pick_tokens(logits, temperatures, uniforms, out)
    assert out[0] == logits[0].argmax()
    scaled = logits[1:].float() / temperatures[1:, None]
    expected = _pick(scaled, uniforms[1:].tolist())
    # Where they differ, the uniform number lies within rounding of the border between two tokens.
    cumulative = scaled.double().softmax(-1).cumsum(-1)
    target = uniforms[1:] * cumulative[:, -1]
    for row in (out[1:] != expected).nonzero()[:, 0].tolist():
        low = cumulative[row, out[1 + row] - 1] if out[1 + row] > 0 else torch.zeros((), dtype=torch.float64)
        assert low - 1e-5 < target[row] < cumulative[row, out[1 + row]] + 1e-5
    assert (out[1:] != expected).sum() < 8


def test_a_step_launched_ahead_changes_no_token_and_no_event(model: LoadedModel) -> None:
    expected, _, _ = with_changes(model, overlaps=False, max_model_len=128)
    actual, hits, _ = with_changes(model, overlaps=True, max_model_len=128)
    assert actual == expected
    assert hits > 30
