"""What a visitor can set in the Lab, checked in one place whichever way it comes in."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.workloads import DISTRIBUTIONS, LengthSource, uniform
from workbench_app.lab.experiments import EXPERIMENTS, Experiment, Value
from workbench_app.setting_checks import SettingError, integer, one_of
from workbench_app.settings import SEED

BLOCK_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)
POOL_TOKENS = (512, 768, 1024, 2048, 4096, 8192)
MODEL_LEN = (256, 512, 1024, 2048)
REQUESTS = (2, 48)
REPETITIONS = (1, 5)
LINK_MB = (5, 25, 100, 1000, 10_000)


@dataclass(frozen=True)
class LengthChoice:
    """Where lengths come from, and how the page calls that."""

    words: str
    source: LengthSource


LENGTHS: dict[str, LengthChoice] = {
    "short": LengthChoice("Short: prompts of 8 to 32 tokens, outputs of 8 to 48", uniform((8, 32), (8, 48))),
    "mixed": LengthChoice("Mixed: prompts of 16 to 96 tokens, outputs of 16 to 128", uniform((16, 96), (16, 128))),
    "alpaca": LengthChoice("Like Alpaca: mean 19 + 58 tokens, a few long outputs", DISTRIBUTIONS["alpaca"]),
    "sharegpt": LengthChoice("Like ShareGPT: mean 161 + 338 tokens, very uneven", DISTRIBUTIONS["sharegpt"]),
}


@dataclass(frozen=True)
class LabSettings:
    """Everything that decides what a run counts. Equal settings give equal counts.

    Attributes:
        values: what the experiment varies, in the order of the page.
        link_mb: megabytes per second that "adaptive" takes for the speed of moving pages.
        repetitions: how often each variant runs; times are medians, counts must be the same.
    """

    experiment: str
    values: tuple[Value, ...]
    requests: int
    lengths: str
    pool_tokens: int
    block_size: int
    max_model_len: int
    link_mb: int
    repetitions: int
    seed: int

    @property
    def about(self) -> Experiment:
        return EXPERIMENTS[self.experiment]


def _choice(field: str, value: object, choices: tuple[int, ...]) -> int:
    found = integer(field, value, (choices[0], choices[-1]))
    if found not in choices:
        raise SettingError(field, value, f"Allowed are {', '.join(f'{choice:,}' for choice in choices)}.")
    return found


def _values(experiment: Experiment, chosen: object) -> tuple[Value, ...]:
    allowed = ", ".join(str(value) for value in experiment.values)
    if not isinstance(chosen, list | tuple) or not chosen:
        raise SettingError(experiment.varied, chosen, f"Tick at least one of {allowed}.")
    for value in chosen:
        if isinstance(value, bool) or not isinstance(value, int | str) or value not in experiment.values:
            raise SettingError(experiment.varied, value, f"Allowed are {allowed}.")
    return tuple(value for value in experiment.values if value in chosen)


def parse_lab(
    experiment: object,
    values: object,
    requests: object,
    lengths: object,
    pool_tokens: object,
    block_size: object,
    max_model_len: object,
    link_mb: object,
    repetitions: object,
    seed: object,
) -> LabSettings:
    """Checks what came from the page.

    Raises:
        SettingError: with the field, the value, and what is allowed.
    """
    name = one_of("Experiment", experiment, tuple(EXPERIMENTS))
    return LabSettings(
        experiment=name,
        values=_values(EXPERIMENTS[name], values),
        requests=integer("Requests", requests, REQUESTS),
        lengths=one_of("Lengths", lengths, tuple(LENGTHS)),
        pool_tokens=_choice("Pool size", pool_tokens, POOL_TOKENS),
        block_size=_choice("Block size", block_size, BLOCK_SIZES),
        max_model_len=_choice("Longest sequence", max_model_len, MODEL_LEN),
        link_mb=_choice("Link speed", link_mb, LINK_MB),
        repetitions=integer("Repetitions", repetitions, REPETITIONS),
        seed=integer("Seed", seed, SEED),
    )
