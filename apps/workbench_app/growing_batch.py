"""Static batching on a cache that grows, as ``generate`` of transformers does it: which requests go together, and the
forward passes of one batch."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from workbench.engine.prompts import encode_prompt
from workbench.engine.sampler import sample
from workbench.engine.sampling_params import SamplingParams
from workbench.engine.sequence import Sequence, TextStream
from workbench.models.loading import LoadedModel
from workbench_app.growing_model import OwnAttention, forward, new_cache
from workbench_app.settings import SettingError, Settings


@dataclass(eq=False)
class Row:
    """One sample of one prompt.

    Attributes:
        text: all that was generated so far; ``ends[i]`` characters of it belong to the first ``i + 1`` tokens.
        padding: positions to the left of its prompt, which make all prompts of the batch equally long.
    """

    prompt: int
    sample: int
    sequence: Sequence
    padding: int = 0
    text: str = ""
    ends: list[int] = field(default_factory=list)

    @property
    def prompt_tokens(self) -> int:
        return self.sequence.num_prompt_tokens

    @property
    def max_tokens(self) -> int:
        return self.sequence.max_tokens

    @property
    def ended(self) -> bool:
        return self.sequence.num_output_tokens >= self.max_tokens

    def push(self, token: int) -> None:
        """Takes the next token."""
        self.sequence.token_ids.append(token)
        self.text += self.sequence.text.push(token)[0]
        if self.ended:
            self.text += self.sequence.text.finish(stopped=False)
        self.ends.append(len(self.text))


class Held(NamedTuple):
    """Layers that hold the same number of positions per row, and the bytes of their keys and values, measured."""

    positions: int
    bytes: int


def make_rows(model: LoadedModel, settings: Settings) -> list[Row]:
    """A row for every sample of every prompt, with the seeds that the engines give them. Beam searches are left out.

    Raises:
        SettingError: a prompt does not suit the model or the settings.
    """
    rows: list[Row] = []
    following = settings.seed
    for number, prompt in enumerate(settings.prompts):
        seed, following = following, following + prompt.samples
        if prompt.beams:
            continue
        try:
            params = SamplingParams(
                max_tokens=prompt.max_tokens,
                temperature=settings.temperature,
                ignore_eos=True,
                seed=seed,
                n=prompt.samples,
            )
            ids = encode_prompt(model, prompt.text, params, settings.max_model_len).token_ids
        except ValueError as error:
            raise SettingError(f"Prompts, request {number + 1}", prompt.text, f"{error}.") from error
        for which in range(prompt.samples):
            sequence = Sequence(
                request=number,
                sequence=len(rows),
                params=params,
                token_ids=list(ids),
                num_prompt_tokens=len(ids),
                max_tokens=min(prompt.max_tokens, settings.max_model_len - len(ids)),
                random=random.Random(seed + which),
                text=TextStream(model.tokenizer),
            )
            rows.append(Row(number, which, sequence))
    return rows


def longest(rows: list[Row]) -> int:
    """Positions per row that a batch may need: its longest prompt and its longest output, whichever rows have them."""
    return max(row.prompt_tokens for row in rows) + max(row.max_tokens for row in rows)


def plan_batches(rows: list[Row], pool_positions: int) -> list[list[Row]]:
    """Batches in the order of the requests: each takes as many as fit at their longest, at least one.

    A user has to choose so: how much a batch will hold is not known before it has run. The samples of a prompt stay
    together, as ``num_return_sequences`` keeps them. Sets the rows' padding.

    Args:
        pool_positions: what the memory holds, in positions of one row.
    """
    requests: dict[int, list[Row]] = {}
    for row in rows:
        requests.setdefault(row.prompt, []).append(row)
    batches: list[list[Row]] = []
    for mine in requests.values():
        wider = [*batches[-1], *mine] if batches else []
        if wider and len(wider) * longest(wider) <= pool_positions:
            batches[-1] = wider
        else:
            batches.append(mine)
    for batch in batches:
        width = max(row.prompt_tokens for row in batch)
        for row in batch:
            row.padding = width - row.prompt_tokens
    return batches


class Batch:
    """The forward passes of one batch. Rows that have ended stay, and grow, until all have."""

    def __init__(self, own: OwnAttention, model: LoadedModel, rows: list[Row]) -> None:
        self.rows = rows
        self._own, self._model = own, model
        self._cache = new_cache(own.module)
        self._pad = _pad_token(model)
        padded = [[self._pad] * row.padding + row.sequence.token_ids for row in rows]
        self._ids = torch.tensor(padded, device=model.device)
        mask = [[0] * row.padding + [1] * row.prompt_tokens for row in rows]
        self._mask = torch.tensor(mask, device=model.device)

    @property
    def done(self) -> bool:
        return all(row.ended for row in self.rows)

    @torch.inference_mode()
    def step(self) -> int:
        """The whole prompts, or one more position of every row; a token for every row that has not ended.

        Returns:
            How many tokens were generated.
        """
        model = self._model
        logits = forward(self._own.module, self._ids, self._mask, self._cache, model.takes_logits_to_keep)
        live = [index for index, row in enumerate(self.rows) if not row.ended]
        chosen = logits if len(live) == len(self.rows) else logits[live]
        tokens = sample(chosen, [self.rows[index].sequence for index in live], model.suppressed).token_ids
        following = [self._pad] * len(self.rows)
        for index, token in zip(live, tokens, strict=True):
            self.rows[index].push(token)
            following[index] = token
        self._ids = torch.tensor(following, device=model.device)[:, None]
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self.rows), 1)], dim=1)
        return len(live)

    def held(self) -> tuple[Held, ...]:
        """What the cache's tensors hold now, layers of equal length together.

        A layer with a sliding window keeps a view: the one position before it stays in memory, too, and is not counted.
        """
        groups: dict[int, int] = {}
        for layer in self._layers():
            length = layer.keys.shape[-2]
            groups[length] = groups.get(length, 0) + layer.keys.nbytes + layer.values.nbytes
        return tuple(Held(length, size) for length, size in sorted(groups.items()))

    def largest_tensor(self) -> int:
        """Bytes of the largest tensor of the cache: while it is replaced, it exists twice, but for one position."""
        return max((max(layer.keys.nbytes, layer.values.nbytes) for layer in self._layers()), default=0)

    def _layers(self) -> list[Any]:
        return [layer for layer in self._cache.layers if getattr(layer, "is_initialized", False)]

    def tensors(self) -> list[Tensor]:
        """The cache's tensors, keys and values of every layer."""
        return [tensor for layer in self._layers() for tensor in (layer.keys, layer.values)]


def _pad_token(model: LoadedModel) -> int:
    """What stands where a row has nothing to say: masked at the left, seen by its own row only at the right."""
    configs = (getattr(model.model, "generation_config", None), getattr(model.model, "config", None))
    for config in configs:
        token = getattr(config, "pad_token_id", None)
        if isinstance(token, int) and 0 <= token < model.geometry.vocab_size:
            return token
    return min(model.eos_token_ids, default=0)
