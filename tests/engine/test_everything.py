"""Anything in any order (hypothesis, stateful): requests, forks and cancellations, in pools from nearly nothing up.

After every step the reducer equals the books. In the end every request has the tokens that it has alone in a large
pool, nothing is held, and the same rules applied again give the same events.
"""

from __future__ import annotations

import functools
import random
from dataclasses import replace
from typing import Any, ClassVar

import msgspec
import pytest
from hypothesis import note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.conftest import assert_page_map_matches, random_llama
from tests.engine.driving import architecture, engine
from tests.engine.reference_kernels import ReferenceKernels, pick_tokens
from workbench.engine import LLM, SamplingParams
from workbench.engine.preemption import VICTIM_POLICIES
from workbench.events import types as ev
from workbench.memory.eviction import EVICTION_POLICIES
from workbench.memory.placement import PLACEMENT_POLICIES
from workbench.models import LoadedModel

#: What a machine does: an action of an engine, with its arguments.
Action = tuple[str, tuple[Any, ...]]
#: Prompts begin alike, so that prefixes are found again.
BEGINNINGS = (tuple(range(1, 25)), tuple(range(1, 13)) + tuple(range(50, 62)))


@functools.cache
def model(name: str) -> LoadedModel:
    """Full layers, layers with a window of 7, or both."""
    return random_llama() if name == "llama" else architecture(name)[1]


@functools.cache
def reference(name: str, prompt: tuple[int, ...], params: SamplingParams) -> list[list[int]]:
    """Outputs of a request alone in a large pool."""
    llm = engine(model(name), max_model_len=128, free_behind_window=False)
    return [o.token_ids for o in llm.generate(list(prompt), params)[0].outputs]


def shape(events: list[ev.AnyEvent]) -> list[dict[str, Any]]:
    """Events without their times."""
    plain = [msgspec.to_builtins(event) for event in events]
    return [{k: v for k, v in event.items() if not k.endswith("_ns")} for event in plain]


class Player:
    """An engine and what was done to it."""

    def __init__(self, name: str, config: dict[str, Any]) -> None:
        # With measured speeds, decisions would differ from run to run.
        self.llm = engine(model(name), max_model_len=128, transfer_bandwidth=1e6, prefill_speed=3000.0, **config)
        if config.get("attention") == "triton":
            self.llm._runner.overlaps = True
        self.events: list[ev.AnyEvent] = []
        self.forks: dict[int, list[tuple[int, int]]] = {}

    def do(self, action: Action) -> None:
        name, arguments = action
        if name == "add":
            prompt, params = arguments
            self.llm.add_request(list(prompt), params)
        elif name == "fork":
            self.fork(*arguments)
        elif name == "cancel":
            self.llm.cancel(*arguments)
        elif name == "step":
            self.events += self.llm.step().events
            if self.llm.page_map.last is not None:
                assert_page_map_matches(self.llm)

    def fork(self, request: int, which: int, seed: int) -> None:
        """Forks one of the sequences that can be forked; notes how many tokens the child took over."""
        outputs = self.llm.output(request).outputs
        alive = [i for i, output in enumerate(outputs) if output.finish_reason is None]
        if not alive:
            return
        index = alive[which % len(alive)]
        found = self.llm._scheduler.queues.find(request)
        assert found is not None
        try:
            self.llm.fork(request, found.sequences[index].sequence, seed)
        except ValueError:
            return  # too many, or one more would not fit
        self.forks.setdefault(request, []).append((index, len(outputs[index].token_ids)))


