"""The Gradio component on which everything moves: one HTML element that is never rendered again, fed with frames."""

from __future__ import annotations

from pathlib import Path

import gradio as gr
import plotly

from workbench.views.payload import CAUSES
from workbench.views.scripts import MAP_SCRIPTS
from workbench.views.scripts import STATIC as VIEWS_STATIC
from workbench.views.words import CAUSE_WORDS

STATIC = Path(__file__).with_name("static")
PLOTLY_JS = Path(plotly.__file__).with_name("package_data") / "plotly.min.js"
#: Those that the page shares with notebooks and saved HTML files come first.
SCRIPTS = (
    *(VIEWS_STATIC / name for name in MAP_SCRIPTS),
    *(STATIC / name for name in ("history.js", "side.js", "texts.js", "stage.js")),
)

#: The quoted event name is how Gradio learns which events this component sends.
_ON_LOAD = "KVW.mountStage(element, props, watch, (step) => trigger('scrub', { step }));"


def _url(path: Path) -> str:
    # The time of the last change keeps browsers from showing an older version's file.
    return f"gradio_api/file={path.as_posix()}?v={int(path.stat().st_mtime)}"


def make_stage() -> gr.HTML:
    """Page maps, numbers, texts and the scrub bar. Sends the event ``scrub`` with a step.

    The template holds no placeholders, so a new value renders nothing: the script is told about it and updates Plotly
    charts and text that stay where they are. Plotly and the scripts come from this machine, not from a network.
    (Not a subclass of `gr.HTML`: Gradio writes a ``.pyi`` file beside the module of every subclass.)
    """
    gr.set_static_paths([STATIC, VIEWS_STATIC, PLOTLY_JS])
    scripts = [PLOTLY_JS, *SCRIPTS]
    return gr.HTML(
        "",
        html_template=(STATIC / "stage.html").read_text(encoding="utf-8"),
        js_on_load=_ON_LOAD,
        head="".join(f'<script src="{_url(path)}"></script>' for path in scripts),
        apply_default_css=False,
        elem_id="kvw-stage",
        causes=[CAUSE_WORDS[cause] for cause in CAUSES],
    )
