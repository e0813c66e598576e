"""Metrics: equal to the page map, bounded in labels, added up over engines, and all that the dashboard names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from workbench import LLM, EngineConfig, SamplingParams
from workbench.metrics import EngineCollector, attach
from workbench.metrics_counts import COUNTERS, HISTOGRAMS
from workbench.metrics_gauges import GAUGES
from workbench.models import LoadedModel
from workbench_app.main import make_services
from workbench_app.presets import DEFAULT_PRESET, PRESETS
from workbench_app.settings import parse_settings

DASHBOARD = Path(__file__).parents[2] / "docs" / "grafana" / "kv-workbench.json"
PREFIX = "kv_workbench:"
STORY = "In the town where I was born there was a street so narrow that two people could not pass each other in it"


def samples(collector: EngineCollector) -> dict[str, dict[tuple[str, ...], float]]:
    """Name without prefix -> labels beside engine and memory -> value, over all engines."""
    found: dict[str, dict[tuple[str, ...], float]] = {}
    for family in text_string_to_metric_families(collector.exposition().decode()):
        for sample in family.samples:
            assert sample.name.startswith(PREFIX)
            labels = dict(sample.labels)
            assert {"engine", "memory"} <= set(labels)
            rest = tuple(value for name, value in labels.items() if name not in ("engine", "memory"))
            values = found.setdefault(sample.name.removeprefix(PREFIX), {})
            values[rest] = values.get(rest, 0.0) + sample.value
    return found


@pytest.fixture
def swapping(tiny: LoadedModel) -> Iterator[LLM]:
    """A pool that is too small, a host tier, and a prefix cache: everything that is counted happens."""
    config = EngineConfig(
        block_size=8,
        num_blocks=24,
        num_host_blocks=24,
        preemption="adaptive",
        prefix_caching=True,
        max_num_batched_tokens=256,
        max_model_len=128,
        seed=0,
    )
    with LLM(tiny, config) as llm:
        yield llm


def add_requests(llm: LLM) -> None:
    for number in range(6):
        params = SamplingParams(max_tokens=24, temperature=0.8, seed=number, ignore_eos=True, n=1 + number % 2)
        llm.add_request(f"{STORY} {number}", params)


def check_state(found: dict[str, dict[tuple[str, ...], float]], llm: LLM) -> None:
    state = llm.page_map
    waste, totals = state.waste(), state.totals
    for use in ("token_states", "reserved", "external", "cached", "free"):
        assert found["kv_slots"][(use,)] == getattr(waste, use)
    assert sum(found["kv_slots"].values()) == state.num_slots
    assert found["num_requests_running"][()] == len(state.running)
    assert found["num_requests_waiting"][()] == len(state.waiting)
    references, used = state.sharing()
    assert found["kv_page_references"][("device",)] == references
    assert found["kv_pages"]["allocated", "device"] == used
    assert found["kv_pages"]["cached", "device"] == sum(page.is_cached for page in state.pages)
    assert found["kv_pages"]["allocated", "host"] == sum(page.ref_count > 0 for page in state.host_pages)
    assert found["kv_cache_usage_perc"][()] == pytest.approx(used / len(state.pages))
    assert found["generation_tokens_total"][()] == totals.generated_tokens
    assert found["prefill_tokens_computed_total"][()] == totals.prefill_tokens
    assert found["num_preemptions_total"][()] == totals.preemptions
    assert found["preemption_tokens_recomputed_total"][()] == totals.recomputed_tokens
    assert found["kv_swap_bytes_total"][("out",)] == totals.swapped_out_bytes
    assert found["kv_swap_bytes_total"][("in",)] == totals.swapped_in_bytes
    assert found["kv_pages_copied_total"][()] == totals.blocks_copied
    assert found["kv_pages_evicted_total"][()] == totals.evictions
    assert sum(found["step_seconds_total"].values()) >= totals.busy_ns / 1e9 * 0.99


def test_metrics_equal_the_page_map_in_every_step(swapping: LLM) -> None:
    collector = EngineCollector()
    collector.watch(swapping)
    add_requests(swapping)
    while swapping.has_unfinished:
        swapping.step()
        if swapping.page_map.step % 5 == 0:
            check_state(samples(collector), swapping)
    found = samples(collector)
    check_state(found, swapping)
    requests = swapping.page_map.requests.values()
    assert found["num_preemptions_total"][()] > 0
    assert found["request_success_total"] == {("stop",): 0, ("length",): 6, ("abort",): 0}
    assert found["prompt_tokens_total"][()] == sum(request.prompt_tokens for request in requests)
    assert found["prefix_cache_queries_total"] == found["prompt_tokens_total"]
    assert 0 < found["prefix_cache_hits_total"][()] <= swapping.page_map.totals.prefix_hit_tokens
    for name in HISTOGRAMS:
        assert found[f"{name}_count"][()] == 6
        assert found[f"{name}_bucket"][("+Inf",)] == 6
    assert found["e2e_request_latency_seconds_sum"][()] >= found["time_to_first_token_seconds_sum"][()]


def test_a_cancelled_request_is_an_abort_and_a_refused_one_is_counted(swapping: LLM) -> None:
    collector = EngineCollector()
    collector.watch(swapping)
    first = swapping.add_request(STORY, SamplingParams(max_tokens=30, ignore_eos=True))
    swapping.step()
    swapping.cancel(first)
    swapping.step()
    assert samples(collector)["request_success_total"][("abort",)] == 1


def test_engines_are_added_up_and_what_they_counted_stays(tiny: LoadedModel) -> None:
    collector = EngineCollector()
    config = EngineConfig(block_size=16, num_blocks=16, max_model_len=64)
    for number in range(2):
        with LLM(tiny, config) as llm, collector.watch(llm, "class"):
            llm.generate([STORY], SamplingParams(max_tokens=5 + number, ignore_eos=True))
            found = samples(collector)
            assert found["engines"] == {(): 1}
            assert found["kv_pool_bytes"][("device",)] > 0
    found = samples(collector)
    assert found["generation_tokens_total"] == {(): 11}
    assert "engines" not in found or found["engines"] == {(): 0}


def test_labels_hold_nothing_of_a_request_or_a_visitor(swapping: LLM) -> None:
    collector = EngineCollector()
    collector.watch(swapping, "compare")
    add_requests(swapping)
    for _ in range(30):
        swapping.step()
    text = collector.exposition().decode()
    assert "street" not in text
    values = set(re.findall(r'(?<!le)="([^"]*)"', text))
    assert values <= {
        *("compare", "paged", "stop", "length", "abort", "device", "host", "allocated", "cached", "free", "external"),
        *("token_states", "reserved", "out", "in", "yes", "no", "swap", "recompute", "schedule", "copy", "forward"),
        *("sample", "pool_exhausted", "host_full", "preemption_victim", "watermark", "just_preempted", "token_budget"),
    }
    assert text.count("\n") < 250


def test_attach_exports_on_a_registry(tiny: LoadedModel) -> None:
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry()
    with LLM(tiny, EngineConfig(num_blocks=16, max_model_len=64)) as llm, attach(llm, registry=registry):
        llm.generate([STORY], SamplingParams(max_tokens=3, ignore_eos=True))
        labels = {"engine": "0", "memory": "paged"}
        assert registry.get_sample_value(f"{PREFIX}generation_tokens_total", labels) == 3


def exprs(node: Any) -> Iterator[str]:
    """All queries of a dashboard."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "expr":
                yield value
            else:
                yield from exprs(value)
    elif isinstance(node, list):
        for value in node:
            yield from exprs(value)


def test_every_metric_of_the_dashboard_is_exported() -> None:
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    names = {name for expr in exprs(dashboard) for name in re.findall(r"kv_workbench:(\w+)", expr)}
    exported = {*GAUGES, *(f"{name}_total" for name in COUNTERS)}
    exported |= {f"{name}_{suffix}" for name in HISTOGRAMS for suffix in ("bucket", "sum", "count")}
    assert names <= exported
    assert {"kv_slots", "kv_pages", "kv_cache_usage_perc", "num_preemptions_total"} <= names


def test_runs_of_the_app_are_timed_from_the_arrival_of_their_requests(tiny: LoadedModel) -> None:
    services = make_services(tiny)
    session = services.sessions.get("tab")
    session.prepare(parse_settings(*PRESETS[DEFAULT_PRESET].fields.values()))
    for _ in range(5):
        session.forward()
    counted = samples(services.collector)
    assert counted["request_queue_time_seconds_count"][()] > 0
    assert counted["time_to_first_token_seconds_count"] == counted["request_queue_time_seconds_count"]
    services.close()
    assert samples(services.collector)["generation_tokens_total"] == counted["generation_tokens_total"]
