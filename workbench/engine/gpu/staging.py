"""Host arrays that reach the device in one copy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

_ALIGNMENT = 16
_DTYPES = {"int64": torch.int64, "int32": torch.int32, "float32": torch.float32, "float64": torch.float64}


class Staging:
    """Named one-dimensional arrays in one block of (pinned) host memory, and its twin on the device.

    The host writes into ``host[name]``, then `upload` enqueues one copy of the whole block. Tensors ``device[name]``
    stay where they are for good, so a CUDA graph may read them.

    Args:
        fields: name, dtype and length of every array.
    """

    def __init__(self, fields: Sequence[tuple[str, str, int]], device: torch.device) -> None:
        offsets, size = [], 0
        for _, dtype, length in fields:
            offsets.append(size)
            size += -(-length * _DTYPES[dtype].itemsize // _ALIGNMENT) * _ALIGNMENT
        is_cuda = device.type == "cuda"
        self._host = torch.zeros(size, dtype=torch.uint8, pin_memory=is_cuda)
        self._device = torch.zeros(size, dtype=torch.uint8, device=device)
        self._copied: torch.cuda.Event | None = torch.cuda.Event() if is_cuda else None
        self.host: dict[str, np.ndarray] = {}
        self.device: dict[str, Tensor] = {}
        raw = self._host.numpy()
        for (name, dtype, length), offset in zip(fields, offsets, strict=True):
            end = offset + length * _DTYPES[dtype].itemsize
            self.host[name] = raw[offset:end].view(dtype)
            self.device[name] = self._device[offset:end].view(_DTYPES[dtype])

    def wait(self) -> None:
        """Returns when the last upload has read the host arrays: only then may they be written again."""
        if self._copied is not None:
            self._copied.synchronize()

    def upload(self) -> None:
        """Enqueues the copy to the device on the current stream."""
        self._device.copy_(self._host, non_blocking=True)
        if self._copied is not None:
            self._copied.record()
