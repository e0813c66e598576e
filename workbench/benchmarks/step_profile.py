"""Where a step's time goes: on the host by phase, on the device by kernel."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

from workbench.engine import LLM

#: Phases that lie inside another one: their time is taken out of it.
_INSIDE = {"metadata": "launch", "launch the next step": "wait"}


class HostTimes:
    """Measures the phases of every step taken inside the context, by wrapping the engine's own methods.

    Attributes:
        batch: sequences per step, on average.
        ahead: share of the steps after which the next one was launched before their tokens were noted. Then the device
            is busy again while the host takes the tokens, flushes, schedules and launches.
    """

    def __init__(self, llm: LLM) -> None:
        self._llm: Any = llm
        self._ns: dict[str, int] = defaultdict(int)
        self._wrapped: list[tuple[Any, str]] = []
        self._steps = 0
        self._tokens = 0
        self._ahead = 0

    @property
    def ahead(self) -> float:
        return self._ahead / max(self._steps, 1)

    @property
    def batch(self) -> float:
        return self._tokens / max(self._steps, 1)

    def _wrap(self, owner: Any, name: str, phase: str, after: Callable[[Any], None] | None = None) -> None:
        inner = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter_ns()
            result = inner(*args, **kwargs)
            self._ns[phase] += time.perf_counter_ns() - started
            if after is not None:
                after(result)
            return result

        setattr(owner, name, timed)
        self._wrapped.append((owner, name))

    def __enter__(self) -> HostTimes:
        llm = self._llm

        def launched(step: Any) -> None:
            self._wrap_wait(step)

        self._wrap(llm._scheduler, "schedule", "schedule", self._count)
        self._wrap(llm._runner, "launch", "launch", launched)
        buffers = getattr(llm._runner, "buffers", None)
        if buffers is not None:
            self._wrap(buffers, "fill_decode", "metadata")
            self._wrap(buffers, "fill_mixed", "metadata")
            self._wrap(llm._runner, "prepare", "prepare the next step (while the GPU works)")
            self._wrap(llm._runner, "launch_guess", "launch the next step", self._count_ahead)
        self._wrap(llm, "_commit", "commit (while the GPU works)")
        if llm._bus is not None:
            self._wrap(llm._bus, "catch_up", "catch up (while the GPU works)")
        self._wrap(llm, "_take", "take")
        self._wrap(llm, "_flush", "flush")
        self._wrap(llm, "step", "step")
        return self

    def _count(self, plan: Any) -> None:
        self._steps += 1
        self._tokens += len(plan.chunks)

    def _count_ahead(self, _: None) -> None:
        self._ahead += self._llm._runner._guess is not None and self._llm._runner._guess_launched

    def _wrap_wait(self, step: Any) -> None:
        inner = step.wait

        def wait() -> Any:
            started = time.perf_counter_ns()
            result = inner()
            self._ns["wait"] += time.perf_counter_ns() - started
            return result

        object.__setattr__(step, "wait", wait)

    def __exit__(self, *_: object) -> None:
        for owner, name in self._wrapped:
            delattr(owner, name)

    def table(self) -> str:
        """Microseconds per step, as Markdown."""
        per_step = {phase: ns / 1e3 / max(self._steps, 1) for phase, ns in self._ns.items()}
        for inner, outer in _INSIDE.items():
            if inner in per_step:
                per_step[outer] -= per_step[inner]
        total = per_step.pop("step")
        per_step["rest"] = total - sum(per_step.values())
        lines = ["| phase | µs |", "|---|---|"]
        lines += [f"| {phase} | {value:,.0f} |" for phase, value in per_step.items()]
        return "\n".join([*lines, f"| step | {total:,.0f} |"])


def kernel_table(llm: LLM, steps: int, rows: int = 30) -> str:
    """GPU time by kernel over ``steps`` steps, as Markdown, the longest first."""
    from torch.profiler import ProfilerActivity, profile

    torch.cuda.synchronize()
    started = time.perf_counter()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(steps):
            llm.step()
        torch.cuda.synchronize()
    wall = (time.perf_counter() - started) * 1e6 / steps
    totals: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    for event in profiler.events() or ():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            totals[event.name][0] += event.time_range.elapsed_us()
            totals[event.name][1] += 1
    busy = sum(us for us, _ in totals.values()) / steps
    lines = [
        f"GPU time of a step: {busy:,.0f} µs in kernels and copies, of {wall:,.0f} µs with the profiler on:",
        "",
        "| kernel | µs per step | launches per step |",
        "|---|---|---|",
    ]
    ordered = sorted(totals.items(), key=lambda item: -item[1][0])
    for name, (us, count) in ordered[:rows]:
        lines.append(f"| `{name[:90].replace('|', '/')}` | {us / steps:,.1f} | {count / steps:.1f} |")
    rest = sum(us for _, (us, _) in ordered[rows:]) / steps
    return "\n".join([*lines, f"| all others | {rest:,.1f} | |"])
