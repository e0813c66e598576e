"""The third lane: what `generate` of transformers writes and holds, with books that add up at every step."""

from __future__ import annotations

import copy
import gc
import json
import random
import time
import weakref
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache, StoppingCriteria, StoppingCriteriaList

from tests.app.conftest import SMALL
from tests.models.architectures import supported
from workbench import LLM, EngineConfig, SamplingParams
from workbench.engine.sequence import Sequence, TextStream
from workbench.models import LoadedModel, prepare_model
from workbench.models.fused_linear import FusedPart, find_groups, fuse_linear_layers
from workbench.models.hook import GeometryProbe
from workbench_app import growing_batch, growing_model
from workbench_app.growing import GrowingLane, LaneState
from workbench_app.growing_batch import Batch, Row, make_rows, plan_batches
from workbench_app.growing_compare import compare_lane
from workbench_app.growing_model import forward, new_cache, own_attention
from workbench_app.growing_payload import lane_payload
from workbench_app.settings import Prompt, SettingError, Settings

#: Two batches: the pool is too small for all four prompts at once; one of them asks for two samples.
TWO = replace(SMALL, prompts=(*SMALL.prompts[:3], Prompt("Der var engang", 16, 2)), pool_tokens=128)


def run(lane: GrowingLane) -> list[LaneState]:
    """All states, each taken right after its step."""
    states = [lane.at(0)]
    while not lane.done:
        lane.advance()
        states.append(lane.at(lane.last_step))
    return states


@pytest.fixture(scope="module")
def finished(tiny: LoadedModel) -> tuple[GrowingLane, list[LaneState]]:
    """A run of `TWO` with its states."""
    lane = GrowingLane(tiny, TWO)
    return lane, run(lane)


def formula(model: LoadedModel, rows: int, length: int) -> int:
    geometry = model.geometry
    per_token = 2 * geometry.num_layers * geometry.num_kv_heads * geometry.head_dim * model.dtype.itemsize
    return rows * length * per_token


class LengthsReached(StoppingCriteria):  # type: ignore[misc]
    """Each row has its own length, as requests have."""

    def __init__(self, width: int, lengths: list[int]) -> None:
        self.width, self.lengths = width, torch.tensor(lengths)

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        return input_ids.shape[1] - self.width >= self.lengths


def test_greedy_tokens_are_those_of_generate(tiny: LoadedModel) -> None:
    settings = replace(TWO, temperature=0.0)
    written = {(output.prompt, output.sample): output for output in run(GrowingLane(tiny, settings))[-1].outputs}
    batches = plan_batches(make_rows(tiny, settings), settings.pool_tokens)
    assert len(batches) == 2
    twin = own_attention(tiny).module
    pad = 1
    for batch in batches:
        width = max(row.prompt_tokens for row in batch)
        ids = torch.tensor([[pad] * row.padding + row.sequence.token_ids for row in batch])
        mask = torch.tensor([[0] * row.padding + [1] * row.prompt_tokens for row in batch])
        config = copy.deepcopy(twin.generation_config)
        config.update(do_sample=False, max_new_tokens=64, eos_token_id=None, pad_token_id=pad)
        cache = DynamicCache(config=twin.config)
        out = twin.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            past_key_values=cache,
            stopping_criteria=StoppingCriteriaList([LengthsReached(width, [row.max_tokens for row in batch])]),
        )
        # Real `generate` holds as much at its end as the lane says it does.
        assert cache.get_seq_length() == width + max(row.max_tokens for row in batch) - 1
        for row, tokens in zip(batch, out.tolist(), strict=True):
            expected = tokens[width : width + row.max_tokens]
            assert written[row.prompt, row.sample].token_ids == expected, row.prompt


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_tokens_are_those_of_an_engine(tiny: LoadedModel, temperature: float) -> None:
    settings = replace(TWO, temperature=temperature, pool_tokens=256)
    state = run(GrowingLane(tiny, settings))[-1]
    llm = LLM(tiny, EngineConfig(block_size=16, num_blocks=16, max_model_len=settings.max_model_len))
    places, seed = {}, settings.seed
    for number, prompt in enumerate(settings.prompts):
        params = SamplingParams(
            max_tokens=prompt.max_tokens, temperature=temperature, ignore_eos=True, seed=seed, n=prompt.samples
        )
        places[llm.add_request(prompt.text, params)] = number, 0
        seed += prompt.samples
    while llm.has_unfinished:
        llm.step()
    comparison = compare_lane(llm.page_map, places, state)
    print(f"\n{comparison.words}")
    assert comparison.generated == comparison.compared == 12 + 20 + 8 + 2 * 16
    assert comparison.final
    # Float32 on a CPU: a near tie would show here, and in the badge; these texts have none.
    assert comparison.equal == comparison.compared
    for request, known in llm.page_map.requests.items():
        mine = [output.text for output in state.outputs if output.prompt == places[request][0]]
        assert [output.text for output in known.outputs.values()] == mine
    llm.close()


