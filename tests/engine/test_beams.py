"""Beam search against transformers' own `generate(num_beams=...)`: the same tokens and the same scores."""

from __future__ import annotations

import functools
import random
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig

from tests.models.architectures import NO_SPECIAL, SHAPE
from workbench.engine.beams import BeamSearch, Hypothesis
from workbench.engine.config import ConfigError
from workbench.models import LoadedModel
from workbench.models.loading import BUNDLED_DIR

PENALTIES = [-1, 0, 0.7, 1.0, 2.0]
STOPPINGS = [True, False, "never"]


@functools.cache
def random_model(vocab_size: int, spread: float = 0.3) -> Any:
    """A random Llama that nothing has been prepared in; the larger the spread, the surer it is of its tokens."""
    torch.manual_seed(0)
    sizes = {"vocab_size": vocab_size, "hidden_size": 16, "intermediate_size": 24, "initializer_range": spread}
    return AutoModelForCausalLM.from_config(LlamaConfig(**(SHAPE | NO_SPECIAL | sizes))).eval()


def reference(model: Any, prompt: list[int], width: int, eos: list[int], **how: Any) -> list[Hypothesis]:
    """What `generate` returns; without its cache, so that its logits are those of `search` to the bit."""
    ids = torch.tensor([prompt])
    config = GenerationConfig(
        num_beams=width,
        max_new_tokens=how["max_tokens"],
        do_sample=False,
        num_return_sequences=how["num_return"],
        eos_token_id=eos or None,
        pad_token_id=0,
        suppress_tokens=how.get("suppressed"),
        use_cache=how.get("use_cache", False),
        return_dict_in_generate=True,
        output_scores=True,
        # transformers warns about settings that only beams use.
        **({"length_penalty": how["length_penalty"], "early_stopping": how["early_stopping"]} if width > 1 else {}),
    )
    out = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=config)
    rows = [row[len(prompt) :].tolist() for row in out.sequences]
    if width == 1:
        return [Hypothesis(row, 0.0, row[-1] in eos) for row in rows]
    lengths = (out.beam_indices >= 0).sum(dim=1).tolist()
    rows = [row[:length] for row, length in zip(rows, lengths, strict=True)]
    scores = out.sequences_scores.tolist()
    return [Hypothesis(r, s, bool(r) and r[-1] in eos) for r, s in zip(rows, scores, strict=True)]


@torch.inference_mode()
def search(model: Any, prompt: list[int], width: int, eos: list[int], **how: Any) -> list[Hypothesis]:
    """The same by `BeamSearch`: every beam's tokens are computed anew in every step."""
    suppressed = torch.tensor(how["suppressed"]) if how.get("suppressed") else None
    beams = BeamSearch(
        width, how["max_tokens"], frozenset(eos), how["length_penalty"], how["early_stopping"], how["num_return"]
    )
    # The prompt in as many copies as transformers runs, of which the search sees one: else the last bits may differ.
    rows = [prompt] * width
    logits: Tensor = model(torch.tensor(rows), use_cache=False, logits_to_keep=1).logits[:1, -1]
    steps = 1
    while moves := beams.advance(logits, suppressed):
        assert len(moves) == width
        assert steps > 1 or {move.parent for move in moves} == {0}
        assert [m.score for m in moves] == sorted((m.score for m in moves), reverse=True)
        rows = [[*rows[move.parent], move.token_id] for move in moves]
        logits = model(torch.tensor(rows), use_cache=False, logits_to_keep=1).logits[:, -1]
        steps += 1
    assert beams.is_done
    assert steps <= how["max_tokens"]
    return beams.results()


def assert_equal(model: Any, prompt: list[int], width: int, eos: list[int], **how: Any) -> list[Hypothesis]:
    expected = reference(model, prompt, width, eos, **how)
    found = search(model, prompt, width, eos, **how)
    assert [h.token_ids for h in found] == [h.token_ids for h in expected]
    assert [h.is_stopped for h in found] == [h.is_stopped for h in expected]
    if width > 1:
        assert [h.score for h in found] == [h.score for h in expected]
    return found