class EverythingMachine(RuleBasedStateMachine):
    """Adds, steps, forks, cancels."""

    @initialize(seed=st.integers(0, 1 << 32))
    def begin(self, seed: int) -> None:
        """From a seed: what hypothesis draws by itself is mostly small, and then nothing is ever short."""
        rng = random.Random(seed)
        block_size = rng.choice([1, 2, 4, 8])
        self.start(
            rng.choice(["llama", "llama", "mistral", "gemma3"]),
            {
                "block_size": block_size,
                "num_blocks": max(1, rng.choice([rng.randint(6, 30), rng.randint(20, 120)]) // block_size),
                "num_host_blocks": rng.choice([0, 10, 40, 200]) // block_size,
                "staging_blocks": rng.randint(1, 5),
                "preemption": rng.choice(["recompute", "swap", "adaptive"]),
                "victim": rng.choice(sorted(VICTIM_POLICIES)),
                "prefix_caching": rng.random() < 0.5,
                "eviction": rng.choice(sorted(EVICTION_POLICIES)),
                "placement": rng.choice(sorted(PLACEMENT_POLICIES)),
                "max_num_seqs": rng.choice([1, 3, 8]),
                "max_num_batched_tokens": rng.choice([1, 3, 8, 20, 512]),
                "watermark": rng.choice([0.0, 0.0, 0.1]),
                "page_mass_every": rng.choice([0, 3]),
            },
        )
        note(f"{self.name} {self.config}")
        self.add(seed=seed, count=3)

    #: more settings
    more: ClassVar[dict[str, Any]] = {}

    def start(self, name: str, config: dict[str, Any]) -> None:
        self.name, self.config = name, config | self.more
        config = self.config
        self.player = Player(name, config)
        self.actions: list[Action] = []
        self.jobs: list[tuple[tuple[int, ...], SamplingParams]] = []
        self.cancelled: set[int] = set()

    def act(self, name: str, *arguments: Any) -> None:
        self.actions.append((name, arguments))
        self.player.do(self.actions[-1])

    @rule(seed=st.integers(0, 1 << 32), count=st.integers(1, 3))
    def add(self, seed: int, count: int) -> None:
        rng = random.Random(seed)
        for _ in range(count):
            kind, width = rng.choice(["greedy", "sampled", "samples", "beams"]), rng.randint(2, 3)
            self.add_one(kind, rng.choice(BEGINNINGS), rng.randint(1, 24), rng.randint(1, 16), width, rng.randint(0, 4))

    def add_one(
        self, kind: str, beginning: tuple[int, ...], length: int, max_tokens: int, width: int, seed: int
    ) -> None:
        how: dict[str, Any] = {
            "greedy": {"temperature": 0},
            "sampled": {"seed": seed},
            "samples": {"seed": seed, "n": width, "stop_token_ids": (9, 10, 11)},
            "beams": {"temperature": 0, "beam_width": width, "n": 2, "stop_token_ids": (14, 15, 16)},
        }[kind]
        if width > min(self.config["max_num_seqs"], self.config["max_num_batched_tokens"]):
            how = {"seed": seed}
        prompt, params = (*beginning[:length], 70 + seed), SamplingParams(max_tokens=max_tokens, **how)
        self.jobs.append((prompt, params))
        self.act("add", prompt, params)

    @rule(count=st.integers(1, 6))
    def step(self, count: int) -> None:
        for _ in range(count):
            self.act("step")

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), which=st.integers(0, 3), seed=st.integers(0, 5))
    def fork(self, data: st.DataObject, which: int, seed: int) -> None:
        request = data.draw(st.integers(0, len(self.jobs) - 1))
        if not self.jobs[request][1].beam_width:
            self.act("fork", request, which, 100 + seed)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        request = data.draw(st.integers(0, len(self.jobs) - 1))
        if self.player.llm.output(request).outputs[0].finish_reason is None or data.draw(st.booleans()):
            self.cancelled.add(request)
            self.act("cancel", request)

    # -- the end ---------------------------------------------------------------------------------------------------

    def teardown(self) -> None:
        if not hasattr(self, "player"):
            return
        llm = self.player.llm
        steps = 0
        while llm.has_unfinished:
            self.act("step")
            steps += 1
            assert steps < 2000, "it does not end"
        self.act("step")
        assert llm.page_map.sequences == {}
        waste = llm.page_map.waste()
        assert waste.free + waste.cached == llm.page_map.num_slots
        assert not any(page.ref_count for page in llm.page_map.host_pages)
        for request in range(len(self.jobs)):
            self.check(llm, request)
        again = Player(self.name, self.config)
        for action in self.actions:
            again.do(action)
        assert shape(again.events) == shape(self.player.events)

    def check(self, llm: LLM, request: int) -> None:
        prompt, params = self.jobs[request]
        output = llm.output(request)
        assert output.is_finished
        if output.error is not None:
            assert output.outputs[0].finish_reason == "rejected"
            return
        forks = self.player.forks.get(request, [])
        first = output.outputs[: len(output.outputs) - len(forks)]
        if params.beam_width and first[0].finish_reason == "cancelled":
            assert request in self.cancelled
            return
        for found, wanted in zip(first, reference(self.name, prompt, params), strict=True):
            if found.finish_reason == "cancelled":
                assert request in self.cancelled
                assert found.token_ids == wanted[: len(found.token_ids)]
            else:
                assert found.token_ids == wanted
        self.check_forks(request, output.outputs, forks)

    def check_forks(self, request: int, outputs: list[Any], forks: list[tuple[int, int]]) -> None:
        """A fork goes on as a request does whose prompt is all that it took over."""
        prompt, params = self.jobs[request]
        seeds = [a[2] for name, a in self.actions if name == "fork" and a[0] == request]
        children = outputs[len(outputs) - len(forks) :]
        for child, (parent, taken) in zip(children, forks, strict=True):
            before = tuple(outputs[parent].token_ids[:taken])
            assert tuple(child.token_ids[:taken]) == before
            tails = []
            for seed in seeds:
                rest = replace(params, n=1, max_tokens=params.max_tokens - taken, seed=seed)
                tails.append(reference(self.name, (*prompt, *before), rest)[0])
            tail = child.token_ids[taken:]
            if child.finish_reason == "cancelled":
                assert any(tail == wanted[: len(tail)] for wanted in tails)
            else:
                assert tail in tails


