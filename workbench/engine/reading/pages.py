"""What steps that read pages in special ways need of a device, and of the pool."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from paged_kernels.page_bounds import new_bounds
from workbench.engine.config import EngineConfig
from workbench.engine.storage import Storage
from workbench.models.paged_batch import Options


class PageOps(Protocol):
    """What the reader needs of a device. Pages: ``[num_pages, block_size, num_kv_heads, head_dim]``."""

    def attend(
        self, q: Tensor, k_pages: Tensor, v_pages: Tensor, table: Tensor, length: int, behind: int, options: Options
    ) -> tuple[Tensor, Tensor]:
        """Attention of one sequence's queries ``[num_queries, num_heads, head_dim]`` over ``length`` keys.

        The last query is at ``length - 1 + behind``. Returns the output, and ``[num_queries, num_heads]`` the
        log-sum-exp.
        """

    def decode(
        self, q: Tensor, k_pages: Tensor, v_pages: Tensor, tables: Tensor, lengths: Tensor, options: Options
    ) -> tuple[Tensor, Tensor]:
        """Attention of one query per sequence ``[num_seqs, num_heads, head_dim]``, and its log-sum-exp."""

    def mass(
        self, q: Tensor, k_pages: Tensor, tables: Tensor, lengths: Tensor, lse: Tensor, options: Options
    ) -> Tensor:
        """The weights of `decode`, summed over pages: ``[num_seqs, num_heads, num_pages]``."""

    def stage(self, host: Tensor, rows: Tensor, offset: int, pages: tuple[Tensor, Tensor]) -> None:
        """Brings rows of the host tier (int32, on the device), from a byte on, to the first of ``pages``."""


class Pages:
    """The pages of all layers, and the functions that read them.

    Attributes:
        caches: per layer, K and V.
        bounds: per layer, smallest and largest keys of every page of the device, if pages are chosen by them;
            ``host_bounds``: of the host's.
    """

    def __init__(self, config: EngineConfig, storage: Storage, ops: PageOps) -> None:
        self.config, self.storage, self.ops = config, storage, ops
        self.caches = storage.by_layer
        self.block_size = storage.caches[0][0].shape[1]
        self.device = storage.caches[0][0].device
        self.bounds: list[tuple[Tensor, Tensor]] = []
        self.host_bounds: list[tuple[Tensor, Tensor]] = []
        if config.attention_pages is not None:
            for keys, _ in self.caches:
                shape = keys.shape[2], keys.shape[3]
                self.bounds.append(new_bounds(keys.shape[0], *shape, device=self.device))
                self.host_bounds.append(new_bounds(max(1, config.num_host_blocks), *shape, device=self.device))

    def tensor(self, numbers: list[int] | list[list[int]]) -> Tensor:
        """Numbers on the device, int32, for which the host does not wait."""
        tensor = torch.tensor(numbers, dtype=torch.int32)
        is_cuda = self.device.type == "cuda"
        return tensor.pin_memory().to(self.device, non_blocking=True) if is_cuda else tensor.to(self.device)

    def number(self, value: int) -> Tensor:
        """One number on the device. (Pinned memory for each would take far longer than what it is for.)"""
        return torch.full((1,), value, dtype=torch.int32, device=self.device)


def rounded(shares: list[float]) -> list[float]:
    """Shares as events carry them."""
    return [round(share, 4) for share in shares]
