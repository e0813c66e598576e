"""What a model really looks at: runs of the engine that note how much attention every page gets, and their pictures."""

from __future__ import annotations

import contextlib
import io
import random
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from workbench import LLM, EngineConfig, SamplingParams
from workbench.course.lessons.bundled import tiny
from workbench.events import Timeline
from workbench.events.types import PageMassSampled
from workbench.experiments.selection import SelectionRow, measure_selection
from workbench.views import palette
from workbench.workloads import BundledText


@dataclass(frozen=True)
class LongRun:
    """One request, run to its end.

    Attributes:
        prompt: its token ids; ``output`` what was written.
    """

    history: Timeline
    prompt: list[int]
    output: list[int]
    block_size: int


def long_run(seed: int, *, tokens: int = 240, steps: int = 16, block_size: int = 16, **config: Any) -> LongRun:
    """A prompt of so many tokens, and ``steps`` tokens written greedily, with the attention of every page noted.

    Args:
        config: further settings of `EngineConfig`, such as ``attention_pages``.
    """
    prompt = BundledText(tiny().tokenizer).draw(random.Random(f"long run {seed}"), tokens)
    settings: dict[str, Any] = {"page_mass_every": 1, "num_blocks": 2 + (tokens + steps) // block_size, "device": "cpu"}
    with LLM(tiny(), EngineConfig(block_size=block_size, **(settings | config))) as llm:
        history = Timeline(llm.bus)
        params = SamplingParams(max_tokens=steps, temperature=0, ignore_eos=True)
        output = llm.generate([prompt], params)[0].outputs[0].token_ids
    return LongRun(history, prompt, list(output), block_size)


def masses(run: LongRun) -> list[tuple[int, list[float]]]:
    """Of every token decoded: its position, and how much of its attention each page got."""
    steps = range(run.history.first_step, run.history.last_step + 1)
    events = (event for step in steps for event in run.history.events(step))
    return [(event.query, list(event.mass)) for event in events if isinstance(event, PageMassSampled)]


def mass_figure(run: LongRun) -> go.Figure:
    """A row per token decoded, a column per page; the number is the page's share in percent."""
    found = masses(run)
    width = max(len(mass) for _, mass in found)
    z = [[100 * m for m in mass] + [None] * (width - len(mass)) for _, mass in found]
    text = [["" if value is None else f"{value:.0f}" for value in row] for row in z]
    heat = go.Heatmap(
        z=z, text=text, texttemplate="%{text}", colorscale=palette.SEQUENTIAL, zmin=0, xgap=1, ygap=1,
        x=list(range(width)), y=[query for query, _ in found], colorbar={"title": "percent"},
    )  # fmt: skip
    layout = go.Layout(
        template="none", height=120 + 18 * len(found), paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
        xaxis={"title": "logical page", "dtick": 1}, yaxis={"title": "position of the token", "autorange": "reversed"},
        title={"text": "Attention mass per page (measured, mean over layers and heads)", "font": {"size": 14}},
        uirevision="mass",
    )  # fmt: skip
    return go.Figure(heat, layout)


def selection_rows(counts: list[int], *, seed: int = 0, tokens: int = 160, steps: int = 8) -> list[SelectionRow]:
    """`workbench bench selection` in small: one prompt, ``steps`` tokens, with so many pages per head."""
    prompt = BundledText(tiny().tokenizer).draw(random.Random(f"long run {seed}"), tokens)
    with contextlib.redirect_stderr(io.StringIO()):  # its progress
        return measure_selection(tiny(), [prompt], counts, new_tokens=steps)
