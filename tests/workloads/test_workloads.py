"""Workloads: their means are those they claim, seeds repeat them, and bad files are named."""

from __future__ import annotations

import random
import statistics
from pathlib import Path

import pytest

from workbench.models import LoadedModel
from workbench.workloads import (
    DISTRIBUTIONS,
    BundledText,
    HeldOutText,
    Lengths,
    TraceError,
    all_at_once,
    few_shot_prefix,
    from_trace,
    named,
    poisson,
    uniform,
)

#: Kwon et al., SOSP 2023, Fig. 11: mean input and output.
PAPER = {"alpaca": (19.31, 58.45), "sharegpt": (161.31, 337.99)}


@pytest.mark.parametrize("name", PAPER)
def test_mean_lengths_are_the_papers(name: str) -> None:
    distribution = DISTRIBUTIONS[name]
    assert (distribution.prompt.mean, distribution.output.mean) == pytest.approx(PAPER[name], rel=2e-3)
    drawn = distribution.draw(40, seed=3)
    assert statistics.mean(d.prompt for d in drawn) == pytest.approx(PAPER[name][0], rel=0.06)
    assert statistics.mean(d.output for d in drawn) == pytest.approx(PAPER[name][1], rel=0.06)
    assert drawn == distribution.draw(40, seed=3) != distribution.draw(40, seed=4)
    assert max(d.prompt + d.output for d in distribution.draw(20_000, seed=0)) <= 2048


def test_prompt_and_output_lengths_are_independent() -> None:
    drawn = DISTRIBUTIONS["alpaca"].draw(2000, seed=0)
    assert abs(statistics.correlation([d.prompt for d in drawn], [d.output for d in drawn])) < 0.08


def test_uniform() -> None:
    drawn = uniform((3, 5), (7, 7)).draw(100, seed=0)
    assert {d.prompt for d in drawn} == {3, 4, 5}
    assert {d.output for d in drawn} == {7}
    with pytest.raises(ValueError, match=r"output=\(5, 4\)"):
        uniform((1, 2), (5, 4))


def test_trace(tmp_path: Path) -> None:
    path = tmp_path / "service.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\r\n2023-11-16 18:15:59.5000000,374,44\r\n"
        "2023-11-16 18:16:01.7500001,396,109\r\n2023-11-16 18:16:02,5,0\r\n",
        encoding="utf-8",
    )
    trace = from_trace(path)
    assert trace.requests == [Lengths(374, 44), Lengths(396, 109), Lengths(5, 1)]
    assert trace.arrivals == pytest.approx([0, 2.25, 2.5], abs=1e-5)
    assert trace.draw(3, seed=0) == trace.requests
    assert named(str(path)).draw(2, seed=0) in (trace.requests[:2], trace.requests[1:])
    with pytest.raises(ValueError, match="4 requests asked for, the trace service has 3"):
        trace.draw(4, seed=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "first line must be"),
        ("time,in,out\n1,2,3\n", "first line must be"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n", "has no requests"),
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,374\n",
            "line 2: 3 columns expected, found 2",
        ),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,374,44\n", "line 2: TIMESTAMP 'yesterday'"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,-4,44\n", "line 2: ContextTokens '-4'"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46,0,44\n", "ContextTokens is 0"),
        (b"\xff\xfe\x00TIMESTAMP", "not a CSV file in UTF-8"),
    ],
)
def test_bad_traces_are_explained(content: str | bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(TraceError, match=message) as caught:
        from_trace(path)
    assert "bad.csv" in str(caught.value)


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match="allowed are alpaca, sharegpt, or a trace file"):
        named("gpt")


def test_arrivals() -> None:
    times = poisson(4000, rate=0.5, seed=1)
    assert times == sorted(times) == poisson(4000, rate=0.5, seed=1)
    assert times[-1] == pytest.approx(8000, rel=0.06)
    assert all_at_once(3) == [0, 0, 0]
    with pytest.raises(ValueError, match="rate=0"):
        poisson(3, rate=0)


def test_bundled_text(tiny: LoadedModel) -> None:
    source = BundledText(tiny.tokenizer)
    assert len(source.draw(random.Random(0), 19)) == 19
    long = source.draw(random.Random(0), 3000)
    assert len(long) == 3000
    assert long == source.draw(random.Random(0), 3000) != source.draw(random.Random(1), 3000)


def test_held_out_text(tiny: LoadedModel, tmp_path: Path) -> None:
    text = " ".join(f"The {n}. king went into the forest, and there he met an old woman." for n in range(400))
    (tmp_path / "en-own.txt").write_text(text, encoding="utf-8")
    source = HeldOutText(tmp_path, tiny.tokenizer)
    piece = source.draw(random.Random(0), 100)
    assert len(piece) == 100
    assert tiny.tokenizer.decode(piece) in text
    with pytest.raises(ValueError, match="tokens asked for, the longest passage has"):
        source.draw(random.Random(0), 100_000)
    with pytest.raises(ValueError, match="no held-out text in the language 'fr'"):
        HeldOutText(tmp_path, tiny.tokenizer, "fr")


@pytest.mark.parametrize("num_tokens", [80, 341])
def test_few_shot_prefixes_have_the_papers_lengths(num_tokens: int, tiny: LoadedModel) -> None:
    prefix = few_shot_prefix(tiny.tokenizer, num_tokens)
    assert len(prefix) == num_tokens
    assert tiny.tokenizer.decode(prefix).startswith("Translate from English to German.\n\nEnglish: The king had three")
    assert prefix[:60] != few_shot_prefix(tiny.tokenizer, num_tokens, first=1)[:60]
