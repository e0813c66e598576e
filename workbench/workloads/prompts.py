"""What prompts say: real text of a given length in tokens, or random tokens where the text does not matter."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, Protocol

from workbench.workloads.passages import SENTENCES, TRANSLATIONS


class PromptSource(Protocol):
    """Where prompts come from.

    Attributes:
        about: what they are, in words, for a report.
    """

    @property
    def about(self) -> str: ...
    def draw(self, rng: random.Random, num_tokens: int) -> list[int]: ...


def _encode(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


class BundledText:
    """A few sentences of public-domain works (`workbench.workloads.passages`), in random order, over and over.

    Long prompts repeat themselves, so for those another text is better.
    """

    about = "sentences of public-domain works in random order"

    def __init__(self, tokenizer: Any) -> None:
        self._sentences = [_encode(tokenizer, sentence + "\n\n") for sentence in SENTENCES.values()]

    def draw(self, rng: random.Random, num_tokens: int) -> list[int]:
        tokens: list[int] = []
        while len(tokens) < num_tokens:
            for sentence in rng.sample(self._sentences, len(self._sentences)):
                tokens += sentence
        return tokens[:num_tokens]


class HeldOutText:
    """Passages of a corpus that the bundled model has not seen in training (`workbench.models.corpus`).

    Args:
        folder: of files named like ``en-austen.txt``.

    Raises:
        ValueError: the folder has no held-out text in that language.
        FileNotFoundError: it has no such files.
    """

    def __init__(self, folder: Path, tokenizer: Any, language: str = "en") -> None:
        from workbench.models.corpus import held_out, read_corpus

        texts = held_out(read_corpus(folder), "test").get(language, [])
        if not texts:
            raise ValueError(f"{folder}: has no held-out text in the language {language!r}")
        self._passages = [_encode(tokenizer, text) for text in texts]
        self.about = f"text that the bundled model has not seen in training ({len(texts)} passages, {language})"

    @property
    def longest(self) -> int:
        """Tokens of the longest passage."""
        return max(map(len, self._passages))

    def draw(self, rng: random.Random, num_tokens: int) -> list[int]:
        """A piece of a passage; all pieces are equally likely.

        Raises:
            ValueError: no passage is that long.
        """
        starts = [max(0, len(passage) - num_tokens + 1) for passage in self._passages]
        if not any(starts):
            raise ValueError(f"{num_tokens} tokens asked for, the longest passage has {self.longest}")
        start = rng.randrange(sum(starts))
        for passage, count in zip(self._passages, starts, strict=True):
            if start < count:
                return passage[start : start + num_tokens]
            start -= count
        raise AssertionError("unreachable")


class RandomTokens:
    """Tokens drawn evenly from a vocabulary: for models without a tokenizer, where the text does not matter."""

    about = "random tokens"

    def __init__(self, vocab_size: int) -> None:
        self._vocab_size = vocab_size

    def draw(self, rng: random.Random, num_tokens: int) -> list[int]:
        return [rng.randrange(self._vocab_size) for _ in range(num_tokens)]


def prompt_source(tokenizer: Any, vocab_size: int, corpus: Path | None = None) -> PromptSource:
    """The best there is: held-out text if a corpus is named, else the bundled sentences, or random tokens."""
    if tokenizer is None:
        return RandomTokens(vocab_size)
    return BundledText(tokenizer) if corpus is None else HeldOutText(corpus, tokenizer)


def few_shot_prefix(tokenizer: Any, num_tokens: int, first: int = 0) -> list[int]:
    """The beginning of a few-shot prompt: an instruction and translated sentences, cut to ``num_tokens``.

    In Kwon et al., Fig. 16, a prefix with one example has 80 tokens and one with five has 341.

    Args:
        first: with which example it begins; prefixes with different ones differ from the first example on.
    """
    tokens = _encode(tokenizer, "Translate from English to German.\n\n")
    shot = first
    while len(tokens) < num_tokens:
        english, german = TRANSLATIONS[shot % len(TRANSLATIONS)]
        tokens += _encode(tokenizer, f"English: {english}\nGerman: {german}\n\n")
        shot += 1
    return tokens[:num_tokens]