class AheadMachine(EverythingMachine):
    """The same with the runner of a GPU, which launches decode steps before they are planned."""

    more: ClassVar[dict[str, Any]] = {"attention": "triton"}

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr("workbench.engine.gpu.runner.Kernels", ReferenceKernels)
        self.patch.setattr("workbench.engine.gpu.runner.pick_tokens", pick_tokens)

    def teardown(self) -> None:
        try:
            super().teardown()
        finally:
            self.patch.undo()


TestEverything = EverythingMachine.TestCase
TestAhead = AheadMachine.TestCase
TestAhead.settings = settings(max_examples=16, stateful_step_count=14, deadline=None)
TestEverything.settings = settings(max_examples=40, stateful_step_count=14, deadline=None)


def test_the_machine_reaches_what_it_is_for() -> None:
    """A run by hand: a machine that never gets anywhere would be of no use."""
    machine = EverythingMachine()
    machine.start(
        "llama",
        {
            "block_size": 2,
            "num_blocks": 21,
            "num_host_blocks": 20,
            "staging_blocks": 2,
            "preemption": "swap",
            "prefix_caching": True,
            "max_num_seqs": 8,
            "max_num_batched_tokens": 20,
            "watermark": 0.0,
            "page_mass_every": 3,
        },
    )
    for kind, length, tokens in (("samples", 20, 12), ("beams", 11, 9), ("greedy", 24, 16), ("sampled", 23, 16)):
        machine.add_one(kind, BEGINNINGS[length % 2], length, tokens, width=2, seed=1)
        machine.step(count=3)
    machine.act("fork", 3, 0, 102)
    for length in (24, 23, 20):
        machine.add_one("greedy", BEGINNINGS[0], length, 16, width=2, seed=2)
    machine.step(count=5)
    machine.act("cancel", 5)
    machine.cancelled.add(5)
    machine.teardown()
    kinds = {type(event) for event in machine.player.events}
    reached = {ev.BlocksSwappedIn, ev.BlockCopied, ev.PrefixHit, ev.BlockEvicted, ev.SequenceForked, ev.PageMassSampled}
    assert reached <= kinds
