"""The page: its tabs, and what they share."""

from __future__ import annotations

import gradio as gr

from workbench_app.class_tab import class_tab
from workbench_app.compare_tab import compare_tab
from workbench_app.explore_tab import explore_head, explore_tab
from workbench_app.lab.tab import lab_tab
from workbench_app.learn import LEARN_SCRIPTS, learn_head, learn_tab
from workbench_app.services import Services
from workbench_app.stage import file_url
from workbench_app.stage import head as stage_head

_TITLE = "KV Workbench"


def build_ui(services: Services) -> gr.Blocks:
    """The whole page. Loads the model when the first visitor comes, if it isn't there yet."""
    gr.set_static_paths([*LEARN_SCRIPTS])
    with gr.Blocks(title=_TITLE, analytics_enabled=False, fill_width=True) as demo:
        gr.Markdown(f"# {_TITLE}", elem_id="kvw-title")
        with gr.Tabs(elem_id="kvw-tabs"):
            with gr.Tab("Compare", id="compare"):
                compare_tab(demo, services)
            with gr.Tab("Explore", id="explore"):
                explore_tab(stage_head() + explore_head(file_url))
            with gr.Tab("Lab", id="lab"):
                lab_tab(services.sessions)
            with gr.Tab("Learn", id="learn"):
                learn_tab()
            with gr.Tab("Class", id="class"):
                class_tab()
        # Which element Gradio makes first is chance, and no script loads twice: each head begins with what it needs.
        scripts = stage_head() + learn_head(file_url) + explore_head(file_url)
        gr.HTML("", head=scripts, visible="hidden", elem_id="kvw-scripts")
    demo.queue(default_concurrency_limit=40)
    return demo
