"""The text view of a recording: what it draws, how it is driven, and that nobody's text can drive the terminal."""

from __future__ import annotations

import argparse
import io
import re
import sys
from pathlib import Path

import pytest

from tests.events import scenario
from tests.events.synthetic import GEOMETRY, Simulation, record
from workbench import replay
from workbench.events import EventBus, PageMap, Recording, Timeline
from workbench.events import types as ev
from workbench.events.state import BlockTable, OutputText, Page, Region, RequestState, RequestStatus, SequenceState
from workbench.events.types import Cause
from workbench.events.words import CAUSES, clean, describe, ordinal
from workbench.replay_screen import Style, char_width, event_lines, page_map_lines, render, tail, waste_line


def run(memory: str = "paged", num_blocks: int = 4, block_size: int = 4) -> ev.RunStarted:
    return ev.RunStarted(
        schema_version=1,
        memory=memory,
        block_size=block_size,
        num_blocks=num_blocks,
        bytes_per_block=1,
        seed=0,
        model=GEOMETRY,
        config={},
    )


def paged_state() -> PageMap:
    """Request 0 (A) holds pages 2 (full) and 0 (1 of 4); request 27 (b) holds page 3 (nothing yet)."""
    pages = [Page(1, 1, 0, 1), Page(), Page(1, 4, 0, 0), Page(1, 0, 27, 0)]
    sequences = {
        0: SequenceState(0, [BlockTable([2, 0])], num_computed_tokens=5),
        27: SequenceState(27, [BlockTable([3])]),
    }
    requests = {
        0: RequestState("hello", 4, 9, 0, status=RequestStatus.RUNNING, outputs={0: OutputText([1, 2], " wor ld")}),
        27: RequestState("other", 3, 9, 27, status=RequestStatus.RUNNING, outputs={27: OutputText()}),
    }
    return PageMap(
        run(), 3, 9, pages, sequences=sequences, request_ids={0: 0, 27: 27}, requests=requests, running=[0, 27]
    )


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    path = tmp_path / "run.kvtrace"
    with open(path, "wb") as file:
        record(file, 40, seed=3)
    return path


