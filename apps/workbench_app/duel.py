"""Two engines, one on paged and one on contiguous memory, fed the same requests and stepped in lockstep.

A third lane may run beside them: transformers' own cache (`workbench_app.growing`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from workbench import LLM, EngineConfig, SamplingParams
from workbench.events import PageMap
from workbench.events.timeline import Timeline
from workbench.events.types import ModelGeometry
from workbench.memory import SharingError
from workbench.views import Comparison, compare_outputs
from workbench_app.growing import GrowingLane
from workbench_app.lanes import Asked, Lane, Mark
from workbench_app.prompt_lines import Prompt
from workbench_app.settings import SettingError, Settings

if TYPE_CHECKING:
    from workbench.models.loading import LoadedModel

#: Far above what a pool of the app's sizes holds: memory is what limits how many requests run.
_MAX_RUNNING = 64
_TOKENS_PER_STEP = 512


class Side(Lane):
    """A lane that runs: one engine with its history."""

    def __init__(self, llm: LLM, asked: Asked) -> None:
        self.timeline = Timeline(llm.bus)
        super().__init__(self.timeline, asked)
        self.llm = llm

    @property
    def done(self) -> bool:
        return not self.llm.has_unfinished

    def advance(self) -> None:
        """One step, if there is anything left to do."""
        if not self.done:
            self.llm.step()
            self.marks.append(self.marks[-1].after(self.llm.page_map))

    def at(self, step: int) -> tuple[PageMap, Mark]:
        if step >= self.last_step:
            return self.llm.page_map, self.marks[-1]
        return super().at(step)

    def close(self) -> None:
        """Ends the run and gives the KV pool back; its history can still be read."""
        self.timeline.close()
        self.llm.close()


class AnyDuel(Protocol):
    """What a frame is made of: lanes that run, or that did."""

    @property
    def settings(self) -> Settings: ...
    @property
    def left(self) -> Lane: ...
    @property
    def right(self) -> Lane: ...
    @property
    def sides(self) -> tuple[Lane, Lane]: ...
    @property
    def growing(self) -> GrowingLane | None: ...
    @property
    def geometry(self) -> ModelGeometry: ...
    @property
    def last_step(self) -> int: ...
    def compare_states(self, left: PageMap, right: PageMap) -> Comparison: ...


class SupportsClose(Protocol):
    """What watches an engine."""

    def close(self) -> None: ...


class Duel:
    """All lanes. Not thread-safe: `Session` sees to it that one thread at a time uses it.

    Args:
        watch: called with each engine before it tells of its requests; what it returns is closed with the engine.

    Raises:
        SettingError: a prompt does not suit the model or the settings.
        MemoryError: the KV pools do not fit.
    """

    def __init__(
        self, model: LoadedModel, settings: Settings, watch: Callable[[LLM], SupportsClose] | None = None
    ) -> None:
        self.settings = settings
        self.geometry = model.geometry
        self.growing: GrowingLane | None = None
        engines: list[LLM] = []
        try:
            configs = [_engine_config(memory, model, settings) for memory in ("paged", "contiguous")]
            engines.extend(LLM(model, config) for config in configs)
            asked = [_add_requests(llm, settings) for llm in engines]
            if settings.growing:
                self.growing = GrowingLane(model, settings)
        except BaseException:
            for llm in engines:
                llm.close()
            raise
        self.left, self.right = (Side(llm, what) for llm, what in zip(engines, asked, strict=True))
        self._watches = [watch(llm) for llm in engines] if watch is not None else []
        for llm in engines:
            llm.bus.flush()

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.left, self.right

    @property
    def last_step(self) -> int:
        last = max(side.last_step for side in self.sides)
        return last if self.growing is None else max(last, self.growing.last_step)

    @property
    def done(self) -> bool:
        return all(side.done for side in self.sides) and (self.growing is None or self.growing.done)

    @property
    def seconds(self) -> float:
        """Spent computing, by all lanes together."""
        spent = sum(side.marks[-1].seconds for side in self.sides)
        return spent if self.growing is None else spent + self.growing.seconds

    def advance(self) -> None:
        """One step on each lane that has work left."""
        for side in self.sides:
            side.advance()
        if self.growing is not None and not self.growing.done:
            self.growing.advance()

    def compare(self) -> Comparison:
        """Whether both sides have written the same so far, token by token."""
        return self.compare_states(self.left.llm.page_map, self.right.llm.page_map)

    def compare_states(self, left: PageMap, right: PageMap) -> Comparison:
        """The same for two states of the past."""
        return compare_outputs(left, right, self.right.asked.places)

    def give_up(self) -> None:
        """Cancels whatever has not ended: nothing is left to do, and the pools are free."""
        for side in self.sides:
            side.given_up = not side.done
            for request in [*side.llm.page_map.running, *side.llm.page_map.waiting]:
                side.llm.cancel(request)
            while not side.done:
                side.advance()
        if self.growing is not None:
            self.growing.close()

    def close(self) -> None:
        """Ends the run and gives all memory back."""
        for watch in self._watches:
            watch.close()
        for side in self.sides:
            side.close()
        if self.growing is not None:
            self.growing.close()


def _engine_config(memory: str, model: LoadedModel, settings: Settings) -> EngineConfig:
    most = model.max_positions
    if most is not None and settings.max_model_len > most:
        raise SettingError("Longest sequence", settings.max_model_len, f"This model was made for at most {most:,}.")
    only_pages: dict[str, Any] = {}
    if memory == "paged":
        only_pages = {
            "prefix_caching": settings.prefix_caching,
            "num_host_blocks": settings.num_host_blocks,
            "preemption": settings.preemption,
        }
    return EngineConfig(
        memory=memory,
        reservation=settings.policy,
        block_size=settings.block_size,
        num_blocks=settings.num_blocks,
        max_model_len=settings.max_model_len,
        max_num_seqs=_MAX_RUNNING,
        max_num_batched_tokens=_TOKENS_PER_STEP,
        # Capturing takes a moment for every batch size, in the middle of a run; a step here is small anyway.
        cuda_graphs=False,
        seed=settings.seed,
        **only_pages,
    )


def _add_requests(llm: LLM, settings: Settings) -> Asked:
    """Sends the prompts. Samples that are refused because memory can't be shared are sent as separate requests, with
    the seeds that make them write the same. For a beam search nothing can stand in: its beams depend on each other."""
    asked = Asked()
    seed = settings.seed
    for place, prompt in enumerate(settings.prompts):
        try:
            try:
                asked.places[llm.add_request(prompt.text, _params(prompt, settings, seed))] = place, 0
            except SharingError as error:
                asked.refused[place] = str(error)
                for sample in range(0 if prompt.beams else prompt.samples):
                    params = _params(Prompt(prompt.text, prompt.max_tokens), settings, seed + sample)
                    asked.places[llm.add_request(prompt.text, params)] = place, sample
        except ValueError as error:
            raise SettingError(f"Prompts, request {place + 1}", prompt.text, f"{error}.") from error
        seed += prompt.samples
    return asked


def _params(prompt: Prompt, settings: Settings, seed: int) -> SamplingParams:
    if prompt.beams:
        return SamplingParams(
            max_tokens=prompt.max_tokens, temperature=0, ignore_eos=True, beam_width=prompt.beams, n=prompt.beams
        )
    return SamplingParams(
        max_tokens=prompt.max_tokens,
        temperature=settings.temperature,
        ignore_eos=True,
        seed=seed,
        n=prompt.samples,
    )
