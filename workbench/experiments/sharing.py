"""Memory that sharing saves: parallel sampling and beam search (Kwon et al., SOSP 2023, section 6.3 and Fig. 15).

The paper counts "the number of blocks we saved by sharing divided by the number of total blocks without sharing". Here,
after every step: (pages in all block tables - different pages) / pages in all block tables, from the `PageMap`.
"""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workbench.engine import LLM, EngineConfig, SamplingParams
from workbench.events import EventBatch
from workbench.experiments.driver import progress, run_jobs
from workbench.experiments.tables import heading, markdown_table, percent
from workbench.models import LoadedModel, load_model
from workbench.workloads import Job, Lengths, PromptSource, named, prompt_source

#: Kwon et al., Fig. 15: percent saved with 2 and with 6 sequences.
PAPER = {
    ("parallel", "alpaca"): (6.1, 9.8),
    ("beam", "alpaca"): (37.6, 55.2),
    ("parallel", "sharegpt"): (16.2, 30.5),
    ("beam", "sharegpt"): (44.3, 66.3),
}


@dataclass
class SharingRow:
    """One way of decoding on one kind of lengths.

    Attributes:
        width: sequences per request.
        saved: share of pages saved, mean over the steps in the middle of the run: after as many requests are complete
            as run at once (before, most have just begun), and while others wait (afterwards, few long ones are left).
        saved_by_pages: over all steps, each weighted by its pages: sums over steps, then the quotient.
        modelled: parallel sampling: what the lengths alone say, computed, not measured.
        divergence: mean number of tokens since all sequences of a request were last the same; measured at their ends.
        sharpened: by what the model's logits were multiplied.
        certainty: beam search: probability of a token of the best beam, geometric mean over tokens and requests.
    """

    decoding: str
    lengths: str
    width: int
    requests: int
    steps: int
    mean_prompt: float
    mean_output: float
    saved: float
    saved_by_pages: float
    modelled: float | None
    divergence: float
    copies: int
    preemptions: int
    sharpened: float = 1.0
    certainty: float | None = None

    @property
    def paper(self) -> str:
        """The paper's range of this kind of decoding, for 2 to 6 sequences; OPT-13B."""
        found = PAPER.get((self.decoding, self.lengths))
        return f"{found[0]} to {found[1]} %" if found else "-"

    @property
    def distance(self) -> float:
        """Points between the measured mean and the paper's range; 0 inside it, or if there is none."""
        low, high = PAPER.get((self.decoding, self.lengths), (0.0, 100.0))
        return max(low - 100 * self.saved, 100 * self.saved - high, 0.0)


@dataclass
class SharingTable:
    rows: list[SharingRow]
    block_size: int
    about: str

    def markdown(self) -> str:
        columns = (
            "decoding", "lengths like", "sequences", "requests", "mean prompt / output", "steps",
            "saved, mean of steps", "weighted by pages", "from lengths alone (modelled)", "the paper, 2 to 6",
            "points outside", "logits times", "probability of a token",
            "tokens since the common ancestor", "pages copied", "preemptions",
        )  # fmt: skip
        return markdown_table(
            columns,
            [
                (
                    row.decoding, row.lengths, row.width, row.requests,
                    f"{row.mean_prompt:.0f} / {row.mean_output:.0f}", row.steps,
                    percent(row.saved), percent(row.saved_by_pages),
                    "-" if row.modelled is None else percent(row.modelled), row.paper, f"{row.distance:.1f}",
                    f"{row.sharpened:g}", "-" if row.certainty is None else f"{row.certainty:.2f}",
                    f"{row.divergence:.1f}", row.copies, row.preemptions,
                )
                for row in self.rows
            ],
        )  # fmt: skip


@dataclass
class _Counter:
    """Adds up pages in tables and different pages, step by step.

    Attributes:
        at_once: requests that run at once. Until so many are complete, most have just begun.
        busy: shares of the steps between that and the moment from which nobody waits.
    """

    at_once: int
    shares: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    named: int = 0
    different: int = 0

    def __call__(self, llm: LLM, batch: EventBatch) -> None:
        state = llm.page_map
        named, different = state.sharing()
        if named:
            share = 1 - different / named
            self.shares.append(share)
            if state.waiting:
                finished = len(state.requests) - len(state.waiting) - len(state.running)
                if finished >= self.at_once:
                    self.busy.append(share)
            self.named += named
            self.different += different


