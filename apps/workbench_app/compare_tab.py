"""The tab "Compare": settings, buttons, the stage, and what happens when somebody presses something."""

from __future__ import annotations

from typing import Any

import gradio as gr

from workbench_app.controls import unchecked
from workbench_app.handlers import KEPT, Handlers, choose_preset
from workbench_app.learn_help import CONTROL_HELP
from workbench_app.presets import DEFAULT_PRESET, FIELDS, PRESETS, Preset
from workbench_app.services import FILM_URL, Services
from workbench_app.settings import (
    BLOCK_SIZES,
    HOST_TOKENS,
    MODEL_LEN,
    OUTPUT_TOKENS,
    POLICIES,
    POOL_STEP,
    POOL_TOKENS,
    PREEMPTION,
    SEED,
    SPEED,
    TEMPERATURE,
    TEXTS,
    TEXTS_PER_PROMPT,
    Limits,
)
from workbench_app.stage import make_stage

_INTRO = (
    "The same requests run through the same language model twice, on equal memory. **Left**: the KV cache is handed "
    "out in pages. **Right**: each request reserves one contiguous region. All numbers are measured."
)
_KEYS = "Keys: **space** runs and pauses, **←** **→** step, **?** lists all."


def compare_tab(demo: gr.Blocks, services: Services) -> None:
    """Builds the tab's content where it is called."""
    store = services.sessions
    film = FILM_URL if services.film.exists else None
    handlers = Handlers(services)
    start = PRESETS[DEFAULT_PRESET]
    gr.Markdown(_INTRO, elem_id="kvw-intro")
    with gr.Row(elem_id="kvw-page"):
        with gr.Column(elem_id="kvw-presets", min_width=200):
            inputs = _preset_choice(start)
        with gr.Column(elem_id="kvw-settings", min_width=200), gr.Accordion("Memory and requests", open=True):
            inputs |= _settings(start, store.limits)
        with gr.Column(elem_id="kvw-main", min_width=200):
            with gr.Row(elem_id="kvw-buttons"):
                buttons = {
                    "run": gr.Button("Run", variant="primary", elem_id="kvw-run", size="sm", min_width=70),
                    "pause": gr.Button("Pause", elem_id="kvw-pause", size="sm", min_width=70),
                    "back": gr.Button("← Step back", elem_id="kvw-back", size="sm", min_width=100),
                    "step": gr.Button("Step →", elem_id="kvw-step", size="sm", min_width=70),
                    "reset": gr.Button("Reset", elem_id="kvw-reset", size="sm", min_width=70),
                    "share": gr.Button("Share with a class", elem_id="kvw-share", size="sm", min_width=140),
                }
                gr.Markdown(_KEYS, elem_id="kvw-keys")
            hint = gr.Markdown("", elem_id="kvw-hint")
            stage = make_stage(film)
    _wire(demo, handlers, inputs, buttons, hint, stage)


def _help(label: str) -> str | None:
    return next((text for beginning, text in CONTROL_HELP.items() if label.startswith(beginning)), None)


def _preset_choice(start: Preset) -> dict[str, Any]:
    choices = [(preset.name, key) for key, preset in PRESETS.items()]
    preset = unchecked(
        gr.Radio(choices, value=DEFAULT_PRESET, label="Preset", info=_help("Preset"), elem_id="kvw-preset")
    )
    point = gr.Markdown(start.point, elem_id="kvw-point")
    with gr.Column(elem_id="kvw-pace", min_width=150):
        label = "Speed (steps per second)"
        speed = unchecked(gr.Slider(*SPEED, value=15, step=1, label=label, info=_help(label)))
        label = "As fast as possible"
        unlimited = gr.Checkbox(False, label=label, info=_help(label), container=False)
    return {"preset": preset, "point": point, "speed": speed, "unlimited": unlimited}


