"""From what a user passes as a prompt to token ids."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from workbench.engine.config import ConfigError
from workbench.engine.sampling_params import SamplingParams
from workbench.models.loading import LoadedModel

Prompt = str | Sequence[int]


class EncodedPrompt(NamedTuple):
    """``ends``: characters of ``text`` up to the end of each token; empty if the tokenizer does not tell."""

    token_ids: list[int]
    text: str
    ends: list[int]


def encode_prompt(model: LoadedModel, prompt: Prompt, params: SamplingParams, max_model_len: int) -> EncodedPrompt:
    """Token ids and text of a prompt. Checks all that could be wrong with it.

    Raises:
        ConfigError: it is empty, has unknown tokens, leaves no room below ``max_model_len``, or the model's tokenizer
            can't do what is asked of it.
    """
    tokenizer, vocab_size = model.tokenizer, model.geometry.vocab_size
    if params.stop and getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ConfigError(f"stop={params.stop!r}: needs a fast tokenizer, which {model.name} does not have")
    if isinstance(prompt, str):
        if tokenizer is None:
            raise ConfigError("prompt: this model has no tokenizer; pass token ids")
        token_ids, ends = _encode(tokenizer, prompt)
        text = prompt
    else:
        token_ids, ends = list(prompt), []
        text = tokenizer.decode(token_ids) if tokenizer is not None else " ".join(map(str, token_ids))
    if not token_ids:
        raise ConfigError(f"prompt={prompt!r}: must hold at least one token")
    bad = next((t for t in token_ids if type(t) is not int or not 0 <= t < vocab_size), None)
    if bad is not None:
        raise ConfigError(f"prompt: token id {bad!r} is not an integer from 0 to {vocab_size - 1}")
    if len(token_ids) >= max_model_len:
        raise ConfigError(
            f"prompt: has {len(token_ids)} tokens; at most {max_model_len - 1} are allowed, so that one can "
            f"be generated within max_model_len={max_model_len}"
        )
    return EncodedPrompt(token_ids, text, ends)


def _encode(tokenizer: Any, text: str) -> tuple[list[int], list[int]]:
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        return list(tokenizer.encode(text)), []
    encoded = tokenizer(text, return_offsets_mapping=True, verbose=False)
    # Tokens that stand for no text (a beginning of text) end where the one before them did.
    ends = itertools.accumulate((end for _, end in encoded["offset_mapping"]), max)
    return list(encoded["input_ids"]), list(ends)
