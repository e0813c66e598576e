"""The engine behind one small class: add requests, step, read what comes out."""

from __future__ import annotations

import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from typing import cast

from workbench.engine.accounts import Accounts
from workbench.engine.assembly import assemble
from workbench.engine.config import ConfigError, EngineConfig
from workbench.engine.intake import Intake
from workbench.engine.launched import Launched
from workbench.engine.outcomes import Outcomes
from workbench.engine.outputs import RequestOutput, output_of
from workbench.engine.plan import StepPlan
from workbench.engine.prompts import EncodedPrompt, Prompt
from workbench.engine.request import Request
from workbench.engine.sampling_params import SamplingParams
from workbench.engine.scheduler import Scheduler
from workbench.events.bus import EventBus
from workbench.events.page_map import PageMap
from workbench.events.types import EventBatch, PageMassSampled, RunFinished, StepFinished, StepStarted
from workbench.memory import MemoryManager
from workbench.memory.block_table import MoveKind
from workbench.models.loading import LoadedModel, load_model


@dataclass(frozen=True)
class _InFlight:
    """A step that was launched and noted, and whose tokens are to come."""

    plan: StepPlan
    launched: Launched
    started_ns: int
    scheduled_ns: int


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
        self._bus = EventBus() if events else None
        parts = assemble(self.config, model, self._bus)
        self.max_model_len, self.attention = parts.max_model_len, parts.attention
        self._memory, self._runner = parts.memory, parts.runner
        #: size of a page, over all layers whose keys and values it holds
        self.bytes_per_block = parts.bytes_per_block
        self._scheduler = Scheduler(self.config, self._memory, self._bus)
        self._accounts = Accounts(self._scheduler)
        if self.config.preemption == "adaptive":
            self._accounts.measure_transfers(self._runner.mover)
        self._requests: dict[int, Request] = {}
        self._intake = Intake(model, self.config, self.max_model_len, self._memory, self._scheduler, self._bus)
        self._outcomes = Outcomes(model, self._scheduler, self._bus, self._requests)
        self._errors: dict[int, str] = {}
        self._step = 0
        self._closed = False
        self._in_flight: _InFlight | None = None
        if self._bus is not None:
            self._bus.emit(parts.run_started(self.config, model))

    def warm_up(self) -> None:
        """With Triton attention: compiles kernels and captures graphs now, not in the steps that first need them.

        Nothing is stored and no event is sent; progress is logged.
        """
        self._runner.warm_up()

    def describe_runner(self) -> str:
        """How steps are carried out, in a few words."""
        return f"{self.attention.name} attention" + self._runner.describe()

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
        return output_of(self._requests[request], self._errors.get(request))

    # -- requests --------------------------------------------------------------------------------------------------

    def add_request(self, prompt: Prompt, params: SamplingParams | None = None) -> int:
        """Queues a prompt (text or token ids) and returns the request's id.

        A request that could never fit into the pool is rejected: its output says why, with the arithmetic.

        Raises:
            ConfigError: the prompt is empty, has unknown tokens, or leaves no room below ``max_model_len``; or more
                sequences are asked for than may run at once.
            SharingError: more than one sequence is asked for, and contiguous memory can't share.
        """
        params = params or SamplingParams()
        return self._queue(self._intake.encode(prompt, params), params)

    def _queue(self, prompt: EncodedPrompt, params: SamplingParams) -> int:
        number = len(self._requests)
        request, error = self._intake.queue(number, prompt, params, self._step + 1)
        self._requests[number] = request
        if error is not None:
            self._errors[number] = error
        return number

    def fork(self, request: int, sequence: int | None = None, seed: int | None = None) -> int:
        """Splits a sequence of an unfinished request: one more output goes on from where it is; returns its number.

        Both share all pages so far, wherever they are. Greedy sequences go on alike; what is sampled depends on the
        seed.

        Args:
            sequence: which of the request's unfinished sequences; None: the first.
            seed: of the new sequence's choices; None: derived from the engine's.

        Raises:
            KeyError: there is no such request.
            ConfigError: it has ended, is a beam search, or has no such sequence; one more would not fit into the pool
                or exceed ``max_num_seqs``.
            SharingError: contiguous memory can't share.
        """
        if request not in self._requests:
            raise KeyError(f"request={request!r}: there is no such request")
        if self._in_flight is not None:  # a step was interrupted: its token belongs to both
            self._end_step(self._in_flight)
        return self._intake.fork(request, sequence, seed)

    def cancel(self, request: int) -> bool:
        """Ends a request: its memory is taken back when the next step begins. False if it has ended already.

        Raises:
            KeyError: there is no such request.
        """
        if request not in self._requests:
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
        encoded = [self._intake.encode(prompt, p) for prompt, p in zip(many, each, strict=True)]
        requests = [self._queue(prompt, p) for prompt, p in zip(encoded, each, strict=True)]
        while self.has_unfinished:
            batch = self.step()
            if on_step is not None:
                on_step(batch)
        return [self.output(request) for request in requests]

    # -- stepping --------------------------------------------------------------------------------------------------

    def step(self) -> EventBatch:
        """Takes one step and returns its events. Without unfinished requests only what is pending is delivered.

        If it was interrupted while the device was at work (Ctrl-C, say), the next call goes on from there.
        """
        if self._closed:
            raise RuntimeError("this LLM is closed")
        if not self.has_unfinished and self._in_flight is None:
            return self._flush()
        try:
            if self._in_flight is None:
                self._begin_step()
            if self._in_flight is not None:
                self._end_step(self._in_flight)
        except BaseException:
            if self._in_flight is None:
                self._flush()
            raise
        return self._flush()

    def _begin_step(self) -> None:
        """Plans a step and launches it; should that fail, nothing is noted, and it can be taken again."""
        self._step += 1
        if self._bus is not None:
            self._bus.begin_step(self._step)
            running, waiting = len(self._scheduler.running), len(self._scheduler.waiting)
            self._bus.emit(StepStarted(running, waiting, self._scheduler.queues.num_swapped))
        started = time.perf_counter_ns()
        plan = self._scheduler.schedule(self._step)
        self._runner.forget(plan.freed)
        scheduled = time.perf_counter_ns()
        if plan.decodes or plan.prefills or self._memory.moves:
            launched = self._runner.launch(plan)
            # From here on the step will be done: what does not need its tokens is noted while it runs.
            self._in_flight = _InFlight(plan, launched, started, scheduled)
            self._commit(plan)
            return
        if self.has_unfinished and not self._scheduler.running:
            raise RuntimeError("the scheduler found nothing to run although requests wait: this is a bug")
        if self._bus is not None:
            self._report(plan, (started, scheduled, scheduled))

    def _end_step(self, step: _InFlight) -> None:
        """Does what does not need the step's tokens, waits for them, and notes them."""
        if self._bus is not None:
            self._bus.catch_up()
        if not self._scheduler.waiting:
            self._runner.prepare(step.plan)
        sampled, forwarded = step.launched.wait()
        self._in_flight = None
        # First: what was read and moved is said of sequences that are still there.
        moved = self._account(step.plan, forwarded - step.scheduled_ns)
        self._outcomes.take(step.plan, sampled)
        if self._bus is not None:
            self._report(step.plan, (step.started_ns, step.scheduled_ns, forwarded), moved)

    def _account(self, plan: StepPlan, forward_ns: int) -> tuple[int, int]:
        """Takes note of what the step read and moved, and of what that says about speeds and preemptions.

        Returns:
            Nanoseconds of copies within the device tier, and of those between the tiers, that have ended.
        """
        for event in self._runner.take_readings():
            if isinstance(event, PageMassSampled):
                self._memory.note_mass(event.sequence, event.mass)
            if self._bus is not None:
                self._bus.emit(event)
        transfers = self._runner.mover.take_transfers()
        settled = self._accounts.note_step(plan, forward_ns, transfers)
        if self._bus is not None and settled:
            self._bus.emit_many(settled)
        copies = sum(t.ns for t in transfers if t.kind is MoveKind.COPY)
        return copies, sum(t.ns for t in transfers) - copies

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

    def _report(self, plan: StepPlan, times: tuple[int, int, int], moved: tuple[int, int] = (0, 0)) -> None:
        started, scheduled, forwarded = times
        self.bus.emit(
            StepFinished(
                running=len(self._scheduler.running),
                waiting=len(self._scheduler.waiting),
                prefill_tokens=plan.num_prefill_tokens,
                decode_tokens=plan.num_decode_tokens,
                waste=self._memory.waste(self._scheduler.queues.head_waits_for_memory),
                schedule_ns=scheduled - started,
                forward_ns=forwarded - scheduled,
                sample_ns=time.perf_counter_ns() - forwarded,
                swapped=self._scheduler.queues.num_swapped,
                copy_ns=moved[0],
                swap_ns=moved[1],
            )
        )

    def close(self) -> None:
        """Cancels what still runs, tells the bus that the run is over, and lets go of the KV pool."""
        if self._closed:
            return
        for number, request in self._requests.items():
            if request.finish_reason is None and number not in self._errors:
                self._scheduler.cancel(number)
        try:
            while self.has_unfinished or self._in_flight is not None:
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
