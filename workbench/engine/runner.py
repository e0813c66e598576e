"""Carries steps out in plain torch: packs the tokens, says where they lie, runs the model, and samples."""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor

from workbench.engine.launched import Finished, Launched
from workbench.engine.plan import StepPlan
from workbench.engine.sampler import Sampled, sample
from workbench.memory.protocol import MemoryManager
from workbench.models.hook import HookError
from workbench.models.loading import LoadedModel
from workbench.models.paged_batch import PagedBatch


class ModelRunner:
    """Runs packed steps of one model on one KV pool."""

    overlaps = False

    def __init__(self, model: LoadedModel, caches: list[tuple[Tensor, Tensor]], memory: MemoryManager) -> None:
        self._model = model
        self._caches = caches
        self._memory = memory
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
        logits = self._forward(plan)
        forwarded = time.perf_counter_ns()
        sequences = [chunk.sequence for chunk in plan.chunks if chunk.samples]
        return Finished(sample(logits, sequences) if sequences else Sampled([], []), forwarded)

    @torch.inference_mode()
    def _forward(self, plan: StepPlan) -> Tensor:
        """Stores keys and values of all planned tokens.

        Returns:
            Logits ``[num_sampling_chunks, vocab_size]``, in the order of ``plan.chunks``.
        """
        chunks = plan.chunks
        input_ids: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        context_lens: list[int] = []
        rows: list[int] = []
        tables = [self._memory.block_table(chunk.sequence.sequence) for chunk in chunks]
        block_size = self._memory.block_size
        for chunk, table in zip(chunks, tables, strict=True):
            start = chunk.sequence.num_computed_tokens
            stop = start + chunk.count
            input_ids += chunk.sequence.token_ids[start:stop]
            positions += range(start, stop)
            slots += [table[p // block_size] * block_size + p % block_size for p in range(start, stop)]
            context_lens.append(stop)
            if chunk.samples:
                rows.append(len(input_ids) - 1)
        # A region may be longer than what is stored in it: only pages that hold tokens are looked at.
        widest = max(-(-length // block_size) for length in context_lens)
        block_tables = np.zeros((len(chunks), widest), dtype=np.int64)
        for row, table in enumerate(tables):
            used = table[:widest]
            block_tables[row, : len(used)] = used
        device = self._model.device
        batch = PagedBatch(
            caches=self._caches,
            slot_mapping=torch.tensor(slots, device=device),
            block_tables=torch.from_numpy(block_tables).to(device),
            context_lens=context_lens,
            query_lens=[chunk.count for chunk in chunks],
            num_decodes=len(plan.decodes),
        )
        logits = self._model.forward(
            torch.tensor(input_ids, device=device),
            torch.tensor(positions, device=device),
            batch,
            torch.tensor(rows, dtype=torch.int64, device=device),
        )
        if not self._checked:
            self._check_calls(batch)
        return logits

    def release(self) -> None:
        """Lets go of the KV pool; `launch` can't be called again."""
        self._caches = []

    def _check_calls(self, batch: PagedBatch) -> None:
        """A layer that skipped the hook, or used it twice, would compute something else than the books say."""
        if any(count != 1 for count in batch.calls):
            name = self._model.geometry.architecture
            raise HookError(
                f"{name}: the attention hook was called {batch.calls} times by its layers, expected once each"
            )
        self._checked = True
