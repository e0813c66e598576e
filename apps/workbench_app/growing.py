"""The third lane: the same requests on the cache that transformers itself keeps when it generates.

No pool, no pages: one padded batch at a time, whose keys and values grow by concatenation. Rows that have ended stay in
the batch until all have. Model, sampler and seeds are those of the engines, so that the texts can be compared.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from workbench_app.growing_batch import Batch, Held, Row, longest, make_rows, plan_batches
from workbench_app.growing_model import OwnAttention, OwnAttentionError, own_attention
from workbench_app.growing_words import lane_words
from workbench_app.lanes import Mark

if TYPE_CHECKING:
    from workbench.models.loading import LoadedModel
    from workbench_app.settings import Settings

log = logging.getLogger(__name__)


class LaneRow(NamedTuple):
    """A row of the present batch: ``padding`` positions, then the prompt, then what it has written."""

    prompt: int
    sample: int
    padding: int
    prompt_tokens: int
    output_tokens: int
    max_tokens: int
    ended: bool


class LaneOutput(NamedTuple):
    """One sample of one prompt. ``status``: "w" waits, "r" runs, "f" has finished, "x" will not be written."""

    prompt: int
    sample: int
    status: str
    prompt_tokens: int
    token_ids: list[int]
    max_tokens: int
    text: str


@dataclass(frozen=True)
class LaneState:
    """The lane after a step.

    Attributes:
        batch: number of the present batch, from 0; ``batches`` in all.
        rows: of the present batch; empty before the first and when a batch has just given its memory back.
        length: positions that every row holds; ``longest``: what the batch was planned for.
        waiting: prompts that are in no batch yet.
        bytes: of the cache's tensors, measured. ``needed_bytes`` hold tokens that will be read again, ``padding_bytes``
            stand before the prompts of rows that run, ``ended_bytes`` belong to rows that have ended; they add up.
        peak_bytes: the most that was held after any step so far, before a batch gave it back.
        transient_bytes: the same with the tensor that a concatenation replaces, modelled: old and new of one tensor.
        pool_bytes: what the other lanes have, and batches are planned for.
        mark: running sums, as the other lanes have them.
        outputs: every sample of every prompt, in their order.
        left_out: prompts that this lane does not run (beam searches).
        why_not: why the lane runs nothing, or not on; empty if it does.
        done: nothing is left to do after this step.
    """

    step: int
    batch: int
    batches: int
    rows: tuple[LaneRow, ...]
    length: int
    longest: int
    waiting: tuple[int, ...]
    bytes: int
    needed_bytes: int
    padding_bytes: int
    ended_bytes: int
    peak_bytes: int
    transient_bytes: int
    pool_bytes: int
    mark: Mark
    outputs: tuple[LaneOutput, ...]
    left_out: tuple[int, ...]
    implementation: str
    why_not: str
    done: bool

    @property
    def generated(self) -> int:
        """Tokens written so far."""
        return self.mark.tokens

    @property
    def seconds(self) -> float:
        """Spent inside steps, measured."""
        return self.mark.seconds

    @property
    def share(self) -> float | None:
        """Share of the held bytes that hold tokens which are still needed; None while nothing is held."""
        return self.needed_bytes / self.bytes if self.bytes else None

    @property
    def words(self) -> str:
        """What is seen, in sentences."""
        return lane_words(self)


class _Record(NamedTuple):
    """What a step left behind. Everything else follows from it: a row writes one token per pass until it ends."""

    batch: int = 0
    passes: int = 0
    held: tuple[Held, ...] = ()
    peak_bytes: int = 0
    transient_bytes: int = 0
    mark: Mark = Mark()


class GrowingLane:
    """Static batches on transformers' own cache. Not thread-safe.

    A model that can't do it makes a lane that is done from the beginning and says why (`LaneState.why_not`).

    Raises:
        SettingError: a prompt does not suit the model or the settings.
    """

    def __init__(self, model: LoadedModel, settings: Settings) -> None:
        self._model = model
        self._bytes_per_token = model.geometry.kv_bytes_per_token
        positions = settings.num_blocks * settings.block_size
        self._pool_bytes = positions * self._bytes_per_token
        self._rows = make_rows(model, settings)
        self._batches = plan_batches(self._rows, positions)
        self._left_out = tuple(number for number, prompt in enumerate(settings.prompts) if prompt.beams)
        self._batch: Batch | None = None
        self._closed = False
        self._why_not = ""
        self._own: OwnAttention | None = None
        self._implementation = ""
        waiting = len({row.prompt for row in self._rows})
        self._records = [_Record(mark=Mark(waiting=waiting))]
        try:
            self._own = own_attention(model)
            self._implementation = self._own.implementation
        except OwnAttentionError as error:
            self._why_not = str(error)

    @property
    def last_step(self) -> int:
        return len(self._records) - 1

    @property
    def marks(self) -> list[Mark]:
        """Running sums after every step, from 0."""
        return [record.mark for record in self._records]

    @property
    def seconds(self) -> float:
        """Spent inside steps so far, measured."""
        return self._records[-1].mark.seconds

    @property
    def done(self) -> bool:
        return self._closed or bool(self._why_not) or all(row.ended for row in self._rows)

    def advance(self) -> None:
        """One forward pass, if there is anything left to do: the prompts of a batch, or a token for each of its rows.

        A pass that fails, for want of memory perhaps, ends this lane and no other: it says why.
        """
        if self.done or self._own is None:
            return
        try:
            self._records.append(self._step(self._own))
        except Exception as error:
            log.exception("transformers' own cache failed at step %d", self.last_step + 1)
            self._batch = None
            self._why_not = f"It stopped after step {self.last_step:,}: {str(error) or type(error).__name__}"

    def _step(self, own: OwnAttention) -> _Record:
        before = self._records[-1]
        began = time.perf_counter()
        number, passes = before.batch, before.passes
        if self._batch is None:
            number = before.batch + 1 if before.passes else 0
            passes, self._batch = 0, Batch(own, self._model, self._batches[number])
        batch = self._batch
        old = batch.largest_tensor()
        generated = batch.step()
        held = batch.held()
        # All is on the host by now, because the sampled tokens are: this is the whole step.
        seconds = time.perf_counter() - began
        size = sum(part.bytes for part in held)
        if batch.done:
            self._batch, held = None, ()
        record = _Record(
            batch=number,
            passes=passes + 1,
            held=held,
            peak_bytes=max(before.peak_bytes, size),
            transient_bytes=max(before.transient_bytes, size + old),
        )
        needed, padding, ended = _uses(held, self._shown(record))
        slots, used = (needed + padding + ended) // self._bytes_per_token, needed // self._bytes_per_token
        waiting, mark = len(self._waiting(record)), before.mark
        running = sum(not row.ended for row in batch.rows)
        return record._replace(
            mark=Mark(
                running=running,
                waiting=waiting,
                peak=max(mark.peak, generated),
                token_slots=mark.token_slots + used,
                held_slots=mark.held_slots + slots,
                busy_token_slots=mark.busy_token_slots + (used if waiting else 0),
                busy_held_slots=mark.busy_held_slots + (slots if waiting else 0),
                tokens=mark.tokens + generated,
                seconds=mark.seconds + seconds,
            )
        )

    def at(self, step: int) -> LaneState:
        """The lane after a step; one that is done stays as it was."""
        step = min(max(0, step), self.last_step)
        record = self._records[step]
        rows = self._shown(record)
        needed, padding, ended = _uses(record.held, rows)
        is_last = step == self.last_step
        planned = self._batches[record.batch] if rows else []
        return LaneState(
            step=step,
            batch=record.batch,
            batches=len(self._batches),
            rows=rows,
            length=rows[0].padding + rows[0].prompt_tokens + record.passes - 1 if rows else 0,
            longest=longest(planned) if planned else 0,
            waiting=self._waiting(record),
            bytes=needed + padding + ended,
            needed_bytes=needed,
            padding_bytes=padding,
            ended_bytes=ended,
            peak_bytes=record.peak_bytes,
            transient_bytes=record.transient_bytes,
            pool_bytes=self._pool_bytes,
            mark=record.mark,
            outputs=self._outputs(record, is_last and bool(self._why_not)),
            left_out=self._left_out,
            implementation=self._implementation,
            why_not=self._why_not if is_last else "",
            done=is_last and self.done,
        )

    def close(self) -> None:
        """Ends the run and gives its memory back; its history can still be read."""
        self._closed = True
        self._batch = self._own = None

    # -- what a record means ---------------------------------------------------------------------------------------

    def _shown(self, record: _Record) -> tuple[LaneRow, ...]:
        """The rows that hold memory."""
        if not record.held:
            return ()
        return tuple(
            LaneRow(
                row.prompt,
                row.sample,
                row.padding,
                row.prompt_tokens,
                min(record.passes, row.max_tokens),
                row.max_tokens,
                record.passes >= row.max_tokens,
            )
            for row in self._batches[record.batch]
        )

    def _waiting(self, record: _Record) -> tuple[int, ...]:
        first = record.batch + 1 if record.passes else 0
        return tuple(dict.fromkeys(row.prompt for batch in self._batches[first:] for row in batch))

    def _outputs(self, record: _Record, failed: bool) -> tuple[LaneOutput, ...]:
        found = []
        for number, batch in enumerate(self._batches):
            passes = record.passes if number == record.batch else 0
            for row in batch:
                count = row.max_tokens if number < record.batch else min(passes, row.max_tokens)
                found.append(_output(row, count, failed))
        return tuple(found)


def _output(row: Row, count: int, failed: bool) -> LaneOutput:
    status = "f" if count >= row.max_tokens else "x" if failed else "r" if count else "w"
    first = row.prompt_tokens
    ids = row.sequence.token_ids[first : first + count]
    text = row.text[: row.ends[count - 1]] if count else ""
    return LaneOutput(row.prompt, row.sample, status, first, ids, row.max_tokens, text)


def _uses(held: tuple[Held, ...], rows: tuple[LaneRow, ...]) -> tuple[int, int, int]:
    """Bytes that hold tokens still needed, that are padding of rows that run, and that belong to rows that have ended.

    A layer with a sliding window holds only the last positions of every row: those to the left, padding first, go.
    """
    needed = padding = ended = 0
    for positions, size in held:
        per_position = size // (len(rows) * positions)
        for row in rows:
            if row.ended:
                ended += positions * per_position
                continue
            # The last token that was written has not been computed yet: it is the next pass's input.
            stored = min(positions, row.prompt_tokens + row.output_tokens - 1)
            needed += stored * per_position
            padding += (positions - stored) * per_position
    return needed, padding, ended
