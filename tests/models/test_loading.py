"""Loading: the bundled model, a directory written by `save_pretrained`, and errors that say what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.models.architectures import refused, supported
from workbench.engine import LLM, EngineConfig, SamplingParams
from workbench.models import LoadedModel, UnsupportedModelError, load_model
from workbench.models.loading import BUNDLED_DIR
from workbench.models.packed_linear import PackedLinear, can_pack


def test_bundled_model_is_as_promised(tiny: LoadedModel) -> None:
    size = sum(path.stat().st_size for path in BUNDLED_DIR.iterdir())
    assert size <= 32 * 2**20
    assert tiny.max_positions == 4096
    config = AutoModelForCausalLM.from_pretrained(BUNDLED_DIR, dtype=torch.bfloat16)
    parameters = sum(p.numel() for p in config.parameters())
    assert 8_000_000 <= parameters <= 16_000_000
    assert 4096 <= tiny.geometry.vocab_size <= 8192
    card = (BUNDLED_DIR / "README.md").read_text(encoding="utf-8")
    for words in ("bits per byte", "Jane Austen", "python -m workbench.models.train", "| English |"):
        assert words in card


@pytest.mark.parametrize("text", ["naïve café", "Straße", "日本語 🙂", "\x00\x7f\t\n", "مرحبا"])
def test_bundled_tokenizer_knows_every_string(tiny: LoadedModel, text: str) -> None:
    assert tiny.tokenizer.decode(tiny.tokenizer.encode(text)) == text


def test_bundled_model_prefers_text_to_noise(tiny: LoadedModel) -> None:
    """Its loss on a sentence of its kind (own wording) is far below that on the same words out of order."""
    sentence = "The old king went into the garden, and there he saw his youngest daughter sitting under a tree."
    shuffled = " ".join(sorted(sentence.split(), key=len))

    def nats_per_byte(text: str) -> float:
        ids = torch.tensor([tiny.tokenizer.encode(text)])
        model = AutoModelForCausalLM.from_pretrained(BUNDLED_DIR, dtype=torch.float32)
        with torch.inference_mode():
            return float(model(ids, labels=ids).loss) * (ids.shape[1] - 1) / len(text.encode())

    assert nats_per_byte(sentence) / 0.6931 < 1.9
    assert nats_per_byte(shuffled) > 1.3 * nats_per_byte(sentence)


def test_works_to_its_last_position(tiny: LoadedModel) -> None:
    llm = LLM(tiny, EngineConfig(num_blocks=256, max_num_batched_tokens=1024))
    prompt = tiny.tokenizer.encode("It was a cold morning, and the snow lay deep upon the road. ")
    ids = (prompt * (4096 // len(prompt) + 1))[:4090]
    output = llm.generate([ids], SamplingParams(max_tokens=50, temperature=0, ignore_eos=True))[0].outputs[0]
    assert len(output.token_ids) == 6, "4,090 + 6 = 4,096 positions"
    assert output.finish_reason == "length"


def test_local_directory(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(supported()["qwen3"])
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(BUNDLED_DIR).save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path))
    assert loaded.geometry.architecture == "Qwen3ForCausalLM"
    assert loaded.geometry.kv_bytes_per_token == 2 * 2 * 2 * 16 * 4
    tokens = LLM(loaded).generate([[1, 2, 3]], SamplingParams(max_tokens=4, temperature=0))[0].outputs[0].token_ids
    ids = torch.tensor([[1, 2, 3]])
    expected = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=4, do_sample=False)
    assert tokens == expected[0, 3:].tolist()


def test_refused_directory_takes_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    AutoModelForCausalLM.from_config(refused()["BloomForCausalLM"]).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(BUNDLED_DIR).save_pretrained(tmp_path)
    monkeypatch.setattr("workbench.engine.assembly.allocate_kv_cache", lambda *_: pytest.fail("memory was taken"))
    with pytest.raises(UnsupportedModelError, match="BloomForCausalLM can't run on a paged KV cache"):
        LLM(str(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "./nowhere"}, r"model='./nowhere': no such directory; allowed are 'tiny', a model directory"),
        ({"name": "no-such-model-at-all"}, "model='no-such-model-at-all': could not be loaded"),
        ({"name": "tiny", "device": "tpu"}, "device='tpu': not available here; allowed: auto, .*cpu"),
        ({"name": "tiny", "dtype": "int8"}, "dtype='int8': allowed are auto, float32"),
    ],
)
def test_bad_names_are_explained(arguments: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_model(**arguments)


def test_pool_that_does_not_fit_is_explained(tiny: LoadedModel) -> None:
    with pytest.raises(MemoryError, match=r"num_blocks=4194304: the KV pool needs .* MiB on cpu"):
        LLM(tiny, EngineConfig(num_blocks=1 << 22, block_size=1024))


def test_suppressed_tokens_are_never_chosen(tiny: LoadedModel) -> None:
    assert tiny.suppressed_token_ids
    llm = LLM(tiny, EngineConfig(num_blocks=64))
    prompts = ["Tom looked at the river and", "Then Huck said to Jim that the"]
    tokens = {
        t
        for o in llm.generate(prompts, SamplingParams(temperature=2.0, max_tokens=200))
        for t in o.outputs[0].token_ids
    }
    assert len(tokens) > 100
    assert tokens.isdisjoint(tiny.suppressed_token_ids)
    scored = llm.generate(prompts[0], SamplingParams(temperature=0, max_tokens=1, logprobs=20))[0].outputs[0].logprobs
    assert scored is not None
    assert set(scored[0]).isdisjoint(tiny.suppressed_token_ids)


@pytest.mark.skipif(not can_pack(), reason="this torch has no oneDNN")
def test_packing_keeps_the_logits(tiny: LoadedModel) -> None:
    packed = [module for module in tiny.model.modules() if isinstance(module, PackedLinear)]
    assert len(packed) == 6 * 7 + 1
    inputs = torch.randn(3, 5, 64)
    for bias in (False, True):
        linear = torch.nn.Linear(64, 40, bias=bias)
        torch.testing.assert_close(PackedLinear(linear)(inputs), linear(inputs), atol=1e-5, rtol=1e-5)