def modelled_saving(lengths: Sequence[Lengths], width: int, block_size: int) -> float:
    """What ``width`` samples save, weighted by pages, if only the prompt's full pages are shared: arithmetic alone."""
    saved = total = 0
    for request in lengths:
        shared = request.prompt // block_size
        for stored in range(request.prompt, request.prompt + request.output):
            total += width * -(-stored // block_size)
            saved += (width - 1) * shared
    return saved / total


def sharpen(model: LoadedModel, factor: float) -> None:
    """Multiplies the model's logits, in place: above 1 it becomes more certain, and its favourites stay the same.

    Raises:
        ValueError: the factor is not above 0, or the model has no last norm to put it into.
    """
    if not factor > 0:
        raise ValueError(f"sharpen={factor!r}: must be a number above 0")
    norm = getattr(getattr(model.model, "model", None), "norm", None)
    if norm is None or factor == 1:
        if factor != 1:
            raise ValueError(f"{model.geometry.architecture} has no last norm to multiply")
        return
    norm.weight.mul_(factor)


def sampling(decoding: str, width: int, max_tokens: int, seed: int) -> SamplingParams:
    """As the paper's workloads: outputs have a given length, so no token ends them."""
    if decoding == "beam":
        return SamplingParams(beam_width=width, n=width, temperature=0, max_tokens=max_tokens, ignore_eos=True)
    return SamplingParams(n=width, temperature=1.0, seed=seed, max_tokens=max_tokens, ignore_eos=True)


def _divergence(outputs: Sequence[Sequence[int]]) -> int:
    """Tokens after the longest common beginning."""
    common = 0
    for tokens in zip(*outputs, strict=False):
        if len(set(tokens)) > 1:
            break
        common += 1
    return min(map(len, outputs)) - common


def measure_sharing(
    model: LoadedModel,
    source: PromptSource,
    decoding: str,
    lengths: str,
    width: int,
    requests: int,
    *,
    at_once: int = 8,
    block_size: int = 16,
    seed: int = 0,
    sharpened: float = 1.0,
) -> SharingRow:
    """Runs ``requests`` requests, ``at_once`` at a time, and measures what sharing saves after every step.

    ``sharpened`` is what was done to the model (`sharpen`), for the table.
    """
    rng = random.Random(seed)
    drawn = named(lengths).draw(requests, seed)
    jobs = [
        Job(source.draw(rng, each.prompt), sampling(decoding, width, each.output, seed=1000 * i))
        for i, each in enumerate(drawn)
    ]
    longest = sorted((width * -(-(d.prompt + d.output) // block_size) for d in drawn), reverse=True)
    config = EngineConfig(
        block_size=block_size,
        num_blocks=max(64, sum(longest[:at_once])),
        max_num_seqs=at_once * width,
        device=model.device.type,
    )
    counter = _Counter(at_once)
    run = run_jobs(model, config, jobs, counter)
    best = [scores[0] for scores in run.scores if scores]  # the mean log probability: the length penalty is 1
    return SharingRow(
        decoding=decoding,
        lengths=lengths,
        width=width,
        requests=requests,
        steps=run.steps,
        mean_prompt=statistics.mean(d.prompt for d in drawn),
        mean_output=statistics.mean(d.output for d in drawn),
        saved=statistics.mean(counter.busy or counter.shares),
        saved_by_pages=1 - counter.different / counter.named,
        modelled=modelled_saving(drawn, width, block_size) if decoding == "parallel" else None,
        divergence=statistics.mean(_divergence(outputs) for outputs in run.outputs),
        copies=run.totals.blocks_copied,
        preemptions=run.totals.preemptions,
        sharpened=sharpened,
        certainty=math.exp(statistics.mean(best)) if best else None,
    )


def run(
    lengths: list[str],
    decodings: list[str],
    widths: list[int],
    requests: int,
    at_once: int,
    block_size: int,
    sharpen_by: list[float],
    seed: int,
    corpus: Path | None,
    quick: bool,
) -> str:
    """Runs everything and returns the report as Markdown."""
    model = load_model("tiny", device="cpu")
    source = prompt_source(model.tokenizer, model.geometry.vocab_size, corpus)
    if quick:
        lengths, widths, requests, sharpen_by = lengths[:1], widths[:1], min(requests, 4), sharpen_by[:1]
    table = SharingTable([], block_size, source.about)
    options = {"at_once": at_once, "block_size": block_size, "seed": seed}
    for factor in sharpen_by:
        model = load_model("tiny", device="cpu")
        sharpen(model, factor)
        for name, decoding, width in itertools.product(lengths, decodings, widths):
            row = measure_sharing(model, source, decoding, name, width, requests, sharpened=factor, **options)
            table.rows.append(row)
            progress(
                f"{decoding} {width}, {name}: {percent(row.saved)} saved, {percent(row.saved_by_pages)} by pages "
                f"(the paper: {row.paper})"
            )
    return "\n\n".join(
        (
            heading("workbench bench sharing", model),
            "Measured: pages that sharing saves, of the pages that the block tables name, after every step; the mean "
            f"is over the steps after the first {at_once} requests have ended and before the last one begins. "
            f"{requests} requests per row, {at_once} at a time, pages of {block_size} tokens, prompts: {table.about}; "
            "no token ends an output. Parallel sampling at temperature 1. The paper's figures are for OPT-13B.",
            table.markdown(),
        )
    )
