"""Where the scripts and styles lie that draw views in a browser: in the app, in notebooks, in saved HTML files."""

from __future__ import annotations

from pathlib import Path

#: The folder that a server has to serve.
STATIC = Path(__file__).with_name("static")
