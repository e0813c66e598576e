"""The Lab's controls and panels, and their wiring."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.context import Context

from workbench_app.controls import unchecked
from workbench_app.lab.desk import LabDesk
from workbench_app.lab.experiments import EXPERIMENTS
from workbench_app.lab.handlers import FILLED, NONE_BESIDE, LabHandlers, progress_json, question_words
from workbench_app.lab.settings import BLOCK_SIZES, LENGTHS, LINK_MB, MODEL_LEN, POOL_TOKENS, REPETITIONS, REQUESTS
from workbench_app.settings import SEED
from workbench_app.stage import PLOTLY_JS
from workbench_app.store import SessionStore

STATIC = Path(__file__).with_name("static")
_FIRST = next(iter(EXPERIMENTS))
#: Inputs in the order of `workbench_app.lab.settings.parse_lab`.
_FIELDS = ("experiment", "values", *FILLED, "repetitions", "seed")


def lab_runs_at_once() -> int:
    """Runs of all visitors at once. One takes about one core; live runs and the server need the others."""
    return max(1, (os.cpu_count() or 1) // 4)


def _read(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")


def _plotly_url() -> str:
    gr.set_static_paths([PLOTLY_JS])
    return f"gradio_api/file={PLOTLY_JS.as_posix()}?v={int(PLOTLY_JS.stat().st_mtime)}"


def lab_tab(store: SessionStore) -> None:
    """Builds the Lab inside an open tab (or blocks), and wires its events."""
    desk = LabDesk(lambda: store.model, lab_runs_at_once(), others_busy=lambda: store.any_running)
    handlers = LabHandlers(store, desk)
    gr.HTML(f"<style>{_read('lab.css')}</style>", elem_id="kvw-lab-style", padding=False)
    with gr.Row(elem_id="kvw-lab"):
        with gr.Column(elem_id="kvw-lab-controls"):
            question, inputs = _controls()
        with gr.Column(elem_id="kvw-lab-results"):
            with gr.Row(elem_id="kvw-lab-buttons"):
                run = gr.Button("Run the experiment", variant="primary", elem_id="kvw-lab-run", min_width=170)
                cancel = gr.Button("Cancel", elem_id="kvw-lab-cancel", min_width=80)
            progress = _panel("progress", progress_json(None), "kvw-lab-progress")
            with gr.Row():
                shown = unchecked(
                    gr.Dropdown(
                        [], label="Run shown", info="Runs of this tab are kept until it is closed.", interactive=False
                    )
                )
                beside = unchecked(
                    gr.Dropdown(
                        [("Nothing", NONE_BESIDE)],
                        value=NONE_BESIDE,
                        label="Beside it",
                        info="A second run in the same charts.",
                        interactive=False,
                    )
                )
            findings = _panel("findings", "", "kvw-lab-findings", plotly_url=_plotly_url())
    # No limit, and no waiting in Gradio's queue: the Lab has a line of its own, which the page shows.
    common: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": None}
    fields = [inputs[name] for name in _FIELDS]
    run.click(
        handlers.run,
        fields,
        [progress, findings, shown, beside],
        api_name="lab_run",
        trigger_mode="multiple",
        **common,
    )
    cancel.click(handlers.cancel, None, None, api_name="lab_cancel", trigger_mode="multiple", **common)
    inputs["experiment"].input(
        handlers.choose,
        inputs["experiment"],
        [question, inputs["values"], *(inputs[name] for name in FILLED)],
        api_name="lab_experiment",
        trigger_mode="always_last",
        **common,
    )
    gr.on(
        [shown.input, beside.input],
        handlers.show,
        [shown, beside],
        findings,
        api_name="lab_show",
        trigger_mode="always_last",
        **common,
    )
    if Context.root_block is not None:
        Context.root_block.unload(handlers.drop)


def _panel(name: str, value: str, elem_id: str, **props: Any) -> gr.HTML:
    """An element that is never rendered again: its script is told of new values."""
    return gr.HTML(
        value,
        html_template=_read(f"{name}.html"),
        js_on_load=_read(f"{name}.js"),
        apply_default_css=False,
        elem_id=elem_id,
        **props,
    )


def _controls() -> tuple[gr.Markdown, dict[str, Any]]:
    first = EXPERIMENTS[_FIRST]
    start = {"requests": 16, "lengths": "mixed", "pool_tokens": 1024, "block_size": 16, "max_model_len": 512}
    start |= {"link_mb": 1000, **first.defaults}
    inputs: dict[str, Any] = {}
    inputs["experiment"] = unchecked(
        gr.Radio(
            [(e.name, e.key) for e in EXPERIMENTS.values()],
            value=_FIRST,
            label="Experiment",
            info="One thing is varied; requests, seed and everything else stay the same.",
            elem_id="kvw-lab-experiment",
        )
    )
    question = gr.Markdown(question_words(first), elem_id="kvw-lab-question")
    inputs["values"] = unchecked(
        gr.CheckboxGroup(
            [(first.label(value), value) for value in first.values],
            value=list(first.start),
            label=f"{first.varied}: what is varied",
            info="Each ticked value is one run of all requests.",
            elem_id="kvw-lab-values",
        )
    )
    with gr.Accordion("What stays the same", open=True):
        inputs |= _fixed(start, first.uses)
    return question, inputs


def _written(choices: list[Any]) -> list[Any]:
    return [(f"{choice:,}", choice) if isinstance(choice, int) else choice for choice in choices]


def _fixed(start: dict[str, Any], uses: frozenset[str]) -> dict[str, Any]:
    def radio(name: str, choices: list[Any], label: str, info: str) -> Any:
        return unchecked(gr.Radio(_written(choices), value=start[name], label=label, info=info, visible=name in uses))

    inputs: dict[str, Any] = {}
    inputs["requests"] = unchecked(
        gr.Slider(*REQUESTS, value=start["requests"], step=1, label="Requests", info="How many come.")
    )
    inputs["lengths"] = radio(
        "lengths",
        [(choice.words, key) for key, choice in LENGTHS.items()],
        "Lengths",
        "How long prompts and outputs are, drawn with the seed.",
    )
    inputs["pool_tokens"] = radio(
        "pool_tokens", list(POOL_TOKENS), "Pool size (slots)", "One slot holds the keys and values of one token."
    )
    inputs["block_size"] = radio(
        "block_size",
        list(BLOCK_SIZES),
        "Block size (slots per page)",
        "Memory is handed out in pages of so many slots.",
    )
    inputs["max_model_len"] = radio(
        "max_model_len", list(MODEL_LEN), "Longest sequence (tokens)", "What Max reserves for every request."
    )
    inputs["link_mb"] = radio(
        "link_mb",
        list(LINK_MB),
        "Link speed that adaptive assumes (MB/s)",
        "Adaptive swaps if moving the pages is expected to take less time than computing them again, at 2,000 prompt "
        "tokens per second. Both are assumed, not measured, so that its decisions are repeatable.",
    )
    with gr.Accordion("Advanced", open=False):
        inputs["repetitions"] = unchecked(
            gr.Slider(
                *REPETITIONS,
                value=1,
                step=1,
                label="Repetitions",
                info="Times are medians of so many runs; what is counted must be the same in all.",
            )
        )
        inputs["seed"] = unchecked(
            gr.Number(
                0,
                label=f"Seed ({SEED[0]} to {SEED[1]:,})",
                info="Decides lengths, prompts and outputs. The same seed gives the same counts.",
                precision=0,
            )
        )
    return inputs
