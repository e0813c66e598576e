"""What a visitor can set, checked in one place whichever way it comes in: page, link, API or Python."""

from __future__ import annotations

import math
from dataclasses import dataclass

from workbench_app.prompt_lines import BEAMS, OUTPUT_TOKENS, SAMPLES, Prompt, parse_prompts
from workbench_app.setting_checks import SettingError, integer, number, one_of, truth
from workbench_app.words import megabytes

__all__ = [
    "BEAMS",
    "OUTPUT_TOKENS",
    "SAMPLES",
    "Limits",
    "Prompt",
    "SettingError",
    "Settings",
    "parse_prompts",
    "parse_settings",
    "parse_speed",
    "pool_words",
]

BLOCK_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
POLICIES = {"max": "Max", "pow2": "Pow2", "oracle": "Oracle"}
#: What each prompt asks for, where its line says nothing.
TEXTS = {"one": "One text", "samples": "Samples", "beams": "Beam search"}
PREEMPTION = {
    "recompute": "Compute again",
    "swap": "Swap to the host",
    "adaptive": "What is expected to be quicker",
}
POOL_TOKENS = (256, 16384)
POOL_STEP = 256
HOST_TOKENS = (0, 16384)
MODEL_LEN = (64, 2048)
TEMPERATURE = (0.0, 2.0)
SEED = (0, 2**31 - 1)
#: Steps per second; 10 is the pace that "1x" means elsewhere.
SPEED = (1, 80)
TEXTS_PER_PROMPT = (2, 8)


@dataclass(frozen=True)
class Limits:
    """What one visitor may ask of this machine.

    Attributes:
        pages: in one pool: more cells are neither visible nor quick to draw.
        requests: in one run.
        outputs: texts of all requests together: each may be a request of its own on the contiguous side.
        seconds: of computing, in one run, both engines together.
    """

    pages: int = 2048
    requests: int = 48
    outputs: int = 48
    seconds: float = 600.0


@dataclass(frozen=True)
class Settings:
    """Everything that decides what a run does. Equal settings give equal runs, apart from times.

    ``host_tokens`` slots of host memory, ``preemption`` and ``prefix_caching`` are the paged side's: contiguous memory
    has no pages to move or to share. ``growing``: whether transformers' own cache runs beside them.
    """

    prompts: tuple[Prompt, ...]
    pool_tokens: int
    block_size: int
    policy: str
    max_model_len: int
    temperature: float
    seed: int
    prefix_caching: bool = False
    host_tokens: int = 0
    preemption: str = "recompute"
    growing: bool = False

    @property
    def num_blocks(self) -> int:
        return self.pool_tokens // self.block_size

    @property
    def num_host_blocks(self) -> int:
        return self.host_tokens // self.block_size

    @property
    def has_samples(self) -> bool:
        """Whether a request has more than one output."""
        return any(prompt.width > 1 for prompt in self.prompts)


def parse_settings(
    prompts: object,
    output_tokens: object,
    pool_tokens: object,
    block_size: object,
    policy: object,
    max_model_len: object,
    temperature: object,
    seed: object,
    texts: object = "one",
    texts_per_prompt: object = 4,
    prefix_caching: object = False,
    host_tokens: object = 0,
    preemption: object = "recompute",
    growing: object = False,
    *,
    limits: Limits | None = None,
) -> Settings:
    """Checks what came from the page.

    Raises:
        SettingError: with the field, the value, and what is allowed.
    """
    limits = limits or Limits()
    length = integer("Output length", output_tokens, OUTPUT_TOKENS)
    kind = one_of("Each prompt asks for", texts, tuple(TEXTS))
    width = integer("How many", texts_per_prompt, TEXTS_PER_PROMPT)
    parsed = parse_prompts(
        prompts,
        length,
        limits.requests,
        limits.outputs,
        samples=width if kind == "samples" else 1,
        beams=width if kind == "beams" else 0,
    )
    pool, size = _pool(pool_tokens, block_size, limits)
    host = integer("Host tier", host_tokens, HOST_TOKENS)
    if host % POOL_STEP:
        raise SettingError("Host tier", host, f"Allowed are multiples of {POOL_STEP}.")
    if host // size > limits.pages:
        raise SettingError("Host tier", host, f"Allowed are {limits.pages:,} pages, here of {size} slots.")
    mode = one_of("When memory runs out", preemption, tuple(PREEMPTION))
    if mode != "recompute" and not host:
        raise SettingError("When memory runs out", PREEMPTION[mode], "Allowed with a host tier of at least 256 slots.")
    return Settings(
        prompts=parsed,
        pool_tokens=pool,
        block_size=size,
        policy=one_of("Reservation", policy, tuple(POLICIES)),
        max_model_len=integer("Longest sequence", max_model_len, MODEL_LEN),
        temperature=number("Temperature", temperature, TEMPERATURE),
        seed=integer("Seed", seed, SEED),
        prefix_caching=truth("Prefix caching", prefix_caching),
        host_tokens=host,
        preemption=mode,
        growing=truth("Third lane", growing),
    )


def _pool(pool_tokens: object, block_size: object, limits: Limits) -> tuple[int, int]:
    pool = integer("Pool size", pool_tokens, POOL_TOKENS)
    if pool % POOL_STEP:
        raise SettingError("Pool size", pool, f"Allowed are multiples of {POOL_STEP}.")
    size = integer("Block size", block_size, (BLOCK_SIZES[0], BLOCK_SIZES[-1]))
    if size not in BLOCK_SIZES:
        raise SettingError("Block size", size, f"Allowed are {', '.join(map(str, BLOCK_SIZES))}.")
    if pool // size > limits.pages:
        least = next((s for s in BLOCK_SIZES if pool // s <= limits.pages), None)
        instead = f"take {least} or more" if least is not None else "take a smaller pool"
        words = f"A pool of {pool:,} slots would have more than {limits.pages:,} pages, which are allowed: {instead}."
        raise SettingError("Block size", size, words)
    return pool, size


def parse_speed(speed: object, unlimited: object) -> float:
    """Steps per second; infinity for "as fast as possible".

    Raises:
        SettingError: out of range.
    """
    return math.inf if unlimited is True else number("Speed", speed, SPEED)


def pool_words(pool_tokens: int, block_size: int, bytes_per_token: int) -> str:
    """The pool's size in slots, pages and bytes."""
    pages = pool_tokens // block_size
    return (
        f"{pool_tokens:,} slots = {pages:,} page{'' if pages == 1 else 's'} of {block_size} = "
        f"{megabytes(pool_tokens * bytes_per_token)} on each side"
    )