def call(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    replay.add_arguments(parser)
    return replay.main(parser.parse_args(list(arguments)))


# --- drawing -----------------------------------------------------------------------------------------------------


def test_pages_are_letters_with_their_fill_below() -> None:
    assert page_map_lines(paged_state(), Style(80))[1:] == ["0 A.Ab", "  ▂ █"]
    assert page_map_lines(paged_state(), Style(80, plain=True))[1:] == ["0 A.Ab", "  2 8"]
    coloured = page_map_lines(paged_state(), Style(80, colour=True))[1]
    assert coloured.count("\x1b[0m") == 3
    assert waste_line(paged_state()) == (
        "of 16 slots: token states 5 (31%), reserved, still empty 7 (44%), free 4 (25%)"
    )


def test_regions_are_drawn_over_the_arena() -> None:
    sequences = {1: SequenceState(1, region=Region(8, 16, 10, 5), num_computed_tokens=5)}
    requests = {1: RequestState("x", 4, 9, 1, status=RequestStatus.RUNNING)}
    state = PageMap(run("contiguous", num_blocks=8), 3, 9, sequences=sequences, requests=requests, running=[1])
    # Slots 8-17 are asked for (of the cell 16-19 just half), 18-23 are rounding, 8-12 hold tokens.
    lines = page_map_lines(state, Style(80))
    assert lines[1:] == ["0 ..BBB~..", "    █▂"]
    assert lines[0] == "one character: 4 slots, below it how full; . free; ~ rounding"
    assert "external fragmentation 6 (19%)" in waste_line(state)


def test_rows_are_numbered_and_large_pools_are_grouped() -> None:
    state = PageMap(run(num_blocks=100), pages=[Page() for _ in range(100)])
    state.pages[70] = Page(1, 4, 0, 0)
    state.sequences[0] = SequenceState(0, [BlockTable([70])], num_computed_tokens=4)
    assert [line[:4] for line in page_map_lines(state, Style(40))[1::2]] == [" 0 .", "32 .", "64 .", "96 ."]
    assert page_map_lines(state, Style(40))[5] == "64 ......A" + "." * 25
    state.run = run(num_blocks=1 << 16)
    state.pages += [Page() for _ in range((1 << 16) - 100)]
    lines = page_map_lines(state, Style(80))
    assert len(lines) == 1 + 2 * 16
    assert "64 pages" in lines[0]
    assert lines[1].lstrip("0 ").startswith(".A..")


@pytest.mark.parametrize("width", [20, 33, 80, 200])
@pytest.mark.parametrize("memory", ["paged", "contiguous"])
def test_no_line_is_wider_than_asked_for(width: int, memory: str) -> None:
    simulation = Simulation(3, memory, num_blocks=300 if width > 33 else 12)
    timeline = Timeline(simulation.bus)
    simulation.run(60)
    for step in (0, 1, 30, 60):
        text = render(timeline.state_at(step), timeline.events(step), (step, 0, 60), Style(width))
        assert max(sum(map(char_width, line)) for line in text.splitlines()) <= width


def test_a_terminal_without_unicode_gets_ascii() -> None:
    simulation = Simulation(3)
    timeline = Timeline(simulation.bus)
    simulation.run(30)
    assert render(timeline.state_at(30), timeline.events(30), (30, 0, 30), Style(80, plain=True)).isascii()


def test_text_in_a_recording_can_not_drive_the_terminal() -> None:
    evil = "a\x1b[2Jb\r\nc‮d\x9b"
    state = paged_state()
    state.requests[0].outputs[0].text = state.requests[0].prompt = evil
    queued = ev.RequestQueued(5, 5, evil, 1, 1)
    token = ev.TokenGenerated(0, 0, 2, 7, evil)
    rejected = ev.RequestRejected(5, evil, Cause.NEVER_FITS, 1, 1)
    state.requests[27].reason = evil
    preempted = ev.RequestPreempted(0, ev.PreemptionMode.SWAP, Cause.POOL_EXHAUSTED, 0, 1, evil, evil)
    evicted = ev.BlockEvicted(1, evil, Cause.PREFIX_EVICTION, evil)
    chosen = ev.OutputsChosen(0, [ev.OutputState([1], evil, 0.0, ev.FinishReason.STOP)])
    state.requests[27].chosen = chosen.outputs
    events = [queued, token, rejected, preempted, evicted, chosen]
    text = render(state, events, (3, 0, 3), Style(200), True, True)
    assert set(text) & {"\x1b", "\r", "‮", "\x9b"} == set()
    assert "a\\x1b[2Jb\\r\\nc\\u202ed" in text
    assert clean("dé 漢 🙂") == "dé 漢 🙂"


def test_tails_are_measured_in_columns() -> None:
    assert tail("abcdef", 6) == "abcdef"
    assert tail("abcdefg", 6) == "…cdefg"
    assert tail("漢字漢字", 6) == "…漢字"
    assert tail("", 5) == ""


# --- words -------------------------------------------------------------------------------------------------------


def test_every_event_and_every_cause_has_words_of_its_own() -> None:
    described: dict[str, str] = {}

    def look(timeline: Timeline) -> None:
        for event, state in timeline.walk():
            for words in (describe(event, state), describe(event), describe(event, state, explain=False)):
                assert "\n" not in words
                assert type(event).__name__ not in words
            assert not re.search(r"because [a-z]+(_[a-z]+)*\b[:,)]", describe(event, state))  # a name in code
            described[type(event).__name__] = describe(event, state)

    for memory in ("paged", "contiguous"):
        simulation = Simulation(1, memory, num_blocks=6)
        timeline = Timeline(simulation.bus)
        simulation.run(200)
        simulation.close()
        look(timeline)
        assert not any("sequence" in describe(event, state, explain=False) for event, state in timeline.walk())
    bus = EventBus()
    timeline = Timeline(bus)
    for _ in scenario.play(bus):
        pass
    look(timeline)
    assert set(described) == {kind.__name__ for kind in ev.AnyEvent.__args__}
    assert len(set(described.values())) == len(described)
    assert set(CAUSES) == set(Cause)
    assert len(set(CAUSES.values())) == len(CAUSES)


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (1, "request 0 arrives: 6 prompt tokens, at most 8 new ones, 2 samples: “a prompt”"),
        (1, "request 0: sequence 1 goes on from sequence 0; they share the first 6 tokens, because fork"),
        (1, "page 3 -> request 0, sequence 1, too, its logical page 1 (layer group 1), shared by 2 now, because fork"),
        (1, "request 0, sequence 1 generates its 1st token, id 10: “ t0”"),
        (2, "page 1 copied to page 4 (2 tokens) for request 0, sequence 1, its logical page 1 (layer group 0); 1 still "
            "uses page 1, because copy_on_write"),
        (2, "request 0, sequence 0: token 6 looked at 2 pages, most, 50%, at its logical page 0"),
        (2, "request 0, sequence 0: token 6 read 1.5 of 2 pages, 90.0% of the attention covered, output off by 2.0%"),
        (3, "6 pages of request 0 swapped out: pages 0, 1, 2, 3, 4 and 5 -> host pages 0, 1, 2, 3, 4 and 5 (6144 "
            "bytes), because preemption_victim"),
        (3, "page 0 is kept for reuse, content abcdef01; nobody uses it now, because preemption_victim"),
        (3, "request 0 is preempted (swap): 6 pages given up, what they hold moved to the host tier, chosen by policy "
            "last_come; as configured (expected: swapping 2.0 ms, recomputing 9.0 ms), because pool_exhausted"),
        (4, "request 1 arrives: 6 prompt tokens, at most 8 new ones, beam search with 2 beams: “a prompt, too”"),
        (4, "page 0 -> request 1, sequence 2, its logical page 0, computed already (content abcdef01); it was kept "
            "for reuse, because prefix_hit"),
        (5, "request 1, sequence 3: the beam is dropped after 1 token, others are better"),
        (5, "request 0 runs again; its pages are back from the host tier"),
        (5, "page 7 (layer group 1) given up by request 1, sequence 2, nobody uses it now, because out_of_window"),
        (6, "request 0 is where it was before it was preempted: 12288 bytes moved out and back in 2.5 ms "
            "(2.0 ms expected)"),
        (6, "request 0, sequence 0 is complete after 2 tokens (length)"),
        (6, "request 1: its beam search ends with 1 result, the best with a score of -0.500: “ t0 t1”"),
        (7, "page 0 is free, its content abcdef01 is lost; chosen by policy lru, because prefix_eviction"),
        (7, "request 2, sequence 4: 1 of its 1 page in the host tier read through the staging window, 1024 bytes; they "
            "stayed where they are"),
        (8, "host page 0 (layer group 0) given up by request 2, sequence 5, 1 still uses it, because "
            "sequence_finished"),
        (8, "host page 0 is free, because host_full"),
        (8, "request 2 loses its pages in the host tier: 9 stored tokens lost, because host_full"),
    ],
)  # fmt: skip
def test_words_for_sharing_and_swapping(step: int, words: str) -> None:
    bus = EventBus()
    for batch in scenario.play(bus):
        if batch.step == step:
            said = [describe(event, bus.page_map, explain=False) for event in batch.events]
            assert words in said, "\n".join(said)


