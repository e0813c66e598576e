"""Cells of a notebook as HTML: text, code with its solution folded, outputs, figures and replays."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from typing import Any

from workbench.course.edition_page import Assets

Link = Callable[[str], str]

#: Run in the kernel: a Stepper shows itself as a replay, one of a live engine as it is at the notebook's end.
SHOW_STEPPERS = "from workbench.course.edition_kernel import show_steppers\nshow_steppers()\ndel show_steppers"
#: Run after a notebook; prints a JSON list.
LATE_REPLAYS = (
    "import json\nfrom workbench.course.edition_kernel import late_replays\nprint(json.dumps(late_replays()))"
)

_FIGURE = "application/vnd.plotly.v1+json"
_WIDGET = "application/vnd.jupyter.widget-view+json"
_LATE = re.compile(r"<!-- replay (\d+) -->")
_REPLAY = re.compile(r'<iframe[^>]*height:(\d+)px[^>]*srcdoc="([^"]*)"[^>]*></iframe>', re.DOTALL)


def cell_html(student: Any, solved: Any, assets: Assets, late: list[str | None], link: Link) -> str:
    """One cell: what the student gets, and what the answer key makes of it.

    ``late``: replays of live engines, as they are at the notebook's end.
    """
    if student.cell_type == "markdown":
        return f'<section class="text">{markdown_html(student.source, link)}</section>'
    parts = [code_html(student.source)]
    if student.source != solved.source:
        parts.append(f"<details><summary>Solution</summary>{code_html(solved.source)}</details>")
    outputs = "".join(filter(None, (output_html(output, assets, late, link) for output in solved.outputs)))
    if outputs:
        parts.append(_folded(solved.source, f'<div class="outputs">{outputs}</div>'))
    return f'<section class="cell">{"".join(parts)}</section>'


def _folded(source: str, outputs: str) -> str:
    """What a reader should think about first is folded."""
    if re.search(r"\breveal\(", source):
        return f"<details><summary>Decide on your prediction, then look</summary>{outputs}</details>"
    if re.search(r"\.(solution|answer)\(", source):
        return f"<details><summary>Answer the question, then look</summary>{outputs}</details>"
    return outputs


def markdown_html(text: str, link: Link) -> str:
    from nbconvert.filters import markdown2html_mistune

    def relinked(match: re.Match[str]) -> str:
        return f'href="{html.escape(link(html.unescape(match[1])), quote=True)}"'

    made = re.sub(r'<a class="anchor-link"[^>]*>.*?</a>', "", str(markdown2html_mistune(text)))
    return re.sub(r'href="([^"]*)"', relinked, made)


def code_html(source: str) -> str:
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import PythonLexer

    return str(highlight(source, PythonLexer(), HtmlFormatter(cssclass="code")))


def output_html(output: Any, assets: Assets, late: list[str | None], link: Link) -> str:
    """One output; empty if there is nothing to see."""
    from nbconvert.filters import ansi2html

    if output.output_type == "stream":
        return "" if output.name == "stderr" else f"<pre>{ansi2html(output.text)}</pre>"
    if output.output_type == "error":
        return f'<pre class="error">{ansi2html(chr(10).join(output.traceback))}</pre>'
    data = output.data
    words = str(data.get("text/plain", ""))
    page = _LATE.sub(lambda match: late[int(match[1])] or "", data.get("text/html", ""))
    if page and (_FIGURE not in data or _REPLAY.search(page)):
        return _with_replays(page, assets)
    if _FIGURE in data:
        said = "" if words.startswith(("Figure", "FigureWidget")) else f"<figcaption>{html.escape(words)}</figcaption>"
        return f"<figure>{assets.figure(data[_FIGURE])}{said}</figure>"
    if "text/markdown" in data:
        return markdown_html(data["text/markdown"], link)
    if "image/svg+xml" in data:
        return f"<figure>{data['image/svg+xml']}</figure>"
    if "image/png" in data:
        return f'<img alt="{html.escape(words, quote=True)}" src="data:image/png;base64,{data["image/png"].strip()}">'
    if _WIDGET in data and re.match(r"\w+\(.*\)$", words, re.DOTALL):
        return "<p><em>Controls stand here in the notebook; they need a running kernel.</em></p>"
    return f"<pre>{ansi2html(words)}</pre>" if words else ""


def _with_replays(text: str, assets: Assets) -> str:
    """Replays share one viewer in the page; other HTML stays as it is."""
    return _REPLAY.sub(lambda match: assets.replay(html.unescape(match[2]), int(match[1])), text)
