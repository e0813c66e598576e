"""Carries steps out in plain torch: packs the tokens, says where they lie, runs the model, and samples."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from workbench.engine.launched import Finished, Launched
from workbench.engine.mover import Mover
from workbench.engine.plan import StepPlan
from workbench.engine.reading import PageReader
from workbench.engine.sampler import Sampled, sample
from workbench.events.types import AnyEvent
from workbench.memory.protocol import MemoryManager
from workbench.models.hook import HookError
from workbench.models.loading import LoadedModel
from workbench.models.paged_batch import PagedBatch, PagedView


class ModelRunner:
    """Runs packed steps of one model on one KV pool.

    Args:
        caches: per layer, K and V.
        group_of: per layer, its group of block tables; None: there is one.
        mover: carries out moves of pages.
        reader: for steps that do more than read the device's pages; None: none does.
    """

    overlaps = False

    def __init__(
        self,
        model: LoadedModel,
        caches: list[tuple[Tensor, Tensor]],
        memory: MemoryManager,
        mover: Mover,
        group_of: Sequence[int] | None = None,
        reader: PageReader | None = None,
    ) -> None:
        self._model = model
        self._caches = caches
        self._memory = memory
        self._group_of = group_of
        self.mover = mover
        self._reader = reader
        self._checked = False

    def forget(self, sequences: list[int]) -> None:
        """Nothing is kept from step to step."""

    def prepare(self, plan: StepPlan) -> None:
        """Steps do not overlap here."""

    def warm_up(self) -> None:
        """Nothing is compiled."""

    def describe(self) -> str:
        return ""

    def launch(self, plan: StepPlan) -> Launched:
        """Runs the step to its end. It is sampled before anything is noted: should it fail, it can be taken again."""
        self.mover.carry_out(self._memory.moves)
        if not plan.decodes and not plan.prefills:
            return Finished(Sampled([], []), time.perf_counter_ns())
        logits = self._forward(plan)
        forwarded = time.perf_counter_ns()
        sequences = plan.samplers
        return Finished(sample(logits, sequences, self._model.suppressed) if sequences else Sampled([], []), forwarded)

    def take_readings(self) -> list[AnyEvent]:
        return self._reader.take_readings() if self._reader is not None else []

    @torch.inference_mode()
    def _forward(self, plan: StepPlan) -> Tensor:
        """Stores keys and values of all planned tokens.

        Returns:
            Logits ``[num_sampling_chunks, vocab_size]``, in the order of ``plan.chunks``.
        """
        chunks = plan.chunks
        input_ids: list[int] = []
        positions: list[int] = []
        rows: list[int] = []
        spans: list[tuple[int, int]] = []
        for chunk in chunks:
            start = chunk.sequence.num_computed_tokens
            stop = start + chunk.count
            input_ids += chunk.sequence.token_ids[start:stop]
            positions += range(start, stop)
            spans.append((start, stop))
            if chunk.samples:
                rows += [len(input_ids) - 1] * (1 + len(chunk.also))
        tables = [self._memory.block_tables(chunk.sequence.sequence) for chunk in chunks]
        views = [
            self._view([table[group].blocks for table in tables], spans, len(plan.decodes))
            for group in range(len(self._memory.windows))
        ]
        device = self._model.device
        reader = self._reader
        if reader is not None and not reader.begin(plan, tables, spans, [view.slot_mapping for view in views]):
            reader = None
        batch = PagedBatch(self._caches, views, self._group_of, reader)
        logits = self._model.forward(
            torch.tensor(input_ids, device=device),
            torch.tensor(positions, device=device),
            batch,
            torch.tensor(rows, dtype=torch.int64, device=device),
        )
        if not self._checked:
            self._check_calls(batch)
        return logits

    def _view(self, tables: list[list[int]], spans: list[tuple[int, int]], num_decodes: int) -> PagedView:
        """One layer group's look at the step."""
        block_size, device = self._memory.block_size, self._model.device
        slots = [
            table[p // block_size] * block_size + p % block_size
            for table, span in zip(tables, spans, strict=True)
            for p in range(*span)
        ]
        # A region may be longer than what is stored in it: only pages that hold tokens are looked at.
        widest = max(-(-stop // block_size) for _, stop in spans)
        block_tables = np.zeros((len(spans), widest), dtype=np.int64)
        for row, table in enumerate(tables):
            used = table[:widest]
            block_tables[row, : len(used)] = used
        # Pages that are not on the device (-1) are masked, or read elsewhere; any number serves.
        np.maximum(block_tables, 0, out=block_tables)
        return PagedView(
            slot_mapping=torch.tensor(slots, device=device),
            block_tables=torch.from_numpy(block_tables).to(device),
            context_lens=[stop for _, stop in spans],
            query_lens=[stop - start for start, stop in spans],
            num_decodes=num_decodes,
        )

    def release(self) -> None:
        """Lets go of the KV pool; `launch` can't be called again."""
        self._caches = []
        self._reader = None
        self.mover.close()

    def _check_calls(self, batch: PagedBatch) -> None:
        """A layer that skipped the hook, or used it twice, would compute something else than the books say."""
        if any(count != 1 for count in batch.calls):
            name = self._model.geometry.architecture
            raise HookError(
                f"{name}: the attention hook was called {batch.calls} times by its layers, expected once each"
            )
        self._checked = True
