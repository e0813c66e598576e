"""What a kernel of lesson 5 reads of the pool, load by load: as planned, and as it really was."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from workbench.course.lessons.paged_scene import Scene
from workbench.course.lessons.triton_grading import attend
from workbench.course.lessons.triton_puzzles import DEVICE, HAS_TRITON, is_stub
from workbench.views.palette import request_color


def reads(kernel: Any, scene: Scene, sequence: int, *, heads: bool = False) -> list[list[int]]:
    """The slots of the pool from which a kernel really loaded keys for one sequence, load by load (interpreter only).

    Empty where nothing can be recorded: a kernel that is not written yet, a GPU, no Triton.
    """
    if is_stub(kernel) or not HAS_TRITON or DEVICE != "cpu":
        return []
    _, record, _ = attend(kernel, scene, heads=heads)
    row = scene.k_cache.shape[2] * scene.k_cache.shape[3]
    return [sorted({int(n) // row for n in numbers}) for numbers in record.read("k", (sequence, 0))]


def planned_reads(scene: Scene, sequence: int) -> list[list[int]]:
    """The slots that the block table says should be read, page by page."""
    size, length = scene.block_size, scene.lengths[sequence]
    table = scene.block_tables[sequence].tolist()
    return [
        [table[i] * size + offset for offset in range(min(size, length - i * size))]
        for i in range(scene.pages(sequence))
    ]


def reads_figure(scene: Scene, steps: list[list[int]], title: str) -> go.Figure:
    """The pool, a row per page, at every load: "now" is read, "•" was read before. The slider needs no Python."""
    pages, size = scene.k_cache.shape[:2]

    def grid(step: int) -> go.Heatmap:
        z = [[0] * size for _ in range(pages)]
        text = [[""] * size for _ in range(pages)]
        for number, slots in enumerate(steps[: step + 1]):
            for slot in slots:
                z[slot // size][slot % size] = 2 if number == step else 1
                text[slot // size][slot % size] = "now" if number == step else "•"
        scale = [[0, "rgba(128,128,128,.15)"], [0.5, request_color(1)], [1, request_color(0)]]
        return go.Heatmap(
            z=z, text=text, texttemplate="%{text}", colorscale=scale, zmin=0, zmax=2, showscale=False, xgap=1, ygap=1
        )

    def words(step: int) -> dict[str, Any]:
        touched = sorted({slot // size for slot in steps[step]})
        names = ", ".join(map(str, touched))
        return {"text": f"{title}: load {step + 1} of {len(steps)}, page {names}", "font": {"size": 14}}

    frames = [go.Frame(data=[grid(i)], name=str(i), layout={"title": words(i)}) for i in range(len(steps))]
    slider = {
        "steps": [
            {"label": str(i + 1), "method": "animate", "args": [[str(i)], {"mode": "immediate"}]}
            for i in range(len(steps))
        ],
        "currentvalue": {"prefix": "load "},
    }
    layout = go.Layout(
        template="none", height=110 + 22 * pages, sliders=[slider], title=words(0) if steps else title,
        xaxis={"title": "slot", "dtick": 1}, yaxis={"title": "page", "autorange": "reversed", "dtick": 1},
        paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)", uirevision="reads",
    )  # fmt: skip
    return go.Figure(data=[grid(0)] if steps else [], frames=frames, layout=layout)
