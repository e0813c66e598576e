"""What the model writes: one card per text, with each lane's version of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workbench.views.compare import Place
from workbench_app.lanes import Asked
from workbench_app.prompt_lines import Prompt

_PROMPT_CHARS = 90


def empty_cards(prompts: tuple[Prompt, ...]) -> list[list[Any]]:
    """Cards before a run."""
    return [
        [place, prompt_words(prompt, sample), None, None, None, "", None]
        for place, prompt in enumerate(prompts)
        for sample in range(prompt.width)
    ]


def cards(
    prompts: tuple[Prompt, ...],
    left: tuple[list[list[Any]], Asked],
    right: tuple[list[list[Any]], Asked],
    growing: Mapping[Place, list[Any]] | None,
) -> list[list[Any]]:
    """One row per prompt and text: ``[prompt, words, left, right, request, why, growing]``.

    ``left`` and ``right`` are what `workbench.views.request_rows` says, without the request. ``request`` is that of the
    right side where it has one of its own; ``why`` the right side does not write this at all. ``growing`` has the same
    form as ``left``, by place.
    """
    here, there = _by_place(*left), _by_place(*right)
    rows = []
    for place, prompt in enumerate(prompts):
        refused = right[1].refused.get(place)
        for sample in range(prompt.width):
            a, b = here.get((place, sample)), there.get((place, sample))
            own = b[0] if b is not None and refused is not None else None
            why = refused if refused is not None and b is None else ""
            third = growing.get((place, sample)) if growing is not None else None
            rows.append(
                [place, prompt_words(prompt, sample), a and a[1:], b and b[1:], own, why, third],
            )
    return rows


def _by_place(rows: list[list[Any]], asked: Asked) -> dict[Place, list[Any]]:
    return {(asked.places[row[0]][0], asked.places[row[0]][1] + row[9]): row for row in rows}


def prompt_words(prompt: Prompt, sample: int) -> str:
    """The beginning of a prompt, and which of its texts it is about."""
    kind = "beam" if prompt.beams else "sample"
    which = f"({kind} {sample + 1} of {prompt.width}) " if prompt.width > 1 else ""
    return which + (prompt.text if len(prompt.text) <= _PROMPT_CHARS else prompt.text[: _PROMPT_CHARS - 1] + "…")
