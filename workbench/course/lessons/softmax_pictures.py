"""The online softmax, page by page: its state, and a figure with a slider."""

from __future__ import annotations

import math
from dataclasses import dataclass

import plotly.graph_objects as go
import torch
from torch import Tensor

from workbench.views.palette import request_color


@dataclass(frozen=True)
class SoftmaxStep:
    """After one page: its own largest score, the largest so far, what the past was multiplied by, and the sum."""

    page: int
    page_largest: float
    largest: float
    fade: float
    total: float
    shares: list[float]  #: of the weights seen so far, per page


def softmax_steps(pages: list[Tensor]) -> list[SoftmaxStep]:
    """What the online softmax holds after each page of scores."""
    largest, total = -math.inf, 0.0
    sums: list[float] = []
    steps = []
    for number, scores in enumerate(pages):
        top = float(scores.max())
        new = max(largest, top)
        fade = math.exp(largest - new)
        sums = [s * fade for s in sums] + [float(torch.exp(scores - new).sum())]
        largest, total = new, sum(sums)
        steps.append(SoftmaxStep(number, top, new, fade, total, [s / total for s in sums]))
    return steps


def softmax_figure(pages: list[Tensor]) -> go.Figure:
    """Bars with each page's share of the weights seen so far; the slider needs no Python."""
    steps = softmax_steps(pages)
    names = [f"page {i}" for i in range(len(pages))]

    def bars(step: SoftmaxStep) -> go.Bar:
        shares = step.shares + [0.0] * (len(pages) - len(step.shares))
        texts = [f"{share:.0%}" if i <= step.page else "not seen" for i, share in enumerate(shares)]
        colors = [request_color(0) if i < step.page else request_color(1) for i in range(len(pages))]
        return go.Bar(x=names, y=shares, text=texts, marker_color=colors, textposition="outside", cliponaxis=False)

    def title(step: SoftmaxStep) -> str:
        return (
            f"After page {step.page}: largest score {step.largest:.2f}, everything before was multiplied by "
            f"{step.fade:.3f}, sum {step.total:.2f}"
        )

    frames = [
        go.Frame(data=[bars(s)], name=str(s.page), layout={"title": {"text": title(s), "font": {"size": 14}}})
        for s in steps
    ]
    slider = {
        "steps": [
            {"label": f"page {s.page}", "method": "animate", "args": [[str(s.page)], {"mode": "immediate"}]}
            for s in steps
        ],
        "currentvalue": {"prefix": "read up to "},
    }
    layout = go.Layout(
        template="none", height=340, sliders=[slider], yaxis={"range": [0, 1.1], "title": "share of the weights"},
        title={"text": title(steps[0]), "font": {"size": 14}}, paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)", uirevision="softmax",
    )  # fmt: skip
    return go.Figure(data=[bars(steps[0])], frames=frames, layout=layout)
