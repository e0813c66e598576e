"""The engine behind one small class: add requests, step, read what comes out."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import cast

from workbench.engine.attention import choose_attention
from workbench.engine.config import ConfigError, EngineConfig
from workbench.engine.launched import Runner
from workbench.engine.outputs import CompletionOutput, RequestOutput
from workbench.engine.plan import StepPlan
from workbench.engine.runner import ModelRunner
from workbench.engine.sampler import Sampled
from workbench.engine.sampling_params import SamplingParams
from workbench.engine.scheduler import Scheduler
from workbench.engine.sequence import Sequence, TextStream
from workbench.events.bus import EventBus
from workbench.events.page_map import PageMap
from workbench.events.types import (
    SCHEMA_VERSION,
    AnyEvent,
    EventBatch,
    FinishReason,
    RequestQueued,
    RunFinished,
    RunStarted,
    StepFinished,
    StepStarted,
    TokenGenerated,
)
from workbench.memory import ContiguousMemory, MemoryManager, PagedMemory, Reservation, allocate_kv_cache
from workbench.models.loading import LoadedModel, load_model

Prompt = str | Seq[int]


def _make_memory(config: EngineConfig, num_blocks: int, max_model_len: int, bus: EventBus | None) -> MemoryManager:
    if config.memory == "paged":
        return PagedMemory(num_blocks, config.block_size, config.watermark, bus)
    return ContiguousMemory(num_blocks, config.block_size, Reservation(config.reservation), max_model_len, bus)


class LLM:
    """A language model with a KV cache that can be watched.

    Every step: make a plan, run the model on it, sample, and tell the bus. Between steps no KV memory changes.

    Args:
        model: "tiny" (bundled), a local directory, a hub id, or a `LoadedModel` to share its weights.
        config: see `EngineConfig`.
        events: False runs without a bus, only to measure what events cost.

    Raises:
        ConfigError: a setting does not suit the model.
        UnsupportedModelError: the architecture can't run on pages.
        MemoryError: the KV pool does not fit.
    """

    def __init__(
        self, model: str | LoadedModel = "tiny", config: EngineConfig | None = None, events: bool = True
    ) -> None:
        self.config = config or EngineConfig()
        if not isinstance(model, LoadedModel):
            model = load_model(model, self.config.device, self.config.dtype)
        self.model = model
        self.max_model_len = self._max_model_len()
        self.attention = choose_attention(self.config.attention, model, self.config.block_size)
        num_blocks = self._num_blocks()
        self._bus = EventBus() if events else None
        self._memory = _make_memory(self.config, num_blocks, self.max_model_len, self._bus)
        self._runner = self._make_runner(num_blocks)
        self._scheduler = Scheduler(self.config, self._memory, self._bus)
        self._sequences: dict[int, Sequence] = {}
        self._errors: dict[int, str] = {}
        self._step = 0
        self._closed = False
        if self._bus is not None:
            self._bus.emit(
                RunStarted(
                    schema_version=SCHEMA_VERSION,
                    memory=self.config.memory,
                    block_size=self.config.block_size,
                    num_blocks=num_blocks,
                    bytes_per_block=self.config.block_size * model.geometry.kv_bytes_per_token,
                    seed=self.config.seed,
                    model=model.geometry,
                    config=self.config.as_dict()
                    | {
                        "max_model_len": self.max_model_len,
                        "num_blocks": num_blocks,
                        "attention": self.attention.name,
                    },
                )
            )

    def _num_blocks(self) -> int:
        if self.config.num_blocks is not None:
            return self.config.num_blocks
        if self.model.device.type != "cuda" or self.attention.name != "triton":
            raise ConfigError(
                "num_blocks=None: the pool's size can be taken from free memory only on a CUDA device with Triton "
                f"attention (here: {self.model.device.type}, {self.attention.name}); give a number"
            )
        from workbench.engine.gpu.pool import blocks_that_fit

        return blocks_that_fit(self.model, self.config, self.max_model_len)

    def _make_runner(self, num_blocks: int) -> Runner:
        model = self.model
        caches = allocate_kv_cache(model.layers, num_blocks, self.config.block_size, model.dtype, model.device)
        if self.attention.name == "torch":
            return ModelRunner(model, caches, self._memory)
        from workbench.engine.gpu.runner import TritonRunner

        return TritonRunner(model, caches, self._memory, self.config, self.max_model_len)

    def warm_up(self) -> None:
        """Compiles kernels and captures graphs now, instead of in the steps that first need them.

        Nothing is stored and no event is sent. Only Triton attention has something to warm up; its progress is logged.
        """
        self._runner.warm_up()

    def describe_runner(self) -> str:
        """How steps are carried out, in a few words."""
        return f"{self.attention.name} attention" + self._runner.describe()

    def _max_model_len(self) -> int:
        asked, possible = self.config.max_model_len, self.model.max_positions
        if asked is None:
            return possible or 2048
        if possible is not None and asked > possible:
            raise ConfigError(f"max_model_len={asked}: {self.model.name} was made for at most {possible} positions")
        return asked

    # -- reading ---------------------------------------------------------------------------------------------------

    @property
    def bus(self) -> EventBus:
        """The event bus. Subscribers get one batch per step."""
        if self._bus is None:
            raise RuntimeError("this LLM was made with events=False: it has no bus")
        return self._bus

    @property
    def page_map(self) -> PageMap:
        """State of memory and requests after the last step. Read it anew after every step; to keep it, copy it."""
        return self.bus.page_map

    @property
    def memory(self) -> MemoryManager:
        """The engine's own books, to compare with `page_map`."""
        return self._memory

    @property
    def step_number(self) -> int:
        """Steps taken so far."""
        return self._step

    @property
    def has_unfinished(self) -> bool:
        return self._scheduler.has_unfinished

    def output(self, request: int) -> RequestOutput:
        """A request's result, or its state so far.

        Raises:
            KeyError: there is no such request.
        """
        sequence = self._sequences[request]
        error = self._errors.get(request)
        reason = "rejected" if error else sequence.finish_reason
        wants_logprobs = sequence.params.logprobs is not None
        completion = CompletionOutput(
            text=sequence.text.text,
            token_ids=sequence.output_token_ids,
            finish_reason=str(reason) if reason is not None else None,
            logprobs=list(sequence.logprobs) if wants_logprobs else None,
        )
        prompt_ids = sequence.token_ids[: sequence.num_prompt_tokens]
        return RequestOutput(request, sequence.prompt, prompt_ids, [completion], error)

    # -- requests --------------------------------------------------------------------------------------------------

    def add_request(self, prompt: Prompt, params: SamplingParams | None = None) -> int:
        """Queues a prompt (text or token ids) and returns the request's id.

        A request that could never fit into the pool is rejected: its output says why, with the arithmetic.

        Raises:
            ConfigError: the prompt is empty, has unknown tokens, or leaves no room below ``max_model_len``.
        """
        params = params or SamplingParams()
        return self._queue(*self._encode(prompt, params), params)

    def _queue(self, token_ids: list[int], text: str, params: SamplingParams) -> int:
        """Queues an encoded prompt, which `_encode` has checked."""
        request = len(self._sequences)
        seed = params.seed if params.seed is not None else self.config.seed * 1_000_003 + request
        sequence = Sequence(
            request=request,
            sequence=request,
            prompt=text,
            params=params,
            token_ids=token_ids,
            num_prompt_tokens=len(token_ids),
            max_tokens=min(params.max_tokens, self.max_model_len - len(token_ids)),
            random=random.Random(seed),
            text=TextStream(self.model.tokenizer, tuple(params.stop or ())),
            queued_step=self._step + 1,
        )
        self._sequences[request] = sequence
        if self._bus is not None:
            self._bus.emit(RequestQueued(request, request, text, len(token_ids), sequence.max_tokens))
        error = self._scheduler.add(sequence)
        if error is not None:
            self._errors[request] = error
        return request

    def _encode(self, prompt: Prompt, params: SamplingParams) -> tuple[list[int], str]:
        """Token ids and text of a prompt. Checks all that could be wrong with it; changes nothing."""
        if params.stop and getattr(self.model.tokenizer, "backend_tokenizer", None) is None:
            raise ConfigError(f"stop={params.stop!r}: needs a fast tokenizer, which {self.model.name} does not have")
        tokenizer, vocab_size = self.model.tokenizer, self.model.geometry.vocab_size
        if isinstance(prompt, str):
            if tokenizer is None:
                raise ConfigError("prompt: this model has no tokenizer; pass token ids")
            token_ids, text = list(tokenizer.encode(prompt)), prompt
        else:
            token_ids = list(prompt)
            text = tokenizer.decode(token_ids) if tokenizer is not None else " ".join(map(str, token_ids))
        if not token_ids:
            raise ConfigError(f"prompt={prompt!r}: must hold at least one token")
        bad = next((t for t in token_ids if type(t) is not int or not 0 <= t < vocab_size), None)
        if bad is not None:
            raise ConfigError(f"prompt: token id {bad!r} is not an integer from 0 to {vocab_size - 1}")
        if len(token_ids) >= self.max_model_len:
            raise ConfigError(
                f"prompt: has {len(token_ids)} tokens; at most {self.max_model_len - 1} are allowed, so that one can "
                f"be generated within max_model_len={self.max_model_len}"
            )
        return token_ids, text

    def cancel(self, request: int) -> bool:
        """Ends a request: its memory is taken back when the next step begins. False if it has ended already.

        Raises:
            KeyError: there is no such request.
        """
        if request not in self._sequences:
            raise KeyError(f"request={request!r}: there is no such request")
        return self._scheduler.cancel(request)

    def generate(
        self,
        prompts: Prompt | Seq[Prompt],
        params: SamplingParams | Seq[SamplingParams] | None = None,
        on_step: Callable[[EventBatch], None] | None = None,
    ) -> list[RequestOutput]:
        """Runs prompts to their end; the outputs come in the order of the prompts.

        Args:
            params: one for all, or one per prompt.
            on_step: called after every step, to show progress.
        """
        is_one = isinstance(prompts, str) or (len(prompts) > 0 and isinstance(prompts[0], int))
        many = cast("list[Prompt]", [prompts] if is_one else list(prompts))
        each = list(params) if isinstance(params, Seq) else [params or SamplingParams()] * len(many)
        if len(each) != len(many):
            raise ConfigError(f"params: {len(each)} given for {len(many)} prompts; give one, or one per prompt")
        # All prompts are checked before the first one is queued.
        encoded = [self._encode(prompt, p) for prompt, p in zip(many, each, strict=True)]
        requests = [self._queue(*prompt, p) for prompt, p in zip(encoded, each, strict=True)]
        while self.has_unfinished:
            batch = self.step()
            if on_step is not None:
                on_step(batch)
        return [self.output(request) for request in requests]

    # -- stepping --------------------------------------------------------------------------------------------------

    def step(self) -> EventBatch:
        """Takes one step and returns its events. Without unfinished requests only what is pending is delivered."""
        if self._closed:
            raise RuntimeError("this LLM is closed")
        if not self.has_unfinished:
            return self._flush()
        self._step += 1
        if self._bus is not None:
            self._bus.begin_step(self._step)
            self._bus.emit(StepStarted(len(self._scheduler.running), len(self._scheduler.waiting)))
        try:
            started = time.perf_counter_ns()
            plan = self._scheduler.schedule(self._step)
            self._runner.forget(plan.freed)
            scheduled = forwarded = time.perf_counter_ns()
            if plan.decodes or plan.prefills:
                launched = self._runner.launch(plan)
                # From here on the step will be done: what does not need its tokens is noted while it runs.
                self._commit(plan)
                if self._bus is not None:
                    self._bus.catch_up()
                sampled, forwarded = launched.wait()
                self._take(plan, sampled)
            elif self.has_unfinished and not self._scheduler.running:
                raise RuntimeError("the scheduler found nothing to run although requests wait: this is a bug")
            if self._bus is not None:
                self._report(plan, (started, scheduled, forwarded))
        finally:
            batch = self._flush()
        return batch

    def _flush(self) -> EventBatch:
        if self._bus is None:
            return EventBatch(self._step, [])
        return self._bus.flush(hold=self._runner.overlaps and self.has_unfinished)

    def _commit(self, plan: StepPlan) -> None:
        commit = self._memory.commit
        for chunk in plan.chunks:
            sequence = chunk.sequence
            sequence.num_computed_tokens += chunk.count
            commit(sequence.sequence, chunk.count, chunk.cause)

    def _take(self, plan: StepPlan, sampled: Sampled) -> None:
        """Adds the new tokens to their sequences and ends those that are complete."""
        chunks = [chunk for chunk in plan.chunks if chunk.samples] if plan.prefills else plan.decodes
        events: list[AnyEvent] = []
        eos, bus = self.model.eos_token_ids, self._bus
        for chunk, token_id, logprobs in zip(chunks, sampled.token_ids, sampled.logprobs, strict=True):
            sequence = chunk.sequence
            params = sequence.params
            sequence.token_ids.append(token_id)
            if logprobs is not None:
                sequence.logprobs.append(logprobs)
            is_stop_token = token_id in (params.stop_token_ids or ()) or (token_id in eos and not params.ignore_eos)
            text, found_stop = ("", True) if is_stop_token else sequence.text.push(token_id)
            produced = len(sequence.token_ids) - sequence.num_prompt_tokens
            if bus is not None:
                events.append(TokenGenerated(sequence.request, sequence.sequence, produced - 1, token_id, text))
            if found_stop or produced >= sequence.max_tokens:
                if bus is not None:
                    bus.emit_many(events)
                    events = []
                reason = FinishReason.STOP if found_stop else FinishReason.LENGTH
                held_back = sequence.text.finish(stopped=found_stop and not is_stop_token)
                self._scheduler.finish(sequence, reason, held_back)
        if bus is not None:
            bus.emit_many(events)

    def _report(self, plan: StepPlan, times: tuple[int, int, int]) -> None:
        started, scheduled, forwarded = times
        self.bus.emit(
            StepFinished(
                running=len(self._scheduler.running),
                waiting=len(self._scheduler.waiting),
                prefill_tokens=plan.num_prefill_tokens,
                decode_tokens=plan.num_decode_tokens,
                waste=self._memory.waste(self._scheduler.head_waits_for_memory),
                schedule_ns=scheduled - started,
                forward_ns=forwarded - scheduled,
                sample_ns=time.perf_counter_ns() - forwarded,
            )
        )

    def close(self) -> None:
        """Cancels what still runs, tells the bus that the run is over, and lets go of the KV pool."""
        if self._closed:
            return
        for request, sequence in self._sequences.items():
            if sequence.finish_reason is None and request not in self._errors:
                self._scheduler.cancel(request)
        try:
            if self.has_unfinished:
                self.step()
            if self._bus is not None:
                self._bus.emit(RunFinished())
                self._bus.flush()
        finally:
            self._closed = True
            self._runner.release()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
