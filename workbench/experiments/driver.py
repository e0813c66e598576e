"""Runs jobs on an engine and says what happened."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field

from workbench.engine import LLM, EngineConfig
from workbench.events import EventBatch
from workbench.events.state import Totals
from workbench.models import LoadedModel
from workbench.workloads import Job

StepCallback = Callable[[LLM, EventBatch], None]


@dataclass
class Run:
    """What became of the jobs.

    Attributes:
        outputs: per job, its outputs' tokens; ``scores`` those of beam searches, best first (`CompletionOutput`).
        seconds: from the first request to the last token, by the clock.
        finish_steps: per job, the steps from its arrival to its end.
        totals: the reducer's sums; ``totals_before`` those before the first job.
    """

    outputs: list[list[list[int]]]
    seconds: float
    steps: int
    finish_steps: list[int]
    totals: Totals
    totals_before: Totals
    step_seconds: list[float] = field(default_factory=list)
    scores: list[list[float]] = field(default_factory=list)

    @property
    def output_tokens(self) -> int:
        return sum(len(tokens) for outputs in self.outputs for tokens in outputs)

    @property
    def tokens_per_second(self) -> float:
        return self.output_tokens / self.seconds


def progress(text: str) -> None:
    """A line on stderr."""
    print(text, file=sys.stderr, flush=True)


def run_jobs(
    model: LoadedModel,
    config: EngineConfig,
    jobs: Sequence[Job],
    on_step: StepCallback | None = None,
    before: Sequence[Job] = (),
) -> Run:
    """Runs jobs to their end on a new engine. Where nobody is there, time jumps to the next arrival.

    Args:
        on_step: called after every step, in the measured time.
        before: run to their end before the clock starts.

    Raises:
        ValueError: a job was rejected; the message has the arithmetic.
    """
    order = sorted(range(len(jobs)), key=lambda i: (jobs[i].arrival, i))
    requests: dict[int, int] = {}
    step_seconds: list[float] = []
    with LLM(model, config) as llm:
        llm.warm_up()
        llm.generate([job.prompt for job in before], [job.params for job in before])
        totals_before, steps_before = copy(llm.page_map.totals), llm.step_number
        now, coming = 0.0, 0
        started = last = time.perf_counter()
        while coming < len(order) or llm.has_unfinished:
            if not llm.has_unfinished:
                now = max(now, jobs[order[coming]].arrival)
            while coming < len(order) and jobs[order[coming]].arrival <= now:
                job = jobs[order[coming]]
                requests[order[coming]] = llm.add_request(job.prompt, job.params)
                coming += 1
            batch = llm.step()
            now += 1
            if on_step is not None:
                on_step(llm, batch)
            step_seconds.append(time.perf_counter() - last)
            last += step_seconds[-1]
        seconds = time.perf_counter() - started
        results = [llm.output(requests[i]) for i in range(len(jobs))]
        errors = [result.error for result in results if result.error]
        if errors:
            raise ValueError(errors[0])
        states = [llm.page_map.requests[requests[i]] for i in range(len(jobs))]
        run = Run(
            outputs=[[output.token_ids for output in result.outputs] for result in results],
            seconds=seconds,
            steps=llm.step_number - steps_before,
            finish_steps=[state.finished_step - state.queued_step for state in states],
            totals=llm.page_map.totals,
            totals_before=totals_before,
            step_seconds=step_seconds,
            scores=[[o.score for o in result.outputs if o.score is not None] for result in results],
        )
    del llm
    gc.collect()
    return run
