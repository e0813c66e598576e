"""`PageOps` with the Triton kernels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from paged_kernels.block_transfer import scatter_blocks
from paged_kernels.cache_addresses import CacheAddresses
from paged_kernels.decode import paged_attention_decode
from paged_kernels.page_mass import page_attention_mass
from paged_kernels.prefill import paged_attention_prefill
from workbench.models.paged_batch import Options


class KernelOps:
    """See `workbench.engine.reader.PageOps`. ``scales``: of keys and values in float8."""

    def __init__(self, scales: dict[str, Tensor]) -> None:
        self._scales = scales
        self._staging: dict[int, CacheAddresses] = {}

    def attend(
        self, q: Tensor, k_pages: Tensor, v_pages: Tensor, table: Tensor, length: int, behind: int, options: Options
    ) -> tuple[Tensor, Tensor]:
        lse = torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
        lengths = torch.full((1,), length, dtype=torch.int32, device=q.device)
        asked = self._asked(options)
        if len(q) == 1:
            out = paged_attention_decode(q, k_pages, v_pages, table, lengths, behind=behind, lse=lse, **asked)
        else:
            starts = torch.arange(0, len(q) + 1, len(q), dtype=torch.int32, device=q.device)
            out = paged_attention_prefill(q, k_pages, v_pages, table, lengths, starts, behind=behind, lse=lse, **asked)
        return out, lse

    def decode(
        self, q: Tensor, k_pages: Tensor, v_pages: Tensor, tables: Tensor, lengths: Tensor, options: Options
    ) -> tuple[Tensor, Tensor]:
        lse = torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
        return paged_attention_decode(q, k_pages, v_pages, tables, lengths, lse=lse, **self._asked(options)), lse

    def _asked(self, options: Options) -> dict[str, Any]:
        asked = {"scale": options.scale, "window": options.window, "softcap": options.softcap, "sinks": options.sinks}
        return asked | self._scales

    def mass(
        self, q: Tensor, k_pages: Tensor, tables: Tensor, lengths: Tensor, lse: Tensor, options: Options
    ) -> Tensor:
        asked = self._asked(options)
        del asked["sinks"]
        asked.pop("v_scale", None)
        return page_attention_mass(q, k_pages, tables, lengths, lse, **asked)

    def stage(self, host: Tensor, rows: Tensor, offset: int, pages: tuple[Tensor, Tensor]) -> None:
        """One launch, which reads the pinned rows by itself."""
        key = pages[0].data_ptr()
        if key not in self._staging:
            self._staging[key] = CacheAddresses(pages)
        addresses = self._staging[key]
        blocks = torch.arange(len(rows), dtype=torch.int32, device=rows.device)
        scatter_blocks(host[:, offset : offset + addresses.row_bytes], addresses, blocks, rows)
