"""Deep links: a run's settings and a step as a query string, and back. Equal settings give equal runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from workbench_app.presets import DEFAULT_PRESET, FIELDS, PRESETS, Preset
from workbench_app.prompt_lines import parse_prompts
from workbench_app.setting_checks import SettingError
from workbench_app.settings import Settings

#: Longer addresses are cut off by some programs through which people send them.
MAX_QUERY = 2000

#: Names in the address: short, but to be understood.
_NAMES = {
    "prompts": "prompts",
    "output_tokens": "tokens",
    "pool_tokens": "pool",
    "block_size": "block",
    "policy": "reservation",
    "max_model_len": "longest",
    "temperature": "temperature",
    "seed": "seed",
    "texts": "texts",
    "texts_per_prompt": "width",
    "prefix_caching": "prefixes",
    "host_tokens": "host",
    "preemption": "preemption",
    "growing": "growing",
}

#: All but those that say what the lines of the prompts mean.
_OF_THE_RUN = tuple(f for f in FIELDS if f not in ("prompts", "output_tokens", "texts", "texts_per_prompt"))


def link_to(settings: Settings, preset: str, step: int) -> str:
    """The query string of a run at a step: the preset and what differs from it. Empty if it would be too long."""
    name = preset if preset in PRESETS else DEFAULT_PRESET
    base = PRESETS[name]
    prompts = "\n".join(prompt.line for prompt in settings.prompts)
    values = {field: getattr(settings, field) for field in _OF_THE_RUN}
    query: dict[str, str] = {"preset": name}
    query |= {_NAMES[field]: _plain(value) for field, value in values.items() if value != getattr(base, field)}
    if prompts != _lines_of(base):
        # The lines say all about texts and lengths, so that no other field is needed for them.
        query["prompts"] = prompts
    query["step"] = str(step)
    text = urlencode(query)
    return text if len(text) <= MAX_QUERY else ""


def _lines_of(base: Preset) -> str:
    kind = {"samples": {"samples": base.texts_per_prompt}, "beams": {"beams": base.texts_per_prompt}}
    parsed = parse_prompts(base.prompts, base.output_tokens, **kind.get(base.texts, {}))
    return "\n".join(prompt.line for prompt in parsed)


def _plain(value: Any) -> str:
    return str(int(value)) if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def read_link(query: Mapping[str, str]) -> tuple[str, dict[str, Any], int] | None:
    """The preset, all fields, and the step that a query string names; None if it names no run of the tab Compare.

    Numbers are read here, and checked with everything else by `parse_settings`.

    Raises:
        SettingError: an unknown preset, or a number that is none.
    """
    if query.get("tab", "compare") != "compare" or not {"preset", "step", *_NAMES.values()} & set(query):
        return None
    preset = query.get("preset", DEFAULT_PRESET)
    if preset not in PRESETS:
        raise SettingError("preset in the link", preset, f"Allowed are {', '.join(PRESETS)}.")
    fields = PRESETS[preset].fields
    for field in FIELDS:
        if (text := query.get(_NAMES[field])) is not None:
            fields[field] = _read(_NAMES[field], text, fields[field])
    step = _read("step", query.get("step", "0"), 0)
    return preset, fields, max(0, min(step, 1_000_000))


def _read(name: str, text: str, like: Any) -> Any:
    if isinstance(like, str):
        return text
    if isinstance(like, bool):
        if text not in ("0", "1"):
            raise SettingError(f"{name} in the link", text, "Allowed are 0 and 1.")
        return text == "1"
    try:
        return type(like)(text)
    except (ValueError, OverflowError):
        kind = "whole numbers" if isinstance(like, int) else "numbers"
        raise SettingError(f"{name} in the link", text, f"Allowed are {kind}.") from None
