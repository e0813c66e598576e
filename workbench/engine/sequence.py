"""One sequence of tokens on its way through the engine, and its text as it grows."""

from __future__ import annotations

import copy
import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tokenizers.decoders import DecodeStream

from workbench.engine.sampling_params import SamplingParams
from workbench.events.types import FinishReason

if TYPE_CHECKING:
    from workbench.engine.plan import Chunk


@dataclass(eq=False, slots=True)
class Sequence:
    """One sequence of tokens: a prompt and what was generated for it. A request has one, or several (`Request`).

    Invariant: the keys and values of ``token_ids[:num_computed_tokens]`` lie in KV memory. A decode computes the one
    token that is missing and samples the next; a prefill computes up to all of them, and samples when none is missing.
    """

    request: int
    sequence: int
    params: SamplingParams
    token_ids: list[int]
    num_prompt_tokens: int
    max_tokens: int
    random: random.Random
    text: TextStream
    num_computed_tokens: int = 0
    #: tokens that had been computed before a preemption: computing them again is `Cause.RECOMPUTE`
    num_lost_tokens: int = 0
    #: whether it has to wait for memory although its request runs: until a sibling with the same beginning is computed
    is_absent: bool = False
    logprobs: list[dict[int, float]] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    #: the plan of every step in which one new token is computed and nothing else; None while there is more to do
    decode_chunk: Chunk | None = None

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_uncomputed_tokens(self) -> int:
        return len(self.token_ids) - self.num_computed_tokens

    @property
    def output_token_ids(self) -> list[int]:
        return self.token_ids[self.num_prompt_tokens :]

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens


def fork_sequence(parent: Sequence, number: int, generator: random.Random) -> Sequence:
    """A new sequence with all tokens of ``parent``, of which none is computed yet."""
    return Sequence(
        request=parent.request,
        sequence=number,
        params=parent.params,
        token_ids=list(parent.token_ids),
        num_prompt_tokens=parent.num_prompt_tokens,
        max_tokens=parent.max_tokens,
        random=generator,
        text=parent.text.copy(),
        num_lost_tokens=parent.num_lost_tokens,
        logprobs=list(parent.logprobs),
    )


class TextStream:
    """Turns generated tokens into text that may be shown: whole characters, and nothing of a stop string.

    The pieces that `push` and `finish` return, joined, are the decoded output up to the stop string.
    """

    def __init__(self, tokenizer: Any, stop: tuple[str, ...] = ()) -> None:
        self._tokenizer = getattr(tokenizer, "backend_tokenizer", None)
        self._stream = DecodeStream(skip_special_tokens=True)
        self._stop = stop
        #: Characters that may be the beginning of a stop string have to wait.
        self._hold = max((len(s) for s in stop), default=1) - 1
        self._token_ids: list[int] = []
        self._decoded = ""
        self._shown = 0

    def copy(self) -> TextStream:
        """A stream that goes on from here by itself."""
        twin = copy.copy(self)
        twin._stream, twin._token_ids = copy.copy(self._stream), list(self._token_ids)
        return twin

    @property
    def text(self) -> str:
        """All that was shown so far."""
        return self._decoded[: self._shown]

    def push(self, token_id: int) -> tuple[str, bool]:
        """Takes one token; returns what can be shown now, and whether a stop string is complete."""
        if self._tokenizer is None:
            return "", False
        self._token_ids.append(token_id)
        piece = self._stream.step(self._tokenizer, token_id)
        if not piece:
            return "", False
        searched_from = max(0, len(self._decoded) - self._hold)
        self._decoded += piece
        ends = [at for at in (self._decoded.find(s, searched_from) for s in self._stop) if at >= 0]
        if ends:
            self._decoded = self._decoded[: min(ends)]
            return self._show(len(self._decoded)), True
        return self._show(len(self._decoded) - self._hold), False

    def finish(self, stopped: bool) -> str:
        """Returns what was held back. After a stop string there is nothing; else an unfinished character may remain."""
        if not stopped and self._tokenizer is not None:
            self._decoded = self._tokenizer.decode(self._token_ids, skip_special_tokens=True)
        return self._show(len(self._decoded))

    def _show(self, end: int) -> str:
        piece = self._decoded[self._shown : max(end, self._shown)]
        self._shown = max(end, self._shown)
        return piece
