"""Carries steps out with the Triton kernels; a step that only decodes is one replay of a CUDA graph."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from workbench.engine.config import EngineConfig
from workbench.engine.gpu.ahead import Guess, GuessingBuffers
from workbench.engine.gpu.buffers import slots_of
from workbench.engine.gpu.graphs import DecodeGraphs, graph_sizes
from workbench.engine.gpu.kernel_ops import KernelOps
from workbench.engine.gpu.mover import GpuMover
from workbench.engine.gpu.sampling import pick_tokens
from workbench.engine.gpu.staging import Staging
from workbench.engine.launched import Launched
from workbench.engine.mover import Mover, TorchMover
from workbench.engine.plan import Chunk, StepPlan
from workbench.engine.reading import PageReader, TorchOps, needs_reader
from workbench.engine.sampler import Sampled, sample
from workbench.engine.storage import Storage
from workbench.events.types import AnyEvent
from workbench.memory.protocol import MemoryManager
from workbench.models.attention_op import Kernels, StepState
from workbench.models.hook import HookError
from workbench.models.loading import LoadedModel

log = logging.getLogger(__name__)


#: While one engine captures a graph, no other may launch: what is launched meanwhile could spoil the capture.
_CAPTURE = threading.RLock()

#: A token and, if they were asked for, log probabilities by token.
_Choice = tuple[int, dict[int, float] | None]


class _OnDevice:
    """A step whose tokens are on their way to the host."""

    def __init__(
        self, runner: TritonRunner, count: int, special: dict[int, _Choice], beams: dict[int, Tensor] | None = None
    ) -> None:
        self._runner, self._count, self._special, self._beams = runner, count, special, beams or {}
        self._rows = runner.buffers.sampling_rows
        self._done: tuple[Sampled, int] | None = None

    def wait(self) -> tuple[Sampled, int]:
        # The step after it may have been launched already, over these tokens' place in memory.
        if self._done is not None:
            return self._done
        if self._runner.copied is not None:
            self._runner.copied.synchronize()
        forwarded = time.perf_counter_ns()
        tokens = self._runner.tokens_host[: self._count]
        logprobs: list[dict[int, float] | None] = [None] * self._count
        for at, (token, values) in self._special.items():
            tokens[at], logprobs[at] = token, values
        self._runner.buffers.sampled(self._rows, tokens)
        self._done = Sampled(tokens.tolist(), logprobs, self._beams), forwarded
        self._runner.launch_guess(tokens)
        return self._done


class TritonRunner:
    """Runs packed steps of one model on one KV pool. The host waits for nothing but the sampled tokens.

    Args:
        storage: the tensors of both tiers.
        max_model_len: longest sequence in tokens.
        kernels: others than those of `paged_kernels`, for tests.
    """

    def __init__(
        self,
        model: LoadedModel,
        storage: Storage,
        memory: MemoryManager,
        config: EngineConfig,
        max_model_len: int,
        kernels: Kernels | None = None,
    ) -> None:
        device, max_seqs = model.device, config.max_num_seqs
        is_cuda = device.type == "cuda"
        self.overlaps = is_cuda
        self._model, self._max_model_len = model, max_model_len
        self._max_tokens = config.max_num_batched_tokens
        group_of = storage.groups.group_of
        self._state = StepState(model.layers, storage.by_layer, max_seqs, kernels or Kernels(), model.dtype, group_of)
        self.mover: Mover = GpuMover(storage) if is_cuda else TorchMover(storage.caches, storage.host)
        self._memory = memory
        self._reader: PageReader | None = None
        if needs_reader(config):
            ops = KernelOps(self._state.scales) if is_cuda else TorchOps()
            self._reader = PageReader(config, storage, group_of, ops)
            self.mover.followers.add(self._reader.bounds, self._reader.host_bounds)
        # Which pages come next is foreseen for one table per sequence, without a window.
        self._foresees = memory.windows == (None,) and config.attention_pages is None
        self.buffers = GuessingBuffers(
            memory, max_seqs, self._max_tokens, -(-max_model_len // memory.block_size), device
        )
        self._call: Callable[..., Any] | None = None
        if config.compile:
            self._call = torch.compile(model.model)
        self._tokens = torch.zeros(max_seqs, dtype=torch.int64, device=device)
        tokens_host = torch.zeros(max_seqs, dtype=torch.int64, pin_memory=is_cuda)
        self._tokens_pinned, self.tokens_host = tokens_host, tokens_host.numpy()
        self.copied: torch.cuda.Event | None = torch.cuda.Event() if is_cuda else None
        # A compiled model takes a size of 1 for another program, so nothing is that small.
        sizes = graph_sizes(max_seqs, smallest=2 if config.compile and max_seqs > 1 else 1)
        self.graphs = DecodeGraphs(self._decode, sizes)
        if not (is_cuda and config.cuda_graphs):
            self.graphs.broken = "they were not asked for" if is_cuda else "not on a CUDA device"
        self._checked = False
        self._guess: Guess | None = None
        self._guess_launched = False
        self._stops = np.zeros(0, np.int64)

    # -- steps -----------------------------------------------------------------------------------------------------

    def forget(self, sequences: list[int]) -> None:
        self.buffers.forget(sequences)

    @torch.inference_mode()
    def launch(self, plan: StepPlan) -> Launched:
        guess, self._guess = self._guess, None
        if guess is not None:
            if self._guess_launched and self.buffers.fits(guess, plan):
                try:
                    with _CAPTURE:
                        self.mover.carry_out(self._memory.moves)  # of pages that the step does not touch
                except BaseException:
                    self.buffers.withdraw(guess)
                    raise
                self.buffers.launched(plan)
                return _OnDevice(self, len(plan.decodes), {})
            self.buffers.withdraw(guess)
        try:
            with _CAPTURE:
                self.buffers.replace_pages(self._memory.moves)
                self.mover.carry_out(self._memory.moves)
                count, special, beams = self._launch(plan)
        except BaseException:
            self.buffers.put_draws_back()
            raise
        finally:
            self._state.reader = None
        self.buffers.launched(plan)
        return _OnDevice(self, count, special, beams)

    def _launch(self, plan: StepPlan) -> tuple[int, dict[int, _Choice], dict[int, Tensor]]:
        """Stages and launches a step; returns how many tokens it samples, the choices that were made here, and what
        beam searches go on from."""
        if plan.prefills:
            tokens, count = self.buffers.fill_mixed(plan)
            self.buffers.mixed.upload()
            self._begin_reading(plan, self.buffers.mixed, tokens)
            logits = self._mixed(tokens, len(plan.decodes), len(plan.chunks), count)
        elif plan.decodes:
            count = len(plan.decodes)
            size = self.graphs.size_for(count)
            self.buffers.fill_decode(plan.decodes, size)
            self.buffers.decode.upload()
            is_read = self._begin_reading(plan, self.buffers.decode, size)
            logits = self._decode(size) if is_read else self.graphs.run(size)
        else:  # only pages move
            self._fetch(0)
            self.buffers.sampling_rows = np.zeros(0, np.int64)
            return 0, {}, {}
        special, beams = self._sample_special(logits)
        self._fetch(count)
        return count, special, beams

    def _begin_reading(self, plan: StepPlan, staging: Staging, tokens: int) -> bool:
        """Lets the reader look at the step; whether it stands between layers and pages now."""
        if self._reader is None or not (self._reader.selects or plan.samples_mass or self._memory.streamed):
            return False
        tables = [self._memory.block_tables(chunk.sequence.sequence) for chunk in plan.chunks]
        starts = [chunk.sequence.num_computed_tokens for chunk in plan.chunks]
        spans = [(start, start + chunk.count) for start, chunk in zip(starts, plan.chunks, strict=True)]
        slots = [staging.device[slots_of(group)][:tokens] for group in range(self.buffers.num_groups)]
        if not self._reader.begin(plan, tables, spans, slots):
            return False
        self._state.reader = self._reader
        if self._reader.reads_host:
            self.mover.wait_for_host()
        return True

    def take_readings(self) -> list[AnyEvent]:
        return self._reader.take_readings() if self._reader is not None else []

    def _fetch(self, count: int) -> None:
        """Enqueues the copy of the new tokens to the host."""
        if count:
            self._tokens_pinned[:count].copy_(self._tokens[:count], non_blocking=True)
        if self.copied is not None:
            self.copied.record()

    # -- the step after it -----------------------------------------------------------------------------------------

    def prepare(self, plan: StepPlan) -> None:
        """Stages the step that will follow if the sequences of ``plan`` just go on; called while that is running.

        As soon as its tokens are there, and none of them ends a sequence unforeseen, the next step is launched: the
        device does not wait while the host notes the tokens and makes the next plan. When that turns out otherwise
        (a request was cancelled, say), the step is launched anew. Keys and values that the first launch stored lie in
        slots that nothing refers to yet, and they are the same that the second one stores.
        """
        self._forget_guess()  # there is one if this is called again after an interruption
        if not self.overlaps or plan.prefills or self.buffers.special or not self._foresees:
            return
        if self._memory.streamed:
            return  # a graph reads the device's pages only
        chunks: list[Chunk] = []
        stops: set[int] = set()
        for chunk in plan.decodes:
            sequence = chunk.sequence
            params = sequence.params
            if params.stop:
                return
            if not params.ignore_eos:
                stops |= self._model.eos_token_ids
            if params.stop_token_ids:
                stops.update(params.stop_token_ids)
            if len(sequence.token_ids) + 1 < sequence.num_prompt_tokens + sequence.max_tokens:
                chunks.append(chunk)
        if chunks and len(chunks) <= self._max_tokens:
            self._stops = np.array(sorted(stops), dtype=np.int64)
            self._guess = self.buffers.guess(chunks, self.graphs.size_for(len(chunks)))
            self._guess_launched = False

    @torch.inference_mode()
    def launch_guess(self, tokens: np.ndarray) -> None:
        """Launches the step that was prepared, unless one of these new tokens ends its sequence."""
        if self._guess is None or (len(self._stops) and np.isin(tokens, self._stops).any()):
            return
        try:
            self.buffers.stage_tokens()
            with _CAPTURE:
                self.buffers.decode.upload()
                self.graphs.run(self._guess.size)
                self._fetch(len(self._guess.chunks))
            self._guess_launched = True
        except Exception as error:
            # The step that has just ended must not suffer: what is wrong will show when the next one is launched.
            log.warning("the next step could not be launched ahead: %s", str(error).split("\n")[0])

    def _decode(self, size: int) -> Tensor:
        """The launches of a decode step, on static buffers: fit for a CUDA graph, and to be run again."""
        buffers, arrays = self.buffers, self.buffers.decode.device
        cells = size * buffers.num_groups
        buffers.write_tables(arrays["growth_at"][:cells], arrays["growth_block"][:cells])
        tables = buffers.tables.index_select(1, arrays["rows"][:size]).unbind()
        slots = [arrays[slots_of(group)][:size] for group in range(buffers.num_groups)]
        self._state.begin(slots, tables, arrays["context_lens"][:size], size)
        logits = self._forward(arrays["ids"][:size], arrays["positions"][:size], arrays["logit_rows"][:size])
        self._pick(logits, arrays, size)
        return logits

    def _pick(self, logits: Tensor, arrays: dict[str, Tensor], count: int) -> None:
        """Enqueues the choice of tokens. The logits stay as they are: a beam search wants them so."""
        if self._model.suppressed is not None:
            logits = logits.index_fill(1, self._model.suppressed, -torch.inf)
        pick_tokens(logits, arrays["temperatures"][:count], arrays["uniforms"][:count], self._tokens[:count])

    def _mixed(self, tokens: int, decodes: int, seqs: int, sampling: int) -> Tensor:
        """The launches of a step with prompt chunks in it."""
        buffers, arrays = self.buffers, self.buffers.mixed.device
        tables = buffers.tables.index_select(1, arrays["rows"][:seqs]).unbind()
        query_start = arrays["query_start"][: seqs - decodes + 1]
        slots = [arrays[slots_of(group)][:tokens] for group in range(buffers.num_groups)]
        self._state.begin(slots, tables, arrays["context_lens"][:seqs], decodes, query_start)
        rows = arrays["logit_rows"][: sampling if self._call is None else max(sampling, 2)]
        logits = self._forward(arrays["ids"][:tokens], arrays["positions"][:tokens], rows)[:sampling]
        self._pick(logits, arrays, sampling)
        return logits

    def _forward(self, ids: Tensor, positions: Tensor, logit_rows: Tensor) -> Tensor:
        # A compiled model takes a single token for another program than any other number of them.
        call = self._call if len(ids) > 1 else None
        if not self._checked:
            self._state.calls = [0] * len(self._state.calls)
        logits = self._model.forward(ids, positions, self._state.handle, logit_rows, call)
        if not self._checked:
            self._check_calls()
        return logits

    def _sample_special(self, logits: Tensor) -> tuple[dict[int, _Choice], dict[int, Tensor]]:
        """Tokens and log probabilities of requests that need more than `pick_tokens` does, by place in the sample.

        And of every beam search the logits, by request.
        """
        special = self.buffers.special
        if not special:
            return {}, {}
        places = [at for at, _ in special]
        sampled = sample(logits[places], [sequence for _, sequence in special], self._model.suppressed)
        choices = dict(zip(places, zip(sampled.token_ids, sampled.logprobs, strict=True), strict=True))
        return choices, sampled.beam_logits

    def _forget_guess(self) -> None:
        guess, self._guess = self._guess, None
        if guess is not None:
            self.buffers.withdraw(guess)

    # -- life ------------------------------------------------------------------------------------------------------

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Runs the largest prompt step, and captures all decode graphs, on rows of padding: nothing is stored.

        With ``compile`` this takes a minute or two the first time.
        """
        self._forget_guess()
        with _CAPTURE:
            log.info("warming up: a step of %d tokens", self._max_tokens)
            self.run_padding(self._max_tokens)
            if self.graphs.broken is None:
                self.buffers.fill_decode([], self.buffers.max_seqs)
                self.buffers.decode.upload()
                self.graphs.capture_all()

    @torch.inference_mode()
    def run_padding(self, num_tokens: int) -> None:
        """A prompt step of ``num_tokens`` zeros as long prompts, which are stored nowhere."""
        buffers, arrays = self.buffers, self.buffers.mixed.host
        longest = self._max_model_len
        buffers.mixed.wait()
        count = min(-(-num_tokens // longest), buffers.max_seqs)
        num_tokens = min(num_tokens, count * longest)
        ends = [min(num_tokens, longest * (i + 1)) for i in range(count)]
        starts = [0, *ends[:-1]]
        arrays["query_start"][: count + 1] = [0, *ends]
        arrays["context_lens"][:count] = [end - start for start, end in zip(starts, ends, strict=True)]
        arrays["rows"][:count] = buffers.max_seqs
        arrays["ids"][:num_tokens] = 0
        for group in range(buffers.num_groups):
            arrays[slots_of(group)][:num_tokens] = -1
        for start, end in zip(starts, ends, strict=True):
            arrays["positions"][start:end] = range(end - start)
        arrays["logit_rows"][:] = 0
        buffers.mixed.upload()
        self._mixed(num_tokens, 0, count, buffers.max_seqs)

    def describe(self) -> str:
        compiled = "" if self._call is None else ", compiled"
        return compiled + (f", no CUDA graphs: {self.graphs.broken}" if self.graphs.broken else ", CUDA graphs")

    def release(self) -> None:
        if self.copied is not None:
            self.copied.synchronize()  # a step that was launched ahead may still be running
        self.mover.close()
        self._reader = None
        self.graphs.release()
        self._state.close()

    def _check_calls(self) -> None:
        """A layer that skipped the hook, or used it twice, would compute something else than the books say."""
        calls = self._state.calls
        if any(count != 1 for count in calls):
            name = self._model.geometry.architecture
            raise HookError(f"{name}: the attention hook was called {calls} times by its layers, expected once each")
        self._checked = True
