"""Which device and number format a model runs with."""

from __future__ import annotations

import torch


def pick_device(device: str) -> torch.device:
    """ "auto" means the first of cuda, mps, cpu that is there.

    Raises:
        ValueError: the named device is not available.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return torch.device(next(name for name, there in available.items() if there))
    if not available.get(device, False):
        there = ", ".join(name for name, is_there in available.items() if is_there)
        raise ValueError(f"device={device!r}: not available here; allowed: auto, {there}")
    return torch.device(device)


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """ "auto" means float32 on a CPU (half types are slow or inexact there) and bfloat16 elsewhere."""
    if dtype == "auto":
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    allowed = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in allowed:
        raise ValueError(f"dtype={dtype!r}: allowed are auto, {', '.join(allowed)}")
    return allowed[dtype]
