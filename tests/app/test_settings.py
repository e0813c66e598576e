"""Whatever comes in, the message names the field, the value, and what is allowed."""

from __future__ import annotations

import math
from typing import Any

import pytest

from workbench.cli import main
from workbench_app.presets import DEFAULT_PRESET, PRESETS
from workbench_app.settings import SettingError, parse_prompts, parse_settings, parse_speed, pool_words

GOOD: dict[str, Any] = {
    "prompts": "Once upon a time",
    "output_tokens": 40,
    "pool_tokens": 2048,
    "block_size": 16,
    "policy": "max",
    "max_model_len": 512,
    "temperature": 0.8,
    "seed": 0,
}


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("prompts", "", "Prompts"),
        ("prompts", "  \n ", "Prompts"),
        ("prompts", None, "Prompts"),
        ("prompts", "\n".join(["x"] * 49), "49 lines"),
        ("prompts", "x" * 4001, "4,001 characters"),
        ("prompts", "fine\n| 30", "line 2"),
        ("prompts", "fine | 9999", "output length: 9999"),
        ("prompts", "fine | -1", "output length: -1"),
        ("prompts", "fine | 30 x0", "Prompts, line 1, samples: 0"),
        ("prompts", "fine | 30 x 9", "Prompts, line 1, samples: 9"),
        ("prompts", "\n".join(["x | 30 x8"] * 7), "56 samples in all"),
        ("output_tokens", 0, "Output length: 0"),
        ("output_tokens", "many", "'many'"),
        ("output_tokens", math.nan, "Output length"),
        ("output_tokens", True, "Output length"),
        ("pool_tokens", 100, "Pool size: 100"),
        ("pool_tokens", 1e12, "Pool size"),
        ("pool_tokens", 300.5, "Pool size"),
        ("block_size", 12, "Block size: 12"),
        ("block_size", 0, "Block size: 0"),
        ("block_size", None, "Block size"),
        ("prompts", "fine | 30 b1", "Prompts, line 1, beams: 1"),
        ("prompts", "\n".join(["x | 30 b8"] * 7), "56 texts in all"),
        ("texts", "many", "Each prompt asks for: 'many'"),
        ("texts_per_prompt", 1, "How many: 1"),
        ("prefix_caching", "yes", "Prefix caching: 'yes'"),
        ("host_tokens", 100, "Host tier: 100"),
        ("host_tokens", -256, "Host tier: -256"),
        ("preemption", "drop", "When memory runs out: 'drop'"),
        ("preemption", "swap", "with a host tier"),
        ("growing", None, "Third lane: None"),
        ("policy", "best", "Reservation: 'best'"),
        ("policy", ["max"], "Reservation"),
        ("max_model_len", 1, "Longest sequence: 1"),
        ("temperature", -0.1, "Temperature: -0.1"),
        ("temperature", math.inf, "Temperature"),
        ("seed", -1, "Seed: -1"),
        ("seed", 2**40, "Seed"),
    ],
)
def test_bad_values_are_named(field: str, value: object, named: str) -> None:
    with pytest.raises(SettingError) as caught:
        parse_settings(**{**GOOD, field: value})
    message = str(caught.value)
    assert named in message
    assert "llowed" in message or "at least one" in message or "Put the prompt" in message


def test_too_many_pages_to_draw() -> None:
    with pytest.raises(SettingError, match="take 4 or more"):
        parse_settings(**{**GOOD, "pool_tokens": 8192, "block_size": 1})


def test_floats_from_the_page_are_whole_numbers() -> None:
    settings = parse_settings(**{**GOOD, "block_size": 16.0, "seed": 3.0})
    assert (settings.block_size, settings.seed, settings.num_blocks) == (16, 3, 128)
    assert type(settings.block_size) is int


def test_lines_set_their_own_length() -> None:
    prompts = parse_prompts("One | or two | 7\n\n  Three  ", 40)
    assert [(p.text, p.max_tokens) for p in prompts] == [("One | or two", 7), ("Three", 40)]
    prompts = parse_prompts("One | 7 x4\nTwo | 9×2\nThree x4\nFour | x4\nFive | or | six |", 40)
    assert [(p.text, p.max_tokens, p.samples) for p in prompts] == [
        ("One", 7, 4),
        ("Two", 9, 2),
        ("Three x4", 40, 1),
        ("Four", 40, 4),
        ("Five | or | six |", 40, 1),
    ]


def test_speed() -> None:
    assert parse_speed(10, False) == 10
    assert math.isinf(parse_speed(10, True))
    with pytest.raises(SettingError, match="Speed: 0"):
        parse_speed(0, False)


def test_pool_in_words() -> None:
    assert pool_words(2048, 16, 6144) == "2,048 slots = 128 pages of 16 = 12.6 MB on each side"


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_possible(name: str) -> None:
    preset = PRESETS[name]
    settings = parse_settings(**preset.fields)
    assert len(settings.prompts) >= 6 or name in ("samples", "beams")
    assert len({p.text for p in settings.prompts}) >= len(settings.prompts) - 2
    assert settings.has_samples == (name in ("samples", "beams"))
    assert DEFAULT_PRESET in PRESETS


@pytest.mark.parametrize("option", ["--max-requests=4", "--max-pages=64"])
def test_limits_that_no_preset_fits_into_are_refused_at_the_start(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["app", "--no-browser", option]) == 2
    assert "too little for the preset 'A class of short chats'" in capsys.readouterr().err
