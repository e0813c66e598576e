"""Starting the app: from Python, from `workbench app`, or on Hugging Face Spaces (see ``apps/app.py``)."""

from __future__ import annotations

import argparse
import gc
import os
import webbrowser
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

# Must be set before gradio is imported: the app talks to nobody but its visitors.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr

from workbench_app.presets import PRESETS
from workbench_app.services import Services
from workbench_app.setting_checks import SettingError
from workbench_app.settings import Limits, parse_settings
from workbench_app.stage import STYLES
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
    loaded = load_model(model, dtype="float32" if model == BUNDLED else "auto")
    # All libraries are there now, and stay. To look through their half a million objects in every full garbage
    # collection would hold all visitors up for half a second (docs/benchmarks.md).
    gc.collect()
    gc.freeze()
    return loaded


def make_services(model: str | LoadedModel = "tiny", **options: Any) -> Services:
    """All that stands behind the page, over one copy of the weights.

    Args:
        model: "tiny", a directory, a hub id, or a model that is loaded already.
        options: see `SessionStore`.
    """
    return Services(SessionStore((lambda: _load(model)) if isinstance(model, str) else (lambda: model), **options))


def launch_options(services: Services) -> dict[str, Any]:
    """Arguments for ``Blocks.launch``: look, routes beside Gradio's, and no network."""
    theme = gr.themes.Default(font=_FONTS, font_mono=_MONO, text_size="sm", spacing_size="sm", primary_hue="blue")
    return {
        "theme": theme,
        "css_paths": list(STYLES),
        "footer_links": ["settings"],  # the choice of light or dark
        "run_history": False,
        "share": False,
        "ssr_mode": False,
        "app_kwargs": {"routes": services.routes()},
    }


def build(services: Services) -> gr.Blocks:
    """The app as Gradio blocks, to be launched with `launch_options`."""
    return build_ui(services)


def launch(
    host: str = "127.0.0.1",
    port: int = 7860,
    open_browser: bool = True,
    model: str = "tiny",
    block: bool = True,
    recordings: Sequence[str] = (),
    **options: Any,
) -> gr.Blocks:
    """Serves the app, and loads the model meanwhile.

    Args:
        host: address to listen on; "0.0.0.0" lets a class in.
        port: must be free.
        block: wait until the server ends (Ctrl+C).
        recordings: files to open in the tab Explore; their addresses are printed.
        options: see `SessionStore`.

    Raises:
        OSError, RecordingError: a recording can't be opened.
    """
    services = make_services(model, **options)
    opened = [(path, services.explore.open_path(path)) for path in recordings]
    demo = build(services)
    demo.launch(
        server_name=host,
        server_port=port,
        inbrowser=open_browser and not opened,
        prevent_thread_lock=True,
        show_error=True,
        **launch_options(services),
    )
    services.film.make_in_background()  # now, because Gradio gives its server only three seconds to answer
    for path, key in opened:
        address = f"{demo.local_url}?tab=explore&source={key}"
        print(f"{path}: {address}", flush=True)
        if open_browser:
            webbrowser.open(address)
    print(f"Loading the model {model!r} ...", flush=True)
    try:
        geometry = services.sessions.model.geometry
    except BaseException:
        demo.close()
        raise
    print(f"{geometry.architecture}, {geometry.kv_bytes_per_token:,} bytes of KV cache per token.", flush=True)
    if block:
        demo.block_thread()
    return demo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `workbench app`."""
    limits = Limits()
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="port (default: %(default)s)")
    parser.add_argument("--model", default="tiny", help="tiny, a model directory, or a hub id (default: %(default)s)")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    parser.add_argument(
        "--open", action="append", default=[], metavar="FILE.kvtrace", help="open a recording; may be repeated"
    )
    group = parser.add_argument_group("limits for each visitor")
    group.add_argument("--max-visitors", type=int, default=40, help="with engines at once; more wait in line [40]")
    group.add_argument("--idle-seconds", type=float, default=600.0, help="until an unused run is closed [600]")
    group.add_argument("--max-pages", type=int, default=limits.pages, help="pages in a pool [%(default)s]")
    group.add_argument("--max-requests", type=int, default=limits.requests, help="requests in a run [%(default)s]")
    group.add_argument(
        "--run-seconds", type=float, default=limits.seconds, help="of computing in a run, all lanes [%(default)s]"
    )


def _check_presets(limits: Limits) -> None:
    """All presets can be run under these limits.

    Raises:
        ValueError: one can't.
    """
    for preset in PRESETS.values():
        try:
            parse_settings(**preset.fields, limits=limits)
        except SettingError as error:
            least = f"--max-requests {limits.requests}, --max-pages {limits.pages}"
            raise ValueError(f"{least}: too little for the preset {preset.name!r}. {error}") from error


def main(args: argparse.Namespace) -> int:
    """Runs the app until it is interrupted."""
    for name in ("max_visitors", "max_pages", "max_requests", "idle_seconds", "run_seconds"):
        if getattr(args, name) <= 0:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(args, name)}: must be above 0")
    limits = Limits(args.max_pages, args.max_requests, args.max_requests, args.run_seconds)
    _check_presets(limits)
    launch(
        args.host,
        args.port,
        not args.no_browser,
        args.model,
        recordings=args.open,
        max_sessions=args.max_visitors,
        idle_seconds=args.idle_seconds,
        limits=limits,
    )
    return 0
