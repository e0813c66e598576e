"""Entry point for Hugging Face Spaces, which expects the app in ``app.py``: ``python apps/app.py``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

# A Space runs a checkout, which need not be installed.
_HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(path) for path in (_HERE.parent, _HERE, _HERE.parent / "kernels") if str(path) not in sys.path]

from workbench_app.main import build, launch_options, make_services  # noqa: E402

services = make_services()
demo = build(services)

if __name__ == "__main__":
    demo.launch(
        server_name=os.environ.get("GRADIO_SERVER_NAME", "0.0.0.0"),
        server_port=int(os.environ.get("GRADIO_SERVER_PORT", "7860")),
        **launch_options(services),
    )
