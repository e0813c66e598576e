"""Same prompts, seeds and sampling give the same tokens, whatever the memory, block size, batch and chunk size."""

from __future__ import annotations

import random

import msgspec
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import assert_page_map_matches, random_llama
from workbench.engine import LLM, EngineConfig, SamplingParams
from workbench.engine.sampler import Sampled, sample
from workbench.engine.sequence import Sequence
from workbench.models import LoadedModel
from workbench.models.packed_linear import can_pack

_RNG = random.Random(3)
PROMPTS = [[_RNG.randrange(97) for _ in range(_RNG.randint(1, 60))] for _ in range(10)]
MODES = {
    "greedy": [SamplingParams(max_tokens=1 + 4 * i, temperature=0) for i in range(10)],
    "sampled": [
        SamplingParams(
            max_tokens=1 + 4 * i,
            temperature=0.7 + i / 10,
            top_k=(0, 20)[i % 2],
            top_p=(1.0, 0.9)[i % 3 == 0],
            min_p=(0.0, 0.02)[i % 4 == 0],
            repetition_penalty=(1.0, 1.2)[i % 5 == 0],
            seed=(None, 100 + i)[i % 2],
        )
        for i in range(10)
    ],
}


def run(
    model: LoadedModel, params: list[SamplingParams], order: list[int] | None = None, **config: object
) -> list[list[int]]:
    """Tokens of every prompt; the reducer is compared with the books after every step."""
    settings_ = {"max_model_len": 128, "num_blocks": 40, **config}
    llm = LLM(model, EngineConfig(**settings_))  # type: ignore[arg-type]
    ids = {i: llm.add_request(PROMPTS[i], params[i]) for i in order or range(10)}
    while llm.has_unfinished:
        llm.step()
        assert_page_map_matches(llm)
    tokens = [llm.output(ids[i]).outputs[0].token_ids for i in range(10)]
    llm.close()
    assert llm.page_map.sequences == {}
    return tokens