def test_the_screen_shows_what_is_shared_cached_and_on_the_host() -> None:
    bus = EventBus()
    screens = {}
    for batch in scenario.play(bus):
        screens[batch.step] = render(bus.page_map, batch.events, (batch.step, 0, 8), Style(120), True).splitlines()
    assert screens[2][1:7] == [
        "one character: a page (block), below it how full; . free; digits: shared by so many",
        " 0 AAAAAA......",
        "   █▆█▆▆▆",
        "   2 2",
        "host tier: 0 of 6 pages in use",
        "0 ......",
    ]
    assert "block tables name 8 pages, 6 different ones: sharing saves 2 (25%)" in screens[2]
    running = screens[2].index("running (1):")
    assert screens[2][running + 1 : running + 4] == [
        "  A request 0: running, 6 + 2+2 of at most 8 tokens, 2 samples, 10 stored in 6 pages (2 shared)  “ t0 t1”",
        "      sequence 0  “ t0 t1”",
        "      sequence 1  “ t0 t1”",
    ]
    assert screens[3][1:8] == [
        "one character: a page (block), below it how full; . free; = kept for reuse; digits: shared by so many",
        " 0 =...........",
        "   █",
        "host tier: 6 of 6 pages in use",
        "0 AAAAAA",
        "  █▆█▆▆▆",
        "  2 2",
    ]
    assert "kept for reuse (cached) 4 (8%)" in screens[3][8]
    assert any("A request 0: swapped out, 6 + 2+2 of at most 8" in line for line in screens[3])
    assert any("10 stored in 6 host pages" in line for line in screens[3])
    assert any("B request 1: finished (stop), 6 + 2 tokens, the best beam" in line for line in screens[6])
    assert "      beam 1, score -0.500  “ t0 t1”" in screens[6]


