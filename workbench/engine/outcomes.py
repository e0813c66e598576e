"""What comes out of a step: new tokens are noted, beams move, and what is complete ends."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from workbench.engine.plan import StepPlan
from workbench.engine.request import Request
from workbench.engine.sampler import Sampled
from workbench.engine.scheduler import Scheduler
from workbench.events.bus import EventBus
from workbench.events.types import AnyEvent, FinishReason, OutputsChosen, OutputState, TokenGenerated
from workbench.models.loading import LoadedModel


class Outcomes:
    """Notes the tokens of steps. ``requests``: all of the engine's, by number."""

    def __init__(
        self, model: LoadedModel, scheduler: Scheduler, bus: EventBus | None, requests: Mapping[int, Request]
    ) -> None:
        self._model, self._scheduler, self._bus, self._requests = model, scheduler, bus, requests

    def take(self, plan: StepPlan, sampled: Sampled) -> None:
        """Adds the new tokens to their sequences and ends those that are complete."""
        chunks = plan.decodes
        if plan.prefills:
            chunks = [chunk for chunk in plan.chunks if chunk.samples]
            for chunk in chunks:
                if chunk.also:
                    self._scheduler.branching.begin_samples(self._requests[chunk.sequence.request])
        sequences = plan.samplers if plan.prefills else [chunk.sequence for chunk in chunks]
        events: list[AnyEvent] = []
        eos, bus = self._model.eos_token_ids, self._bus
        for sequence, token_id, logprobs in zip(sequences, sampled.token_ids, sampled.logprobs, strict=True):
            params = sequence.params
            if params.beam_width:
                continue
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
                self._scheduler.endings.finish_sequence(self._requests[sequence.request], sequence, reason, held_back)
        if bus is not None:
            bus.emit_many(events)
        for number, logits in sampled.beam_logits.items():
            self._advance_beams(self._requests[number], logits)

    def _advance_beams(self, request: Request, logits: Tensor) -> None:
        assert request.beams is not None
        if len(logits) < len(request.live):
            return  # not all of them were computed: they go on together
        moves = request.beams.advance(logits, self._model.suppressed)
        if not request.beams.is_done:
            self._scheduler.branching.move_beams(request, moves)
            return
        eos = self._model.eos_token_ids
        for found in request.beams.results():
            tokens = found.token_ids
            shown = tokens[:-1] if found.is_stopped and tokens[-1] in eos else tokens
            tokenizer = self._model.tokenizer
            text = tokenizer.decode(shown, skip_special_tokens=True) if tokenizer is not None else ""
            reason = FinishReason.STOP if found.is_stopped else FinishReason.LENGTH
            request.chosen.append(OutputState(tokens, text, found.score, reason))
        if self._bus is not None:
            self._bus.emit(OutputsChosen(request.request, request.chosen))
        self._scheduler.endings.finish_beams(request)
