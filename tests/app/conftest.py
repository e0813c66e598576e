"""Settings and sessions on the bundled model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch

from workbench.models import LoadedModel
from workbench_app.main import step_threads
from workbench_app.session import Session
from workbench_app.settings import Prompt, Settings

SMALL = Settings(
    prompts=(
        Prompt("Once upon a time there was a", 12),
        Prompt("Es war einmal ein", 20),
        Prompt("Il était une fois", 8),
        Prompt("Der var engang", 16),
    ),
    pool_tokens=256,
    block_size=16,
    policy="max",
    max_model_len=128,
    temperature=0.8,
    seed=0,
)


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def app_threads() -> Iterator[None]:
    """As many threads as the app takes: with more, engines on a busy machine mostly wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(step_threads())
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small() -> Settings:
    """Four short requests, of which Max lets two run at once."""
    return SMALL


@pytest.fixture
def impossible() -> Settings:
    """Settings that only the engine finds out about: a prompt longer than the longest sequence."""
    return replace(SMALL, prompts=(Prompt("word " * 200, 4),), max_model_len=64)


@pytest.fixture
def session(tiny: LoadedModel) -> Iterator[Session]:
    made = Session(tiny)
    yield made
    made.close()


@pytest.fixture
def wait() -> Callable[..., None]:
    """Waits until a condition holds."""

    def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "waited for too long"
            time.sleep(0.01)

    return until
