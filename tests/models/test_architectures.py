"""Greedy tokens equal to transformers' own `generate`, for every architecture; a clear refusal for the others."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
import transformers as tf
from transformers import AutoModelForCausalLM

from tests.conftest import assert_page_map_matches
from tests.models.architectures import NO_SPECIAL, SHAPE, refused, supported
from workbench.engine import LLM, EngineConfig, SamplingParams
from workbench.models import UnsupportedModelError, hook, prepare_model

NEW_TOKENS = 24


def _generate_alone(model: Any, prompt: list[int]) -> list[int]:
    """transformers' own greedy decoding of one prompt, with the attention that it was made with."""
    ids = torch.tensor([prompt])
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False
    )
    return output[0, len(prompt) :].tolist()


@pytest.mark.parametrize("name", supported())
def test_greedy_tokens_equal_generate(name: str) -> None:
    torch.manual_seed(1)
    original = AutoModelForCausalLM.from_config(supported()[name], attn_implementation="eager").eval()
    rng = random.Random(name)
    prompts = [[rng.randrange(1, 97) for _ in range(length)] for length in (3, 17, 30, 9)]
    expected = [_generate_alone(original, prompt) for prompt in prompts]
    assert len({tuple(tokens) for tokens in expected}) > 1, "a model that always says the same proves nothing"

    loaded = prepare_model(copy.deepcopy(original), None, name)
    for budget, block_size in ((512, 16), (11, 4)):
        llm = LLM(loaded, EngineConfig(block_size=block_size, num_blocks=64, max_num_batched_tokens=budget))
        ids = [
            llm.add_request(p, SamplingParams(max_tokens=NEW_TOKENS, temperature=0, ignore_eos=True)) for p in prompts
        ]
        while llm.has_unfinished:
            llm.step()
            assert_page_map_matches(llm)
        assert [llm.output(i).outputs[0].token_ids for i in ids] == expected


@pytest.mark.parametrize("name", refused())
def test_unsupported_architecture_is_refused_by_name(name: str) -> None:
    model = AutoModelForCausalLM.from_config(refused()[name])
    with pytest.raises(UnsupportedModelError, match=rf"{name} can't run on a paged KV cache: .*0 of its 2 layers"):
        prepare_model(model, None, name)


def test_a_wrong_attention_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The examination compares logits: a model that needs more than the hook gives would differ like this."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(supported()["llama"])
    right = hook.attend_over_pages
    monkeypatch.setattr(hook, "attend_over_pages", lambda *args: right(*args) * 1.05)
    with pytest.raises(UnsupportedModelError, match=r"LlamaForCausalLM .* logits differ"):
        prepare_model(model, None, "wrong")


def test_a_layer_that_skips_the_hook_fails_loudly(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(1)
    loaded = prepare_model(AutoModelForCausalLM.from_config(supported()["llama"]), None, "skips")
    llm = LLM(loaded, EngineConfig(num_blocks=8))
    monkeypatch.setattr(loaded.model.model, "layers", loaded.model.model.layers[:1])
    llm.add_request([1, 2, 3])
    with pytest.raises(hook.HookError, match=r"called \[1, 0\] times"):
        llm.step()


def test_a_window_that_only_the_mask_knows_is_refused() -> None:
    """Qwen2-MoE builds its window into the mask; the attention function never hears of it."""
    both = SHAPE | NO_SPECIAL
    config = tf.Qwen2MoeConfig(
        **both, use_sliding_window=True, sliding_window=7, max_window_layers=0, num_experts=4, num_experts_per_tok=2
    )
    assert prepare_model(AutoModelForCausalLM.from_config(tf.Qwen2MoeConfig(**both)), None, "no window")
    with pytest.raises(UnsupportedModelError, match=r"Qwen2MoeForCausalLM can't run .*sliding_window=7"):
        prepare_model(AutoModelForCausalLM.from_config(config), None, "qwen2-moe")


def test_longrope_is_used_up_to_its_original_length() -> None:
    """Beyond it the rotation depends on the longest sequence of the batch: tokens would depend on the neighbours."""
    factors = [1.0 + i / 4 for i in range(4)]
    config = tf.Phi3Config(
        **(SHAPE | NO_SPECIAL),
        original_max_position_embeddings=64,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10_000.0,
            "short_factor": [1.0] * 4,
            "long_factor": factors,
            "original_max_position_embeddings": 64,
        },
    )
    assert prepare_model(AutoModelForCausalLM.from_config(config), None, "longrope").max_positions == 64
