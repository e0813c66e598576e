"""The parts of a `Stepper` that are text, as HTML: everything that comes from a run is escaped."""

from __future__ import annotations

import html
from collections.abc import Sequence

from workbench.views.view import Table
from workbench.widgets.rendered import PageTokens, Rendered

#: Most lines of events, pages of tokens, and rows of a page's life.
MAX_LINES, MAX_PAGES, MAX_ROWS = 120, 60, 12
_BOX = "border:1px solid currentColor;border-radius:3px;padding:0 2px;margin:0 1px;white-space:pre;opacity:.9"


def heading(text: str) -> str:
    """A panel's title."""
    return f'<div style="font-weight:600;margin-top:6px">{html.escape(text)}</div>'


def events_html(step: int, lines: Sequence[str]) -> str:
    """What happened in a step, as a list."""
    shown = "".join(f"<li>{html.escape(line)}</li>" for line in lines[:MAX_LINES]) or "<li>nothing</li>"
    more = f"<li>… and {len(lines) - MAX_LINES:,} more</li>" if len(lines) > MAX_LINES else ""
    title = heading(f"What happened in step {step}")
    # Only what can be scrolled to by keyboard may scroll.
    return (
        f'{title}<ol tabindex="0" aria-label="What happened in step {step}" style="max-height:15em;overflow-y:auto;'
        f'margin:0;padding-left:2.6em;line-height:1.35">{shown}{more}</ol>'
    )


def tokens_html(sequence: str | None, pages: Sequence[PageTokens], nobody: str) -> str:
    """A sequence's tokens, a line per page, the selected one with a thick edge and an arrow."""
    if sequence is None:
        return heading("Tokens") + f"<div>{html.escape(nobody)}</div>"
    first = max(0, min(len(pages) - MAX_PAGES, _selected(pages) - MAX_PAGES // 2))
    lines = []
    for page in pages[first : first + MAX_PAGES]:
        texts = "".join(f'<span style="{_BOX}">{_token(text)}</span>' for text in page.texts)
        edge = (
            "border-left:4px solid currentColor;font-weight:600;"
            if page.is_selected
            else "border-left:4px solid #0000;"
        )
        arrow = "→ " if page.is_selected else ""
        lines.append(
            f'<div style="{edge}padding-left:4px;line-height:1.6">'
            f'<span style="opacity:.8">{arrow}{page.index} in {html.escape(page.place)}:</span> {texts}</div>'
        )
    left = len(pages) - len(lines)
    more = f"<div>{left:,} more pages are not listed.</div>" if left else ""
    label = html.escape(f"Tokens of {sequence}", quote=True)
    return (
        f"{heading(f'Tokens of {sequence}, by logical page')}"
        f'<div tabindex="0" role="region" aria-label="{label}" style="max-height:22em;overflow-y:auto">'
        f"{''.join(lines)}{more}</div>"
    )


def _selected(pages: Sequence[PageTokens]) -> int:
    return next((place for place, page in enumerate(pages) if page.is_selected), len(pages))


def _token(text: str) -> str:
    shown = text.replace("\n", "↵").replace("\t", "⇥") or "·"
    return html.escape("".join(char if char.isprintable() else "�" for char in shown[:40]))


def life_html(shown: Rendered) -> str:
    """The selected page's life up to now: the newest rows of its table; "" without a page."""
    if shown.life is None or shown.selection is None:
        return ""
    rows = [row for row in shown.life.rows if isinstance(row[0], int) and row[0] <= shown.step]
    title = f"Life of {shown.selection.name}"
    if len(rows) > MAX_ROWS:
        title += f" (the last {MAX_ROWS} of {len(rows)} entries)"
    words = f"<div>{html.escape(shown.life.title)}</div>"
    return heading(title) + words + (table_html(Table(shown.life.columns, rows[-MAX_ROWS:])) if rows else "")


def table_html(table: Table) -> str:
    """A small table with its title."""
    cell = "padding:1px 8px 1px 0;text-align:left;vertical-align:top"
    head = "".join(f'<th scope="col" style="{cell}">{html.escape(name)}</th>' for name in table.columns)
    body = "".join(
        "<tr>" + "".join(f'<td style="{cell}">{_cell(value)}</td>' for value in row) + "</tr>" for row in table.rows
    )
    title = html.escape(table.title)
    caption = f'<caption style="text-align:left;font-weight:600;color:inherit">{title}</caption>' if title else ""
    return (
        f'<table style="border-collapse:collapse;line-height:1.3">{caption}<thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>"
    )


def _cell(value: str | int | float | None) -> str:
    return html.escape("" if value is None else str(value))