def test_a_difference_is_not_hidden(tiny: LoadedModel, small: Settings) -> None:
    lane = GrowingLane(tiny, replace(small, seed=5))
    state = run(lane)[-1]
    llm = LLM(tiny, EngineConfig(block_size=16, num_blocks=16, max_model_len=small.max_model_len))
    for number, prompt in enumerate(small.prompts):
        llm.add_request(prompt.text, SamplingParams(max_tokens=prompt.max_tokens, ignore_eos=True, seed=number))
    while llm.has_unfinished:
        llm.step()
    comparison = compare_lane(llm.page_map, {}, state)
    assert comparison.state == "differ"
    assert comparison.words.startswith("Outputs differ: request ")
    llm.close()


def test_bytes_are_those_of_the_formula_and_the_books_add_up(
    tiny: LoadedModel, finished: tuple[GrowingLane, list[LaneState]]
) -> None:
    lane, states = finished
    total = sum(prompt.max_tokens * prompt.samples for prompt in TWO.prompts)
    peak = 0
    for before, state in pairwise(states):
        assert state.bytes == formula(tiny, len(state.rows), state.length)
        assert state.needed_bytes + state.padding_bytes + state.ended_bytes == state.bytes
        assert {row.padding + row.prompt_tokens for row in state.rows} in ({state.length - passes(state) + 1}, set())
        per_position = formula(tiny, 1, 1)
        live = [row for row in state.rows if not row.ended]
        assert state.padding_bytes == sum(row.padding for row in live) * per_position
        assert state.needed_bytes == sum(row.prompt_tokens + row.output_tokens - 1 for row in live) * per_position
        assert state.length <= state.longest
        assert state.generated == sum(len(output.token_ids) for output in state.outputs)
        assert state.seconds > before.seconds
        assert state.mark.running == len(live)
        assert state.peak_bytes >= max(before.peak_bytes, state.bytes)
        assert state.transient_bytes >= state.peak_bytes
        peak = max(peak, state.peak_bytes)
        held = {row.prompt for row in state.rows}
        assert held.isdisjoint(state.waiting)
        assert {output.prompt for output in state.outputs if output.status == "w"} == set(state.waiting)
    # The last token of a batch is written, not stored; every batch holds most in its last pass.
    batches = plan_batches(make_rows(tiny, TWO), TWO.pool_tokens)
    lengths = [max(r.padding + r.prompt_tokens for r in b) + max(r.max_tokens for r in b) - 1 for b in batches]
    assert peak == max(formula(tiny, len(b), length) for b, length in zip(batches, lengths, strict=True))
    assert states[-1].generated == total
    assert states[-1].transient_bytes > states[-1].peak_bytes == peak
    assert states[-1].done
    assert (states[-1].bytes, states[-1].rows, states[-1].waiting) == (0, (), ())
    assert all(output.status == "f" for output in states[-1].outputs)
    assert lane.last_step == sum(max(row.max_tokens for row in batch) for batch in batches)


def passes(state: LaneState) -> int:
    """Forward passes of the present batch."""
    return max(row.output_tokens for row in state.rows) if state.rows else 0


def test_rows_that_have_ended_stay_and_the_next_batch_waits(finished: tuple[GrowingLane, list[LaneState]]) -> None:
    _, states = finished
    first = [state for state in states if state.batch == 0 and state.rows]
    assert any(row.ended for row in first[-1].rows)
    assert first[-1].ended_bytes > 0
    assert all(len(state.rows) == len(first[0].rows) for state in first)
    assert all(state.waiting for state in first)
    assert "a batch lets nobody in once it runs" in first[-1].words
    assert "they stay, and grow" in first[-1].words or "it stays, and grows" in first[-1].words


