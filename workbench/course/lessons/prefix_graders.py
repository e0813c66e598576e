"""Lesson 6's graders of 6.4 and 6.5: names of pages, and the pages that a text finds by them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from workbench.course.verdict import Verdict
from workbench.memory.prefix_cache import page_hash


def names_of(token_ids: Sequence[int], block_size: int) -> list[bytes]:
    """The names that the engine gives to the full pages of a text."""
    names: list[bytes] = []
    for start in range(0, len(token_ids) // block_size * block_size, block_size):
        names.append(page_hash(names[-1] if names else b"", token_ids[start : start + block_size]))
    return names


def _short(names: Any) -> Any:
    return [name.hex()[:8] if isinstance(name, bytes) else name for name in names] if isinstance(names, list) else names


def grade_names(answer: Callable[[list[int], int], list[bytes]], seed: int) -> Verdict:
    """Two texts with equal tokens in one page, once behind the same beginning and once behind another."""
    rng = random.Random(3000 + seed)
    size = rng.choice((2, 4, 8))
    pages = rng.randint(3, 6)
    text = [rng.randrange(1, 1000) for _ in range(pages * size + rng.randrange(size))]
    other = list(text)
    changed = rng.randrange(pages - 1)
    other[changed * size] = 1000 + text[changed * size]
    named = answer(list(text), size), answer(list(other), size)
    first, second = (list(names) if isinstance(names, tuple) else names for names in named)
    right = names_of(text, size)
    about = f"{len(text)} tokens in pages of {size}"
    if not isinstance(first, list) or len(first) != len(right):
        words = f"{about}: {pages} pages are full, and only full pages have a name"
        yours = f"{len(first)} names" if isinstance(first, list) else first
        count = len(first) if isinstance(first, list) else 0
        return Verdict(False, f"{words}.", yours, f"{pages} names", f"page {min(count, pages)}")
    for index in range(pages):
        if (first[index] == second[index]) != (index < changed):
            if index < changed:
                words = f"two texts that are equal up to page {index} must have the same name for it"
            else:
                words = (
                    f"two texts differ in page {changed}; then page {index} must not have the same name in both, "
                    "even if its own tokens are equal: its keys and values depend on all tokens before"
                )
            return Verdict(False, f"{about}: {words}.", _short(second), _short(names_of(other, size)), f"page {index}")
    for index, name in enumerate(right):
        if first[index] != name:
            words = "the names tell texts apart, but are not the engine's: `page_hash(name before, tokens of the page)`"
            return Verdict(False, f"{about}: {words}.", _short(first), _short(right), f"page {index}")
    return Verdict(True, "Every full page has the engine's name.")


def find_prefix(pages: dict[bytes, int], token_ids: Sequence[int], block_size: int) -> list[int]:
    """The reference: pages that hold the beginning of a text, its last token excepted."""
    found: list[int] = []
    for name in names_of(token_ids[:-1], block_size):
        if name not in pages:
            break
        found.append(pages[name])
    return found


def grade_find(answer: Callable[[dict[bytes, int], list[int], int], list[int]], seed: int) -> Verdict:
    """Texts that begin like one that was seen; some of its pages have been evicted."""
    rng = random.Random(4000 + seed)
    size = rng.choice((2, 4, 8))
    for _ in range(12):
        seen = [rng.randrange(1, 1000) for _ in range(size * rng.randint(2, 7))]
        names = names_of(seen, size)
        numbers = rng.sample(range(40), len(names))
        pages = dict(zip(names, numbers, strict=True))
        evicted = rng.randrange(1, len(names)) if rng.random() < 0.4 and len(names) > 1 else None
        if evicted is not None:
            del pages[names[evicted]]
        same = rng.choice((len(seen), rng.randint(1, len(seen))))
        asked = seen[:same] + [2000 + rng.randrange(9) for _ in range(rng.choice((0, 0, 1, size)))]
        expected = find_prefix(pages, asked, size)
        yours = answer(dict(pages), list(asked), size)
        if yours == expected:
            continue
        about = f"{len(asked)} tokens in pages of {size}, the first {same} as in a text that was stored before"
        if evicted is not None:
            about += f", whose page {evicted} has been evicted"
        words, index = "the pages are others", 0
        if isinstance(yours, list):
            pairs = zip(yours, expected, strict=False)
            index = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(yours), len(expected)))
            if evicted is not None and len(yours) > len(expected) and index >= evicted:
                words = f"pages behind page {evicted} are of no use: its tokens would be missing between them"
            elif len(yours) > len(expected) and len(asked) == len(expected) * size + size:
                words = "one token must be left to compute, or there is nothing to take the next token from"
            elif len(yours) < len(expected):
                words = f"page {index} holds the right tokens, too"
        return Verdict(False, f"{about}: {words}.", yours, expected, f"page {index}")
    return Verdict(True, "12 texts, the same pages as the engine would take.")
