"""`PageOps` in plain torch, for a CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from paged_kernels.torch_partial import page_attention_mass_torch, partial_attention
from workbench.models.paged_batch import Options


class TorchOps:
    """See `workbench.engine.reading.pages.PageOps`."""

    def attend(
        self, q: Tensor, k_pages: Tensor, v_pages: Tensor, table: Tensor, length: int, behind: int, options: Options
    ) -> tuple[Tensor, Tensor]:
        blocks = table[0].long()
        k = k_pages[blocks].flatten(0, 1)[:length]
        v = v_pages[blocks].flatten(0, 1)[:length]
        return partial_attention(
            q,
            k,
            v,
            scale=options.scale,
            softcap=options.softcap,
            sinks=options.sinks,
            first_position=length - q.shape[0] + behind,
            window=options.window,
        )

    def decode(
        self, q: Tensor, k_pages: Tensor, v_pages: Tensor, tables: Tensor, lengths: Tensor, options: Options
    ) -> tuple[Tensor, Tensor]:
        parts = [
            self.attend(q[i : i + 1], k_pages, v_pages, tables[i : i + 1], length, 0, options)
            for i, length in enumerate(lengths.tolist())
        ]
        return torch.cat([out for out, _ in parts]), torch.cat([lse for _, lse in parts])

    def mass(
        self, q: Tensor, k_pages: Tensor, tables: Tensor, lengths: Tensor, lse: Tensor, options: Options
    ) -> Tensor:
        return page_attention_mass_torch(
            q, k_pages, tables, lengths, lse, scale=options.scale, window=options.window, softcap=options.softcap
        )

    def stage(self, host: Tensor, rows: Tensor, offset: int, pages: tuple[Tensor, Tensor]) -> None:
        index = rows.long().cpu()
        for part in pages:
            size = part[0].numel() * part.element_size()
            brought = host[index, offset : offset + size].to(part.device)
            part.view(torch.uint8).view(len(part), -1)[: len(rows)] = brought
            offset += size