def test_words() -> None:
    allocated = ev.BlockAllocated(ev.Tier.DEVICE, 12, 0, 3, Cause.DECODE_GROWTH)
    assert describe(allocated, paged_state(), explain=False) == (
        "page 12 -> request 0, its logical page 3, because decode_growth"
    )
    assert describe(allocated) == "page 12 -> sequence 0, its logical page 3, because its last page was full"
    blocked = ev.AdmissionBlocked(3, Cause.POOL_EXHAUSTED, 9, 4)
    assert describe(blocked, paged_state(), False) == "request 3 waits: needs 9 pages, 4 free (because pool_exhausted)"
    assert describe(blocked, paged_state()) == "request 3 waits: needs 9 pages, 4 free (because too few pages are free)"
    arena = PageMap(run("contiguous"))
    assert describe(blocked, arena) == (
        "request 3 waits: needs 9 adjacent slots, the largest free region has 4 "
        "(because no free region is large enough)"
    )
    assert [ordinal(n) for n in (1, 2, 3, 4, 11, 12, 13, 21, 112)] == [
        "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "112th",
    ]  # fmt: skip


# --- the command -------------------------------------------------------------------------------------------------


def test_one_step(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(str(recorded), "--step", "20", "--width", "100") == 0
    out = capsys.readouterr().out
    recording = Recording.open(recorded)
    state = recording.state_at(20)
    assert out.startswith("step 20 of 0 to 40 · paged memory, 12 pages of 4 slots · model toy\n")
    assert waste_line(state) in out
    for request in state.running:
        assert f"request {request}: running" in out
        assert state.requests[request].text[-12:] in out
    assert f"events of this step ({len(recording.events(20))}):" in out


def test_events_of_one_step_and_of_all(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recording = Recording.open(recorded)
    call(str(recorded), "--step", "20", "--events")
    out = capsys.readouterr().out
    assert all(line in out for line in event_lines(recording.events(20), recording.state_at(20), 80))
    call(str(recorded), "--events")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(list(recording.events()))
    assert lines[0].startswith("     1  run started: paged memory, 12 pages of 4 slots")
    assert lines[-1] == "    40  run finished"


def drive(path: Path, commands: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> list[str]:
    monkeypatch.setattr(sys, "stdin", io.StringIO(commands))
    assert call(str(path), "--width", "80") == 0
    return capsys.readouterr().out.split("\n\n")[:-1]


def test_it_steps_both_ways(
    recorded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands = "n\nnext\n\nb\n\ng 30\n+5\n-10\n17\nlast\nn\nfirst\nback\n+10\nq\nn\n"
    screens = drive(recorded, commands, monkeypatch, capsys)
    steps = [int(screen.split()[1]) for screen in screens]
    assert steps == [1, 2, 3, 4, 3, 2, 30, 35, 25, 17, 40, 40, 0, 0, 10]
    assert screens[11].endswith("step 40 is the last")
    assert screens[13].endswith("step 0 is the first")
    assert "nothing has happened yet" in screens[12]
    assert screens[1].splitlines()[1:] == screens[5].splitlines()[1:]  # forth and back is the same
    recording = Recording.open(recorded)
    for screen, step in zip(screens[:11], steps, strict=False):
        assert screen == render(recording.state_at(step), recording.events(step), (step, 0, 40), Style(80))


def test_switches_help_waste_and_mistakes(
    recorded: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    screens = drive(recorded, "20\ne\nr\ne\nw\nh\nfly\ng x\n99\n+\n", monkeypatch, capsys)
    _, plain, events, requests, _, waste, help_text, fly, go, far, plus = screens
    assert "more (e lists all)" in plain
    assert "more (e lists all)" not in events
    assert len(requests) > len(events)
    assert "whole run, average over 40 steps: token states" in waste
    assert "while requests waited, average over" in waste
    assert "one step back" in help_text
    assert fly.endswith("unknown command 'fly'; h lists all")
    assert go.endswith("unknown command 'g x'; h lists all")
    assert far.endswith("step 40 is the last")
    assert plus.endswith("unknown command '+'; h lists all")


def test_an_incomplete_recording_is_shown_with_a_note(recorded: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = recorded.read_bytes()
    recorded.write_bytes(data[: len(data) // 2])
    assert call(str(recorded), "--step", "3") == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("step 3 of 0 to ")
    assert captured.err.startswith("note: the recording is not complete: the file ends within")


def test_bad_arguments_are_refused(recorded: Path) -> None:
    with pytest.raises(ValueError, match="--step=41: the recording has steps 0 to 40"):
        call(str(recorded), "--step", "41")
    with pytest.raises(ValueError, match="--width=3: must be at least 20"):
        call(str(recorded), "--width", "3")
    with pytest.raises(FileNotFoundError):
        call(str(recorded) + ".no")
