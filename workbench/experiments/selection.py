"""Reading only the most promising pages (Quest, Tang et al., ICML 2024): what is lost, beside the memory saved.

Two ways of counting changed tokens, both against exact greedy decoding:

- *next token*: after the exact text, one decode step with the chosen pages only; does it pick another token?
- *free running*: outputs written with the chosen pages from beginning to end; after a first difference they are other
  texts, so what counts is how far they get.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workbench.engine import LLM, EngineConfig, SamplingParams
from workbench.events import EventBatch
from workbench.events.types import SelectionMeasured
from workbench.experiments.driver import Run, progress, run_jobs
from workbench.experiments.tables import heading, markdown_table, percent
from workbench.models import LoadedModel, load_model
from workbench.workloads import Job, prompt_source


@dataclass
class SelectionRow:
    """One length of the context, one number of pages.

    Attributes:
        pages: of a context, mean over the decode steps; ``top_k`` of them are read by each head of each layer.
        covered: share of the exact attention weights in the pages read; ``covered_low``: the tenth of the steps with
            the least are below it. Means over layers and heads.
        distance: length of the difference from exact attention's output, relative to the latter's length, mean.
        changed: next tokens that differ, of ``decisions``.
        equal_before: free running: tokens before the first difference, mean; ``same_outputs`` have none.
    """

    context: int
    pages: float
    top_k: int
    covered: float
    covered_low: float
    distance: float
    changed: int
    decisions: int
    equal_before: float
    same_outputs: int
    texts: int
    new_tokens: int

    @property
    def saved(self) -> float:
        """Share of a context's pages that a head of a layer does not read, and so need not be on the device for it."""
        return 1 - self.top_k / self.pages


@dataclass
class _Measured:
    """Collects what the engine measures in decode steps."""

    events: list[SelectionMeasured] = field(default_factory=list)

    def __call__(self, llm: LLM, batch: EventBatch) -> None:
        self.events += [event for event in batch.events if isinstance(event, SelectionMeasured)]


def _greedy(max_tokens: int) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature=0, ignore_eos=True)


