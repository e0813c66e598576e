"""Where kernels are tested: on the GPU if there is one, else in Triton's interpreter (``tests/conftest.py``)."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(scope="session")
def device() -> str:
    """``"cuda"`` or ``"cpu"``."""
    return "cuda" if torch.cuda.is_available() else "cpu"
