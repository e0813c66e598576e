"""What is written in KV memory: the text of each token that a sequence has stored."""

from __future__ import annotations

from itertools import pairwise

from workbench.events.page_map import PageMap
from workbench.events.state import OutputText


def sequence_tokens(page_map: PageMap, sequence: int) -> list[str]:
    """The text of each token whose keys and values a sequence holds, in their order; "" where it is not known.

    A character that several tokens make up is with the last of them. Tokens behind a sliding window are there, too,
    although their pages may be gone.

    Raises:
        KeyError: the sequence holds no memory.
    """
    held = page_map.sequences[sequence]
    request = page_map.requests[held.request]
    prompt = _pieces(request.prompt, request.prompt_ends)
    prompt += [""] * (request.prompt_tokens - len(prompt))
    output = request.outputs.get(sequence, OutputText())  # a stranger's recording may leave it out
    pieces = (prompt + _pieces(output.text, output.ends))[: held.num_computed_tokens]
    return pieces + [""] * (held.num_computed_tokens - len(pieces))


def _pieces(text: str, ends: list[int]) -> list[str]:
    return [text[start:end] for start, end in pairwise([0, *ends])]
