"""Experiments on small sizes: what they count is what they say, and what must be equal is."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.conftest import assert_page_map_matches
from workbench.cli import main
from workbench.engine import LLM, EngineConfig, SamplingParams
from workbench.events import EventBatch
from workbench.experiments.driver import run_jobs
from workbench.experiments.policies import PolicyError, compare_policies, load_policy
from workbench.experiments.prefix import measure_evictions, measure_prefix
from workbench.experiments.selection import measure_selection
from workbench.experiments.sharing import measure_sharing, modelled_saving, sampling
from workbench.experiments.stream import StreamRow, assert_equal, measure_stream
from workbench.experiments.swap import measure_swap
from workbench.memory.eviction import LRU
from workbench.models import LoadedModel
from workbench.workloads import BundledText, Job, Lengths, RandomTokens


def test_jobs_arrive_in_time_and_gaps_are_skipped(llama: LoadedModel) -> None:
    params = SamplingParams(max_tokens=3, temperature=0)
    seen: list[list[int]] = []

    def watch(llm: LLM, batch: EventBatch) -> None:
        assert_page_map_matches(llm)
        seen.append(list(llm.page_map.running))

    jobs = [Job([1, 2, 3], params, 500), Job([4, 5], params), Job([6], params, 1)]
    run = run_jobs(llama, EngineConfig(), jobs, watch)
    assert [len(outputs[0]) for outputs in run.outputs] == [3, 3, 3]
    assert run.steps == len(run.step_seconds) == 7
    assert seen == [[0], [0, 1], [1], [], [2], [2], []]
    assert run.finish_steps == [2, 2, 2]
    assert run.outputs[1] == run_jobs(llama, EngineConfig(), [jobs[1]], before=jobs[:1]).outputs[0]


def test_a_job_that_never_fits_is_an_error(llama: LoadedModel) -> None:
    with pytest.raises(ValueError, match="can never fit"):
        run_jobs(llama, EngineConfig(num_blocks=1), [Job([1] * 30, SamplingParams(max_tokens=9))])


def test_parallel_sampling_saves_what_the_lengths_say(llama: LoadedModel, tmp_path: Path) -> None:
    trace = tmp_path / "one.csv"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "2023-11-16 18:15:46,35,20\n" * 6, encoding="utf-8")
    row = measure_sharing(llama, RandomTokens(97), "parallel", str(trace), 3, 6, at_once=2)
    assert row.modelled == modelled_saving([Lengths(35, 20)], 3, 16)
    # Measured after every step, so the prompt's own step counts, and the last one doesn't: that is all the difference.
    assert row.saved_by_pages == pytest.approx(row.modelled, abs=0.03)
    assert row.copies == 6 * 2  # of three samples that share the prompt's last page, two get a copy of it
    assert row.paper == "-"
    assert row.preemptions == 0


def test_modelled_saving_by_hand() -> None:
    # 20 prompt tokens, stored 20, 21, 22: two pages of 16 each, of which the first is shared by both samples.
    assert modelled_saving([Lengths(20, 3)], width=2, block_size=16) == 1 / 4
    assert modelled_saving([Lengths(15, 3)], width=2, block_size=16) == 0


def test_beams_share_more_than_samples(tiny: LoadedModel) -> None:
    text = BundledText(tiny.tokenizer)
    beams, samples = (measure_sharing(tiny, text, kind, "alpaca", 4, 4, at_once=4) for kind in ("beam", "parallel"))
    assert beams.saved_by_pages > samples.saved_by_pages > 0
    assert beams.saved_by_pages < 3 / 4
    assert sampling("beam", 4, 9, 0).beam_width == 4


def test_prefix(tiny: LoadedModel) -> None:
    rows = measure_prefix(tiny, 80, requests=4, output=2, num_blocks=64, repetitions=1)
    cached, plain, contiguous = rows
    assert cached.hit_tokens >= 4 * 80
    assert plain.hit_tokens == contiguous.hit_tokens == 0
    assert cached.prefill_tokens + cached.hit_tokens == plain.prefill_tokens
    assert cached.most_pages < plain.most_pages
    assert all(row.same_tokens for row in rows)


def test_evictions(tiny: LoadedModel) -> None:
    ample, small = measure_evictions(tiny, [20], {"lru": LRU()}, requests=10, prefixes=3)
    assert ample.hit_rate == 1
    assert ample.evictions == 0
    assert small.evictions > 0
    assert 0 < small.hit_tokens < ample.hit_tokens


def test_swap(tiny: LoadedModel) -> None:
    rows = measure_swap(tiny, [8], requests=5, prompt=24, output=20, slots=88, repetitions=1)
    recompute, swap, adaptive = rows
    assert recompute.recomputed > 0
    assert recompute.moved_bytes == recompute.swapped == 0
    assert swap.swapped > 0
    assert swap.moved_bytes > 0
    assert adaptive.swapped + adaptive.recomputed > 0
    assert all(row.same_tokens and row.overhead_ms > 0 for row in rows)
    assert adaptive.estimate_error is not None


def test_stream(llama: LoadedModel) -> None:
    prompt = RandomTokens(97).draw(random.Random(0), 100)
    rows = measure_stream(llama, prompt, 20, [15, 8, 4], block_size=8, staging_blocks=3, top_k=[5])
    assert [row.num_blocks for row in rows] == [15, 8, 4, 4]
    assert all(row.first_difference is None for row in rows[:3])
    assert_equal(rows)
    assert rows[0].bytes_per_token == 0 < rows[1].bytes_per_token < rows[2].bytes_per_token
    assert not rows[3].is_exact
    assert rows[3].bytes_per_token < rows[2].bytes_per_token
    wrong = StreamRow(0.5, 7, None, 1, 1, 0, 0, 0, 3, 4, 3, True, 3)
    with pytest.raises(RuntimeError, match="a pool of 7 pages gave another token at position 3"):
        assert_equal([wrong])


def test_selection(tiny: LoadedModel) -> None:
    text = BundledText(tiny.tokenizer)
    prompts = [text.draw(random.Random(seed), 150) for seed in range(2)]
    few, most, *none = measure_selection(tiny, prompts, [2, 9, 64], new_tokens=10)
    assert not none  # there are no 64 pages to choose from
    assert (few.pages, few.top_k, few.texts) == (10, 2, 2)
    assert few.covered < most.covered <= 1
    assert few.distance > most.distance >= 0
    assert few.saved == pytest.approx(0.8)
    assert 0 <= most.changed <= few.decisions == most.decisions
    assert few.decisions == 2 * 9


def test_policies(tiny: LoadedModel, tmp_path: Path) -> None:
    mine = tmp_path / "mine.py"
    mine.write_text(
        "class Mine:\n    name = 'mine'\n    def key(self, candidate):\n        return (candidate.remaining_tokens,)\n"
    )
    victims = [load_policy("last_come", "victim"), load_policy(f"{mine}:Mine", "victim")]
    rows = compare_policies(tiny, victims, [], requests=8, num_blocks=28)
    assert sorted((row.kind, row.policy) for row in rows) == [("victim", "last_come"), ("victim", "mine")]
    assert all(row.preemptions > 0 for row in rows)
    assert rows[0].mean_finish <= rows[1].mean_finish


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("best", "allowed are lru, lfu, fifo, leaf_first, or FILE.py:Class"),
        ("nowhere.py:Mine", "there is no file nowhere.py"),
        ("{file}:Yours", "AttributeError"),
    ],
)
def test_policies_that_are_not_there(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("x = 1\n", encoding="utf-8")
    with pytest.raises(PolicyError, match=message):
        load_policy(text.format(file=file), "eviction")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "report.md"
    arguments = ["bench", "stream", "--quick", "--context", "96", "--shares", "0.5", "--top-k", "4", "--out", str(out)]
    assert main(arguments) == 0
    report = out.read_text(encoding="utf-8")
    assert report.strip() == capsys.readouterr().out.strip()
    assert "their tokens are all equal" in report
    assert report.count("8 of 8") >= 2
    assert main(["bench", "selection", "--top-k", "4", "0"]) == 2
    assert "--top-k 0: must be at least 1" in capsys.readouterr().err
