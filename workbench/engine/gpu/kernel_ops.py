"""`PageOps` with the Triton kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from paged_kernels.block_transfer import scatter_blocks
from paged_kernels.cache_addresses import CacheAddresses
from paged_kernels.decode import DecodeConfig, DecodePlan, paged_attention_decode
from paged_kernels.page_mass import page_attention_mass
from paged_kernels.prefill import PrefillConfig, PrefillPlan, paged_attention_prefill
from workbench.models.paged_batch import Options

#: Prepared calls that are kept. A step makes two or three kinds, the same for all layers.
_MOST_PREPARED = 32


@dataclass
class _Prepared:
    """What calls of the same lengths have in common. To make it takes longer than to use it."""

    lengths: Tensor
    starts: Tensor
    plan: DecodePlan | PrefillPlan


class KernelOps:
    """See `workbench.engine.reading.pages.PageOps`. ``scales``: of keys and values in float8."""

    def __init__(self, scales: dict[str, Tensor]) -> None:
        self._scales = scales
        self._staging: dict[int, CacheAddresses] = {}
        self._prepared: dict[tuple[object, ...], _Prepared] = {}
        self._in_order = torch.zeros(0, dtype=torch.int32)

    def attend(
        self, q: Tensor, k_pages: Tensor, v_pages: Tensor, table: Tensor, length: int, behind: int, options: Options
    ) -> tuple[Tensor, Tensor]:
        lse = torch.empty(q.shape[:2], dtype=torch.float32, device=q.device)
        asked = self._asked(options)
        made = self._prepare(q, k_pages, v_pages, length, behind, options.window)
        if isinstance(made.plan, DecodePlan):
            out = paged_attention_decode(
                q, k_pages, v_pages, table, made.lengths, behind=behind, plan=made.plan, lse=lse, **asked
            )
        else:
            out = paged_attention_prefill(
                q, k_pages, v_pages, table, made.lengths, made.starts, behind=behind, plan=made.plan, lse=lse, **asked
            )
        return out, lse

    def _prepare(
        self, q: Tensor, k_pages: Tensor, v_pages: Tensor, length: int, behind: int, window: int | None
    ) -> _Prepared:
        (count, heads, dim), kv_heads, value_dim = q.shape, k_pages.shape[2], v_pages.shape[3]
        key = (count, heads, dim, kv_heads, value_dim, q.dtype, k_pages.dtype, length, behind, window)
        if key not in self._prepared:
            if len(self._prepared) >= _MOST_PREPARED:
                self._prepared.pop(next(iter(self._prepared)))
            lengths = torch.full((1,), length, dtype=torch.int32, device=q.device)
            starts = torch.arange(0, count + 1, count, dtype=torch.int32, device=q.device)
            plan: DecodePlan | PrefillPlan
            if count == 1:
                decode = DecodeConfig.choose(max(dim, value_dim), q.dtype)
                plan = DecodePlan(1, heads, kv_heads, value_dim, q.device, decode).update(lengths, window, behind)
            else:
                group = heads // kv_heads
                prefill = PrefillConfig.choose(dim, value_dim, q.dtype, k_pages.dtype, group)
                plan = PrefillPlan(group, q.device, prefill).update(starts, lengths, count)
            self._prepared[key] = _Prepared(lengths, starts, plan)
        return self._prepared[key]

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
        if len(rows) > len(self._in_order):
            self._in_order = torch.arange(len(pages[0]), dtype=torch.int32, device=rows.device)
        scatter_blocks(host[:, offset : offset + addresses.row_bytes], addresses, self._in_order[: len(rows)], rows)
