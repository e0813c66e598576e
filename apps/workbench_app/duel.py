"""Two engines, one on paged and one on contiguous memory, fed the same requests and stepped in lockstep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from workbench import LLM, EngineConfig, SamplingParams
from workbench.events import PageMap
from workbench.events.timeline import Timeline
from workbench.memory import SharingError
from workbench.views import Comparison, compare_outputs
from workbench.views.compare import Place
from workbench_app.settings import SettingError, Settings

if TYPE_CHECKING:
    from workbench.models.loading import LoadedModel

#: Far above what a pool of the app's sizes holds: memory is what limits how many requests run.
_MAX_RUNNING = 64
_TOKENS_PER_STEP = 512


@dataclass(frozen=True)
class Mark:
    """Running sums after a step, so that any step of the past can be described without reading it again.

    ``running`` and ``peak`` are numbers of sequences: texts that are written at once. ``busy_*`` sums cover the steps
    in which requests waited: the phase in which memory was short.
    """

    running: int = 0
    waiting: int = 0
    peak: int = 0
    token_slots: int = 0
    held_slots: int = 0
    busy_token_slots: int = 0
    busy_held_slots: int = 0

    @property
    def mean_share(self) -> float | None:
        """Share of the held slots that held tokens, over all steps so far."""
        return self.token_slots / self.held_slots if self.held_slots else None

    @property
    def busy_share(self) -> float | None:
        """The same over the steps in which requests waited."""
        return self.busy_token_slots / self.busy_held_slots if self.busy_held_slots else None

    def after(self, page_map: PageMap) -> Mark:
        """The sums one step later."""
        waste = page_map.waste()
        running, waiting = _running_sequences(page_map), len(page_map.waiting)
        held = waste.token_states + waste.reserved
        return Mark(
            running=running,
            waiting=waiting,
            peak=max(self.peak, running, page_map.totals.max_running),
            token_slots=self.token_slots + waste.token_states,
            held_slots=self.held_slots + held,
            busy_token_slots=self.busy_token_slots + (waste.token_states if waiting else 0),
            busy_held_slots=self.busy_held_slots + (held if waiting else 0),
        )


def _running_sequences(page_map: PageMap) -> int:
    states = (page_map.requests[request] for request in page_map.running)
    return sum(sum(output.reason == "" for output in state.outputs.values()) for state in states)


@dataclass(frozen=True)
class Asked:
    """What an engine was asked for.

    Attributes:
        places: for each of its requests, which prompt it belongs to, and which of that prompt's samples is its first.
        refused: prompts that it refused as they were, and why; other requests stand for them.
    """

    places: dict[int, Place]
    refused: dict[int, str]

    def requests_of(self, prompt: int) -> list[int]:
        """The requests that stand for a prompt, in the order of its samples."""
        return [request for request, (number, _) in self.places.items() if number == prompt]


class Side:
    """One engine with its history. ``marks[s]`` describes the state after step ``s``."""

    def __init__(self, llm: LLM, asked: Asked) -> None:
        self.llm = llm
        self.asked = asked
        self.timeline = Timeline(llm.bus)
        self.marks = [Mark()]

    @property
    def last_step(self) -> int:
        return len(self.marks) - 1

    @property
    def done(self) -> bool:
        return not self.llm.has_unfinished

    def advance(self) -> None:
        """One step, if there is anything left to do."""
        if not self.done:
            self.llm.step()
            self.marks.append(self.marks[-1].after(self.llm.page_map))

    def at(self, step: int) -> tuple[PageMap, Mark]:
        """State and sums after a step; a side that is done stays as it was."""
        step = min(step, self.last_step)
        state = self.llm.page_map if step == self.last_step else self.timeline.state_at(step)
        return state, self.marks[step]

    def close(self) -> None:
        """Ends the run and gives the KV pool back."""
        self.timeline.close()
        self.llm.close()


class Duel:
    """Both sides. Not thread-safe: `Session` sees to it that one thread at a time uses it.

    Raises:
        SettingError: a prompt does not suit the model or the settings.
        MemoryError: the two KV pools do not fit.
    """

    def __init__(self, model: LoadedModel, settings: Settings) -> None:
        self.settings = settings
        self.bytes_per_token = model.geometry.kv_bytes_per_token
        engines: list[LLM] = []
        try:
            configs = [_engine_config(memory, model, settings) for memory in ("paged", "contiguous")]
            engines.extend(LLM(model, config) for config in configs)
            asked = [_add_requests(llm, settings) for llm in engines]
        except BaseException:
            for llm in engines:
                llm.close()
            raise
        self.left, self.right = (Side(llm, what) for llm, what in zip(engines, asked, strict=True))
        for llm in engines:
            llm.bus.flush()

    @property
    def sides(self) -> tuple[Side, Side]:
        return self.left, self.right

    @property
    def last_step(self) -> int:
        return max(side.last_step for side in self.sides)

    @property
    def done(self) -> bool:
        return all(side.done for side in self.sides)

    def advance(self) -> None:
        """One step on each side that has work left."""
        for side in self.sides:
            side.advance()

    def compare(self) -> Comparison:
        """Whether both sides have written the same so far, token by token."""
        return self.compare_states(self.left.llm.page_map, self.right.llm.page_map)

    def compare_states(self, left: PageMap, right: PageMap) -> Comparison:
        """The same for two states of the past."""
        return compare_outputs(left, right, self.right.asked.places)

    def close(self) -> None:
        """Ends both runs and gives their KV pools back."""
        for side in self.sides:
            side.close()


def _engine_config(memory: str, model: LoadedModel, settings: Settings) -> EngineConfig:
    most = model.max_positions
    if most is not None and settings.max_model_len > most:
        raise SettingError("Longest sequence", settings.max_model_len, f"This model was made for at most {most:,}.")
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
    )


def _add_requests(llm: LLM, settings: Settings) -> Asked:
    """Sends the prompts. What is refused because memory can't be shared is sent as separate requests, with the seeds
    that make them write the same."""
    asked = Asked({}, {})
    seed = settings.seed
    for number, prompt in enumerate(settings.prompts):
        params: dict[str, Any] = {"max_tokens": prompt.max_tokens, "temperature": settings.temperature}
        params["ignore_eos"] = True
        try:
            try:
                request = llm.add_request(prompt.text, SamplingParams(**params, seed=seed, n=prompt.samples))
                asked.places[request] = number, 0
            except SharingError as error:
                asked.refused[number] = str(error)
                for sample in range(prompt.samples):
                    request = llm.add_request(prompt.text, SamplingParams(**params, seed=seed + sample))
                    asked.places[request] = number, sample
        except ValueError as error:
            raise SettingError(f"Prompts, request {number + 1}", prompt.text, f"{error}.") from error
        seed += prompt.samples
    return asked
