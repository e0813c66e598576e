"""The prompts box: one request per line, with what a line may say at its end about its outputs."""

from __future__ import annotations

import re
from dataclasses import dataclass

from workbench_app.setting_checks import SettingError, integer

OUTPUT_TOKENS = (1, 512)
SAMPLES = (1, 8)
BEAMS = (2, 8)
MAX_PROMPT_CHARS = 4000

_SUFFIX = re.compile(r"\|\s*(?=[-\dx×b])(?P<length>-?\d{1,9})?\s*(?:(?P<kind>[x×b])\s*(?P<count>-?\d{1,9}))?\s*$")


@dataclass(frozen=True)
class Prompt:
    """One request: what it starts with, how many tokens it may write, and how many texts are asked for.

    ``samples`` texts are drawn independently; with ``beams`` they are the results of one beam search of that width.
    """

    text: str
    max_tokens: int
    samples: int = 1
    beams: int = 0

    @property
    def width(self) -> int:
        """Texts that it ends with."""
        return self.beams or self.samples

    @property
    def line(self) -> str:
        """The line that means this prompt."""
        kind = f" b{self.beams}" if self.beams else f" x{self.samples}" if self.samples > 1 else ""
        return f"{self.text} | {self.max_tokens}{kind}"


def parse_prompts(
    text: object, output_tokens: int, most: int = 48, most_outputs: int = 48, samples: int = 1, beams: int = 0
) -> tuple[Prompt, ...]:
    """One prompt per line; a line may end with ``| 120`` to set its own output length, ``| 120 x4`` for four samples,
    or ``| 120 b4`` for a search with four beams.

    Args:
        most: lines allowed; ``most_outputs``: texts of all prompts together.
        samples, beams: for lines that say nothing of it.

    Raises:
        SettingError: no prompt, too many, or one of them is not usable.
    """
    if not isinstance(text, str) or not text.strip():
        raise SettingError("Prompts", text, f"Enter at least one, one per line, at most {most}.")
    lines = [(place, line.strip()) for place, line in enumerate(text.splitlines(), 1) if line.strip()]
    if len(lines) > most:
        raise SettingError("Prompts", f"{len(lines)} lines", f"At most {most} are allowed.")
    prompts = [_parse_line(f"Prompts, line {place}", line, output_tokens, samples, beams) for place, line in lines]
    total = sum(prompt.width for prompt in prompts)
    if total > most_outputs:
        kind = "texts" if any(prompt.beams for prompt in prompts) else "samples"
        raise SettingError("Prompts", f"{total} {kind} in all", f"At most {most_outputs} are allowed.")
    return tuple(prompts)


def _parse_line(field: str, line: str, length: int, samples: int, beams: int) -> Prompt:
    if match := _SUFFIX.search(line):
        if match["kind"] == "b":
            samples, beams = 1, integer(f"{field}, beams", int(match["count"]), BEAMS)
        elif match["kind"]:
            samples, beams = integer(f"{field}, samples", int(match["count"]), SAMPLES), 0
        if match["length"]:
            length = integer(f"{field}, output length", int(match["length"]), OUTPUT_TOKENS)
        line = line[: match.start()].rstrip()
    if not line:
        raise SettingError(field, "no text", "Put the prompt before the output length.")
    if len(line) > MAX_PROMPT_CHARS:
        raise SettingError(field, f"{len(line):,} characters", f"At most {MAX_PROMPT_CHARS:,} are allowed.")
    return Prompt(line, length, samples, beams)
