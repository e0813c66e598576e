"""Sharing, swapping, streaming, layer groups and float8 on a CUDA device. Skipped where there is none."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.conftest import assert_page_map_matches
from tests.gpu.test_engine_cuda import llama_config
from tests.models.architectures import supported
from workbench.engine import LLM, EngineConfig, SamplingParams
from workbench.engine.storage import Storage
from workbench.events import types as ev
from workbench.memory import allocate_host_tier, allocate_kv_cache
from workbench.memory.block_table import Move, MoveKind
from workbench.models import LoadedModel, prepare_model
from workbench.models.geometry import LayerGeometry
from workbench.models.layer_groups import group_layers

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

_RNG = random.Random(11)
PROMPTS = [[_RNG.randrange(1, 97) for _ in range(n)] for n in (3, 40, 17, 29, 8, 55)]
CONFIG: dict[str, Any] = {"num_blocks": 120, "block_size": 4, "max_model_len": 160, "max_num_seqs": 24}
#: enough pages for about half of what the requests want
TIGHT: dict[str, Any] = {"num_blocks": 64, "watermark": 0.0}


@pytest.fixture(scope="module", autouse=True)
def _exact_float32() -> None:
    torch.backends.cuda.matmul.allow_tf32 = False


@pytest.fixture(scope="module")
def original() -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(llama_config()).eval().cuda()


@pytest.fixture(scope="module")
def model(original: Any) -> LoadedModel:
    return prepare_model(copy.deepcopy(original), None, "cuda-llama")


def run(
    model: LoadedModel, params: list[SamplingParams], prompts: list[list[int]] = PROMPTS, **config: Any
) -> tuple[list[list[list[int]]], list[ev.AnyEvent]]:
    """Tokens of all outputs, and the events."""
    events: list[ev.AnyEvent] = []
    with LLM(model, EngineConfig(**(CONFIG | config))) as llm:
        llm.bus.subscribe(lambda batch: events.extend(batch.events))
        requests = [llm.add_request(p, s) for p, s in zip(prompts, params, strict=True)]
        while llm.has_unfinished:
            llm.step()
            assert_page_map_matches(llm)
        outputs = [[o.token_ids for o in llm.output(request).outputs] for request in requests]
    return outputs, events


def count(events: list[ev.AnyEvent], kind: type) -> int:
    return sum(isinstance(event, kind) for event in events)


SAMPLES = [SamplingParams(max_tokens=24, temperature=0.9, seed=10 * i, n=1 + i % 4) for i in range(len(PROMPTS))]


@pytest.mark.parametrize("graphs", [True, False])
def test_samples_are_what_their_seeds_give_alone(model: LoadedModel, graphs: bool) -> None:
    alone = [
        [
            run(model, [SamplingParams(max_tokens=24, temperature=0.9, seed=10 * i + j)], [prompt])[0][0][0]
            for j in range(1 + i % 4)
        ]
        for i, prompt in enumerate(PROMPTS)
    ]
    outputs, events = run(model, SAMPLES, cuda_graphs=graphs)
    assert outputs == alone
    assert count(events, ev.BlockCopied) > 3


def test_beams_equal_generate(original: Any, model: LoadedModel) -> None:
    widths = [2, 3, 4, 1, 5, 3]
    params = [SamplingParams(max_tokens=20, temperature=0, beam_width=w, n=min(2, w)) for w in widths]
    outputs, events = run(model, params, num_blocks=300)
    for prompt, width, found in zip(PROMPTS, widths, outputs, strict=True):
        ids = torch.tensor([prompt], device="cuda")
        expected = original.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=20,
            num_beams=width,
            num_return_sequences=min(2, width),
            do_sample=False,
        )
        assert found == expected[:, len(prompt) :].tolist()
    assert count(events, ev.SequenceForked) > 20
    for mode in ("recompute", "swap"):
        tight, events = run(model, params, num_blocks=76, num_host_blocks=200, preemption=mode, watermark=0.0)
        assert tight == outputs
        assert count(events, ev.RequestPreempted) > 0


@pytest.mark.parametrize("mode", ["recompute", "swap", "adaptive"])
@pytest.mark.parametrize("victim", ["last_come", "longest_remaining"])
@pytest.mark.parametrize("prefix_caching", [False, True])
def test_preemption_changes_no_token(model: LoadedModel, mode: str, victim: str, prefix_caching: bool) -> None:
    plenty, _ = run(model, SAMPLES, num_blocks=400)
    tight, events = run(
        model, SAMPLES, **TIGHT, num_host_blocks=100, preemption=mode, victim=victim, prefix_caching=prefix_caching
    )
    assert tight == plenty
    modes = {event.mode for event in events if isinstance(event, ev.RequestPreempted)}
    assert modes
    if mode == "swap":
        assert modes == {"swap"}
        settled = [event for event in events if isinstance(event, ev.PreemptionSettled)]
        assert settled
        assert all(event.bytes_moved > 0 and event.measured_ns > 0 for event in settled)


def test_prefixes_are_found(model: LoadedModel) -> None:
    prompts = [PROMPTS[1] + [i] for i in range(4)]
    params = [SamplingParams(max_tokens=16, temperature=0)] * 4
    plain, _ = run(model, params, prompts)
    for batch in (512, 16):
        found, events = run(model, params, prompts, prefix_caching=True, max_num_seqs=1, max_num_batched_tokens=batch)
        assert found == plain
        assert count(events, ev.PrefixHit) == 3 * 10


@pytest.mark.parametrize("num_blocks", [2, 3, 6, 12, 24])
@pytest.mark.parametrize("placement", ["oldest", "keep_first"])
def test_larger_than_the_device(model: LoadedModel, num_blocks: int, placement: str) -> None:
    prompts, params = [PROMPTS[5] * 2], [SamplingParams(max_tokens=40, temperature=0)]
    plenty, _ = run(model, params, prompts)
    streamed, events = run(
        model, params, prompts, num_blocks=num_blocks, num_host_blocks=60, staging_blocks=5, placement=placement
    )
    assert streamed == plenty
    assert count(events, ev.BlocksStreamed) >= 40


@pytest.mark.parametrize("name", ["mistral", "gemma3", "gpt_oss"])
def test_windows_of_a_sequence_larger_than_the_device(name: str) -> None:
    """One table for all layers: those with a window need some pages of the host, and no others."""
    torch.manual_seed(1)
    original: Any = AutoModelForCausalLM.from_config(supported()[name], attn_implementation="eager").eval().cuda()
    loaded = prepare_model(copy.deepcopy(original), None, name)
    params, prompts = [SamplingParams(max_tokens=24, temperature=0, ignore_eos=True)], [PROMPTS[5]]
    config = {"max_model_len": 128, "free_behind_window": False}
    plenty, _ = run(loaded, params, prompts, **config)
    for num_blocks in (3, 9):
        streamed, events = run(loaded, params, prompts, **config, num_blocks=num_blocks, num_host_blocks=60)
        assert streamed == plenty
        assert count(events, ev.BlocksStreamed) > 10


@pytest.mark.parametrize("name", ["mistral", "gemma3", "gpt_oss"])
def test_windows_and_layer_groups(name: str) -> None:
    torch.manual_seed(1)
    original: Any = AutoModelForCausalLM.from_config(supported()[name], attn_implementation="eager").eval().cuda()
    loaded = prepare_model(copy.deepcopy(original), None, name)
    params = [SamplingParams(max_tokens=24, temperature=0, ignore_eos=True, n=1 + i % 2) for i in range(len(PROMPTS))]
    whole, _ = run(loaded, params, max_model_len=128, free_behind_window=False, num_blocks=300)
    freed, events = run(loaded, params, max_model_len=128, num_blocks=300)
    assert freed == whole
    assert any(isinstance(e, ev.BlockReleased) and e.cause is ev.Cause.OUT_OF_WINDOW for e in events)
    groups = {e.group for e in events if isinstance(e, ev.BlockAllocated)}
    assert groups == ({0} if name == "mistral" else {0, 1})
    swapped, events = run(
        loaded,
        params,
        max_model_len=128,
        num_blocks=16 if name == "mistral" else 72,
        watermark=0.0,
        num_host_blocks=200,
        preemption="swap",
        max_num_batched_tokens=16,
    )
    assert swapped == whole
    assert count(events, ev.BlocksSwappedIn) > 0


def test_mass_is_that_of_plain_torch(model: LoadedModel) -> None:
    params = [SamplingParams(max_tokens=12, temperature=0)] * len(PROMPTS)
    seen = []
    for attention in ("torch", "triton"):
        _, events = run(model, params, attention=attention, page_mass_every=3)
        seen.append([(e.sequence, e.query, e.mass) for e in events if isinstance(e, ev.PageMassSampled)])
    assert len(seen[0]) > 10
    for (sequence, query, expected), (other, at, mass) in zip(*seen, strict=True):
        assert (sequence, query) == (other, at)
        assert mass == pytest.approx(expected, abs=2e-4)
        assert sum(mass) == pytest.approx(1, abs=1e-2)
    prompts, one = [PROMPTS[5] * 2], params[:1]
    _, events = run(model, one, prompts, num_blocks=12, num_host_blocks=60, page_mass_every=3)
    streamed = {e.query: e.mass for e in events if isinstance(e, ev.PageMassSampled)}
    _, events = run(model, one, prompts, page_mass_every=1)
    resident = {e.query: e.mass for e in events if isinstance(e, ev.PageMassSampled)}
    assert len(streamed) > 2
    for query, mass in streamed.items():
        assert mass == pytest.approx(resident[query], abs=2e-4)


def test_selection(model: LoadedModel) -> None:
    params = [SamplingParams(max_tokens=12, temperature=0)] * len(PROMPTS)
    exact, _ = run(model, params)
    assert run(model, params, attention_pages=40)[0] == exact
    seen = []
    for attention in ("torch", "triton"):
        _, events = run(model, params, attention=attention, attention_pages=4, measure_selection=True)
        seen.append([e for e in events if isinstance(e, ev.SelectionMeasured)])
    assert len(seen[0]) > 10
    first, second = seen[0][0], seen[1][0]
    assert (first.sequence, first.query, first.pages) == (second.sequence, second.query, second.pages)
    assert second.mass_covered == pytest.approx(first.mass_covered, abs=1e-3)
    assert second.output_distance == pytest.approx(first.output_distance, abs=1e-2)
    run(model, params[:1], [PROMPTS[5] * 2], num_blocks=12, num_host_blocks=60, attention_pages=16)


def test_float8(model: LoadedModel) -> None:
    params = [SamplingParams(max_tokens=12, temperature=0, logprobs=1)] * len(PROMPTS)
    with LLM(model, EngineConfig(**CONFIG)) as llm:
        exact = llm.bytes_per_block
    with LLM(model, EngineConfig(**CONFIG, kv_cache_dtype="fp8", num_host_blocks=100, preemption="swap")) as llm:
        assert llm.bytes_per_block == exact // 4
        outputs = [o.outputs[0] for o in llm.generate(PROMPTS, params)]
    reference, _ = run(model, params)
    same = sum(a.token_ids[0] == b[0][0] for a, b in zip(outputs, reference, strict=True))
    assert same >= 5, "the first tokens of most prompts survive float8"
    tight, _ = run(model, params, **TIGHT, kv_cache_dtype="fp8", num_host_blocks=100, preemption="swap")
    assert [tokens[0] for tokens in tight] == [output.token_ids for output in outputs]


def test_fork_and_cancel(model: LoadedModel) -> None:
    params = SamplingParams(max_tokens=40, temperature=0, ignore_eos=True)
    with LLM(model, EngineConfig(**CONFIG, num_host_blocks=50, preemption="swap")) as llm:
        request = llm.add_request(PROMPTS[1], params)
        other = llm.add_request(PROMPTS[2], params)
        for step in range(20):
            if step in (3, 9, 10):
                llm.fork(request)
            if step == 12:
                llm.cancel(other)
            llm.step()
            assert_page_map_matches(llm)
        while llm.has_unfinished:
            llm.step()
        outputs = llm.output(request).outputs
        assert len(outputs) == 4
        assert all(output.token_ids == outputs[0].token_ids for output in outputs)


@pytest.mark.parametrize("head_dim", [16, 256])
def test_mover_keeps_every_bit(head_dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages out, overwritten on the device, and in again elsewhere; in several pieces, small and large pages."""
    import workbench.engine.gpu.mover as module

    layers = [LayerGeometry(8, 4, head_dim, head_dim)] * (2 if head_dim == 16 else 8)
    blocks, device = 64, torch.device("cuda")
    caches = allocate_kv_cache(layers, blocks, 16, torch.float32, device)
    size = sum(t[0].numel() * 4 for pair in caches for t in pair)
    monkeypatch.setattr(module, "STAGING", 10 * size)
    host = allocate_host_tier(40, size, pinned=True)
    mover = module.GpuMover(Storage(caches, host, group_layers(layers, False, 128)))
    for pair in caches:
        for tensor in pair:
            tensor.normal_()
    before = [tensor.clone() for pair in caches for tensor in pair]
    out = list(range(3, 43))
    rows = torch.randperm(40).tolist()
    order = torch.randperm(64).tolist()
    back, spare = order[:40], order[40]
    mover.carry_out([Move(MoveKind.OUT, list(zip(out, rows, strict=True)), 5)])
    for pair in caches:  # at once, as a step would that got the pages
        for tensor in pair:
            tensor.fill_(-1.0)
    mover.carry_out([Move(MoveKind.IN, list(zip(rows, back, strict=True)), 5)])
    mover.carry_out([Move(MoveKind.COPY, [(back[0], spare)], -1)])
    for tensor, was in zip([t for pair in caches for t in pair], before, strict=True):
        assert torch.equal(tensor[back], was[out])
        assert torch.equal(tensor[spare], was[out[0]])
    transfers = mover.take_transfers()
    assert [(t.kind, t.bytes) for t in transfers if t.kind != "copy"] == [("out", 40 * size), ("in", 40 * size)]
    assert all(t.ns > 0 for t in transfers)
    assert mover.measure()