def _settings(start: Preset, limits: Limits) -> dict[str, Any]:
    inputs: dict[str, Any] = {}

    def slider(name: str, limits: tuple[float, float], step: float, label: str) -> None:
        value = getattr(start, name)
        inputs[name] = unchecked(gr.Slider(*limits, value=value, step=step, label=label, info=_help(label)))

    def radio(name: str, names: dict[str, str], label: str) -> None:
        choices = [(text, key) for key, text in names.items()]
        inputs[name] = unchecked(gr.Radio(choices, value=getattr(start, name), label=label, info=_help(label)))

    radio("policy", POLICIES, "Reservation (right side)")
    slider("pool_tokens", POOL_TOKENS, POOL_STEP, "Pool size per side (slots)")
    inputs["pool_words"] = gr.Markdown("", elem_id="kvw-pool-words")
    label = "Block size (slots per page)"
    inputs["block_size"] = unchecked(
        gr.Radio(list(BLOCK_SIZES), value=start.block_size, label=label, info=_help(label))
    )
    slider("max_model_len", MODEL_LEN, 32, "Longest sequence (what Max reserves)")
    slider("output_tokens", OUTPUT_TOKENS, 1, "Output length (tokens, where a prompt sets none)")
    prompt_help = (
        f"One request per line, at most {limits.requests}. End a line with | 120 to let that request write 120 tokens, "
        "with | 120 x4 to have it continued four times, with | 120 b4 for a search with four beams."
    )
    inputs["prompts"] = gr.Textbox(
        start.prompts, label="Prompts", info=prompt_help, lines=6, max_lines=10, elem_id="kvw-prompts"
    )
    with gr.Accordion("Sharing, swapping, third lane", open=False, elem_id="kvw-more"):
        radio("texts", TEXTS, "Each prompt asks for")
        slider("texts_per_prompt", TEXTS_PER_PROMPT, 1, "How many samples or beams")
        for name, label in (
            ("prefix_caching", "Prefix caching (left side)"),
            ("growing", "Third lane: transformers' own cache"),
        ):
            box = gr.Checkbox(getattr(start, name), label=label, info=_help(label))
            inputs[name] = unchecked(box)
            if name == "prefix_caching":
                slider("host_tokens", HOST_TOKENS, POOL_STEP, "Host tier (slots, left side)")
                radio("preemption", PREEMPTION, "When memory runs out (left side)")
    with gr.Accordion("Advanced", open=False):
        slider("temperature", TEMPERATURE, 0.05, "Temperature (0 = most likely token)")
        label = f"Seed ({SEED[0]} to {SEED[1]:,})"
        inputs["seed"] = unchecked(gr.Number(start.seed, label=label, precision=0, info=_help(label)))
    return inputs


def _wire(
    demo: gr.Blocks,
    handlers: Handlers,
    inputs: dict[str, Any],
    buttons: dict[str, gr.Button],
    hint: Any,
    stage: gr.HTML,
) -> None:
    fields = [inputs[name] for name in FIELDS]
    pace = [inputs["speed"], inputs["unlimited"]]
    preset = inputs["preset"]
    shown = [stage, hint]
    # "multiple": a press while an older one is still being answered counts. No limit: nobody waits for a neighbour.
    common: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": None}
    press = {**common, "trigger_mode": "multiple"}
    latest = {**common, "trigger_mode": "always_last"}

    buttons["run"].click(handlers.run, [*pace, preset, *fields], shown, api_name="run", **press)
    buttons["step"].click(handlers.step, [preset, *fields], shown, api_name="step", **press)
    buttons["pause"].click(handlers.pause, None, shown, api_name="pause", **press)
    buttons["back"].click(handlers.back, None, shown, api_name="back", **press)
    buttons["reset"].click(handlers.reset, fields, shown, api_name="reset", **press)
    buttons["share"].click(handlers.share, None, shown, api_name="share", **press)
    stage.scrub(handlers.scrub, None, shown, api_visibility="private", **latest)
    stage.act(handlers.act, None, shown, api_visibility="private", **press)
    gr.on([control.change for control in pace], handlers.set_speed, pace, None, api_name="set_speed", **latest)

    chosen = [inputs["point"], *(inputs[name] for name in FIELDS if name not in KEPT)]
    preset.input(choose_preset, preset, chosen, api_name="preset", **latest)
    gr.on(
        [inputs[name].change for name in FIELDS],
        handlers.changed,
        fields,
        [*shown, inputs["pool_words"]],
        api_name="changed",
        **latest,
    )
    opened = demo.load(handlers.open_link, None, [preset, inputs["point"], *fields], api_visibility="private", **common)
    opened.then(handlers.run_link, [preset, *fields], shown, api_visibility="private", **common).then(
        handlers.opened, fields, [*shown, inputs["pool_words"]], api_visibility="private", **common
    )
    demo.unload(handlers.drop)
