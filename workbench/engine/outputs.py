"""What a request gives back."""

from __future__ import annotations

from dataclasses import dataclass, field

from workbench.engine.sequence import Sequence


@dataclass(frozen=True)
class CompletionOutput:
    """One generated sequence.

    Attributes:
        finish_reason: "stop", "length", "cancelled" or "rejected"; None while it is still running.
        logprobs: per generated token, log probabilities by token id, if they were asked for.
    """

    text: str
    token_ids: list[int]
    finish_reason: str | None
    logprobs: list[dict[int, float]] | None = None


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


def output_of(sequence: Sequence, error: str | None) -> RequestOutput:
    """The result of a request with this one sequence, or its state so far."""
    reason = "rejected" if error else sequence.finish_reason
    completion = CompletionOutput(
        text=sequence.text.text,
        token_ids=sequence.output_token_ids,
        finish_reason=str(reason) if reason is not None else None,
        logprobs=list(sequence.logprobs) if sequence.params.logprobs is not None else None,
    )
    prompt_ids = sequence.token_ids[: sequence.num_prompt_tokens]
    return RequestOutput(sequence.request, sequence.prompt, prompt_ids, [completion], error)