@pytest.fixture(scope="module", params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def alone(llama: LoadedModel, mode: str) -> list[list[int]]:
    """Every request by itself: the reference."""
    tokens = []
    for i in range(10):
        llm = LLM(llama, EngineConfig(max_model_len=128, seed=0))
        # An id decides the seed of a request that brings none, so earlier ids are used up by short runs.
        for _ in range(i):
            llm.generate([1], SamplingParams(max_tokens=1))
        tokens.append(llm.generate(PROMPTS[i], MODES[mode][i])[0].outputs[0].token_ids)
    return tokens


@pytest.mark.parametrize("block_size", [1, 4, 16, 32])
@pytest.mark.parametrize("budget", [7, 512])
def test_paged(llama: LoadedModel, mode: str, alone: list[list[int]], block_size: int, budget: int) -> None:
    num_blocks = 400 // block_size
    tokens = run(llama, MODES[mode], block_size=block_size, num_blocks=num_blocks, max_num_batched_tokens=budget)
    assert tokens == alone


@pytest.mark.parametrize("reservation", ["max", "pow2", "oracle"])
@pytest.mark.parametrize("block_size", [4, 16])
def test_contiguous(llama: LoadedModel, mode: str, alone: list[list[int]], reservation: str, block_size: int) -> None:
    num_blocks = 640 // block_size
    tokens = run(
        llama, MODES[mode], memory="contiguous", reservation=reservation, block_size=block_size, num_blocks=num_blocks
    )
    assert tokens == alone


def test_preemption_does_not_change_tokens(llama: LoadedModel, mode: str, alone: list[list[int]]) -> None:
    llm = LLM(llama, EngineConfig(max_model_len=128, block_size=1, num_blocks=130, watermark=0.0))
    for prompt, params in zip(PROMPTS, MODES[mode], strict=True):
        llm.add_request(prompt, params)
    while llm.has_unfinished:
        llm.step()
        assert_page_map_matches(llm)
    assert llm.page_map.totals.preemptions >= 3
    assert llm.page_map.totals.recomputed_tokens > 0
    assert [llm.output(i).outputs[0].token_ids for i in range(10)] == alone


def test_few_at_a_time(llama: LoadedModel, mode: str, alone: list[list[int]]) -> None:
    assert run(llama, MODES[mode], max_num_seqs=3) == alone


@settings(deadline=None, max_examples=15)
@given(order=st.permutations(list(range(10))), block_size=st.sampled_from([2, 8, 16]), budget=st.integers(1, 80))
def test_any_order_with_seeds(order: list[int], block_size: int, budget: int) -> None:
    seeded = [SamplingParams(max_tokens=6, temperature=1.0, seed=i) for i in range(10)]
    reference = run(_MODEL, seeded)
    config = {"block_size": block_size, "num_blocks": 480 // block_size, "max_num_batched_tokens": budget}
    assert run(_MODEL, seeded, order, **config) == reference


_MODEL = random_llama()


def test_same_seed_same_events_times_aside(llama: LoadedModel) -> None:
    def events() -> list[dict[str, object]]:
        llm = LLM(llama, EngineConfig(block_size=4, num_blocks=40, max_model_len=128, seed=5))
        seen: list[dict[str, object]] = []
        llm.bus.subscribe(lambda batch: seen.extend(msgspec.to_builtins(batch.events)))
        llm.generate(PROMPTS, MODES["sampled"])
        llm.close()
        return [{k: v for k, v in event.items() if not k.endswith("_ns")} for event in seen]

    first = events()
    assert first == events()
    assert [event["seq"] for event in first] == list(range(len(first)))


def test_without_events_the_tokens_are_the_same(llama: LoadedModel, mode: str, alone: list[list[int]]) -> None:
    llm = LLM(llama, EngineConfig(max_model_len=128, num_blocks=40), events=False)
    outputs = llm.generate(PROMPTS, MODES[mode])
    assert [output.outputs[0].token_ids for output in outputs] == alone
    with pytest.raises(RuntimeError, match="events=False"):
        _ = llm.bus


@pytest.mark.skipif(not can_pack(), reason="without oneDNN's linear layers rows may depend on their neighbours")
@pytest.mark.parametrize(
    "config",
    [
        {"num_blocks": 40, "block_size": 8},
        {"num_blocks": 200, "block_size": 4, "max_num_batched_tokens": 13},
        {"num_blocks": 64, "memory": "contiguous"},
        {"num_blocks": 64, "max_num_seqs": 1},
    ],
)
def test_logits_are_equal_to_the_last_bit(
    tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch, config: dict[str, object]
) -> None:
    """Why the tokens are the same: the logits are, bit by bit (see `paged_kernels.torch_attention`)."""

    def logits(**changes: object) -> dict[tuple[int, int], torch.Tensor]:
        seen: dict[tuple[int, int], torch.Tensor] = {}

        def spy(rows: torch.Tensor, sequences: list[Sequence], suppressed: torch.Tensor | None) -> Sampled:
            for row, sequence in zip(rows, sequences, strict=True):
                seen[sequence.request, sequence.num_tokens] = row.clone()
            return sample(rows, sequences, suppressed)

        monkeypatch.setattr("workbench.engine.runner.sample", spy)
        llm = LLM(tiny, EngineConfig(max_model_len=256, **changes))  # type: ignore[arg-type]
        rng = random.Random(1)
        for number in range(8):
            prompt = [rng.randrange(1, 6144) for _ in range(rng.randint(3, 80))]
            llm.add_request(prompt, SamplingParams(max_tokens=24 + number, seed=number, ignore_eos=True))
        while llm.has_unfinished:
            llm.step()
        return seen

    reference = logits(num_blocks=256)
    changed = logits(**config)
    assert changed.keys() == reference.keys()
    different = [key for key, row in reference.items() if not torch.equal(row, changed[key])]
    assert different == []
