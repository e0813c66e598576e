"""Steps that do more than read all pages of the device.

Three things ask for it, alone or together: a sequence that is larger than the device's pool (`streams`), reading only
the most promising pages, and sampling how much attention every page gets (`decodes`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from paged_kernels.page_bounds import update_bounds
from workbench.engine.config import EngineConfig
from workbench.engine.plan import StepPlan
from workbench.engine.reading.decodes import DecodeReader
from workbench.engine.reading.pages import PageOps, Pages
from workbench.engine.reading.streams import StreamReader
from workbench.engine.storage import Storage
from workbench.events.types import AnyEvent
from workbench.memory.block_table import BlockTable
from workbench.models.paged_batch import Options


def needs_reader(config: EngineConfig) -> bool:
    """Whether an engine may have steps that ask for it."""
    selects = config.attention_pages is not None
    return selects or config.page_mass_every > 0 or config.num_host_blocks > 0


class PageReader:
    """Stands between a layer's attention and its pages, in steps that ask for it.

    Args:
        group_of: per layer, its layer group.
        ops: the device's functions.

    Attributes:
        selects: whether decodes read the most promising pages only.
    """

    def __init__(self, config: EngineConfig, storage: Storage, group_of: Sequence[int], ops: PageOps) -> None:
        self._pages = Pages(config, storage, ops)
        self.selects = config.attention_pages is not None
        self._group_of = group_of
        self._streams, self._decodes = StreamReader(self._pages), DecodeReader(self._pages)
        self._slots: list[Tensor] = []

    @property
    def bounds(self) -> list[tuple[Tensor, Tensor]]:
        """Per layer, what is kept per page of the device beside keys and values; ``host_bounds``: of the host."""
        return self._pages.bounds

    @property
    def host_bounds(self) -> list[tuple[Tensor, Tensor]]:
        return self._pages.host_bounds

    @property
    def reads_host(self) -> bool:
        """Whether the step reads pages in the host tier."""
        return bool(self._streams.streams)

    def begin(
        self, plan: StepPlan, tables: list[list[BlockTable]], spans: list[tuple[int, int]], slots: list[Tensor]
    ) -> bool:
        """Looks at a step; False if there is nothing to do but to read all pages of the device.

        Args:
            tables: per chunk, its sequence's block tables; ``spans``: first position, and position after the last.
            slots: per layer group, int64 ``[num_tokens]``.
        """
        self._slots = slots
        self._streams.begin(plan.samples_mass)
        looked_at: list[int] = []
        start = 0
        for index, (chunk, table, (first, stop)) in enumerate(zip(plan.chunks, tables, spans, strict=True)):
            end = start + stop - first
            if any(part.host for part in table):
                self._streams.add(chunk.sequence.sequence, start, end, stop, table)
            elif index < len(plan.decodes) and (self.selects or plan.samples_mass):
                looked_at.append(index)
            start = end
        self._decodes.begin(plan, looked_at, tables, spans)
        return bool(self._streams.streams or looked_at or self.selects)

    def attend(
        self, layer: int, q: Tensor, k: Tensor, attend_plainly: Callable[[], Tensor], options: Options
    ) -> Tensor:
        """One layer's attention ``[num_tokens, num_heads, value_head_dim]``; K and V of the step are stored already.

        Args:
            q: ``[num_tokens, num_heads, head_dim]``; ``k``: ``[num_tokens, num_kv_heads, head_dim]``.
            attend_plainly: reads all pages on the device, of all sequences.
        """
        group = self._group_of[layer]
        if self.selects:
            update_bounds(k, self._slots[group], *self._pages.bounds[layer], self._pages.block_size)
        if self._streams.is_alone(group, q.shape[0]):
            out = q.new_empty(*q.shape[:2], self._pages.caches[layer][1].shape[3])
        else:
            out = attend_plainly()
        self._streams.attend(layer, group, q, out, options)
        self._decodes.attend(layer, group, q, out, options)
        return out

    def take_readings(self) -> list[AnyEvent]:
        """What the last step showed, as events."""
        events = self._streams.tell() + self._decodes.tell()
        self._streams.begin(False)
        self._decodes.forget()
        return events
