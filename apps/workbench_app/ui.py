"""The page: controls, the stage, and what happens when somebody presses something."""

from __future__ import annotations

from typing import Any

import gradio as gr

from workbench_app.controls import unchecked
from workbench_app.handlers import Handlers, choose_preset
from workbench_app.presets import DEFAULT_PRESET, PRESETS, Preset
from workbench_app.settings import (
    BLOCK_SIZES,
    MAX_PROMPTS,
    MODEL_LEN,
    OUTPUT_TOKENS,
    POLICIES,
    POOL_STEP,
    POOL_TOKENS,
    SEED,
    SPEED,
    TEMPERATURE,
)
from workbench_app.stage import make_stage
from workbench_app.store import SessionStore

_TITLE = "KV Workbench"
_INTRO = (
    "The same requests run through the same language model twice, on equal memory: left, the KV cache is handed out "
    "in pages; right, each request reserves one contiguous region. Every number is measured on the two running engines."
)
_POLICY_HELP = (
    "How much a request reserves on the right. **Max**: the longest sequence allowed. **Pow2**: its prompt, plus its "
    "output length rounded up to a power of two. **Oracle**: exactly what it will need, which no real server can know."
)
_PROMPT_HELP = (
    f"One request per line, at most {MAX_PROMPTS}. End a line with | 120 to let that request write 120 tokens, "
    "or with | 120 x4 to have it continued four times."
)
_KEYS = "Keys: **space** runs and pauses, **←** steps back, **→** steps on."


def build_ui(store: SessionStore) -> gr.Blocks:
    """The whole page. Loads the model when the first visitor comes, if it isn't there yet."""
    handlers = Handlers(store)
    start = PRESETS[DEFAULT_PRESET]
    with gr.Blocks(title=_TITLE, analytics_enabled=False, fill_width=True) as demo:
        gr.Markdown(f"# {_TITLE}\n{_INTRO}", elem_id="kvw-title")
        with gr.Row(elem_id="kvw-page"):
            with gr.Column(elem_id="kvw-presets", min_width=200):
                inputs = _preset_choice(start)
            with gr.Column(elem_id="kvw-settings", min_width=200), gr.Accordion("Memory and requests", open=True):
                inputs |= _settings(start)
            with gr.Column(elem_id="kvw-main", min_width=200):
                with gr.Row(elem_id="kvw-buttons"):
                    run = gr.Button("Run", variant="primary", elem_id="kvw-run", size="sm", min_width=70)
                    pause = gr.Button("Pause", elem_id="kvw-pause", size="sm", min_width=70)
                    back = gr.Button("← Step back", elem_id="kvw-back", size="sm", min_width=100)
                    step = gr.Button("Step →", elem_id="kvw-step", size="sm", min_width=70)
                    reset = gr.Button("Reset", elem_id="kvw-reset", size="sm", min_width=70)
                    gr.Markdown(_KEYS, elem_id="kvw-keys")
                hint = gr.Markdown("", elem_id="kvw-hint")
                stage = make_stage()
        _wire(
            demo,
            handlers,
            inputs,
            {"run": run, "pause": pause, "back": back, "step": step, "reset": reset},
            hint,
            stage,
        )
    demo.queue(default_concurrency_limit=40)
    return demo


def _preset_choice(start: Preset) -> dict[str, Any]:
    choices = [(preset.name, key) for key, preset in PRESETS.items()]
    preset = unchecked(gr.Radio(choices, value=DEFAULT_PRESET, label="Preset", elem_id="kvw-preset"))
    point = gr.Markdown(start.point, elem_id="kvw-point")
    with gr.Column(elem_id="kvw-pace", min_width=150):
        speed = unchecked(gr.Slider(*SPEED, value=15, step=1, label="Speed (steps per second)"))
        unlimited = gr.Checkbox(False, label="As fast as possible", container=False)
    return {"preset": preset, "point": point, "speed": speed, "unlimited": unlimited}


def _settings(start: Preset) -> dict[str, Any]:
    inputs: dict[str, Any] = {}
    inputs["policy"] = unchecked(
        gr.Radio([(name, key) for key, name in POLICIES.items()], value="max", label="Reservation (right side)")
    )
    gr.Markdown(_POLICY_HELP, elem_classes="kvw-help")
    inputs["pool_tokens"] = unchecked(
        gr.Slider(
            *POOL_TOKENS,
            value=start.pool_tokens,
            step=POOL_STEP,
            label="Pool size per side (slots)",
        )
    )
    inputs["pool_words"] = gr.Markdown("", elem_classes="kvw-help", elem_id="kvw-pool-words")
    inputs["block_size"] = unchecked(
        gr.Radio(list(BLOCK_SIZES), value=start.block_size, label="Block size (slots per page)")
    )
    inputs["max_model_len"] = unchecked(
        gr.Slider(*MODEL_LEN, value=start.max_model_len, step=32, label="Longest sequence (what Max reserves)")
    )
    inputs["output_tokens"] = unchecked(
        gr.Slider(
            *OUTPUT_TOKENS, value=start.output_tokens, step=1, label="Output length (tokens, where a prompt sets none)"
        )
    )
    inputs["prompts"] = gr.Textbox(
        start.prompts, label="Prompts", info=_PROMPT_HELP, lines=6, max_lines=10, elem_id="kvw-prompts"
    )
    with gr.Accordion("Advanced", open=False):
        inputs["temperature"] = unchecked(
            gr.Slider(*TEMPERATURE, value=0.8, step=0.05, label="Temperature (0 = most likely token)")
        )
        inputs["seed"] = unchecked(gr.Number(0, label=f"Seed ({SEED[0]} to {SEED[1]:,})", precision=0))
    return inputs


#: Inputs in the order of `workbench_app.settings.parse_settings`.
_FIELDS = (
    "prompts",
    "output_tokens",
    "pool_tokens",
    "block_size",
    "policy",
    "max_model_len",
    "temperature",
    "seed",
)


def _wire(
    demo: gr.Blocks,
    handlers: Handlers,
    inputs: dict[str, Any],
    buttons: dict[str, gr.Button],
    hint: Any,
    stage: gr.HTML,
) -> None:
    fields = [inputs[name] for name in _FIELDS]
    pace = [inputs["speed"], inputs["unlimited"]]
    shown = [stage, hint]
    # "multiple": a press while an older one is still being answered counts. No limit: nobody waits for a neighbour.
    common: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": None}
    press = {**common, "trigger_mode": "multiple"}
    latest = {**common, "trigger_mode": "always_last"}

    buttons["run"].click(handlers.run, [*pace, *fields], shown, api_name="run", **press)
    buttons["step"].click(handlers.step, fields, shown, api_name="step", **press)
    buttons["pause"].click(handlers.pause, None, shown, api_name="pause", **press)
    buttons["back"].click(handlers.back, None, shown, api_name="back", **press)
    buttons["reset"].click(handlers.reset, fields, shown, api_name="reset", **press)
    stage.scrub(handlers.scrub, None, shown, api_visibility="private", **latest)
    gr.on([control.change for control in pace], handlers.set_speed, pace, None, api_name="set_speed", **latest)

    inputs["preset"].input(
        choose_preset,
        inputs["preset"],
        [inputs[n] for n in ("point", "prompts", "output_tokens", "pool_tokens", "block_size", "max_model_len")],
        api_name="preset",
        **latest,
    )
    changes = [component.change for name, component in inputs.items() if name in _FIELDS]
    gr.on(
        [demo.load, *changes],
        handlers.changed,
        fields,
        [*shown, inputs["pool_words"]],
        api_name="changed",
        **latest,
    )
    demo.unload(handlers.drop)
