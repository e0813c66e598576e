"""The engine on a CUDA device: same promises, smaller selection. Skipped where there is none."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from tests.conftest import assert_page_map_matches
from workbench.engine import LLM, EngineConfig, SamplingParams
from workbench.models import LoadedModel, load_model, prepare_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

_RNG = random.Random(7)
PROMPTS = [[_RNG.randrange(1, 97) for _ in range(n)] for n in (3, 40, 17, 29, 8, 55)]


@pytest.fixture(scope="module")
def original() -> torch.nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
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
    return AutoModelForCausalLM.from_config(config).eval().cuda()


@pytest.fixture(scope="module")
def model(original: torch.nn.Module) -> LoadedModel:
    return prepare_model(copy.deepcopy(original), None, "cuda-llama")


def run(model: LoadedModel, params: list[SamplingParams], **config: object) -> list[list[int]]:
    llm = LLM(model, EngineConfig(**config))  # type: ignore[arg-type]
    requests = [llm.add_request(p, s) for p, s in zip(PROMPTS, params, strict=True)]
    while llm.has_unfinished:
        llm.step()
        assert_page_map_matches(llm)
    return [llm.output(request).outputs[0].token_ids for request in requests]


def test_greedy_equals_generate(original: torch.nn.Module, model: LoadedModel) -> None:
    expected = []
    for prompt in PROMPTS:
        ids = torch.tensor([prompt], device="cuda")
        output = original.generate(  # type: ignore[operator]
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=32, min_new_tokens=32, do_sample=False
        )
        expected.append(output[0, len(prompt) :].tolist())
    params = [SamplingParams(max_tokens=32, temperature=0)] * len(PROMPTS)
    assert run(model, params, num_blocks=64) == expected
    assert run(model, params, num_blocks=64, block_size=4, max_num_batched_tokens=9, max_model_len=96) == expected


def test_sampled_tokens_do_not_depend_on_memory(model: LoadedModel) -> None:
    params = [SamplingParams(max_tokens=24, temperature=0.9, top_p=0.9, seed=i) for i in range(len(PROMPTS))]
    paged = run(model, params, num_blocks=64)
    for reservation in ("max", "pow2", "oracle"):
        assert run(model, params, memory="contiguous", reservation=reservation, max_model_len=128) == paged


def test_bundled_model_runs_in_bfloat16() -> None:
    llm = LLM(load_model("tiny", device="cuda"), EngineConfig(num_blocks=64))
    assert llm.model.dtype is torch.bfloat16
    output = llm.generate("Once upon a time", SamplingParams(max_tokens=48, seed=0, ignore_eos=True))[0].outputs[0]
    assert len(output.token_ids) == 48
    assert len(output.text) > 40
