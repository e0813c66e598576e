"""Pictures of KV memory: pure functions from a `PageMap` to small data, words, and Plotly figures.

Nothing here touches an engine. A live run, a recording and somebody else's recording look the same.
"""

from workbench.views.block_table import block_table_view
from workbench.views.block_tables import block_tables_view
from workbench.views.compare import Comparison, compare_outputs
from workbench.views.contiguous import contiguous_view
from workbench.views.figures import page_map_figure, waste_figure
from workbench.views.flow import flow_view
from workbench.views.page_life import page_life_view
from workbench.views.page_map import page_map_view, zoom_window
from workbench.views.palette import request_color, request_label
from workbench.views.payload import map_payload, request_rows
from workbench.views.preemption import preemption_view
from workbench.views.replay_html import ReplayFile, show_replay, write_replay_html
from workbench.views.request_life import request_life_view
from workbench.views.series import RunSeries
from workbench.views.sharing_tree import sharing_tree_view
from workbench.views.timeline import timeline_view
from workbench.views.view import Table, View
from workbench.views.words import blocked_words, map_words, waste_words

__all__ = [
    "Comparison",
    "ReplayFile",
    "RunSeries",
    "Table",
    "View",
    "block_table_view",
    "block_tables_view",
    "blocked_words",
    "compare_outputs",
    "contiguous_view",
    "flow_view",
    "map_payload",
    "map_words",
    "page_life_view",
    "page_map_figure",
    "page_map_view",
    "preemption_view",
    "request_color",
    "request_label",
    "request_life_view",
    "request_rows",
    "sharing_tree_view",
    "show_replay",
    "timeline_view",
    "waste_figure",
    "waste_words",
    "write_replay_html",
    "zoom_window",
]
