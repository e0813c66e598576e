"""Writes the bundled model's card: what it learned from, what it scores, and how to make it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.models.corpus import Document

_LANGUAGES = {"da": "Danish", "de": "German", "en": "English", "fr": "French", "it": "Italian"}
_WORKS = {
    "alice": "Lewis Carroll, Alice's Adventures in Wonderland (original or a 19th-century translation)",
    "andersen": "H. C. Andersen, tales (original or a translation), as in the hcandersenr data set (MIT)",
    "austen": "Jane Austen, six novels",
    "dracula": "Bram Stoker, Dracula",
    "frankenstein": "Mary Shelley, Frankenstein (original or translation)",
    "grimm": "Brothers Grimm, Kinder- und Hausmärchen",
    "shakespeare": "William Shakespeare, excerpts of the plays",
    "twain": "Mark Twain, four Tom Sawyer and Huckleberry Finn books",
    "verne": "Jules Verne, novels (originals or a 19th-century translation)",
}


@dataclass(frozen=True)
class PositionScores:
    """Bits per UTF-8 byte by position, on the test passages that fill the longest window."""

    passages: int
    quarter: int
    by_quarter: list[float]
    #: The last quarter again, each passage cut so that it starts one quarter earlier instead of three.
    last_quarter_short: float


def _describe(document: Document) -> str:
    title = document.name.partition("-")[2]
    return f"| {_LANGUAGES.get(document.language, document.language)} | {_WORKS.get(title, title)} |"


def write_model_card(
    path: Path,
    documents: Sequence[Document],
    bits_per_byte: Mapping[str, float],
    by_position: PositionScores,
    samples: Mapping[str, str],
    config: Mapping[str, object],
    parameters: int,
    run: str,
) -> None:
    """Writes ``path``. ``bits_per_byte`` and ``by_position`` are measured on test text that nothing else has seen.

    ``run`` says how long training took, and on what.
    """
    works = "\n".join(_describe(d) for d in documents if d.language != "udhr")
    declarations = sum(d.language == "udhr" for d in documents)
    scores = "\n".join(f"| {_LANGUAGES.get(k, 'UDHR, all languages')} | {v:.3f} |" for k, v in bits_per_byte.items())
    quarter = by_position.quarter
    positions = "\n".join(
        f"| {i * quarter:,} to {(i + 1) * quarter:,} | {bits:.3f} |" for i, bits in enumerate(by_position.by_quarter)
    )
    settings = "\n".join(f"| `{name}` | {value} |" for name, value in config.items())
    quotes = "\n\n".join("> " + text.replace("\n", "\n> ") for text in samples.values())
    path.write_text(
        f"""---
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---

# tiny: the model that ships with KV Workbench

A Llama-shaped causal language model of {parameters / 1e6:.1f} M parameters with a byte-level BPE tokenizer of
{config["vocab_size"]} entries. It continues old stories in English, German, French, Danish and Italian. It exists so
that a KV cache can be watched at work on a laptop, without a network. It knows nothing, follows no instructions, and
repeats the attitudes of the 19th century. Paragraphs with the worst of its slurs were left out of the training text.

## Held-out figures

Bits per UTF-8 byte on passages that neither training nor the choice of settings has seen (windows of 2,048 tokens,
weights in bfloat16):

| language | bits per byte |
|---|---|
{scores}

The same by position, on the {by_position.passages} test passages that fill a window of {quarter * 4:,} tokens (all
languages together):

| positions | bits per byte |
|---|---|
{positions}

The text differs from row to row. The text of the last row scores {by_position.last_quarter_short:.3f} when it is read
with the {quarter:,} tokens before it alone: far positions work, and context from far away adds little.

## Samples at temperature 0.8 (not chosen: seed 0, the prompt is the beginning)

{quotes}

## What it learned from

Public-domain texts; the Universal Declaration of Human Rights in {declarations} languages; and:

| language | work |
|---|---|
{works}

## Training it again

`python -m workbench.models.train --corpus DIR --out DIR`, where DIR holds files named like `en-austen.txt` and a
folder `udhr`. {run}, with these settings:

| setting | value |
|---|---|
{settings}
""",
        encoding="utf-8",
    )
