"""Which pages a model looks at: attention mass per page, and decoding with the most promising pages only."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from tests.engine.driving import GREEDY, Run, alone, architecture, engine, finish, random_prompts, run, sampled
from tests.models.architectures import NO_SPECIAL, SHAPE
from workbench.engine import SamplingParams
from workbench.events import types as ev
from workbench.models import LoadedModel

LONG, SHORT = random_prompts(12, [61, 7])
PARAMS = SamplingParams(max_tokens=24, temperature=0)


@functools.cache
def eager_llama() -> Any:
    """The model of the fixture ``llama``, as transformers makes it."""
    torch.manual_seed(0)
    config = LlamaConfig(**(SHAPE | NO_SPECIAL | {"max_position_embeddings": 256}))
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()


@torch.inference_mode()
def true_mass(model: Any, tokens: list[int], block_size: int) -> list[float]:
    """The last token's attention weights, summed over pages, averaged over layers and heads."""
    attentions = model(torch.tensor([tokens]), output_attentions=True, use_cache=False).attentions
    weights = torch.stack([layer[0, :, -1] for layer in attentions]).mean(dim=(0, 1))
    return [part.sum().item() for part in weights.split(block_size)]


def masses(result: Run) -> dict[tuple[int, int], list[float]]:
    return {(event.sequence, event.query): event.mass for event in result.of(ev.PageMassSampled)}


@pytest.mark.parametrize("config", [{}, {"num_blocks": 7, "num_host_blocks": 30, "staging_blocks": 3}])
def test_page_mass_is_the_models_own_attention(llama: LoadedModel, config: dict[str, Any]) -> None:
    """On the device alone, and with most pages on the host."""
    result = run(llama, [(LONG, PARAMS)], page_mass_every=3, **config)
    text = [*LONG, *result.tokens[0][0]]
    found = masses(result)
    assert len(found) in (7, 8), "every third of 23 steps that decode"
    for (_, query), mass in found.items():
        assert mass == pytest.approx(true_mass(eager_llama(), text[: query + 1], 4), abs=2e-4)
        assert sum(mass) == pytest.approx(1, abs=2e-3)
    assert bool(result.of(ev.BlocksStreamed)) == bool(config)


def test_streamed_and_unstreamed_masses_are_equal(llama: LoadedModel) -> None:
    plain = masses(run(llama, [(LONG, PARAMS)], page_mass_every=1))
    streamed = masses(run(llama, [(LONG, PARAMS)], page_mass_every=1, num_blocks=5, num_host_blocks=30))
    assert len(plain) == 23
    assert streamed.keys() == plain.keys()
    for key, mass in plain.items():
        assert streamed[key] == pytest.approx(mass, abs=2e-4)


def test_hybrids_count_all_their_layers_streamed_or_not() -> None:
    original, loaded = architecture("gemma3")
    config: dict[str, Any] = {"page_mass_every": 4, "max_model_len": 128, "max_num_batched_tokens": 8}
    plain = run(loaded, [(LONG, PARAMS)], **config)
    streamed = run(loaded, [(LONG, PARAMS)], num_blocks=12, num_host_blocks=30, **config)
    assert streamed.of(ev.BlocksStreamed)
    assert plain.tokens == streamed.tokens
    text = [*LONG, *plain.tokens[0][0]]
    for result in (plain, streamed):
        assert len(masses(result)) > 4
        for (_, query), mass in masses(result).items():
            assert mass == pytest.approx(true_mass(original, text[: query + 1], 4), abs=2e-4)


