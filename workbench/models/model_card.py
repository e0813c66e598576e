"""Writes the bundled model's card: what it learned from, what it scores, and how to make it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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


def _describe(document: Document) -> str:
    title = document.name.partition("-")[2]
    return f"| {_LANGUAGES.get(document.language, document.language)} | {_WORKS.get(title, title)} |"


def write_model_card(
    path: Path,
    documents: Sequence[Document],
    bits_per_byte: Mapping[str, float],
    by_position: tuple[Sequence[float], int],
    samples: Mapping[str, str],
    config: Mapping[str, object],
    parameters: int,
    minutes: float,
) -> None:
    """Writes ``path``.

    ``bits_per_byte`` is measured on test text that neither training nor tuning has seen. ``by_position`` is the same
    in equal ranges of the model's positions, and the number of passages that it was measured on.
    """
    works = "\n".join(_describe(d) for d in documents if d.language != "udhr")
    declarations = sum(d.language == "udhr" for d in documents)
    scores = "\n".join(f"| {_LANGUAGES.get(k, 'UDHR, all languages')} | {v:.3f} |" for k, v in bits_per_byte.items())
    ranges, passages = by_position
    width = int(str(config["max_positions"])) // len(ranges)
    positions = "\n".join(f"| {i * width:,} to {(i + 1) * width:,} | {bits:.3f} |" for i, bits in enumerate(ranges))
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
repeats the attitudes of the 19th century.

## Held-out figures

Bits per UTF-8 byte on passages that neither training nor the choice of settings has seen (windows of 2,048 tokens,
weights in bfloat16):

| language | bits per byte |
|---|---|
{scores}

It works up to its last position. The same, by position, on the {passages} test passages that are long enough (all
languages together, each read from its start in one window):

| positions | bits per byte |
|---|---|
{positions}

## Samples at temperature 0.8 (not chosen: seed 0, the prompt is the beginning)

{quotes}

## What it learned from

Public-domain texts; the Universal Declaration of Human Rights in {declarations} languages; and:

| language | work |
|---|---|
{works}

## Training it again

`python -m workbench.models.train --corpus DIR --out DIR`, where DIR holds files named like `en-austen.txt` and a
folder `udhr`. This run took {minutes:.0f} minutes on one data-centre GPU, with these settings:

| setting | value |
|---|---|
{settings}
""",
        encoding="utf-8",
    )
