"""A sequence larger than the device's pool: the same tokens with ever less memory, and what that costs."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from workbench.engine import LLM, EngineConfig, SamplingParams
from workbench.events.types import BlocksStreamed
from workbench.experiments.driver import progress
from workbench.experiments.tables import heading, markdown_table, percent
from workbench.models import LoadedModel, load_model
from workbench.workloads import prompt_source


@dataclass
class StreamRow:
    """One pool.

    Attributes:
        share: of the sequence's pages that the pool holds.
        decode_rate, prefill_rate: tokens per second; ``slowest_decode_ms``: the median is 1 / ``decode_rate``.
        bytes_per_token: read from the host tier per generated token, mean; ``prefill_bytes``: for the whole prompt.
        first_difference: of the output tokens, the first that differs from those with the whole sequence on the device;
            None if all are equal.
        different_tokens: in the output; few mean that it goes in circles, so that equal tokens prove little.
        is_exact: False where only some pages were read (``attention_pages``).
    """

    share: float
    num_blocks: int
    attention_pages: int | None
    prefill_rate: float
    decode_rate: float
    bytes_per_token: float
    prefill_bytes: int
    swapped_out_bytes: int
    equal_tokens: int
    output_tokens: int
    first_difference: int | None
    is_exact: bool
    different_tokens: int


@dataclass
class _Run:
    tokens: list[int]
    prefill_seconds: float
    decode_seconds: list[float]
    prefill_bytes: int
    decode_bytes: list[int]
    swapped_out_bytes: int


def _run(model: LoadedModel, prompt: list[int], new_tokens: int, config: EngineConfig) -> _Run:
    with LLM(model, config) as llm:
        llm.warm_up()
        params = SamplingParams(max_tokens=new_tokens, temperature=0, ignore_eos=True)
        started = last = time.perf_counter()
        request = llm.add_request(prompt, params)
        prefill, prefill_bytes = 0.0, 0
        decodes: list[float] = []
        streamed: list[int] = []
        while llm.has_unfinished:
            batch = llm.step()
            now = time.perf_counter()
            moved = sum(event.bytes for event in batch.events if isinstance(event, BlocksStreamed))
            produced = len(llm.output(request).outputs[0].token_ids)
            if produced <= 1:
                prefill, prefill_bytes = now - started, prefill_bytes + moved
            else:
                decodes.append(now - last)
                streamed.append(moved)
            last = now
        output = llm.output(request)
        if output.error is not None:
            raise ValueError(output.error)
        totals = llm.page_map.totals
        return _Run(output.outputs[0].token_ids, prefill, decodes, prefill_bytes, streamed, totals.swapped_out_bytes)


def measure_stream(
    model: LoadedModel,
    prompt: list[int],
    new_tokens: int,
    pools: Sequence[int],
    *,
    block_size: int = 16,
    staging_blocks: int = 64,
    placement: str = "oldest",
    top_k: Sequence[int] = (),
    chunk: int = 512,
    attention: str = "auto",
) -> list[StreamRow]:
    """One greedy sequence on a pool that just holds it, and on every smaller pool of ``pools`` pages.

    Args:
        top_k: on the smallest pool also with only so many pages read per step (``attention_pages``); not exact.
        chunk: most prompt tokens of a step.
    """
    total = len(prompt) + new_tokens - 1
    whole = -(-total // block_size)
    rows: list[StreamRow] = []
    cases: list[tuple[int, int | None]] = [(whole, None), *((pool, None) for pool in pools if pool < whole)]
    cases += [(min(pools), pages) for pages in top_k] if pools else []
    reference: list[int] = []
    for num_blocks, pages in cases:
        config = EngineConfig(
            block_size=block_size,
            num_blocks=num_blocks,
            num_host_blocks=whole + 1,
            max_model_len=total + 1,
            max_num_batched_tokens=chunk,
            max_num_seqs=1,
            watermark=0.0,
            staging_blocks=staging_blocks,
            placement=placement,
            attention_pages=pages,
            attention=attention,
            device=model.device.type,
        )
        result = _run(model, prompt, new_tokens, config)
        reference = reference or result.tokens
        same = [a == b for a, b in zip(result.tokens, reference, strict=True)]
        rows.append(
            StreamRow(
                share=min(1.0, num_blocks / whole),
                num_blocks=num_blocks,
                attention_pages=pages,
                prefill_rate=len(prompt) / result.prefill_seconds,
                decode_rate=1 / statistics.median(result.decode_seconds),
                bytes_per_token=statistics.mean(result.decode_bytes),
                prefill_bytes=result.prefill_bytes,
                swapped_out_bytes=result.swapped_out_bytes,
                equal_tokens=sum(same),
                output_tokens=len(same),
                first_difference=None if all(same) else same.index(False),
                is_exact=pages is None,
                different_tokens=len(set(result.tokens)),
            )
        )
        progress(f"{num_blocks} pages: {rows[-1].decode_rate:,.1f} tokens/s, {sum(same)} of {len(same)} tokens equal")
    return rows


def assert_equal(rows: Sequence[StreamRow]) -> None:
    """Raises `RuntimeError` if a pool that reads all pages gave another token than the whole sequence on the device."""
    wrong = [row for row in rows if row.is_exact and row.first_difference is not None]
    if wrong:
        raise RuntimeError(
            f"a pool of {wrong[0].num_blocks} pages gave another token at position {wrong[0].first_difference}"
        )


def stream_markdown(rows: Sequence[StreamRow]) -> str:
    columns = (
        "device pool, of the sequence", "pages", "pages read per step", "tokens equal", "prompt tokens/s",
        "output tokens/s", "against all on the device", "MiB streamed per token", "MiB streamed for the prompt",
        "MiB moved out",
    )  # fmt: skip
    mib = 2**20
    return markdown_table(
        columns,
        [
            (
                percent(r.share), f"{r.num_blocks:,}", "all" if r.attention_pages is None else r.attention_pages,
                f"{r.equal_tokens} of {r.output_tokens}"
                + ("" if r.first_difference is None else f" (first difference at {r.first_difference})"),
                f"{r.prefill_rate:,.0f}", f"{r.decode_rate:,.1f}", f"{r.decode_rate / rows[0].decode_rate:.2f}x",
                f"{r.bytes_per_token / mib:.2f}", f"{r.prefill_bytes / mib:,.1f}", f"{r.swapped_out_bytes / mib:.1f}",
            )
            for r in rows
        ],
    )  # fmt: skip


def run(
    model: str,
    device: str,
    dtype: str,
    attention: str,
    context: int,
    new_tokens: int,
    shares: list[float],
    pool_tokens: list[int],
    block_size: int,
    staging_blocks: int,
    chunk: int,
    placement: str,
    top_k: list[int],
    corpus: Path | None,
    seed: int,
    quick: bool,
    **shape: int,
) -> str:
    """Runs everything and returns the report as Markdown. ``model`` is a name, a directory, or "random" (``shape``)."""
    if quick:
        context, new_tokens, pool_tokens, top_k = min(context, 256), min(new_tokens, 8), [], top_k[:1]
    if model == "random":
        from workbench.benchmarks.gpu import Shape

        loaded = Shape(**shape).load(device, getattr(torch, dtype), max(context, 4096), pack=True)
    else:
        loaded = load_model(model, device, dtype if device == "cuda" else "auto")
    if context <= new_tokens:
        raise ValueError(f"--context {context}: must be above --new-tokens {new_tokens}")
    source = prompt_source(loaded.tokenizer, loaded.geometry.vocab_size, corpus)
    prompt = source.draw(random.Random(seed), context - new_tokens)
    whole = -(-(context - 1) // block_size)
    pools = [max(2, tokens // block_size) for tokens in pool_tokens] or [
        max(2, round(share * whole)) for share in shares
    ]
    rows = measure_stream(
        loaded, prompt, new_tokens, pools, block_size=block_size, staging_blocks=staging_blocks, placement=placement,
        top_k=top_k, chunk=chunk, attention=attention,
    )  # fmt: skip
    if loaded.dtype == torch.float32:
        assert_equal(rows)
    host = "pinned host memory" if loaded.device.type == "cuda" else "a second pool in the same memory"
    equal = all(row.first_difference is None for row in rows if row.is_exact)
    return "\n\n".join(
        (
            heading("workbench bench stream", loaded),
            f"Measured: one greedy sequence of {len(prompt):,} + {new_tokens} tokens ({source.about}), pages of "
            f"{block_size}, {staging_blocks} staging pages, prompt chunks of at most {chunk} tokens, placement "
            f"{placement!r}; the host tier is {host}. Rows that read all pages are exact up to rounding: their tokens "
            f"{'are all equal' if equal else 'are NOT all equal'}; the output has {rows[0].different_tokens} different "
            "ones. Rates of output are 1 / the median step.",
            stream_markdown(rows),
        )
    )