def test_every_sampled_sequence_has_its_mass(llama: LoadedModel) -> None:
    """Samples, beams, and whoever ends in the very step that is sampled; the state keeps the last one."""
    llm = engine(llama, page_mass_every=1)
    llm.add_request(LONG, sampled(1, n=2, max_tokens=6))
    llm.add_request(SHORT, SamplingParams(max_tokens=6, temperature=0, beam_width=3))
    llm.add_request(SHORT, SamplingParams(max_tokens=2, temperature=0))
    seen: list[ev.PageMassSampled] = []
    while llm.has_unfinished:
        batch = llm.step()
        new = [e for e in batch.events if isinstance(e, ev.PageMassSampled)]
        seen += new
        for event in new:
            state = llm.page_map.sequences.get(event.sequence)
            assert state is None or (state.mass, state.mass_step) == (event.mass, batch.step)
    assert len(seen) == 5 * 2 + 5 * 3 + 1
    assert all(sum(e.mass) == pytest.approx(1, abs=2e-3) for e in seen)
    assert all(len(e.mass) == e.query // 4 + 1 for e in seen)


def test_sinks_take_the_rest() -> None:
    _, loaded = architecture("gpt_oss")
    with torch.no_grad():
        for layer in loaded.model.model.layers:
            layer.self_attn.sinks += 2.0
    result = run(loaded, [(LONG, PARAMS)], page_mass_every=1, max_model_len=128)
    assert all(0 < sum(mass) < 0.99 for mass in masses(result).values())


def test_as_many_pages_as_there_are_change_nothing(llama: LoadedModel) -> None:
    jobs = [(LONG, PARAMS), (SHORT, sampled(2))]
    config = {"attention_pages": 22, "measure_selection": True}
    result = run(llama, jobs, **config)
    assert result.tokens == [alone(llama, job) for job in jobs]
    assert result.of(ev.SelectionMeasured) == []


@pytest.mark.parametrize("pages", [2, 5, 12, 20])
def test_fewer_pages_are_read_and_the_error_is_measured(llama: LoadedModel, pages: int) -> None:
    result = run(llama, [(LONG, PARAMS)], attention_pages=pages, measure_selection=True)
    measured = result.of(ev.SelectionMeasured)
    assert [e.query for e in measured] == [q for q in range(61, 84) if q // 4 + 1 > pages]
    for event in measured:
        assert event.pages_read == pages < event.pages == event.query // 4 + 1
        assert 0 < event.mass_covered < 1
        assert event.output_distance > 0
    if pages == 20:
        assert all(e.mass_covered > 0.9 for e in measured)


def test_more_pages_cover_more(llama: LoadedModel) -> None:
    """The first measured step of all runs is the same one."""
    first = [
        run(llama, [(LONG, GREEDY)], attention_pages=pages, measure_selection=True).of(ev.SelectionMeasured)[0]
        for pages in (2, 4, 8, 15)
    ]
    assert len({event.query for event in first}) == 1
    assert [e.mass_covered for e in first] == sorted(e.mass_covered for e in first)
    assert [e.output_distance for e in first] == sorted((e.output_distance for e in first), reverse=True)


@pytest.mark.parametrize(
    "config",
    [
        {"prefix_caching": True},
        {"num_blocks": 26, "watermark": 0.0, "preemption": "swap", "num_host_blocks": 40},
        {"block_size": 2, "num_blocks": 400, "attention_pages": 20},
    ],
)
def test_selection_does_not_depend_on_where_pages_lie(llama: LoadedModel, config: dict[str, Any]) -> None:
    """What is known of a page's keys moves with it: swapped, shared, copied."""
    jobs = [(LONG, PARAMS), (SHORT, sampled(2, n=3, max_tokens=30)), (LONG[:40], sampled(5, n=2))]
    base: dict[str, Any] = {"attention_pages": 6}
    same = base | {k: v for k, v in config.items() if k in ("block_size", "attention_pages")}
    reference = [run(llama, [job], **same) for job in jobs]
    result = run(llama, [*jobs, *jobs], **(base | config))
    assert result.tokens == [r.tokens[0] for r in reference] * 2
    assert result.tokens != [alone(llama, job) for job in jobs] * 2, "it is not exact"


def test_selection_from_the_host(llama: LoadedModel) -> None:
    llm = engine(llama, num_blocks=5, num_host_blocks=30, attention_pages=8)
    llm.add_request(LONG, PARAMS)
    events: list[ev.AnyEvent] = []
    finish(llm, events)
    streamed = [e for e in events if isinstance(e, ev.BlocksStreamed)]
    decodes = streamed[-20:]
    assert all(e.pages < e.host_pages for e in decodes)
    assert all(e.pages <= 8 for e in decodes)
    assert all(e.bytes == e.pages * 1024 for e in decodes)
    assert len(llm.output(0).outputs[0].token_ids) == 24
