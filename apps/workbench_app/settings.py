"""What a visitor can set, checked in one place whichever way it comes in: page, API or Python."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from workbench_app.words import megabytes

BLOCK_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
POLICIES = {"max": "Max", "pow2": "Pow2", "oracle": "Oracle"}
POOL_TOKENS = (256, 8192)
POOL_STEP = 256
OUTPUT_TOKENS = (1, 512)
MODEL_LEN = (64, 2048)
TEMPERATURE = (0.0, 2.0)
SEED = (0, 2**31 - 1)
SPEED = (1, 60)
MAX_PROMPTS = 48
SAMPLES = (1, 8)
#: Samples of all prompts together: each may be a request of its own on the contiguous side.
MAX_OUTPUTS = 48
MAX_PROMPT_CHARS = 4000
#: More cells than this are neither visible nor quick to draw.
MAX_PAGES = 2048

_SUFFIX = re.compile(r"\|\s*(?=[-\dx×])(?P<length>-?\d{1,9})?\s*(?:[x×]\s*(?P<samples>-?\d{1,9}))?\s*$")


class SettingError(ValueError):
    """A setting is not usable. The message names the field, its value, and what is allowed."""

    def __init__(self, field: str, value: object, allowed: str) -> None:
        shown = repr(value) if isinstance(value, str) else str(value)
        if len(shown) > 80:
            shown = shown[:77] + "..."
        super().__init__(f"{field}: {shown} is not possible. {allowed}")
        self.field = field


@dataclass(frozen=True)
class Prompt:
    """One request: what it starts with, how many tokens it may write, and how many samples of that are asked for."""

    text: str
    max_tokens: int
    samples: int = 1


@dataclass(frozen=True)
class Settings:
    """Everything that decides what a run does. Equal settings give equal runs, apart from times."""

    prompts: tuple[Prompt, ...]
    pool_tokens: int
    block_size: int
    policy: str
    max_model_len: int
    temperature: float
    seed: int

    @property
    def num_blocks(self) -> int:
        return self.pool_tokens // self.block_size

    @property
    def has_samples(self) -> bool:
        """Whether a request has more than one output."""
        return any(prompt.samples > 1 for prompt in self.prompts)


def _integer(field: str, value: object, limits: tuple[int, int]) -> int:
    low, high = limits
    allowed = f"Allowed are whole numbers from {low:,} to {high:,}."
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SettingError(field, value, allowed)
    if not low <= value <= high or value != int(value):
        raise SettingError(field, value, allowed)
    return int(value)


def _number(field: str, value: object, limits: tuple[float, float]) -> float:
    low, high = limits
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise SettingError(field, value, f"Allowed are numbers from {low:g} to {high:g}.")
    return float(value)


def parse_prompts(text: object, output_tokens: int) -> tuple[Prompt, ...]:
    """One prompt per line; a line may end with ``| 120`` to set its own output length, or ``| 120 x4`` for 4 samples.

    Raises:
        SettingError: no prompt, too many, or one of them is not usable.
    """
    if not isinstance(text, str) or not text.strip():
        raise SettingError("Prompts", text, f"Enter at least one, one per line, at most {MAX_PROMPTS}.")
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if len(lines) > MAX_PROMPTS:
        raise SettingError("Prompts", f"{len(lines)} lines", f"At most {MAX_PROMPTS} are allowed.")
    prompts = []
    for number, line in lines:
        length, samples = output_tokens, 1
        if match := _SUFFIX.search(line):
            if match["samples"]:
                samples = _integer(f"Prompts, line {number}, samples", int(match["samples"]), SAMPLES)
            if match["length"]:
                length = _integer(f"Prompts, line {number}, output length", int(match["length"]), OUTPUT_TOKENS)
            line = line[: match.start()].rstrip()
        if not line:
            raise SettingError(f"Prompts, line {number}", "no text", "Put the prompt before the output length.")
        if len(line) > MAX_PROMPT_CHARS:
            raise SettingError(
                f"Prompts, line {number}", f"{len(line):,} characters", f"At most {MAX_PROMPT_CHARS:,} are allowed."
            )
        prompts.append(Prompt(line, length, samples))
    total = sum(prompt.samples for prompt in prompts)
    if total > MAX_OUTPUTS:
        raise SettingError("Prompts", f"{total} samples in all", f"At most {MAX_OUTPUTS} are allowed.")
    return tuple(prompts)


def parse_settings(
    prompts: object,
    output_tokens: object,
    pool_tokens: object,
    block_size: object,
    policy: object,
    max_model_len: object,
    temperature: object,
    seed: object,
) -> Settings:
    """Checks what came from the page.

    Raises:
        SettingError: with the field, the value, and what is allowed.
    """
    length = _integer("Output length", output_tokens, OUTPUT_TOKENS)
    parsed = parse_prompts(prompts, length)
    pool = _integer("Pool size", pool_tokens, POOL_TOKENS)
    if pool % POOL_STEP:
        raise SettingError("Pool size", pool, f"Allowed are multiples of {POOL_STEP}.")
    size = _integer("Block size", block_size, (BLOCK_SIZES[0], BLOCK_SIZES[-1]))
    if size not in BLOCK_SIZES:
        raise SettingError("Block size", size, f"Allowed are {', '.join(map(str, BLOCK_SIZES))}.")
    if pool // size > MAX_PAGES:
        least = next(s for s in BLOCK_SIZES if pool // s <= MAX_PAGES)
        raise SettingError(
            "Block size",
            size,
            f"A pool of {pool:,} slots would have more than {MAX_PAGES:,} pages: take {least} or more.",
        )
    if not isinstance(policy, str) or policy not in POLICIES:
        raise SettingError("Reservation", policy, f"Allowed are {', '.join(POLICIES)}.")
    return Settings(
        prompts=parsed,
        pool_tokens=pool,
        block_size=size,
        policy=policy,
        max_model_len=_integer("Longest sequence", max_model_len, MODEL_LEN),
        temperature=_number("Temperature", temperature, TEMPERATURE),
        seed=_integer("Seed", seed, SEED),
    )


def parse_speed(speed: object, unlimited: object) -> float:
    """Steps per second; infinity for "as fast as possible".

    Raises:
        SettingError: out of range.
    """
    return math.inf if unlimited is True else _number("Speed", speed, SPEED)


def pool_words(pool_tokens: int, block_size: int, bytes_per_token: int) -> str:
    """The pool's size in slots, pages and bytes."""
    pages = pool_tokens // block_size
    return (
        f"{pool_tokens:,} slots = {pages:,} page{'' if pages == 1 else 's'} of {block_size} = "
        f"{megabytes(pool_tokens * bytes_per_token)} on each side"
    )
