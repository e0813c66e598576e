"""What comes in: requests, checked and queued, and forks of their sequences."""

from __future__ import annotations

from workbench.engine.beams import BeamSearch
from workbench.engine.config import ConfigError, EngineConfig, check, is_int
from workbench.engine.prompts import EncodedPrompt, Prompt, encode_prompt
from workbench.engine.request import Request
from workbench.engine.sampling_params import SamplingParams
from workbench.engine.scheduler import Scheduler
from workbench.engine.sequence import Sequence, TextStream
from workbench.events.bus import EventBus
from workbench.events.types import RequestQueued
from workbench.memory import MemoryManager, SharingError
from workbench.models.loading import LoadedModel


class Intake:
    """Checks what users ask for, before anything changes, and hands it to the scheduler."""

    def __init__(
        self,
        model: LoadedModel,
        config: EngineConfig,
        max_model_len: int,
        memory: MemoryManager,
        scheduler: Scheduler,
        bus: EventBus | None,
    ) -> None:
        self._model, self._config, self._max_model_len = model, config, max_model_len
        self._memory, self._scheduler, self._bus = memory, scheduler, bus

    def encode(self, prompt: Prompt, params: SamplingParams) -> EncodedPrompt:
        """Token ids and text of a prompt. Checks all that could be wrong with the request.

        Raises:
            ConfigError: as `encode_prompt`; or more sequences are asked for than fit into a step.
            SharingError: more than one sequence is asked for, and this memory can't share.
        """
        width = max(params.n, params.beam_width)
        if width > 1:
            name = "beam_width" if params.beam_width else "n"
            why = self._memory.why_not_share
            if why is not None:
                raise SharingError(f"{name}={width}: {why}")
            most = min(self._config.max_num_seqs, self._config.max_num_batched_tokens)
            check(name, width, width <= most, f"at most {most} sequences fit into a step of this engine")
        encoded = encode_prompt(self._model, prompt, params, self._max_model_len)
        if params.beam_width:
            stops, vocab_size = self._stops(params), self._model.geometry.vocab_size
            fits = max(2, 1 + len(stops)) <= vocab_size
            check("stop_token_ids", params.stop_token_ids, fits, f"too many for beams over {vocab_size} tokens")
            # Raises if the settings do not go together.
            self._new_search(params, self._max_tokens(params, encoded.token_ids))
        return encoded

    def queue(
        self, number: int, prompt: EncodedPrompt, params: SamplingParams, step: int
    ) -> tuple[Request, str | None]:
        """Queues what `encode` has checked, for a step; returns the request, and why it was rejected, if it was."""
        branching, (token_ids, text, ends) = self._scheduler.branching, prompt
        max_tokens = self._max_tokens(params, token_ids)
        samples = [
            Sequence(
                request=number,
                sequence=branching.number(),
                params=params,
                token_ids=list(token_ids),
                num_prompt_tokens=len(token_ids),
                max_tokens=max_tokens,
                random=branching.generator(params.seed, number, sample),
                text=TextStream(self._model.tokenizer, tuple(params.stop or ())),
            )
            for sample in range(1 if params.beam_width else params.n)
        ]
        request = Request(
            request=number,
            prompt=text,
            params=params,
            prompt_ids=list(token_ids),
            max_tokens=max_tokens,
            queued_step=step,
            sequences=samples,
            live=samples[:1],
            pending=samples[1:],
            beams=self._new_search(params, max_tokens),
        )
        if self._bus is not None:
            is_search = request.beams is not None
            self._bus.emit(
                RequestQueued(
                    number, samples[0].sequence, text, len(token_ids), max_tokens, request.width, is_search, ends
                )
            )
        return request, self._scheduler.add(request)

    def _max_tokens(self, params: SamplingParams, token_ids: list[int]) -> int:
        """Most tokens that can be generated behind a prompt."""
        return min(params.max_tokens, self._max_model_len - len(token_ids))

    def _stops(self, params: SamplingParams) -> frozenset[int]:
        """Tokens that end a beam."""
        stops = frozenset(params.stop_token_ids or ())
        return stops if params.ignore_eos else stops | self._model.eos_token_ids

    def _new_search(self, params: SamplingParams, max_tokens: int) -> BeamSearch | None:
        if not params.beam_width:
            return None
        return BeamSearch(
            params.beam_width,
            max_tokens,
            self._stops(params),
            length_penalty=params.length_penalty,
            early_stopping=params.early_stopping,
            num_return=params.n,
        )

    def fork(self, request: int, sequence: int | None, seed: int | None) -> int:
        """See `LLM.fork`."""
        if self._memory.why_not_share is not None:
            raise SharingError(f"request={request}: {self._memory.why_not_share}")
        found = self._scheduler.queues.find(request)
        check("request", request, found is not None, "it has ended, so there is nothing to fork")
        assert found is not None
        check("request", request, found.beams is None, "a beam search forks its beams by itself")
        unfinished = {s.sequence: s for s in (*found.live, *found.pending)}
        parent = found.live[0] if sequence is None else unfinished.get(sequence)
        check("sequence", sequence, parent is not None, f"unfinished sequences are {sorted(unfinished)}")
        assert parent is not None
        others = sum(r.width for r in self._scheduler.running if r is not found)
        limit = self._config.max_num_seqs - (others if found in self._scheduler.running else 0)
        check(
            "request", request, found.width < limit, f"max_num_seqs={self._config.max_num_seqs} sequences run already"
        )
        shortfall = self._memory.never_fits(found.num_prompt_tokens, found.max_tokens, found.width + 1)
        if shortfall is not None:
            raise ConfigError(
                f"request={request}: with {found.width + 1} sequences it may need {shortfall.needed} blocks, the pool "
                f"has {shortfall.available}"
            )
        check("seed", seed, seed is None or is_int(seed, 0, (1 << 63) - 1), "None or an integer from 0 to 2**63 - 1")
        return self._scheduler.branching.fork(found, parent, seed).sequence