def test_every_step_of_the_past_can_be_shown_at_once(finished: tuple[GrowingLane, list[LaneState]]) -> None:
    lane, states = finished
    began = time.perf_counter()
    again = [lane.at(step) for step in reversed(range(len(states)))]
    each = (time.perf_counter() - began) / len(states)
    print(f"\n{1e6 * each:.0f} us for a step of the past")
    assert each < 0.005
    for state, then in zip(again, reversed(states), strict=True):
        assert state == then
    assert lane.at(10_000) == states[-1]


def test_batches_are_as_large_as_fits_at_their_longest(tiny: LoadedModel, small: Settings) -> None:
    rows = make_rows(tiny, small)
    for pool in (40, 64, 100, 128, 256):
        batches = plan_batches(rows, pool)
        assert [row for batch in batches for row in batch] == rows
        for batch, following in zip(batches, [*batches[1:], []], strict=True):
            assert len(batch) == 1 or len(batch) * growing_batch.longest(batch) <= pool
            if following:
                wider = [*batch, *[row for row in following if row.prompt == following[0].prompt]]
                assert len(wider) * growing_batch.longest(wider) > pool


def test_seeds_are_those_of_the_engines(tiny: LoadedModel) -> None:
    """Prompt i begins with the seed plus the samples before it; sample j adds j."""
    prompts = (Prompt("Once", 3), Prompt("Once", 3, 3), Prompt("Once", 3))
    alone = [
        run(GrowingLane(tiny, replace(SMALL, prompts=(Prompt("Once", 3),), seed=seed)))[-1].outputs[0].token_ids
        for seed in range(5)
    ]
    together = run(GrowingLane(tiny, replace(SMALL, prompts=prompts)))[-1].outputs
    assert [output.token_ids for output in together] == alone


def test_beams_are_left_out_and_said(tiny: LoadedModel, small: Settings) -> None:
    prompts = (small.prompts[0], Prompt("Es war einmal", 6, beams=2))
    state = run(GrowingLane(tiny, replace(small, prompts=prompts)))[-1]
    assert state.left_out == (1,)
    assert "B left out: this lane does not run beam searches." in state.words
    only = GrowingLane(tiny, replace(small, prompts=prompts[1:]))
    assert only.done
    assert "Nothing to run" in only.at(0).words


def test_closing_gives_the_memory_back_and_keeps_the_history(tiny: LoadedModel, small: Settings) -> None:
    lane = GrowingLane(tiny, small)
    lane.advance()
    lane.advance()
    assert lane._batch is not None
    tensors = [weakref.ref(tensor) for tensor in lane._batch.tensors()]
    assert len(tensors) == 2 * tiny.geometry.num_layers
    before = lane.at(2)
    lane.close()
    gc.collect()
    assert all(tensor() is None for tensor in tensors)
    assert lane.done
    assert lane.at(1).bytes > 0
    assert replace(lane.at(2), done=False) == before


def test_the_engines_model_stays_as_it_was_and_no_weight_is_copied(tiny: LoadedModel, llama: LoadedModel) -> None:
    for model in (tiny, llama):
        twin = own_attention(model)
        assert twin is own_attention(model)
        assert twin.implementation == "sdpa"
        assert model.model.config._attn_implementation == "workbench_kv"
        shared = {id(tensor) for tensor in (*model.model.parameters(), *model.model.buffers())}
        assert all(id(tensor) in shared for tensor in (*twin.module.parameters(), *twin.module.buffers()))