def _run(
    model: LoadedModel,
    prompts: Sequence[list[int]],
    max_tokens: int,
    top_k: int | None,
    block_size: int,
    measured: _Measured | None = None,
) -> Run:
    longest = max(map(len, prompts)) + max_tokens
    config = EngineConfig(
        block_size=block_size,
        num_blocks=5 * -(-longest // block_size),
        max_num_seqs=4,
        prefix_caching=True,
        attention_pages=top_k,
        measure_selection=measured is not None,
        device=model.device.type,
    )
    return run_jobs(model, config, [Job(prompt, _greedy(max_tokens)) for prompt in prompts], measured)


def _next_tokens(
    model: LoadedModel, prompt: list[int], output: list[int], top_k: int, block_size: int
) -> tuple[int, int]:
    """Of the tokens that follow the exact text, how many are others with the chosen pages only, of how many.

    A request whose prompt is the exact text up to a token computes the next one from all pages, and the one after
    that, in its only decode step, from the chosen ones. Prefix caching spares most of the work. Prompts of one token
    more than whole pages are left out: with the rest in the cache, the engine treats that token as a decode step, too.
    """
    counts = [n for n in range(len(output) - 1) if (len(prompt) + n) % block_size != 1]
    run = _run(model, [prompt + output[:n] for n in counts], 2, top_k, block_size)
    pairs = [(tokens[0], output[n : n + 2]) for n, tokens in zip(counts, run.outputs, strict=True)]
    if any(got[0] != exact[0] for got, exact in pairs):
        raise RuntimeError("a prompt's first token, which is computed from all pages, differs: this is a bug")
    return sum(got[1] != exact[1] for got, exact in pairs), len(pairs)


def measure_selection(
    model: LoadedModel,
    prompts: Sequence[list[int]],
    top_ks: Sequence[int],
    *,
    new_tokens: int = 64,
    block_size: int = 16,
) -> list[SelectionRow]:
    """Every number of pages on prompts of one length."""
    exact = [outputs[0] for outputs in _run(model, prompts, new_tokens, None, block_size).outputs]
    rows: list[SelectionRow] = []
    for top_k in top_ks:
        measured = _Measured()
        run = _run(model, prompts, new_tokens, top_k, block_size, measured)
        if not measured.events:
            progress(f"{len(prompts[0])} tokens have no more than {top_k} pages: nothing to choose from")
            continue
        before = [
            next((i for i, (a, b) in enumerate(zip(mine[0], theirs, strict=True)) if a != b), new_tokens)
            for mine, theirs in zip(run.outputs, exact, strict=True)
        ]
        counts = [
            _next_tokens(model, prompt, output, top_k, block_size)
            for prompt, output in zip(prompts, exact, strict=True)
        ]
        covered = sorted(event.mass_covered for event in measured.events)
        rows.append(
            SelectionRow(
                context=len(prompts[0]),
                pages=statistics.mean(event.pages for event in measured.events),
                top_k=top_k,
                covered=statistics.mean(covered),
                covered_low=covered[len(covered) // 10],
                distance=statistics.mean(event.output_distance for event in measured.events),
                changed=sum(changed for changed, _ in counts),
                decisions=sum(total for _, total in counts),
                equal_before=statistics.mean(before),
                same_outputs=sum(count == new_tokens for count in before),
                texts=len(prompts),
                new_tokens=new_tokens,
            )
        )
        row = rows[-1]
        progress(
            f"{row.context} tokens, {top_k} pages: {percent(row.covered)} of the mass, "
            f"{row.changed} of {row.decisions} next tokens changed"
        )
    return rows


def selection_markdown(rows: Sequence[SelectionRow]) -> str:
    columns = (
        "context, tokens", "pages", "read by each head", "need not be on the device", "attention mass covered",
        "in the worst tenth of steps at most", "distance of the output", "next tokens changed",
        "free running: tokens before the first difference", "outputs without one",
    )  # fmt: skip
    return markdown_table(
        columns,
        [
            (
                f"{r.context:,}", f"{r.pages:.0f}", r.top_k, percent(r.saved), percent(r.covered),
                percent(r.covered_low), f"{r.distance:.3f}",
                f"{percent(r.changed / r.decisions)} ({r.changed} of {r.decisions})",
                f"{r.equal_before:.1f} of {r.new_tokens}", f"{r.same_outputs} of {r.texts}",
            )
            for r in rows
        ],
    )  # fmt: skip


def run(
    contexts: list[int],
    top_k: list[int],
    texts: int,
    new_tokens: int,
    block_size: int,
    corpus: Path | None,
    seed: int,
    quick: bool,
) -> str:
    """Runs everything and returns the report as Markdown."""
    model = load_model("tiny", device="cpu")
    if quick:
        contexts, top_k, texts, new_tokens = contexts[:1], top_k[:1], 1, min(new_tokens, 8)
    source = prompt_source(model.tokenizer, model.geometry.vocab_size, corpus)
    rows: list[SelectionRow] = []
    for context in contexts:
        rng = random.Random(seed)
        prompts = [source.draw(rng, context) for _ in range(texts)]
        rows += measure_selection(model, prompts, top_k, new_tokens=new_tokens, block_size=block_size)
    return "\n\n".join(
        (
            heading("workbench bench selection", model),
            f"Measured: {texts} prompts per length ({source.about}), {new_tokens} greedy tokens each, pages of "
            f"{block_size}. Every KV head of every layer reads the first, the most recent and the most promising other "
            "pages of its own choice; prompts are computed from all pages. Mass and distance: means over layers and "
            "heads, in free-running outputs. Next tokens: one decode step after the exact text.",
            selection_markdown(rows),
        )
    )
