"""The tab "Class": watching a run that somebody shares, while the tab "Compare" stays a sandbox of one's own."""

from __future__ import annotations

import gradio as gr

from workbench.views.payload import map_constants
from workbench_app.stage import STATIC, stage_html


def class_tab() -> None:
    """Builds the tab's content where it is called."""
    gr.HTML(
        "",
        html_template=(STATIC / "watch.html").read_text(encoding="utf-8").replace("STAGE", stage_html()),
        js_on_load="KVW.mountWatch(element, props);",
        apply_default_css=False,
        elem_id="kvw-watch",
        constants=map_constants(),
    )
