"""The sampler against transformers' own logits processors, and against the distribution that it should follow."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from workbench.engine.sampler import restrict, sample
from workbench.engine.sampling_params import SamplingParams
from workbench.engine.sequence import Sequence, TextStream


def sequence(params: SamplingParams, token_ids: list[int] | None = None, seed: int = 0) -> Sequence:
    ids = token_ids or [1]
    return Sequence(0, 0, params, ids, len(ids), 8, random.Random(seed), TextStream(None))


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    top_k=st.sampled_from([0, 1, 3, 17]),
    top_p=st.sampled_from([1.0, 0.95, 0.5, 0.05]),
    min_p=st.sampled_from([0.0, 0.02, 0.3, 1.0]),
)
def test_restrict_equals_transformers(seed: int, top_k: int, top_p: float, min_p: float) -> None:
    logits = torch.randn(1, 31, generator=torch.Generator().manual_seed(seed)) * 3
    expected = logits
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    if min_p:
        # transformers' min-p sees probabilities after top-k and top-p, which keep their ratios: the same rule.
        expected = MinPLogitsWarper(min_p)(None, expected)
    batch = torch.cat([logits, torch.zeros(1, 31)])
    actual = restrict(batch, torch.tensor([top_k, 0]), torch.tensor([top_p, 1.0]), torch.tensor([min_p, 0.0]))
    assert torch.equal(actual[0].isfinite(), expected[0].isfinite())
    kept = expected[0].isfinite()
    assert torch.equal(actual[0][kept], expected[0][kept])
    assert torch.equal(actual[1], torch.zeros(31)), "a row's limits must not touch another row"


def test_repetition_penalty_equals_transformers() -> None:
    logits = torch.randn(1, 31, generator=torch.Generator().manual_seed(1))
    seen = [3, 3, 7, 30]
    expected = RepetitionPenaltyLogitsProcessor(1.7)(torch.tensor([seen]), logits.clone()).argmax().item()
    params = SamplingParams(temperature=0, repetition_penalty=1.7)
    before = logits.clone()
    assert sample(logits, [sequence(params, seen)]).token_ids == [expected]
    assert torch.equal(logits, before), "the caller's logits are not changed"


def test_frequencies_follow_the_distribution() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -30.0])
    n = 20_000
    sequences = [sequence(SamplingParams(temperature=0.8), seed=i) for i in range(n)]
    tokens = torch.tensor(sample(logits.expand(n, -1), sequences).token_ids)
    expected = (logits / 0.8).softmax(0)
    counts = torch.bincount(tokens, minlength=5)
    chi_square = ((counts[:4] - n * expected[:4]) ** 2 / (n * expected[:4])).sum().item()
    assert chi_square < 16.3, "p < 0.001 for 3 degrees of freedom"
    assert counts[4] == 0


def test_top_k_1_is_greedy_and_rows_are_independent() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(2))
    params = [SamplingParams(top_k=1), SamplingParams(temperature=0), SamplingParams(temperature=1.3)]
    alone = [sample(logits[i : i + 1], [sequence(params[i], seed=i)]).token_ids[0] for i in range(3)]
    together = sample(logits, [sequence(params[i], seed=i) for i in range(3)]).token_ids
    assert together == alone
    assert together[:2] == logits[:2].argmax(-1).tolist()


def test_logprobs_are_of_the_models_own_distribution() -> None:
    logits = torch.randn(2, 50, generator=torch.Generator().manual_seed(2))
    params = [SamplingParams(temperature=0.3, top_k=2, logprobs=3), SamplingParams(temperature=0)]
    result = sample(logits, [sequence(p) for p in params])
    expected = logits[0].log_softmax(0)
    found = result.logprobs[0]
    assert found is not None
    assert result.token_ids[0] in found
    assert set(expected.topk(3).indices.tolist()) <= set(found)
    assert found == {t: pytest.approx(expected[t].item()) for t in found}
    assert result.logprobs[1] is None


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("max_tokens", 0, "at least 1"),
        ("max_tokens", True, "integer"),
        ("temperature", -1, "0.001 to 100"),
        ("temperature", 1e-40, "0.001 to 100"),
        ("temperature", float("nan"), "0.001 to 100"),
        ("top_k", -1, "at least 0"),
        ("top_k", 1 << 63, "at least 0"),
        ("top_p", 0, "above 0"),
        ("min_p", 1.5, "0 to 1"),
        ("repetition_penalty", 0, "0.001"),
        ("seed", -3, "None or an integer"),
        ("stop", ("",), "none of them empty"),
        ("stop_token_ids", ("a",), "integers"),
        ("logprobs", 21, "0 to 20"),
    ],
)
def test_bad_parameters_are_named(field: str, value: object, allowed: str) -> None:
    with pytest.raises(ValueError, match=f"{field}=.*{allowed}"):
        SamplingParams(**{field: value})  # type: ignore[arg-type]
