"""Configurations of small random models, one per architecture. Windows are shorter than what the tests generate."""

from __future__ import annotations

import transformers as tf
from transformers import PreTrainedConfig

SHAPE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
}
NO_SPECIAL = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
_HYBRID = ["sliding_attention", "full_attention"]
_GPT = {"vocab_size": 97, "initializer_range": 0.3, **NO_SPECIAL}


def supported() -> dict[str, PreTrainedConfig]:
    """Every architecture that the issue names."""
    both = SHAPE | NO_SPECIAL
    return {
        "llama": tf.LlamaConfig(**both),
        "qwen2": tf.Qwen2Config(**both),
        "qwen3": tf.Qwen3Config(**both, head_dim=16),
        "mistral": tf.MistralConfig(**both, sliding_window=7),
        "gemma2": tf.Gemma2Config(
            **both,
            head_dim=16,
            sliding_window=7,
            query_pre_attn_scalar=16,
            layer_types=_HYBRID,
            attn_logit_softcapping=5.0,
        ),
        "gemma3": tf.Gemma3TextConfig(**both, head_dim=16, sliding_window=7, layer_types=_HYBRID),
        "phi3": tf.Phi3Config(**both),
        "opt": tf.OPTConfig(
            vocab_size=97,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            ffn_dim=48,
            max_position_embeddings=128,
            word_embed_proj_dim=32,
            init_std=0.3,
            **NO_SPECIAL,
        ),
        "gpt2": tf.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=128, **_GPT),
        "gpt_neox": tf.GPTNeoXConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=48,
            max_position_embeddings=128,
            **_GPT,
        ),
        "gpt_oss": tf.GptOssConfig(
            **both,
            head_dim=16,
            sliding_window=7,
            num_local_experts=4,
            num_experts_per_tok=2,
            layer_types=_HYBRID,
            rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        ),
        "mixtral": tf.MixtralConfig(**both, num_local_experts=4, num_experts_per_tok=2),
    }


def refused() -> dict[str, PreTrainedConfig]:
    """Architectures whose attention or state can't be put on pages through the interface."""
    return {
        "BloomForCausalLM": tf.BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4),
        "FalconForCausalLM": tf.FalconConfig(
            vocab_size=97, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, eos_token_id=0, bos_token_id=0
        ),
        "GPTJForCausalLM": tf.GPTJConfig(
            vocab_size=97, n_embd=32, n_layer=2, n_head=4, n_positions=128, rotary_dim=8, eos_token_id=0, bos_token_id=0
        ),
        "MambaForCausalLM": tf.MambaConfig(vocab_size=97, hidden_size=32, num_hidden_layers=2),
        "MptForCausalLM": tf.MptConfig(vocab_size=97, d_model=32, n_heads=4, n_layers=2),
    }
