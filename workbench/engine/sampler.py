"""From logits to tokens: a step's sequences in one batch, each with its own parameters and its own random numbers.

One uniform number per token, drawn from the sequence's own generator, picks the token by the inverse of the cumulative
distribution. So a token depends on the request, its seed and its position, never on what else is in the batch.
"""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

import torch
from torch import Tensor

from workbench.engine.sequence import Sequence


@dataclass(frozen=True)
class Sampled:
    """One token per sequence; ``logprobs[i]`` maps token ids to log probabilities if sequence ``i`` asked for any.

    ``beam_logits``: of every beam search, by request, the logits ``[num_beams, vocab_size]`` that decide how it goes
    on; the tokens of its sequences mean nothing.
    """

    token_ids: list[int]
    logprobs: list[dict[int, float] | None]
    beam_logits: dict[int, Tensor] = field(default_factory=dict)


def _penalise_repetition(logits: Tensor, sequences: Seq[Sequence]) -> None:
    """Divides positive, multiplies negative logits of tokens that occurred, in place (Keskar et al., 2019)."""
    for row, sequence in enumerate(sequences):
        penalty = sequence.params.repetition_penalty
        if penalty != 1.0:
            seen = torch.tensor(sorted(set(sequence.token_ids)), device=logits.device)
            values = logits[row, seen]
            logits[row, seen] = torch.where(values > 0, values / penalty, values * penalty)


def restrict(logits: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """Sets to -inf what top-k, top-p and min-p exclude, in this order.

    Args:
        logits: ``[num_seqs, vocab_size]``, divided by the temperature.
        top_k: int64 ``[num_seqs]``, 0 for all. top_p, min_p: ``[num_seqs]``.
    """
    vocab_size = logits.shape[-1]
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    rank = torch.arange(vocab_size, device=logits.device)
    k = torch.where(top_k > 0, top_k, vocab_size)[:, None]
    # Ties with the k-th stay in, as in transformers.
    threshold = ordered.gather(1, (k - 1).clamp(max=vocab_size - 1))
    ordered = ordered.masked_fill((rank >= k) & (ordered < threshold), -torch.inf)
    probabilities = ordered.softmax(dim=-1)
    # A token stays if those before it have not reached top_p: the first one always does.
    before = probabilities.cumsum(dim=-1) - probabilities
    ordered = ordered.masked_fill((before >= top_p[:, None]) & (top_p[:, None] < 1) & (rank > 0), -torch.inf)
    ordered = ordered.masked_fill(probabilities < min_p[:, None] * probabilities[:, :1], -torch.inf)
    return torch.empty_like(logits).scatter_(1, order, ordered)


def _pick(logits: Tensor, uniforms: list[float]) -> Tensor:
    """Inverse of the cumulative distribution, ``[num_seqs]``. float64, so that the sum does not depend on much."""
    cumulative = logits.double().softmax(dim=-1).cumsum(dim=-1)
    target = torch.tensor(uniforms, dtype=torch.float64, device=logits.device)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)


def _logprobs(logits: Tensor, sequences: Seq[Sequence], tokens: list[int]) -> list[dict[int, float] | None]:
    wanted = [sequence.params.logprobs for sequence in sequences]
    if all(count is None for count in wanted):
        return [None] * len(wanted)
    result: list[dict[int, float] | None] = []
    for row, (count, token) in enumerate(zip(wanted, tokens, strict=True)):
        if count is None:
            result.append(None)
            continue
        values = logits[row].log_softmax(dim=-1)
        best = values.topk(min(count, len(values)))
        found = dict(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        result.append(found | {token: values[token].item()})
    return result


def sample(logits: Tensor, sequences: Seq[Sequence], suppressed: Tensor | None = None) -> Sampled:
    """Chooses the next token of every sequence.

    Args:
        logits: ``[num_seqs, vocab_size]``, any float type; row ``i`` belongs to ``sequences[i]``.
        suppressed: int64, tokens that are never chosen (a beam search leaves them out by itself).
    """
    logits = logits.float()
    beam_logits = _beam_logits(logits, sequences)
    if suppressed is not None:
        logits = logits.index_fill(1, suppressed, -torch.inf)
    params = [sequence.params for sequence in sequences]
    raw = logits
    if any(p.repetition_penalty != 1.0 for p in params):
        logits = logits.clone()
        _penalise_repetition(logits, sequences)
    tokens = logits.argmax(dim=-1)
    random_rows = [row for row, p in enumerate(params) if not p.is_greedy and not p.beam_width]
    if random_rows:
        chosen = [params[row] for row in random_rows]
        device = logits.device
        temperature = torch.tensor([p.temperature for p in chosen], device=device)[:, None]
        scaled = (logits if len(random_rows) == len(params) else logits[random_rows]) / temperature
        if any(p.top_k or p.top_p < 1 or p.min_p > 0 for p in chosen):
            scaled = restrict(
                scaled,
                torch.tensor([p.top_k for p in chosen], device=device),
                torch.tensor([p.top_p for p in chosen], device=device),
                torch.tensor([p.min_p for p in chosen], device=device),
            )
        tokens[random_rows] = _pick(scaled, [sequences[row].random.random() for row in random_rows])
    token_ids = tokens.tolist()
    return Sampled(token_ids, _logprobs(raw, sequences, token_ids), beam_logits)


def _beam_logits(logits: Tensor, sequences: Seq[Sequence]) -> dict[int, Tensor]:
    rows: dict[int, list[int]] = {}
    for row, sequence in enumerate(sequences):
        if sequence.params.beam_width:
            rows.setdefault(sequence.request, []).append(row)
    return {request: logits[mine] for request, mine in rows.items()}
