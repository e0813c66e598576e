"""The console command, as a user types it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from workbench.cli import main
from workbench.events import Recording


def test_run_records_and_replay_shows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.kvtrace"
    arguments = ["run", "Once upon a time", "Es war einmal", "--max-tokens", "12", "--num-blocks", "8"]
    assert main([*arguments, "--record", str(path), "--seed", "3"]) == 0
    shown = capsys.readouterr().out
    assert "[0] Once upon a time" in shown
    assert "(length, 12 tokens)" in shown
    assert "24 tokens in" in shown
    with Recording.open(path) as recording:
        assert recording.is_complete
        final = recording.state_at(recording.last_step)
        assert [len(request.token_ids) for request in final.requests.values()] == [12, 12]
        assert final.requests[0].text in shown
        middle = recording.state_at(recording.first_step + 5)
        assert middle.running == [0, 1]
    assert main(["replay", str(path), "--step", "5"]) == 0
    replayed = capsys.readouterr().out
    assert "step 5" in replayed
    assert "8 pages" in replayed


def test_several_outputs_of_a_prompt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "run.kvtrace"
    arguments = ["run", "The old king", "--max-tokens", "8"]
    assert main([*arguments, "--samples", "3", "--seed", "2", "--record", str(path)]) == 0
    shown = capsys.readouterr().out
    assert [f"[0, {i} of 3] The old king" in shown for i in (1, 2, 3)] == [True] * 3
    assert "2 pages copied on write" in shown
    with Recording.open(path) as recording:
        final = recording.state_at(recording.last_step).requests[0]
        assert [len(output.token_ids) for output in final.outputs.values()] == [8, 8, 8]
        assert all(output.text in shown for output in final.outputs.values())
    assert main([*arguments, "--beams", "3", "--samples", "2", "--quiet"]) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 2
    assert main([*arguments, "--beams", "3"]) == 0
    shown = capsys.readouterr().out
    assert [f"[0, {i} of 3] The old king" in shown for i in (1, 2, 3)] == [True] * 3
    assert "score -" in shown


def test_swapping_and_prefix_caching(capsys: pytest.CaptureFixture[str]) -> None:
    prompts = ["The old king said that the", "The old king said that a", "A little fox lived under"]
    texts = []
    for options in (
        ["--num-blocks", "64"],
        ["--num-blocks", "12", "--host-blocks", "24", "--preemption", "swap", "--victim", "fewest_blocks"],
        ["--num-blocks", "12", "--prefix-caching"],
    ):
        assert main(["run", *prompts, "--max-tokens", "24", "--block-size", "4", *options]) == 0
        output, summary = capsys.readouterr().out.rsplit("\n\n", 1)
        texts.append(output)
        if "swap" in options:
            assert "KiB swapped out" in summary
        if "--prefix-caching" in options:
            assert "tokens found in the prefix cache" in summary
    assert texts[0] == texts[1] == texts[2]


def test_same_seed_prints_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    texts = []
    for memory in (["--memory", "paged"], ["--memory", "contiguous", "--max-model-len", "64"]):
        assert main(["run", "The king", "--quiet", "--max-tokens", "20", "--seed", "5", *memory]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1]
    assert len(texts[0]) > 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "x", "--max-tokens", "0"], "max_tokens=0: an integer of at least 1"),
        (["run"], "prompt: give at least one"),
        (["run", "x", "--block-size", "0"], "block_size=0"),
        (["run", "x", "--model", "./nowhere"], "no such directory"),
        (["run", "x", "--block-size", "24", "--attention", "triton", "--device", "cpu"], "attention='triton'"),
        (["replay", "nowhere.kvtrace"], "nowhere.kvtrace"),
        (["run", "x", "--samples", "0"], "n=0: an integer from 1 to 256"),
        (["run", "x", "--beams", "2", "--samples", "3"], "n=3: at most beam_width=2 beams"),
        (["run", "x", "--beams", "2", "--temperature", "0.7"], "temperature=0.7: a beam search takes"),
        (["run", "x", "--host-blocks", "-1"], "num_host_blocks=-1"),
        (["run", "x", "--samples", "2", "--memory", "contiguous"], "n=2: contiguous memory can't share"),
        (["run", "x", "--memory", "contiguous", "--preemption", "swap"], "preemption='swap': contiguous memory"),
        (["bench", "cpu", "--requests", "0"], "--requests 0: must be at least 1"),
    ],
)
def test_mistakes_are_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_rejected_requests_fail_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "Once upon a time there was", "--num-blocks", "1", "--max-tokens", "100"]) == 1
    assert "needs 7 blocks, the pool has 1" in capsys.readouterr().out


def test_doctor(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    for words in ("torch", "device", "attention", "LlamaForCausalLM", "All is well."):
        assert words in shown


@pytest.mark.parametrize("command", ["app", "run", "replay", "bench", "doctor"])
def test_help(command: str) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "workbench.cli", command, "--help"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert f"usage: workbench {command}" in result.stdout.replace("cli.py", "workbench")
