"""The text that the bundled model learns from: reading, cleaning, splitting, and its tokenizer.

A corpus is a folder of UTF-8 files. ``xx-name.txt`` is a work in the language ``xx``; ``udhr/*.txt`` holds the
Universal Declaration of Human Rights in many languages, all counted under the label ``udhr``.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"

#: A line at least this long was broken by a typesetter, not by its author: verse and dialogue lines are shorter.
_WRAPPED_LINE_CHARS = 50
#: A slur of the books' time, in their languages. The model is shown to classes, so paragraphs with it are left out.
_LEFT_OUT = re.compile(r"\bn[ieè]g(?:g?er|re|ro)", re.IGNORECASE)
#: Every work gives one slice of this many characters out of each ``_SLICE_EVERY`` to each held-out set. That is more
#: than 4,096 tokens, so that the last position of the longest window can be tested on one passage.
_SLICE_CHARS = 16_000
_SLICE_EVERY = 800_000


@dataclass(frozen=True)
class Document:
    """One work, already split. ``train`` is a list because the held-out slices cut the work into pieces."""

    name: str
    language: str
    train: list[str]
    validation: list[str]
    test: list[str]


def clean(text: str) -> str:
    """Joins lines that were broken only to fit a page; keeps verse, paragraphs and all else as written.

    Paragraphs with a slur are left out (`_LEFT_OUT`).
    """
    text = unicodedata.normalize("NFC", text).replace("\r\n", "\n").replace("\ufeff", "")
    text = re.sub(r"[ \t\u00a0]+", " ", text)
    lines = [line.strip() for line in text.split("\n")]
    out: list[str] = []
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        joins = len(line) >= _WRAPPED_LINE_CHARS and following != ""
        out.append(line + (" " if joins else "\n"))
    kept = (paragraph for paragraph in "".join(out).split("\n") if not _LEFT_OUT.search(paragraph))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()


def _cut(text: str, start: int, stop: int) -> tuple[str, str, str]:
    return text[:start], text[start:stop], text[stop:]


def split(name: str, language: str, text: str) -> Document:
    """Splits one work into training, validation and test text, the last two from the middle of its passages.

    A work shorter than ``_SLICE_CHARS * 16`` gives a sixteenth of itself to each held-out set instead.
    """
    size = min(_SLICE_CHARS, len(text) // 16)
    document = Document(name, language, [], [], [])
    for start in range(0, len(text), _SLICE_EVERY):
        passage = text[start : start + _SLICE_EVERY]
        if len(passage) < 4 * size:
            document.train.append(passage)
            continue
        before, held, rest = _cut(passage, len(passage) // 3, len(passage) // 3 + size)
        between, tested, after = _cut(rest, len(passage) // 3, len(passage) // 3 + size)
        document.train.extend((before, between, after))
        document.validation.append(held)
        document.test.append(tested)
    return document


def read_corpus(folder: Path) -> list[Document]:
    """Reads and splits every work of a corpus folder, in the order of the file names.

    Raises:
        FileNotFoundError: the folder holds no ``xx-name.txt``.
    """
    works = sorted(folder.glob("[a-z][a-z]-*.txt"))
    if not works:
        raise FileNotFoundError(f"--corpus {folder}: expected text files named like 'en-austen.txt', found none")
    documents = [split(path.stem, path.stem[:2], clean(path.read_text(encoding="utf-8"))) for path in works]
    declarations = sorted((folder / "udhr").glob("*.txt"))
    documents += [split(f"udhr/{path.stem}", "udhr", clean(path.read_text(encoding="utf-8"))) for path in declarations]
    return documents


def held_out(documents: Iterable[Document], part: str) -> dict[str, list[str]]:
    """The ``"validation"`` or ``"test"`` texts, by language."""
    texts: dict[str, list[str]] = defaultdict(list)
    for document in documents:
        texts[document.language].extend(getattr(document, part))
    return dict(texts)


def train_tokenizer(documents: list[Document], vocab_size: int) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer on the training text: every string can be encoded, none needs ``<unk>``."""

    def texts() -> Iterator[str]:
        for document in documents:
            yield from document.train

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END_OF_TEXT, bos_token=END_OF_TEXT, model_max_length=4096
    )
