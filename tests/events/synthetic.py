"""A small, seeded stand-in for the engine: emits a consistent stream of events without a model or tensors.

It knows one sequence per request and one tier; `tests.events.scenario` has the rest of the schema. It keeps books of
its own (`tables`, `tokens`, `regions`), written independently of the reducer, to compare with it.
"""

from __future__ import annotations

import random
from typing import BinaryIO

from workbench.events import EventBus
from workbench.events import types as ev
from workbench.events.types import Cause, FinishReason

GEOMETRY = ev.ModelGeometry("toy", "ToyForCausalLM", 2, 4, 2, 8, 97, "float32", 256)


class Simulation:
    """One engine on one bus. ``step`` takes a step; ``close`` ends the run."""

    def __init__(
        self,
        seed: int = 0,
        memory: str = "paged",
        num_blocks: int = 12,
        block_size: int = 4,
        max_running: int = 5,
        arrivals: float = 0.9,
        requests: int = 1000,
        bus: EventBus | None = None,
    ) -> None:
        self.bus = bus or EventBus()
        self.paged = memory == "paged"
        self.num_blocks, self.block_size, self.max_running = num_blocks, block_size, max_running
        self.tables: dict[int, list[int]] = {}
        self.regions: dict[int, tuple[int, int, int]] = {}  # start, size, requested
        self.tokens: dict[int, int] = {}
        self.running: list[int] = []
        self.waiting: list[int] = []
        self.step_number = 0
        self._random = random.Random(seed)
        self._arrivals, self._left = arrivals, requests
        self._known: dict[int, int] = {}  # prompt and generated tokens
        self._output: dict[int, int] = {}
        self._limit: dict[int, int] = {}
        self._stop: dict[int, int] = {}
        self._blocked: tuple[int, Cause] | None = None
        self._free = list(range(num_blocks))
        self._emit(
            ev.RunStarted(
                schema_version=ev.SCHEMA_VERSION,
                memory=memory,
                block_size=block_size,
                num_blocks=num_blocks,
                bytes_per_block=256 * block_size,
                seed=seed,
                model=GEOMETRY,
                config={"memory": memory, "block_size": block_size, "watermark": 0.0, "max_model_len": None},
            )
        )

    def _emit(self, event: ev.AnyEvent) -> None:
        self.bus.emit(event)

    def add_request(self, prompt_tokens: int, max_tokens: int, stop_after: int | None = None) -> int:
        """Queues a request that ends after ``stop_after`` tokens, or at ``max_tokens``."""
        request = len(self._known)
        self._emit(ev.RequestQueued(request, request, f"prompt {request} é", prompt_tokens, max_tokens))
        self._known[request], self._output[request] = prompt_tokens, 0
        self._limit[request], self._stop[request] = max_tokens, stop_after or max_tokens
        needed = self._blocks(prompt_tokens + max_tokens)
        if needed > self.num_blocks or (not self.paged and self._size(request) > self.num_blocks * self.block_size):
            self._emit(ev.RequestRejected(request, "too long", Cause.NEVER_FITS, needed, self.num_blocks))
        else:
            self.waiting.append(request)
        return request

    def _blocks(self, tokens: int) -> int:
        return -(-tokens // self.block_size)

    def _size(self, request: int) -> int:
        units = self._blocks(self._known[request] - self._output[request] + self._limit[request])
        return self.block_size << (units - 1).bit_length()

    # -- memory ----------------------------------------------------------------------------------------------------

    def _grow(self, request: int, tokens: int, cause: Cause) -> bool:
        table = self.tables[request]
        if self._blocks(tokens) - len(table) > len(self._free):
            return False
        while len(table) < self._blocks(tokens):
            block = self._free.pop(self._random.randrange(len(self._free)))
            self._emit(ev.BlockAllocated(ev.Tier.DEVICE, block, request, len(table), cause))
            table.append(block)
        return True

    def _allocate(self, request: int) -> bool:
        if self.paged:
            if self._blocks(self._known[request]) > len(self._free):
                return False
            self.tables[request], self.tokens[request] = [], 0
            return self._grow(request, self._known[request], Cause.ADMISSION)
        size = self._size(request)
        taken = [(start, start + length) for start, length, _ in self.regions.values()]
        for start in range(0, self.num_blocks * self.block_size - size + 1, size):
            if all(stop <= start or start + size <= first for first, stop in taken):
                requested = self._known[request] - self._output[request] + self._limit[request]
                self.regions[request], self.tokens[request] = (start, size, requested), 0
                self._emit(ev.RegionReserved(request, start, size, requested, Cause.ADMISSION))
                return True
        return False

    def _release(self, request: int, cause: Cause) -> int:
        del self.tokens[request]
        if not self.paged:
            start, size, _ = self.regions.pop(request)
            self._emit(ev.RegionReleased(request, start, size, cause))
            return 1
        table = self.tables.pop(request)
        for index, block in reversed(list(enumerate(table))):
            self._free.append(block)
            self._emit(ev.BlockReleased(block, request, 0, cause, index))
            self._emit(ev.BlockFreed(block, cause))
        return len(table)

    def _write(self, request: int, count: int, cause: Cause) -> None:
        start = self.tokens[request]
        self.tokens[request] += count
        if not self.paged:
            self._emit(ev.SlotsWritten(request, None, self.regions[request][0] + start, count, cause))
            return
        while count:
            index, offset = divmod(start, self.block_size)
            part = min(count, self.block_size - offset)
            self._emit(ev.SlotsWritten(request, self.tables[request][index], offset, part, cause))
            start, count = start + part, count - part

    # -- steps -----------------------------------------------------------------------------------------------------

    def step(self) -> ev.EventBatch:
        self.step_number += 1
        self.bus.begin_step(self.step_number)
        self._emit(ev.StepStarted(len(self.running), len(self.waiting)))
        if self._left and self._random.random() < self._arrivals:
            self._left -= 1
            limit = self._random.randint(1, 14)
            self.add_request(self._random.randint(1, 14), limit, self._random.randint(1, limit))
        if self.running and self._random.random() < 0.03:
            self._finish(self._random.choice(self.running), FinishReason.CANCELLED)
        written = self._run_step()
        self._emit(
            ev.StepFinished(
                running=len(self.running),
                waiting=len(self.waiting),
                prefill_tokens=written,
                decode_tokens=0,
                waste=self.waste(),
                schedule_ns=self._random.randrange(1000),
                forward_ns=1000,
                sample_ns=10,
            )
        )
        return self.bus.flush()

    def _run_step(self) -> int:
        preempted = False
        for request in list(self.running):
            while (
                request in self.running
                and self.paged
                and not self._grow(request, self._known[request], Cause.DECODE_GROWTH)
            ):
                preempted = True
                self._preempt(self.running[-1])
        while self.waiting and not preempted and self._admit(self.waiting[0]):
            pass
        written = 0
        for request in list(self.running):
            missing = self._known[request] - self.tokens[request]
            count = min(missing, 9)  # longer prompts take several steps
            self._write(request, count, Cause.DECODE if missing == 1 else Cause.PREFILL)
            written += count
            if count == missing:
                self._sample(request)
        return written

    def _admit(self, request: int) -> bool:
        cause = Cause.MAX_RUNNING if len(self.running) >= self.max_running else None
        if cause is None and not self._allocate(request):
            cause = Cause.POOL_EXHAUSTED
        if cause is not None:
            if self._blocked != (request, cause):
                self._blocked = (request, cause)
                needed, available = self._blocks(self._known[request]), len(self._free)
                if cause is Cause.MAX_RUNNING:
                    needed, available = len(self.running) + 1, self.max_running
                self._emit(ev.AdmissionBlocked(request, cause, needed, available))
            return False
        self._blocked = None
        self.running.append(self.waiting.pop(0))
        if self._output[request]:
            self._emit(ev.RequestResumed(request, self._known[request]))
        else:
            self._emit(ev.RequestAdmitted(request, 0))
        return True

    def _preempt(self, request: int) -> None:
        lost = self.tokens[request]
        blocks = self._release(request, Cause.PREEMPTION_VICTIM)
        self.running.remove(request)
        self.waiting.insert(0, request)
        self._blocked = None
        mode = ev.PreemptionMode.RECOMPUTE
        self._emit(ev.RequestPreempted(request, mode, Cause.POOL_EXHAUSTED, lost, blocks))

    def _sample(self, request: int) -> None:
        token = self._random.randrange(97)
        self._emit(ev.TokenGenerated(request, request, self._output[request], token, f" t{token}"))
        self._output[request] += 1
        self._known[request] += 1
        if self._output[request] >= self._stop[request]:
            at_limit = self._output[request] >= self._limit[request]
            self._finish(request, FinishReason.LENGTH if at_limit else FinishReason.STOP)

    def _finish(self, request: int, reason: FinishReason) -> None:
        self.running.remove(request)
        self._release(request, Cause.REQUEST_FINISHED)
        self._blocked = None
        self._emit(ev.RequestFinished(request, reason, self._output[request]))

    def waste(self) -> ev.LiveWaste:
        total, tokens = self.num_blocks * self.block_size, sum(self.tokens.values())
        if self.paged:
            held = sum(map(len, self.tables.values())) * self.block_size
            return ev.LiveWaste(tokens, held - tokens, 0, total - held)
        held = sum(requested for _, _, requested in self.regions.values())
        lost = sum(size for _, size, _ in self.regions.values()) - held
        free = total - held - lost
        if self._blocked is not None and self._blocked[1] is Cause.POOL_EXHAUSTED:
            lost, free = lost + free, 0
        return ev.LiveWaste(tokens, held - tokens, lost, free)

    def run(self, steps: int) -> Simulation:
        for _ in range(steps):
            self.step()
        return self

    def close(self) -> None:
        self._emit(ev.RunFinished())
        self.bus.flush()


def record(target: BinaryIO, steps: int, keyframe_every: int = 64, **settings: object) -> Simulation:
    """A recorded run from its beginning to its end."""
    from workbench.events import Recorder

    simulation = Simulation(**settings)  # type: ignore[arg-type]
    with Recorder(simulation.bus, target, keyframe_every):
        simulation.run(steps)
        simulation.close()
    return simulation
