"""Short texts of the course as plain text and as HTML: paragraphs, `code` and **bold**, nothing else."""

from __future__ import annotations

import html
import re
from typing import Any

#: Colours that keep a contrast of 3:1 to a white and to a dark page (Okabe-Ito); text itself is never coloured.
GOOD, BAD, NEUTRAL = "#009E73", "#D55E00", "#0072B2"
_LONGEST = 400


def to_html(text: str) -> str:
    """HTML of a short text: blank lines separate paragraphs, `code` and **bold** are kept, all else is escaped."""
    paragraphs = (part for part in re.split(r"\n\s*\n", text.strip()) if part)
    return "".join(f"<p style='margin:.4em 0'>{_inline(part)}</p>" for part in paragraphs)


def _inline(text: str) -> str:
    pieces = re.split(r"(`[^`]+`)", text)
    return "".join(
        f"<code>{html.escape(piece[1:-1])}</code>"
        if piece.startswith("`") and len(piece) > 2
        else re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", html.escape(piece)).replace("\n", "<br>")
        for piece in pieces
    )


def box(color: str, body: str) -> str:
    """``body`` (HTML) with a stroke at its left; the words say what the colour says."""
    return f"<div style='border-left:4px solid {color};padding:.1em .8em;margin:.4em 0'>{body}</div>"


def shown(value: Any) -> str:
    """A value in few words: text as it is, numbers to five digits, all else as its `repr`, cut where it gets long."""
    if isinstance(value, str):
        text = value
    elif isinstance(value, float):
        text = f"{value:.5g}"
    else:
        try:
            text = repr(value)
        except Exception as error:
            text = f"<{type(value).__name__} whose repr raises {type(error).__name__}>"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} … ({len(text):,} characters)"


class Said:
    """Something that shows itself as text in a terminal and as HTML in a notebook."""

    def _plain(self) -> str:
        raise NotImplementedError

    def _repr_html_(self) -> str:
        return box(NEUTRAL, to_html(self._plain()))

    def __repr__(self) -> str:
        # Not within code: there ** is a power.
        pieces = re.split(r"(`[^`]+`)", self._plain())
        return "".join(p.strip("`") if p.startswith("`") else p.replace("`", "").replace("**", "") for p in pieces)

    def __str__(self) -> str:
        return repr(self)
