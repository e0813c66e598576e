"""The paper's Fig. 9 for lesson 6: four beam candidates on the engine's memory manager, with the figure's numbers."""

from __future__ import annotations

from workbench.events.types import Cause
from workbench.memory.paged import PagedMemory

_PAGE_TOKENS = 4


def one_page_more(books: PagedMemory, candidate: int) -> None:
    """The candidate stores as many tokens as a page holds; its pages so far are full."""
    books.try_append(candidate, books.num_stored(candidate) + _PAGE_TOKENS)
    books.commit(candidate, _PAGE_TOKENS, Cause.DECODE)


def fig9_books() -> PagedMemory:
    """Pages 0 to 12, and candidates 0 to 3 with four full pages each, as above the figure's dotted line.

    All share the prompt's page 0; candidates 0 to 2 share pages 1 and 3, too, and part on the fourth page.
    """
    books = PagedMemory(13, _PAGE_TOKENS, 0.0, None)
    prompt = [0] * _PAGE_TOKENS
    books.allocate(0, prompt, len(prompt), 1)
    books.commit(0, len(prompt), Cause.PREFILL)
    books.fork(0, 3, [])
    for candidate in (0, 3, 0, 3):
        one_page_more(books, candidate)
    books.fork(0, 1, [])
    books.fork(0, 2, [])
    for candidate in (0, 1, 2, 3):
        one_page_more(books, candidate)
    return books
