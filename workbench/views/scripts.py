"""Where the scripts and styles lie that draw views in a browser: in the app, in notebooks, in saved HTML files."""

from __future__ import annotations

from pathlib import Path

#: The folder that a server has to serve.
STATIC = Path(__file__).with_name("static")

#: What a page map needs, in the order in which they must be loaded (after plotly.js).
MAP_SCRIPTS = ("core.js", "delta.js", "map_modes.js", "map_words.js", "map_overlay.js", "map_input.js", "page_map.js")

#: What the viewer needs, in the order in which they must be loaded (after plotly.js).
VIEWER_SCRIPTS = (
    *MAP_SCRIPTS,
    *(f"viewer_{part}.js" for part in ("dom", "transport", "pages", "sequence", "lists", "charts", "film")),
    "viewer.js",
)
VIEWER_STYLES = ("viewer.css",)
