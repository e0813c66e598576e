"""Starting the app: from Python, from `workbench app`, or on Hugging Face Spaces (see ``apps/app.py``)."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

# Must be set before gradio is imported: the app talks to nobody but its visitors.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr

from workbench_app.stage import STATIC
from workbench_app.store import SessionStore
from workbench_app.ui import build_ui

if TYPE_CHECKING:
    from workbench.models.loading import LoadedModel

_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Liberation Sans", "Arial", "sans-serif")
_MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace")


def step_threads() -> int:
    """Threads for one engine step. The bundled model is so small that waiting for each other costs more than it gains,
    and browser and server need a core too."""
    return max(1, min(4, (os.cpu_count() or 1) // 2))


def _load(model: str) -> LoadedModel:
    import torch

    from workbench.models import load_model
    from workbench.models.loading import BUNDLED

    torch.set_num_threads(step_threads())
    # On a GPU, too: in half precision the two sides' batches would round differently, and their texts part sometimes.
    return load_model(model, dtype="float32" if model == BUNDLED else "auto")


def make_store(model: str | LoadedModel = "tiny", **options: Any) -> SessionStore:
    """A store of sessions over one copy of the weights.

    Args:
        model: "tiny", a directory, a hub id, or a model that is loaded already.
        options: see `SessionStore`.
    """
    return SessionStore((lambda: _load(model)) if isinstance(model, str) else (lambda: model), **options)


def launch_options() -> dict[str, Any]:
    """Arguments for ``Blocks.launch``: look, and no network."""
    theme = gr.themes.Default(font=_FONTS, font_mono=_MONO, text_size="sm", spacing_size="sm", primary_hue="blue")
    return {
        "theme": theme,
        "css_paths": [STATIC / "app.css"],
        "footer_links": ["settings"],  # the choice of light or dark
        "run_history": False,
        "share": False,
        "ssr_mode": False,
    }


def build(model: str | LoadedModel = "tiny", store: SessionStore | None = None) -> gr.Blocks:
    """The app as Gradio blocks, to be launched with `launch_options`."""
    return build_ui(store if store is not None else make_store(model))


def launch(
    host: str = "127.0.0.1", port: int = 7860, open_browser: bool = True, model: str = "tiny", block: bool = True
) -> gr.Blocks:
    """Loads the model and serves the app.

    Args:
        host: address to listen on; "0.0.0.0" lets a class in.
        port: must be free.
        block: wait until the server ends (Ctrl+C).
    """
    store = make_store(model)
    print(f"Loading the model {model!r} ...", flush=True)
    geometry = store.model.geometry
    print(f"{geometry.architecture}, {geometry.kv_bytes_per_token:,} bytes of KV cache per token.", flush=True)
    demo = build(store=store)
    demo.launch(
        server_name=host,
        server_port=port,
        inbrowser=open_browser,
        prevent_thread_lock=not block,
        show_error=True,
        **launch_options(),
    )
    return demo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `workbench app`."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="port (default: %(default)s)")
    parser.add_argument("--model", default="tiny", help="tiny, a model directory, or a hub id (default: %(default)s)")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")


def main(args: argparse.Namespace) -> int:
    """Runs the app until it is interrupted."""
    launch(args.host, args.port, not args.no_browser, args.model)
    return 0