SEARCHES = {
    "width": st.integers(1, 6),
    "num_return": st.integers(1, 6),
    "max_tokens": st.integers(1, 24),
    "length_penalty": st.sampled_from(PENALTIES),
    "early_stopping": st.sampled_from(STOPPINGS),
}


@settings(deadline=None, max_examples=150)
@given(
    prompt=st.lists(st.integers(1, 96), min_size=1, max_size=20),
    num_eos=st.sampled_from([0, 1, 3, 12, 40]),
    spread=st.sampled_from([0.1, 0.3, 1.0]),
    **SEARCHES,
)
def test_equals_generate(
    prompt: list[int], width: int, num_return: int, num_eos: int, spread: float, **how: Any
) -> None:
    eos = random.Random(str(prompt)).sample(range(97), num_eos)
    assert_equal(random_model(97, spread), prompt, width, eos, num_return=min(width, num_return), **how)


@settings(deadline=None, max_examples=120)
@given(
    seed=st.integers(0, 10_000),
    vocab_size=st.integers(2, 7),
    num_eos=st.integers(0, 6),
    **(SEARCHES | {"max_tokens": st.integers(1, 8)}),
)
@example(seed=0, vocab_size=2, num_eos=1, width=6, num_return=6, max_tokens=1, length_penalty=1.0, early_stopping=False)
@example(seed=0, vocab_size=2, num_eos=1, width=6, num_return=6, max_tokens=8, length_penalty=2.0, early_stopping=True)
def test_equals_generate_with_fewer_tokens_than_beams(
    seed: int, vocab_size: int, num_eos: int, width: int, num_return: int, **how: Any
) -> None:
    """Beams that there is nothing for, or that are copies of others: the same of them."""
    rng = random.Random(seed)
    eos = rng.sample(range(vocab_size), min(num_eos, vocab_size - 1))
    prompt = [rng.randrange(vocab_size) for _ in range(rng.randint(1, 5))]
    assert_equal(random_model(vocab_size), prompt, width, eos, num_return=min(width, num_return), **how)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    num_suppressed=st.integers(1, 18),
    **(SEARCHES | {"max_tokens": st.integers(1, 12)}),
)
def test_equals_generate_with_suppressed_tokens(
    seed: int, num_suppressed: int, width: int, num_return: int, **how: Any
) -> None:
    """Among them end-of-text tokens, and so many that hypotheses that ended have to run on."""
    rng = random.Random(seed)
    eos, suppressed = rng.sample(range(20), rng.randint(0, 4)), rng.sample(range(20), num_suppressed)
    prompt = [rng.randrange(20) for _ in range(4)]
    how |= {"num_return": min(width, num_return), "suppressed": suppressed}
    assert_equal(random_model(20), prompt, width, eos, **how)


@pytest.mark.parametrize(
    ("length_penalty", "early_stopping"), [(1.0, False), (1.0, True), (1.0, "never"), (2.0, "never"), (-1, False)]
)
def test_bundled_model_equals_generate(tiny: LoadedModel, length_penalty: float, early_stopping: bool | str) -> None:
    """Real texts; `generate` with its KV cache, as anybody runs it. A full stop ends a text, too."""
    eos = sorted({*tiny.eos_token_ids, *tiny.tokenizer.encode(".", add_special_tokens=False)[-1:]})
    how: dict[str, Any] = {"length_penalty": length_penalty, "early_stopping": early_stopping}
    how |= {"max_tokens": 16, "num_return": 3, "suppressed": list(tiny.suppressed_token_ids)}
    for text in ("Once upon a time", "The king said to his daughter"):
        prompt = tiny.tokenizer.encode(text)
        expected = reference(bundled(), prompt, 4, eos, use_cache=True, **how)
        found = search(bundled(), prompt, 4, eos, **how)
        assert [h.token_ids for h in found] == [h.token_ids for h in expected]
        assert [h.score for h in found] == pytest.approx([h.score for h in expected], rel=1e-5)


