"""The Gradio component on which everything moves: one HTML element that is never rendered again, fed with frames."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import plotly

from workbench.views.payload import map_constants
from workbench.views.scripts import MAP_SCRIPTS
from workbench.views.scripts import STATIC as VIEWS_STATIC

STATIC = Path(__file__).with_name("static")
PLOTLY_JS = Path(plotly.__file__).with_name("package_data") / "plotly.min.js"
_OWN = (
    *("history.js", "side.js", "texts.js", "lane.js", "transport.js", "share.js", "film.js", "stage.js", "watch.js"),
    "tabs.js",
)
#: Those that the page shares with notebooks and saved HTML files come first.
SCRIPTS = (
    *(VIEWS_STATIC / name for name in MAP_SCRIPTS),
    *(STATIC / name for name in _OWN),
)

#: Style sheets of the page.
STYLES = (STATIC / "app.css", STATIC / "lane.css", STATIC / "learn.css")

#: The quoted event names are how Gradio learns which events this component sends.
_ON_LOAD = (
    "KVW.mountStage(element, props, watch, "
    "(what, data) => what === 'scrub' ? trigger('scrub', data) : trigger('act', data));"
)


def file_url(path: Path) -> str:
    """The address of a file that the app serves."""
    # The time of the last change keeps browsers from showing an older version's file.
    return f"gradio_api/file={path.as_posix()}?v={int(path.stat().st_mtime)}"


def head() -> str:
    """The scripts of the page. Plotly and all others come from this machine, not from a network."""
    gr.set_static_paths([STATIC, VIEWS_STATIC, PLOTLY_JS])
    return "".join(f'<script src="{file_url(path)}"></script>' for path in (PLOTLY_JS, *SCRIPTS))


def stage_html() -> str:
    """What a stage is made of, before the first frame."""
    return (STATIC / "stage.html").read_text(encoding="utf-8")


def make_stage(film: str | None = None) -> gr.HTML:
    """Page maps, numbers, texts and the transport bar. Sends the events ``scrub`` (a step) and ``act``.

    The template holds no placeholders, so a new value renders nothing: the script is told about it and updates Plotly
    charts and text that stay where they are.
    (Not a subclass of `gr.HTML`: Gradio writes a ``.pyi`` file beside the module of every subclass.)

    Args:
        film: the address of a recording that plays until the first frame arrives.
    """
    return gr.HTML(
        "",
        html_template=stage_html(),
        js_on_load=_ON_LOAD,
        head=head(),
        apply_default_css=False,
        elem_id="kvw-stage",
        constants=map_constants(),
        film=film or "",
    )
