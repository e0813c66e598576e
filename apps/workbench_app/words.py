"""Numbers as people read them, and messages with what they typed."""

from __future__ import annotations

import html


def megabytes(count: int) -> str:
    """A size in MB (10**6 bytes)."""
    return f"{count / 1e6:,.1f} MB"


def share(value: float | None) -> str:
    """A share as a whole percentage, or a dash if there is none."""
    return "–" if value is None else f"{100 * value:.0f} %"


def rate(value: float | None) -> str:
    """A rate with as many digits as make sense."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def message(error: object) -> str:
    """An error for Gradio's messages, which show HTML: what a visitor (or a link) wrote stays text."""
    return html.escape(str(error), quote=False)