@pytest.mark.parametrize("name", ["mistral", "gemma2", "gpt2", "opt"])
def test_other_architectures(name: str) -> None:
    """Windows, soft caps and learned positions: a padded batch still writes what an engine writes."""
    torch.manual_seed(0)
    model = prepare_model(AutoModelForCausalLM.from_config(supported()[name]), None, name)
    own = own_attention(model)
    assert own.implementation == ("eager" if name == "gemma2" else "sdpa")
    generator = random.Random(0)
    prompts = [[generator.randrange(97) for _ in range(length)] for length in (5, 11, 3)]
    params = SamplingParams(max_tokens=12, temperature=0, ignore_eos=True)
    rows = [
        Row(i, 0, Sequence(i, i, params, list(ids), len(ids), 12, random.Random(i), TextStream(None)))
        for i, ids in enumerate(prompts)
    ]
    (planned,) = plan_batches(rows, 1000)
    batch = Batch(own, model, planned)
    while not batch.done:
        batch.step()
    outputs = LLM(model, EngineConfig(block_size=4, num_blocks=64)).generate(prompts, params)
    assert [row.sequence.output_token_ids for row in rows] == [output.outputs[0].token_ids for output in outputs]
    windows = {layer.window for layer in model.layers}
    length = 11 + 12 - 1
    assert {part.positions for part in batch.held()} == {length if w is None else min(length, w - 1) for w in windows}
    assert sum(part.bytes for part in batch.held()) == sum(tensor.nbytes for tensor in batch.tensors())


def test_fused_layers_are_taken_apart_again() -> None:
    """On a CUDA device the engines' layers leave each other something; the twin's do not, with the same weights."""
    torch.manual_seed(0)
    model = prepare_model(AutoModelForCausalLM.from_config(supported()["llama"]), None, "llama", pack=False)
    ids = torch.randint(97, (2, 9))
    own = own_attention(model).module
    mask = torch.ones_like(ids)
    expected = forward(own, ids, mask, new_cache(own), True)

    def probe() -> None:
        places = torch.arange(9)[None]
        model.model(input_ids=ids[:1], position_ids=places, use_cache=False, paged_batch=GeometryProbe())

    fuse_linear_layers(model.model, find_groups(model.model, probe))
    assert any(isinstance(part, FusedPart) for part in model.model.modules())
    fused = replace(model)
    growing_model._TWINS.pop(fused.model, None)
    twin = own_attention(fused).module
    assert not any(isinstance(part, FusedPart) for part in twin.modules())
    assert torch.allclose(forward(twin, ids, mask, new_cache(twin), True), expected, atol=1e-5)
    shared = {tensor.data_ptr() for tensor in model.model.parameters()}
    assert {tensor.data_ptr() for tensor in twin.parameters()} == shared


def test_a_lane_that_fails_says_why(tiny: LoadedModel, small: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    lane = GrowingLane(tiny, small)
    lane.advance()

    def no_room(*_: object) -> None:
        raise MemoryError("no room for 5.0 MB")

    monkeypatch.setattr(growing_batch, "forward", no_room)
    lane.advance()
    state = lane.at(lane.last_step)
    assert lane.done
    assert state.why_not == "It stopped after step 1: no room for 5.0 MB"
    assert "no room for 5.0 MB" in state.words
    assert {output.status for output in state.outputs} == {"x"}
    assert lane.at(0).why_not == ""


def test_a_model_that_can_not_says_why(tiny: LoadedModel, small: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise TypeError("takes no mask")

    monkeypatch.setattr(growing_model, "_TWINS", weakref.WeakKeyDictionary())
    monkeypatch.setattr(growing_model, "forward", broken)
    lane = GrowingLane(tiny, small)
    assert lane.done
    assert lane.at(0).why_not.endswith("can't run a padded batch on transformers' own cache: takes no mask")


def test_an_impossible_prompt_names_itself(tiny: LoadedModel, impossible: Settings) -> None:
    with pytest.raises(SettingError, match=r"Prompts, request 1: .*at most 63 are allowed"):
        GrowingLane(tiny, impossible)


def test_the_payload_is_small_and_says_what_the_state_says(
    tiny: LoadedModel, finished: tuple[GrowingLane, list[LaneState]]
) -> None:
    _, states = finished
    largest = 0
    for state in states:
        payload = lane_payload(state, TWO, tiny.geometry, 110)
        largest = max(largest, len(json.dumps(payload, ensure_ascii=False).encode()))
        assert sum(payload["waste"]) == state.bytes
        assert payload["waiting"] == list(state.waiting)
        assert [row[0] for row in payload["rows"]] == [row.prompt for row in state.rows]
        assert len(payload["texts"]) == 5
        if state.rows:
            assert payload["limit"] == TWO.pool_tokens // len(state.rows)
    print(f"\npayloads of at most {largest:,} bytes")
    assert largest < 4_000
