"""Beam search over logits: which continuations of one request go on, and which hypotheses it ends with.

It decides what `transformers`' ``generate(num_beams=..., do_sample=False)`` decides, to the bit if the logits are equal
to the bit; written after its ``GenerationMixin._beam_search`` (versions 5.17 to 5.23). The same float32 operations run
on tensors of the same sizes, because `torch.topk` picks among equal scores by position and size.

A search has ``beam_width`` beams that run and as many places for hypotheses. Both start with nothing in them, which
is a score of `_NEVER`: low enough to lose against everything real, yet no -inf, which is what an impossible token has.
It knows nothing of the KV memory: the caller copies or shares the parents' keys and values.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from workbench.engine.config import check, is_int

_NEVER = -1.0e9


@dataclass(frozen=True)
class BeamMove:
    """A beam of the next step: it continues the beam ``parent`` (its row in this step's logits) with ``token_id``.

    ``score`` is the sum of the log probabilities of all its generated tokens.
    """

    parent: int
    token_id: int
    score: float


@dataclass(frozen=True)
class Hypothesis:
    """A finished text: generated tokens, with the end-of-text token if there is one, and their penalised score.

    ``is_stopped``: ended by an end-of-text token, else cut off at ``max_tokens``.
    """

    token_ids: list[int]
    score: float
    is_stopped: bool


class BeamSearch:
    """The beams of one request.

    Call `advance` with the logits after the prompt, then with those of the beams that it returned, until `is_done`:
    ``max_tokens`` times at most. Then `results` has the answer.

    Args:
        beam_width: beams that run at the same time. With 1 it decodes greedily, as `transformers` does then: no other
            setting but ``max_tokens`` and ``eos_token_ids`` matters, and the score is the sum of log probabilities.
        max_tokens: most tokens to generate.
        eos_token_ids: tokens that end a hypothesis; an empty set for ``ignore_eos``.
        length_penalty: a hypothesis' score is divided by its number of tokens to this power: above 0 favours long
            texts, since log probabilities are negative; below 0 short ones. Far below, say -10, scores fall under
            -1e9, and empty texts beat them, as they do in `transformers`.
        early_stopping: when to stop, once there are ``beam_width`` hypotheses. True: at once. False: when the best
            beam, if it ended now, would not beat the worst of them. "never": when it could not even if it grew to the
            most favourable length, all further tokens being certain.
        num_return: number of hypotheses to return.

    Raises:
        ConfigError: a value is out of range.
    """

    def __init__(
        self,
        beam_width: int,
        max_tokens: int,
        eos_token_ids: Collection[int],
        length_penalty: float = 1.0,
        early_stopping: bool | str = False,
        num_return: int = 1,
    ) -> None:
        check("beam_width", beam_width, is_int(beam_width, 1), "an integer of at least 1")
        check("max_tokens", max_tokens, is_int(max_tokens, 1), "an integer of at least 1")
        # Python refuses a power above the largest float: here, not in the middle of the search.
        largest = math.log(sys.float_info.max) / math.log(max(2, max_tokens))
        penalty_ok = type(length_penalty) in (int, float) and -largest < length_penalty < largest
        check("length_penalty", length_penalty, penalty_ok, f"a number between {-largest:.4g} and {largest:.4g}")
        stopping_ok = type(early_stopping) is bool or early_stopping == "never"
        check("early_stopping", early_stopping, stopping_ok, "True, False or 'never'")
        return_ok = is_int(num_return, 1, beam_width)
        check("num_return", num_return, return_ok, f"an integer from 1 to beam_width, {beam_width}")
        self._width = beam_width
        self._max_tokens = max_tokens
        self._eos = frozenset(eos_token_ids)
        # Greedy decoding compares no texts, so nothing may push a score below `_NEVER`.
        # A float: torch refuses the large integers that an integer power can give.
        self._length_penalty = float(length_penalty) if beam_width > 1 else 0.0
        self._early_stopping = early_stopping
        self._num_return = num_return

        self._num_generated = 0
        self._is_done = False
        # Beams that run, best first. All of them begin as the prompt: only the first may count at first.
        self._tokens: list[list[int]] = [[] for _ in range(beam_width)]
        self._scores = torch.full((beam_width,), _NEVER)
        self._scores[0] = 0.0
        # Places for hypotheses, best first. Only what the mask marks is one.
        self._ended: list[list[int]] = [[] for _ in range(beam_width)]
        self._ended_scores = torch.full((beam_width,), _NEVER)
        self._is_ended = torch.zeros(beam_width, dtype=torch.bool)

    @property
    def is_done(self) -> bool:
        return self._is_done

    @torch.inference_mode()
    def advance(self, logits: Tensor, suppressed: Tensor | None = None) -> list[BeamMove]:
        """Extends every beam by a token; returns the beams that go on, best first, or none if the search is done.

        Args:
            logits: ``[num_beams, vocab_size]`` of the beams in the order of the moves returned before; the first time
                ``[1, vocab_size]``, of the prompt. Any floating dtype, any device. Not changed.
            suppressed: int64, on the same device: tokens that must not occur. Unlike a logit of -inf, this takes them
                out after the softmax, as `transformers` treats a generation config's ``suppress_tokens``: the others'
                probabilities don't grow.

        Returns:
            ``beam_width`` moves. Two may have the same parent and token if too few tokens are possible; all but one
            have scores around -1e9 then.

        Raises:
            RuntimeError: the search is done.
            ValueError: the logits' shape is wrong, or the vocabulary is smaller than 2 or than the number of tokens
                that end a hypothesis, plus one: `transformers` can't choose either then.
        """
        if self._is_done:
            raise RuntimeError("the beam search is done")
        num_rows = self._width if self._num_generated else 1
        if logits.ndim != 2 or len(logits) != num_rows:
            raise ValueError(f"logits have the shape {list(logits.shape)}, not [{num_rows}, vocab_size]")
        values, parents, token_ids = self._candidates(logits, suppressed)
        self._num_generated += 1
        is_last = self._num_generated == self._max_tokens
        ends = torch.tensor([is_last or token_id in self._eos for token_id in token_ids])
        running_values = values + ends.float() * _NEVER
        best = torch.topk(running_values, self._width).indices
        running = best.tolist()
        self._scores = running_values[best]
        self._collect(values, parents, token_ids, ends)
        self._tokens = [[*self._tokens[parents[i]], token_ids[i]] for i in running]

        is_full = self._early_stopping is True and bool(self._is_ended.all())
        self._is_done = is_full or bool(ends.all()) or not self._can_improve()
        if self._is_done:
            return []
        # While there is only the prompt, all beams are copies of the one row.
        return [
            BeamMove(parents[i] if self._num_generated > 1 else 0, token_ids[i], score)
            for i, score in zip(running, self._scores.tolist(), strict=True)
        ]

    def results(self) -> list[Hypothesis]:
        """The best ``num_return`` hypotheses, best first. Before the search is done: those so far, maybe none."""
        places = zip(self._ended, self._ended_scores.tolist(), self._is_ended.tolist(), strict=True)
        return [
            Hypothesis(list(tokens), score, bool(tokens) and tokens[-1] in self._eos)
            for tokens, score, is_ended in list(places)[: self._num_return]
            if is_ended or self._is_done
        ]

    def _candidates(self, logits: Tensor, suppressed: Tensor | None) -> tuple[Tensor, list[int], list[int]]:
        """The best extensions of all beams, best first: scores (float32, on the CPU), parents and tokens.

        So many that ``beam_width`` are left if all tokens that end a hypothesis are among them.
        """
        logits = logits.float()
        log_probs = torch.log_softmax(logits, dim=-1)
        if suppressed is not None:
            log_probs.index_fill_(1, suppressed, -torch.inf)
        if self._width == 1:
            # Of the logits: the softmax can round two of them to the same value.
            choices = logits if suppressed is None else logits.index_fill(1, suppressed, -torch.inf)
            token_id = int(choices.argmax())
            return log_probs[:, token_id].cpu() + self._scores, [0], [token_id]
        vocab_size = logits.shape[1]
        per_beam = max(2, 1 + len(self._eos))
        if per_beam > vocab_size:
            raise ValueError(
                f"vocab_size={vocab_size}: with {len(self._eos)} tokens that end it needs {per_beam} or more"
            )
        # The first time this also copies the prompt's row for every beam.
        totals = log_probs + self._scores.to(logits.device)[:, None]
        values, indices = torch.topk(totals.view(-1), per_beam * self._width)
        places = indices.tolist()
        return values.cpu(), [i // vocab_size for i in places], [i % vocab_size for i in places]

    def _collect(self, values: Tensor, parents: list[int], token_ids: list[int], ends: Tensor) -> None:
        """Keeps the best of the hypotheses so far and the candidates that end now.

        Only the first ``beam_width`` candidates may end: those behind are there to run in their place.
        """
        is_new = ends & (torch.arange(len(token_ids)) < self._width)
        penalised = values / self._num_generated**self._length_penalty
        penalised += ~is_new * _NEVER
        scores = torch.cat((self._ended_scores, penalised))
        best = torch.topk(scores, self._width).indices
        self._ended = [
            self._ended[i] if i < 0 else [*self._tokens[parents[i]], token_ids[i]]
            for i in (best - self._width).tolist()
        ]
        self._ended_scores = scores[best]
        self._is_ended = torch.cat((self._is_ended, is_new))[best]

    def _can_improve(self) -> bool:
        """Whether the best beam that runs may still beat a hypothesis, as far as ``early_stopping`` looks ahead."""
        looks_ahead = self._early_stopping == "never" and self._length_penalty > 0
        length = self._max_tokens if looks_ahead else self._num_generated
        best_possible = self._scores[0] / length**self._length_penalty
        return bool((best_possible > torch.where(self._is_ended, self._ended_scores.min(), _NEVER)).any())
