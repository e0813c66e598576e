"""A link opens what it was made from, whatever the settings; a link that makes no sense is refused by name."""

from __future__ import annotations

from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench_app.links import MAX_QUERY, link_to, read_link
from workbench_app.presets import PRESETS
from workbench_app.settings import BLOCK_SIZES, POLICIES, Prompt, SettingError, Settings, parse_settings

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1, max_size=40)
PROMPTS = st.builds(
    lambda text, tokens, kind, count: Prompt(
        f"a{text.strip()}b", tokens, count if kind == "x" else 1, count if kind == "b" else 0
    ),
    TEXT,
    st.integers(1, 512),
    st.sampled_from(["", "x", "b"]),
    st.integers(2, 8),
)
SETTINGS = st.builds(
    Settings,
    prompts=st.lists(PROMPTS, min_size=1, max_size=5).map(tuple),
    pool_tokens=st.sampled_from([256, 1024, 2048]),
    block_size=st.sampled_from(BLOCK_SIZES),
    policy=st.sampled_from(list(POLICIES)),
    max_model_len=st.integers(64, 2048),
    temperature=st.floats(0, 2).map(lambda value: round(value, 2)),
    seed=st.integers(0, 2**31 - 1),
    prefix_caching=st.booleans(),
    host_tokens=st.sampled_from([256, 512]),
    preemption=st.sampled_from(["recompute", "swap", "adaptive"]),
    growing=st.booleans(),
)


@given(SETTINGS, st.sampled_from([*PRESETS, ""]), st.integers(0, 1000))
def test_a_link_opens_what_it_was_made_from(settings: Settings, preset: str, step: int) -> None:
    text = link_to(settings, preset, step)
    if not text:
        return
    assert len(text) <= MAX_QUERY
    found = read_link(dict(parse_qsl(text)))
    assert found is not None
    assert parse_settings(**found[1]) == settings
    assert found[2] == step


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_needs_no_more_than_its_name(name: str) -> None:
    assert link_to(parse_settings(**PRESETS[name].fields), name, 7) == f"preset={name}&step=7"


def test_prompts_that_are_too_long_for_a_link() -> None:
    settings = parse_settings(**{**PRESETS["class"].fields, "prompts": "long " * 500})
    assert link_to(settings, "class", 0) == ""


def test_addresses_that_say_nothing_of_a_run() -> None:
    assert read_link({}) is None
    assert read_link({"tab": "learn", "__theme": "dark"}) is None
    assert read_link({"tab": "explore", "recording": "beams", "step": "17"}) is None


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ({"preset": "nonsense"}, "preset in the link: 'nonsense'"),
        ({"seed": "x"}, "seed in the link: 'x'"),
        ({"step": "1.5"}, "step in the link: '1.5'"),
        ({"growing": "yes"}, "growing in the link: 'yes'"),
        ({"temperature": "warm"}, "temperature in the link: 'warm'"),
    ],
)
def test_links_that_make_no_sense(query: dict[str, str], named: str) -> None:
    with pytest.raises(SettingError, match=named):
        read_link(query)
