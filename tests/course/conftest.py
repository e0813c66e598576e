"""What the tests of checks and limits share: a lesson of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from workbench.course import registry
from workbench.course.session import SESSION, Session


@pytest.fixture
def lesson90() -> Iterator[None]:
    """Lesson 90 of ``tests/course/data``, and a session without a past."""
    registry.register("90", "tests.course.data.lesson90")
    yield
    registry._ELSEWHERE.clear()
    SESSION.__dict__.update(Session().__dict__)


def right(num_tokens: int, page_size: int) -> int:
    """The answer to exercise 90.1."""
    return -(-num_tokens // page_size)
