"""Two engines in lockstep: the same tokens, the same bytes, and more requests at once on the paged side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

import workbench_app.duel as duel_module
from tests.conftest import assert_page_map_matches
from workbench.engine import SamplingParams
from workbench.models import LoadedModel
from workbench.views import map_payload
from workbench_app.duel import Duel
from workbench_app.frame import build_frame, preview_frame
from workbench_app.presets import PRESETS
from workbench_app.settings import Prompt, SettingError, Settings, parse_settings
from workbench_app.updates import Updates


def preset_settings(name: str) -> Settings:
    preset = PRESETS[name]
    return parse_settings(**preset.fields)


@pytest.mark.parametrize("policy", ["max", "pow2", "oracle"])
def test_lockstep_and_same_tokens(tiny: LoadedModel, small: Settings, policy: str) -> None:
    duel = Duel(tiny, replace(small, policy=policy))
    rounds = 0
    while not duel.done:
        duel.advance()
        rounds += 1
        for side in duel.sides:
            assert side.last_step == side.llm.page_map.step
            assert side.last_step == rounds or side.done
            assert_page_map_matches(side.llm)
    comparison = duel.compare()
    assert comparison.words == "Outputs equal: 56 of 56 tokens compared (final)"
    assert [map_payload(side.llm.page_map)["waste"][3] for side in duel.sides] == [256, 256]
    duel.close()


def test_every_step_of_the_past_can_be_shown(tiny: LoadedModel, small: Settings) -> None:
    duel = Duel(tiny, small)
    live: list[Any] = []
    while not duel.done:
        live.append([(map_payload(state), mark) for state, mark in (s.at(duel.last_step) for s in duel.sides)])
        duel.advance()
    for step in reversed(range(len(live))):
        assert live[step] == [(map_payload(state), mark) for state, mark in (s.at(step) for s in duel.sides)]
    duel.close()


def test_a_difference_is_caught(tiny: LoadedModel, small: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def crooked(**params: Any) -> SamplingParams:
        nonlocal calls
        calls += 1
        if calls == len(small.prompts) + 3:  # the third request of the second engine
            params["seed"] += 1000
        return SamplingParams(**params)

    monkeypatch.setattr(duel_module, "SamplingParams", crooked)
    duel = Duel(tiny, small)
    while not duel.done:
        duel.advance()
    left, right = (side.llm.page_map.requests[2].token_ids for side in duel.sides)
    first = next(i for i, pair in enumerate(zip(left, right, strict=True)) if pair[0] != pair[1])
    badge = build_frame(duel, duel.last_step)["badge"]
    assert badge == {"state": "differ", "words": f"Outputs differ: request C at token {first + 1} (final)"}
    duel.close()


def test_a_request_that_never_fits_is_rejected_with_the_arithmetic(tiny: LoadedModel, small: Settings) -> None:
    duel = Duel(tiny, replace(small, max_model_len=512))
    while not duel.done:
        duel.advance()
    frame = build_frame(duel, duel.last_step)
    assert all(row[3][0] == "x" and "512" in row[3][7] and "256" in row[3][7] for row in frame["requests"])
    assert "not compared: A, B, C, D (rejected)" in frame["badge"]["words"]
    duel.close()


def test_an_impossible_prompt_names_itself(tiny: LoadedModel, impossible: Settings) -> None:
    with pytest.raises(SettingError, match=r"Prompts, request 1: .*at most 63 are allowed"):
        Duel(tiny, impossible)


def test_overflow_holds_twice_the_requests_of_max(tiny: LoadedModel) -> None:
    duel = Duel(tiny, preset_settings("overflow"))
    while not duel.left.done:
        duel.advance()
    left, right = (side.marks[-1] for side in duel.sides)
    print(f"\npeak {left.peak} and {right.peak}; busy share {left.busy_share:.3f} and {right.busy_share:.3f}")
    assert left.peak >= 2 * right.peak
    assert left.busy_share is not None
    assert left.busy_share > 0.9
    assert duel.compare().state == "equal"
    duel.close()


@pytest.mark.parametrize("pages", [128, 1024])
def test_updates_are_small(tiny: LoadedModel, pages: int) -> None:
    """What a tab is sent for a step, both sides together: at most 10 kB, also with 1,024 pages on each side."""
    settings = preset_settings("overflow")
    if pages == 1024:
        settings = replace(settings, block_size=4, pool_tokens=4096)
    duel = Duel(tiny, settings)
    assert duel.left.llm.page_map.run is not None
    assert duel.left.llm.page_map.run.num_blocks == pages
    updates = Updates()
    sizes = []
    for step in range(60):
        frame = str(step), build_frame(duel, duel.last_step)
        sizes.append(len(updates.message(lambda frame=frame: frame).encode()))  # type: ignore[misc]
        duel.advance()
    later = sizes[1:]
    mean = sum(later) / len(later)
    print(f"\n{pages} pages: first {sizes[0]:,} bytes, then {max(later):,} at most, {mean:,.0f} on average")
    assert max(later) < 10_000
    duel.close()


def test_the_preview_shows_empty_pools(tiny: LoadedModel, small: Settings) -> None:
    frame = preview_frame(small, tiny.geometry)
    assert frame["left"]["map"]["owner"] == [-1] * 16
    assert frame["right"]["map"]["regions"] == []
    assert [row[1] for row in frame["requests"]] == [p.text for p in small.prompts]


# --- several samples of one prompt -------------------------------------------------------------------------------


def test_samples_share_on_one_side_and_are_refused_on_the_other(tiny: LoadedModel) -> None:
    duel = Duel(tiny, preset_settings("samples"))
    assert duel.left.asked.refused == {}
    assert duel.left.asked.places == {0: (0, 0)}
    assert duel.right.asked.places == {0: (0, 0), 1: (0, 1), 2: (0, 2), 3: (0, 3)}
    assert duel.right.asked.refused[0].startswith("n=4: contiguous memory can't share: ")
    for _ in range(20):
        duel.advance()
    for side in duel.sides:
        assert_page_map_matches(side.llm)
    prompt_pages = 109 // 16
    assert [page.ref_count for page in duel.left.llm.page_map.pages[:prompt_pages]] == [4] * prompt_pages
    assert (duel.left.marks[-1].running, duel.right.marks[-1].running) == (4, 2)

    frame = build_frame(duel, duel.last_step)
    left, right = frame["left"], frame["right"]
    assert left["stats"][0] == ["Running now", "4", "texts of 1 request; peak 4"]
    assert right["stats"][0] == ["Running now", "2", "texts of 2 requests; peak 2"]
    assert left["extra"][0].startswith("6 pages are shared: 18 pages saved (")
    (refusal,) = right["extra"]
    assert refusal.startswith("A refused: n=4: contiguous memory can't share")
    assert refusal.endswith("Instead, the same is written here by 4 separate requests: A, B, C and D.")
    assert [(row[0], row[1][:15], row[4]) for row in frame["requests"]] == [
        (0, f"(sample {i + 1} of 4)", i) for i in range(4)
    ]
    assert [row[2][0] + row[3][0] for row in frame["requests"]] == ["rr", "rr", "rw", "rw"]
    assert frame["history"]["title"] == "Texts written at once"
    while not duel.done:
        duel.advance()
    assert duel.compare().words == "Outputs equal: 384 of 384 tokens compared (final)"
    done = build_frame(duel, duel.last_step)
    assert all(row[2][6] == row[3][6] != "" for row in done["requests"])
    assert len({row[2][6] for row in done["requests"]}) == 4
    duel.close()


def test_prompts_with_and_without_samples_side_by_side(tiny: LoadedModel, small: Settings) -> None:
    prompts = (Prompt("Once upon a time", 6), Prompt("Der var engang", 6, 3), Prompt("Il était une fois", 6))
    duel = Duel(tiny, replace(small, prompts=prompts, policy="oracle", temperature=1.0))
    assert duel.right.asked.places == {0: (0, 0), 1: (1, 0), 2: (1, 1), 3: (1, 2), 4: (2, 0)}
    while not duel.done:
        duel.advance()
    frame = build_frame(duel, duel.last_step)
    assert [(row[0], row[4]) for row in frame["requests"]] == [(0, None), (1, 1), (1, 2), (1, 3), (2, None)]
    assert frame["badge"]["words"] == "Outputs equal: 30 of 30 tokens compared (final)"
    assert frame["right"]["extra"][0].startswith("B refused: n=3")
    duel.close()


def test_a_different_sample_is_named(tiny: LoadedModel, small: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def crooked(**params: Any) -> SamplingParams:
        if params["n"] == 1 and params["seed"] == 2:
            params["seed"] += 1000
        return SamplingParams(**params)

    monkeypatch.setattr(duel_module, "SamplingParams", crooked)
    duel = Duel(tiny, replace(small, prompts=(Prompt("Once upon a time", 12, 3),), temperature=1.0))
    while not duel.done:
        duel.advance()
    assert duel.compare().words.startswith("Outputs differ: request A, sample 3, at token ")
    duel.close()


def test_the_preview_has_a_card_for_each_sample(tiny: LoadedModel) -> None:
    frame = preview_frame(preset_settings("samples"), tiny.geometry)
    assert [row[0] for row in frame["requests"]] == [0] * 4
    assert frame["right"]["extra"] == []


# --- beams, prefixes, swapping, and the third lane ----------------------------------------------------------------


def test_nothing_stands_in_for_a_beam_search(tiny: LoadedModel) -> None:
    duel = Duel(tiny, preset_settings("beams"))
    assert duel.right.asked.places == {}
    assert duel.right.asked.unanswered == [0, 1, 2]
    for _ in range(12):
        duel.advance()
    assert_page_map_matches(duel.left.llm)
    frame = build_frame(duel, duel.last_step)
    assert [row[1][:13] for row in frame["requests"][:4]] == [f"(beam {i + 1} of 4)" for i in range(4)]
    assert all(row[3] is None and "contiguous memory can't share" in row[5] for row in frame["requests"])
    assert "Nothing can stand in for a beam search" in frame["right"]["extra"][0]
    assert duel.left.marks[-1].peak == 3 * 4, "beams that were dropped are not written any more"
    assert frame["ahead"] == "The right side does not run all of this, so there is no race."
    while not duel.done:
        duel.advance()
    assert duel.left.llm.page_map.totals.blocks_copied > 0
    assert build_frame(duel, duel.last_step)["badge"]["state"] == "pending"
    duel.close()


def test_prefixes_are_computed_once(tiny: LoadedModel) -> None:
    settings = preset_settings("prefixes")
    duel = Duel(tiny, settings)
    while not duel.done:
        duel.advance()
    left, right = (side.llm.page_map.totals for side in duel.sides)
    # All but those that are computed in the first step, at most two, find the instruction there.
    assert left.prefix_hit_tokens >= 6 * 256
    assert right.prefix_hit_tokens == 0
    assert left.prefill_tokens < right.prefill_tokens
    frame = build_frame(duel, duel.last_step)
    assert frame["badge"]["state"] == "equal"
    assert f"{left.prefix_hit_tokens:,} tokens were found in the prefix cache" in " ".join(frame["left"]["extra"])
    duel.close()


def test_swapping_moves_pages_and_changes_no_token(tiny: LoadedModel) -> None:
    settings = preset_settings("swap")
    # "oracle": by "max" the right side would write one text after the other, in three times as many steps.
    duel = Duel(tiny, replace(settings, policy="oracle", prompts=settings.prompts[:6], pool_tokens=512))
    seen_host = False
    while not duel.done:
        duel.advance()
        if not seen_host and any(page.ref_count for page in duel.left.llm.page_map.host_pages):
            seen_host = True
            host = build_frame(duel, duel.last_step)["left"]["map"]["host"]
            assert any(owner >= 0 for owner in host["owner"])
    assert seen_host
    assert duel.left.llm.page_map.totals.swapped_in_bytes > 0
    assert duel.compare().state == "equal"
    duel.close()


def test_requests_that_never_fit_are_told_of_and_win_no_race(tiny: LoadedModel) -> None:
    duel = Duel(tiny, replace(preset_settings("class"), pool_tokens=256))
    frame = build_frame(duel, 0)
    assert frame["ahead"].startswith("Contiguous rejected all 12 requests")
    assert frame["left"]["extra"] == []
    (words,) = frame["right"]["extra"]
    assert words.startswith("A, B, C, D, E, F, G and 5 more rejected, never to fit. For A: 14 prompt tokens + 40 new")
    assert words.endswith("it needs 512 adjacent slots, the largest region of the pool has 256.")
    duel.close()


def test_a_third_lane_runs_beside_them(tiny: LoadedModel, small: Settings) -> None:
    duel = Duel(tiny, replace(small, growing=True, temperature=0.0))
    frames = [build_frame(duel, 0)]
    while not duel.done:
        duel.advance()
        frames.append(build_frame(duel, duel.last_step))
    assert duel.growing is not None
    last = frames[-1]
    assert last["growing"]["badge"]["state"] == "equal"
    assert len(last["history"]["lines"]) == 3
    assert all(row[6][0] == "f" and row[6][6] == row[2][6] for row in last["requests"])
    assert last["ahead"].startswith("Paged and transformers were done first, after 20 steps; contiguous after 36.")
    for step in (0, len(frames) // 2):
        again = build_frame(duel, step)
        for name in ("left", "right", "growing", "requests", "step"):
            assert again[name] == frames[step][name]
    assert duel.seconds >= duel.growing.seconds > 0
    duel.close()
