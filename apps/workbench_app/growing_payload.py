"""The third lane as small JSON for the browser; ``static/lane.js`` draws it."""

from __future__ import annotations

from typing import Any

from workbench.events.types import ModelGeometry
from workbench_app.growing import LaneState
from workbench_app.growing_words import count, left_out_words, plan_words, waiting_words
from workbench_app.settings import Settings
from workbench_app.words import megabytes, rate, share

TITLE = "transformers, growing cache"
_SUBTITLE = "no pool: one padded batch, its keys and values grow by concatenation; rows that have ended stay"


def lane_payload(state: LaneState, settings: Settings, geometry: ModelGeometry, tail: int | None) -> dict[str, Any]:
    """What `KVW.LaneView` draws.

    ``rows``: ``[prompt, sample or -1, padding, prompt_tokens, output_tokens, max_tokens, ended]`` of the present batch.
    ``limit``: positions per row at which the batch would hold as much as the pool. ``texts``: see `lane_cells`.
    ``waste``: bytes needed, padding, of rows that have ended.
    """
    samples = [prompt.samples for prompt in settings.prompts]
    pool_positions = state.pool_bytes // geometry.kv_bytes_per_token
    rows = [
        [row.prompt, row.sample if samples[row.prompt] > 1 else -1, *row[2:6], int(row.ended)] for row in state.rows
    ]
    why = waiting_words(state)
    if state.waiting and not state.rows:
        why = f"the {'next' if state.generated else 'first'} batch begins with the next step."
    return {
        "step": state.step,
        "title": TITLE,
        "subtitle": _SUBTITLE,
        "pool": f"no pool; the other lanes have {megabytes(state.pool_bytes)}",
        "attention": state.implementation,
        "stats": _stats(state),
        "rows": rows,
        "length": state.length,
        "longest": state.longest,
        "limit": pool_positions // len(rows) if rows else 0,
        "waste": [state.needed_bytes, state.padding_bytes, state.ended_bytes],
        "waiting": list(state.waiting),
        "why": why,
        "extra": [text for text in (plan_words(state), _peak_words(state), left_out_words(state)) if text],
        "whyNot": state.why_not,
        "words": state.words,
        "texts": lane_cells(state, tail),
    }


def lane_cells(state: LaneState, tail: int | None = None) -> list[list[Any]]:
    """A row per output: ``[prompt, status, prompt_tokens, output_tokens, max_tokens, positions held, 0, text, reason,
    sample, 0]``, as `workbench.views.request_rows` has them, so that the same card can show both."""
    present = {(row.prompt, row.sample) for row in state.rows}
    rows: list[list[Any]] = []
    for output in state.outputs:
        text = output.text
        if tail is not None and len(text) > tail:
            text = "…" + text[-tail:]
        held = state.length if (output.prompt, output.sample) in present else 0
        reason = state.why_not if output.status == "x" else ""
        numbers = [output.prompt_tokens, len(output.token_ids), output.max_tokens, held, 0]
        rows.append([output.prompt, output.status, *numbers, text, reason, output.sample, 0])
    return rows


def _stats(state: LaneState) -> list[list[str]]:
    mark = state.mark
    speed = mark.tokens / mark.seconds if mark.seconds else None
    ended = sum(row.ended for row in state.rows)
    mean = f"mean {share(mark.mean_share)}" if mark.mean_share is not None else ""
    if mark.busy_share is not None:
        mean += f"; {share(mark.busy_share)} while others waited"
    running = f"peak {mark.peak}" + (f"; {count(ended, 'ended row')} still held" if ended else "")
    batch = f"batch {state.batch + 1} of {state.batches}" if state.batches > 1 else ""
    return [
        ["Running now", str(mark.running), running],
        ["Waiting", str(len(state.waiting)), batch],
        ["Held memory in use", share(state.share), mean],
        [
            "Tokens per second",
            rate(speed),
            f"{mark.tokens:,} in {mark.seconds:.1f} s, measured" if mark.seconds else "",
        ],
        ["Held memory", megabytes(state.bytes), f"peak {megabytes(state.peak_bytes)}, measured"],
    ]


def _peak_words(state: LaneState) -> str:
    if not state.transient_bytes:
        return ""
    words = (
        "While a layer's keys or values are put together, old and new exist at once: "
        f"{megabytes(state.transient_bytes)} at the most so far (modelled)"
    )
    over = state.transient_bytes > state.pool_bytes
    return words + (f", more than the {megabytes(state.pool_bytes)} of the other lanes." if over else ".")
