"""What a request asks of the sampler. Names and meaning as in vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from workbench.engine.config import check, is_int

_MAX_LOGPROBS = 20


def _is_number(value: object, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are chosen, and when to stop.

    Attributes:
        max_tokens: most tokens to generate.
        temperature: divides the logits; 0 means greedy: always the most likely token.
        top_k: choose among the ``top_k`` most likely tokens; 0 means all.
        top_p: choose among the fewest tokens whose probabilities add up to ``top_p``.
        min_p: choose among tokens at least ``min_p`` times as likely as the most likely one.
        repetition_penalty: above 1 makes tokens of the prompt and the output less likely (Keskar et al., 2019).
        seed: makes the request repeatable whatever else runs; None derives one from the engine's seed.
        stop: strings that end the output; they are not part of it.
        stop_token_ids: tokens that end the output, as the end-of-text token does.
        ignore_eos: go on after the end-of-text token, to ``max_tokens``.
        logprobs: report this many most likely tokens per position, of the model's own distribution.
        n: how many outputs. Their sequences share the prompt's pages. Sample ``i`` of seed ``s`` is what seed ``s + i``
            gives alone.
        beam_width: above 0: beam search with this many beams, of which the ``n`` best are returned.
        length_penalty: beam search: scores are divided by the length to the power of this; above 0 favours long ones.
        early_stopping: beam search: True ends it when ``beam_width`` beams are complete; False when a better one is
            unlikely to come; "never" when that is impossible.
    """

    max_tokens: int = 64
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: str | Sequence[str] | None = field(default_factory=tuple)
    stop_token_ids: Sequence[int] | None = field(default_factory=tuple)
    ignore_eos: bool = False
    logprobs: int | None = None
    n: int = 1
    beam_width: int = 0
    length_penalty: float = 1.0
    early_stopping: bool | str = False

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        for name in ("stop", "stop_token_ids"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, ())
        check("max_tokens", self.max_tokens, is_int(self.max_tokens, 1), "an integer of at least 1")
        usable = _is_number(self.temperature, 0, 100) and (self.temperature == 0 or self.temperature >= 1e-3)
        check("temperature", self.temperature, usable, "0 (greedy), or a number from 0.001 to 100")
        check("top_k", self.top_k, is_int(self.top_k, 0, (1 << 31) - 1), "an integer of at least 0 (0: all tokens)")
        check("top_p", self.top_p, _is_number(self.top_p, 1e-9, 1), "a number above 0 and at most 1")
        check("min_p", self.min_p, _is_number(self.min_p, 0, 1), "a number from 0 to 1")
        penalty = self.repetition_penalty
        check("repetition_penalty", penalty, _is_number(penalty, 1e-3, 100), "a number from 0.001 to 100")
        seed_ok = self.seed is None or is_int(self.seed, 0, (1 << 63) - 1)
        check("seed", self.seed, seed_ok, "None or an integer from 0 to 2**63 - 1")
        stops_ok = all(isinstance(text, str) and text for text in self.stop or ())
        check("stop", self.stop, stops_ok, "a string or strings, none of them empty")
        ids_ok = all(is_int(token, 0) for token in self.stop_token_ids or ())
        check("stop_token_ids", self.stop_token_ids, ids_ok, "integers of at least 0")
        logprobs_ok = self.logprobs is None or is_int(self.logprobs, 0, _MAX_LOGPROBS)
        check("logprobs", self.logprobs, logprobs_ok, f"None or an integer from 0 to {_MAX_LOGPROBS}")

        check("n", self.n, is_int(self.n, 1, 256), "an integer from 1 to 256")
        check("beam_width", self.beam_width, is_int(self.beam_width, 0, 256), "an integer from 0 to 256")
        penalty = self.length_penalty
        check("length_penalty", penalty, _is_number(penalty, -10, 10), "a number from -10 to 10")
        stopping = self.early_stopping
        ok = isinstance(stopping, bool) or stopping == "never"
        check("early_stopping", stopping, ok, "True, False or 'never'")
        if self.beam_width:
            self._check_beams()

    def _check_beams(self) -> None:
        check("n", self.n, self.n <= self.beam_width, f"at most beam_width={self.beam_width} beams can be returned")
        why = "a beam search takes the most likely tokens; leave {} out"
        check("temperature", self.temperature, self.temperature in (0, 1.0), why.format("it"))
        check("top_k", self.top_k, self.top_k == 0, why.format("it"))
        check("top_p", self.top_p, self.top_p == 1, why.format("it"))
        check("min_p", self.min_p, self.min_p == 0, why.format("it"))
        check("repetition_penalty", self.repetition_penalty, self.repetition_penalty == 1, why.format("it"))
        check("stop", self.stop, not self.stop, "stop strings can't end a beam; use stop_token_ids")
        check("logprobs", self.logprobs, self.logprobs is None, "a beam search reports scores instead")

    @property
    def is_greedy(self) -> bool:
        return self.temperature == 0

    @property
    def is_plain(self) -> bool:
        """Whether temperature and chance alone decide, so that no other token's rank or history matters."""
        restricts = not self.is_greedy and (self.top_k > 0 or self.top_p < 1 or self.min_p > 0)
        return not restricts and self.repetition_penalty == 1 and self.logprobs is None and not self.beam_width
