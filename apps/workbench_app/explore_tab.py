"""The tab "Explore": recordings and live runs, every step of them, all views linked.

`explore_tab` builds its content, one element that Gradio never renders again. `explore_head` gives the scripts and
styles that fill it; they talk to `workbench_app.routes`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import gradio as gr

from workbench.views.payload import map_constants
from workbench.views.scripts import MAP_SCRIPTS, VIEWER_SCRIPTS, VIEWER_STYLES
from workbench.views.scripts import STATIC as VIEWS_STATIC

_STATIC = Path(__file__).with_name("static")
#: Those beside the page map's, which the whole page has.
EXPLORE_SCRIPTS = (
    *(VIEWS_STATIC / name for name in VIEWER_SCRIPTS if name not in MAP_SCRIPTS),
    *(_STATIC / name for name in ("explore_source.js", "explore_save.js", "explore.js")),
)
EXPLORE_STYLES = (*(VIEWS_STATIC / name for name in VIEWER_STYLES), _STATIC / "explore.css")


def explore_head(url: Callable[[Path], str]) -> str:
    """Elements for the page's head, behind plotly.js and the page map's scripts.

    Args:
        url: says under which address a file is served.
    """
    constants = json.dumps(map_constants(), ensure_ascii=False).replace("</", "<\\/")
    styles = "".join(f'<link rel="stylesheet" href="{url(path)}">' for path in EXPLORE_STYLES)
    scripts = "".join(f'<script src="{url(path)}"></script>' for path in EXPLORE_SCRIPTS)
    return f"{styles}<script>window.KVW_CONSTANTS = {constants};</script>{scripts}"


def explore_tab(head: str = "") -> gr.HTML:
    """Builds the content inside an open `gr.Tab`.

    Args:
        head: the scripts that it needs, the page map's first; it waits for them.
    """
    gr.set_static_paths([_STATIC, VIEWS_STATIC])
    return gr.HTML(
        "",
        html_template=(_STATIC / "explore.html").read_text(encoding="utf-8"),
        js_on_load="KVW.mountExplore(element);",
        head=head,
        apply_default_css=False,
        elem_id="kvw-explore",
    )
