"""A long run of the real engine without a model behind it: tokens are drawn, and everything else is as always."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from workbench.engine import LLM, EngineConfig, SamplingParams
from workbench.engine.launched import Finished, Launched
from workbench.engine.plan import StepPlan
from workbench.engine.runner import ModelRunner
from workbench.engine.sampler import Sampled
from workbench.models import load_model

#: Of every `_LONG`-th request the output is ten times as long, so that the pool runs short now and then.
_LONG = 12


class DrawingRunner(ModelRunner):
    """Moves pages, and draws tokens instead of computing them."""

    def __init__(self, runner: ModelRunner, seed: int) -> None:
        super().__init__(runner._model, runner._caches, runner._memory, runner.mover, runner._group_of)
        self._random = random.Random(seed)
        self._vocab_size = runner._model.geometry.vocab_size

    def launch(self, plan: StepPlan) -> Launched:
        self.mover.carry_out(self._memory.moves)
        count = len(plan.samplers)
        tokens = [self._random.randrange(3, self._vocab_size) for _ in range(count)]
        return Finished(Sampled(tokens, [None] * count), time.perf_counter_ns())


def make_engine(num_blocks: int, max_num_seqs: int, seed: int = 0) -> LLM:
    """An engine with a prefix cache and a host tier half as large as the pool; its tokens are drawn."""
    config = EngineConfig(
        num_blocks=num_blocks,
        max_num_seqs=max_num_seqs,
        max_model_len=4096,
        num_host_blocks=num_blocks // 2,
        preemption="swap",
        prefix_caching=True,
        max_num_batched_tokens=1024,
        seed=seed,
        device="cpu",
        attention="torch",
    )
    model = load_model("tiny", device="cpu")
    llm = LLM(model, config)
    assert isinstance(llm._runner, ModelRunner)
    llm._runner = DrawingRunner(llm._runner, seed)
    return llm


def drive(llm: LLM, steps: int, mean_tokens: int, progress: Callable[[int], Any], seed: int = 0) -> None:
    """Takes so many steps. New requests keep coming, some alike, some with two samples, some cancelled.

    Args:
        mean_tokens: new tokens of an ordinary request; prompts are three times as long.
        progress: called with the number of steps taken, after each.
    """
    rng = random.Random(seed)
    vocab_size = llm.model.geometry.vocab_size
    shared = [rng.randrange(3, vocab_size) for _ in range(48)]
    number = 0
    for step in range(steps):
        for _ in range(3 - len(llm.page_map.waiting)):
            prompt = [rng.randrange(3, vocab_size) for _ in range(rng.randint(mean_tokens, mean_tokens * 5))]
            new = rng.randint(mean_tokens // 2, mean_tokens * 3 // 2) * (10 if number % _LONG == 0 else 1)
            params = SamplingParams(
                max_tokens=new, temperature=1.0, seed=number, ignore_eos=True, n=2 if number % 7 == 3 else 1
            )
            llm.add_request(shared + prompt if number % 3 == 0 else prompt, params)
            number += 1
        if step % 997 == 500 and llm.page_map.running:
            llm.cancel(rng.choice(llm.page_map.running))
        llm.step()
        progress(step + 1)
