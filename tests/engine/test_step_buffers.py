"""Metadata that is kept up to date equals metadata made from scratch, whatever arrives, grows, ends or is preempted."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import random_llama
from tests.engine.reference_kernels import ReferenceKernels
from workbench.engine import LLM, EngineConfig, SamplingParams
from workbench.engine.gpu.graphs import graph_sizes
from workbench.engine.gpu.runner import TritonRunner
from workbench.engine.gpu.staging import Staging
from workbench.engine.plan import StepPlan

_MODEL = random_llama()


class CheckedRunner(TritonRunner):
    """Compares what the device is told with the plan and the books, at every launch that counts."""

    plan: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.overlaps = True
        self.guesses = self.hits = 0

    def launch(self, plan: StepPlan) -> Any:
        self.plan, self.checked = plan, False
        launched = super().launch(plan)
        if not self.checked and plan.decodes:
            self.hits += 1
            self._check_decode(self.graphs.size_for(len(plan.decodes)))
        return launched

    def launch_guess(self, tokens: Any) -> None:
        self.plan = None
        super().launch_guess(tokens)
        self.guesses += self._guess_launched

    def _decode(self, size: int) -> torch.Tensor:
        logits = super()._decode(size)
        if self.plan is not None:
            self._check_decode(size)
        return logits

    def _check_decode(self, size: int) -> None:
        arrays, n = self.buffers.decode.device, len(self.plan.decodes)
        self._check(arrays, n)
        assert arrays["context_lens"][n:size].tolist() == [0] * (size - n)
        assert arrays["slots0"][n:size].tolist() == [-1] * (size - n)
        assert arrays["rows"][n:size].tolist() == [self.buffers.max_seqs] * (size - n)
        assert not self.buffers.tables[:, -1].any(), "the row for padding stays empty"

    def _mixed(self, tokens: int, decodes: int, seqs: int, sampling: int) -> torch.Tensor:
        logits = super()._mixed(tokens, decodes, seqs, sampling)
        self._check(self.buffers.mixed.device, tokens)
        return logits

    def _check(self, arrays: dict[str, torch.Tensor], tokens: int) -> None:
        self.checked = True
        ids, positions, slots, starts, logit_rows = [], [], [], [0], []
        block_size = self.buffers._block_size
        for number, chunk in enumerate(self.plan.chunks):
            sequence = chunk.sequence
            start, stop = sequence.num_computed_tokens, sequence.num_computed_tokens + chunk.count
            table = self.buffers._memory.block_table(sequence.sequence)
            used = [max(0, block) for block in table[: -(-stop // block_size)]]  # some may be on the host
            row = int(arrays["rows"][number])
            assert self.buffers.tables[0, row, : len(used)].tolist() == used
            assert arrays["context_lens"][number] == stop
            ids += sequence.token_ids[start:stop]
            positions += range(start, stop)
            slots += [table[p // block_size] * block_size + p % block_size for p in range(start, stop)]
            if number >= len(self.plan.decodes):
                starts.append(starts[-1] + chunk.count)
            for sampler in (sequence, *chunk.also) if chunk.samples else ():
                at = len(logit_rows)
                logit_rows.append(len(ids) - 1)
                params = sampler.params
                assert arrays["temperatures"][at] == torch.tensor(params.temperature if params.is_plain else 0.0)
        assert len({int(row) for row in arrays["rows"][: len(self.plan.chunks)]}) == len(self.plan.chunks)
        assert arrays["ids"][:tokens].tolist() == ids
        assert arrays["positions"][:tokens].tolist() == positions
        assert arrays["slots0"][:tokens].tolist() == slots
        assert arrays["logit_rows"][: len(logit_rows)].tolist() == logit_rows
        if self.plan.prefills:
            assert arrays["query_start"][: len(starts)].tolist() == starts


@settings(deadline=None, max_examples=25)
@given(data=st.data(), memory=st.sampled_from(["paged", "max", "oracle"]))
def test_incremental_equals_from_scratch(data: st.DataObject, memory: str) -> None:
    shares = memory == "paged"
    config = EngineConfig(
        memory="paged" if memory == "paged" else "contiguous",
        reservation="max" if memory == "paged" else memory,
        block_size=data.draw(st.sampled_from([1, 2, 8])),
        num_blocks=data.draw(st.integers(24, 60)),
        max_model_len=40,
        max_num_seqs=data.draw(st.integers(1, 6)),
        max_num_batched_tokens=data.draw(st.integers(1, 30)),
        watermark=data.draw(st.sampled_from([0.0, 0.1])),
        attention="triton",
        num_host_blocks=data.draw(st.sampled_from([0, 30])) if shares else 0,
        preemption=data.draw(st.sampled_from(["recompute", "swap"])) if shares else "recompute",
        prefix_caching=data.draw(st.booleans()) if shares else False,
    )
    rng = random.Random(data.draw(st.integers(0, 1000)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("workbench.engine.gpu.runner.Kernels", ReferenceKernels)
        patch.setattr("workbench.engine.gpu.runner.TritonRunner", CheckedRunner)
        patch.setattr(
            "workbench.engine.gpu.runner.pick_tokens", lambda logits, _, __, out: out.fill_(rng.randrange(97))
        )
        llm = LLM(_MODEL, config)
        alive: list[int] = []
        for step in range(200):
            if step < 12 and rng.random() < 0.6:
                prompt = [rng.randrange(97) for _ in range(rng.randint(1, 20))]
                temperature = rng.choice([0.0, 0.7, 1.3])
                width = rng.randint(1, min(3, config.max_num_seqs, config.max_num_batched_tokens)) if shares else 1
                params = SamplingParams(max_tokens=rng.randint(1, 12), temperature=temperature, n=width)
                alive.append(llm.add_request(prompt, params))
            if alive and rng.random() < 0.1:
                llm.cancel(rng.choice(alive))
            if not llm.has_unfinished and step >= 12:
                break
            llm.step()
        assert not llm.has_unfinished
        buffers = llm._runner.buffers  # type: ignore[attr-defined]
        llm.close()
        buffers.forget(llm._scheduler.queues.freed)
        assert sorted(buffers._free_rows) == list(range(config.max_num_seqs)), "every row was given back"
        assert buffers._rows == {}


def test_staging_keeps_arrays_apart_and_in_place() -> None:
    fields = [("a", "float64", 3), ("b", "int64", 5), ("c", "int32", 7), ("d", "float32", 1)]
    staging = Staging(fields, torch.device("cpu"))
    pointers = {name: tensor.data_ptr() for name, tensor in staging.device.items()}
    for number, (name, _, length) in enumerate(fields):
        assert len(staging.host[name]) == len(staging.device[name]) == length
        staging.host[name][:] = number + 1
    assert all(not tensor.any() for tensor in staging.device.values()), "nothing arrives before the upload"
    staging.wait()
    staging.upload()
    for number, (name, _, length) in enumerate(fields):
        assert staging.device[name].tolist() == [number + 1] * length
    assert pointers == {name: tensor.data_ptr() for name, tensor in staging.device.items()}
    assert all(pointer % 16 == 0 for pointer in pointers.values())


@pytest.mark.parametrize("max_seqs", [1, 2, 3, 8, 9, 64, 100, 256, 300, 512, 4096])
def test_graph_sizes(max_seqs: int) -> None:
    for smallest in (1, 2):
        sizes = graph_sizes(max_seqs, smallest)
        assert sizes == sorted(set(sizes))
        assert sizes[-1] == max(max_seqs, smallest)
        assert sizes[0] >= smallest
        assert all(b - a <= 32 for a, b in zip([0, *sizes], sizes, strict=False))
