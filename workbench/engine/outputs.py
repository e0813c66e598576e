"""What a request gives back."""

from __future__ import annotations

from dataclasses import dataclass, field

from workbench.engine.request import Request
from workbench.engine.sequence import Sequence


@dataclass(frozen=True)
class CompletionOutput:
    """One generated sequence.

    Attributes:
        finish_reason: "stop", "length", "cancelled" or "rejected"; None while it is still running.
        logprobs: per generated token, log probabilities by token id, if they were asked for.
        score: of a beam search: the sum of log probabilities, divided by the length to the power of the length penalty.
    """

    text: str
    token_ids: list[int]
    finish_reason: str | None
    logprobs: list[dict[int, float]] | None = None
    score: float | None = None


@dataclass(frozen=True)
class RequestOutput:
    """A request's result, or its state so far.

    Attributes:
        error: why the request was rejected, with the arithmetic; None if it was not.
    """

    request_id: int
    prompt: str
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput] = field(default_factory=list)
    error: str | None = None

    @property
    def is_finished(self) -> bool:
        return all(output.finish_reason is not None for output in self.outputs)


def output_of(request: Request, error: str | None) -> RequestOutput:
    """The result of a request, or its state so far: of a beam search the beams as they stand."""
    if request.chosen:
        outputs = [CompletionOutput(o.text, list(o.token_ids), str(o.reason), None, o.score) for o in request.chosen]
    else:
        outputs = [_completion(sequence, request, error) for sequence in request.sequences]
    return RequestOutput(request.request, request.prompt, list(request.prompt_ids), outputs, error)


def _completion(sequence: Sequence, request: Request, error: str | None) -> CompletionOutput:
    reason = "rejected" if error else sequence.finish_reason
    return CompletionOutput(
        text=sequence.text.text,
        token_ids=sequence.output_token_ids,
        finish_reason=str(reason) if reason is not None else None,
        logprobs=list(sequence.logprobs) if request.params.logprobs is not None else None,
    )