@functools.cache
def bundled() -> Any:
    return AutoModelForCausalLM.from_pretrained(BUNDLED_DIR, dtype=torch.float32, local_files_only=True).eval()


def logits_of(*rows: dict[int, float]) -> Tensor:
    """Logits whose softmax gives these tokens these probabilities, of a vocabulary of 6."""
    return torch.tensor([[row.get(token, 0.0) for token in range(6)] for row in rows]).log()


def test_two_steps_by_hand() -> None:
    """The greedy first token is no part of the best text."""
    search = BeamSearch(2, 2, frozenset({5}), length_penalty=0, num_return=2)
    first = search.advance(logits_of({0: 0.6, 1: 0.4}))
    assert [(move.parent, move.token_id) for move in first] == [(0, 0), (0, 1)]
    assert [move.score for move in first] == pytest.approx([torch.tensor(p).log().item() for p in (0.6, 0.4)])
    assert search.results() == []
    assert search.advance(logits_of({0: 0.5, 1: 0.5}, {2: 0.1, 5: 0.9})) == []
    best, second = search.results()
    assert (best.token_ids, best.is_stopped) == ([1, 5], True)
    assert best.score == pytest.approx(torch.tensor(0.36).log().item())
    assert (second.token_ids[0], second.is_stopped) == (0, False)


@pytest.mark.parametrize("early_stopping", STOPPINGS)
@pytest.mark.parametrize("length_penalty", [2.0, -40])
def test_one_beam_decodes_greedily(early_stopping: bool | str, length_penalty: float) -> None:
    """As `generate` does, which then has no scores that it could stop for."""
    search = BeamSearch(1, 8, frozenset({5}), length_penalty, early_stopping)
    assert [move.token_id for move in search.advance(logits_of({0: 0.6, 5: 0.4}))] == [0]
    assert [move.token_id for move in search.advance(logits_of({1: 0.6, 5: 0.4}))] == [1]
    assert search.advance(logits_of({1: 0.4, 5: 0.6})) == []
    assert [hypothesis.token_ids for hypothesis in search.results()] == [[0, 1, 5]]


def test_half_precision_is_searched_in_float32() -> None:
    logits = (torch.randn(1, 97, generator=torch.Generator().manual_seed(0)) * 3).bfloat16()
    before = logits.clone()
    moves = [BeamSearch(4, 8, frozenset()).advance(x) for x in (logits, logits.float())]
    assert moves[0] == moves[1]
    assert torch.equal(logits, before)


def test_wrong_calls_are_refused() -> None:
    search = BeamSearch(2, 2, frozenset())
    with pytest.raises(ValueError, match=r"shape \[2, 6\], not \[1, vocab_size\]"):
        search.advance(torch.zeros(2, 6))
    search.advance(torch.zeros(1, 6))
    with pytest.raises(ValueError, match=r"shape \[1, 6\], not \[2, vocab_size\]"):
        search.advance(torch.zeros(1, 6))
    search.advance(torch.zeros(2, 6))
    with pytest.raises(RuntimeError, match="is done"):
        search.advance(torch.zeros(2, 6))
    with pytest.raises(ValueError, match=r"^vocab_size=2: .* needs 3 or more"):
        BeamSearch(2, 2, frozenset({0, 1})).advance(torch.zeros(1, 2))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("beam_width", 0),
        ("max_tokens", 0),
        ("length_penalty", float("nan")),
        ("length_penalty", -1024),
        ("length_penalty", 1024.0),
        ("early_stopping", "always"),
        ("early_stopping", 1),
        ("num_return", 3),
    ],
)
def test_settings_are_checked(field: str, value: object) -> None:
    right: dict[str, Any] = {"beam_width": 2, "max_tokens": 2, "eos_token_ids": frozenset()}
    with pytest.raises(ConfigError, match=f"^{field}={value!r}: "):
        BeamSearch(**(right | {field: value}))
