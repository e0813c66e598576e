"""The pages of the edition: one file each, no network, figures and replays drawn when they come into sight."""

from __future__ import annotations

import html
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.views.replay_html import plotly_script

_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)
_STATIC = Path(__file__).with_name("static")
_PARTS = re.compile(r'(.*id="kvw-plotly">).*?(</script>.*?id="kvw-film">)(.*?)(</script>.*)', re.DOTALL)
#: Where the page's script puts Plotly and the film into the viewer's page.
_PLOTLY_HERE, _FILM_HERE = "@@plotly@@", "@@film@@"


@dataclass
class Assets:
    """Figures, films, and the viewer that they share, in the order of the page."""

    figures: list[str] = field(default_factory=list)
    films: list[str] = field(default_factory=list)
    shell: str = ""

    def figure(self, figure: Any) -> str:
        """Keeps a figure's JSON; its place in the page."""
        layout = figure.get("layout", {})
        height = int(layout.get("height") or 450)
        self.figures.append(_harmless(figure))
        number = len(self.figures) - 1
        return f'<div class="figure" data-figure="{number}" style="min-height:{height}px"></div>'

    def replay(self, page: str, height: int) -> str:
        """Keeps the film of a replay's page; its frame.

        Raises:
            ValueError: it is no page of `workbench.views.replay_html`.
        """
        parts = _PARTS.fullmatch(page)
        if parts is None:
            raise ValueError("a replay's page is not made as this edition knows it")
        self.shell = self.shell or f"{parts[1]}{_PLOTLY_HERE}{parts[2]}{_FILM_HERE}{parts[4]}"
        self.films.append(parts[3])
        number = len(self.films) - 1
        return (
            f'<iframe class="replay" data-film="{number}" title="Step-through {number + 1}: arrow keys step both ways" '
            f'style="height:{height}px"></iframe>'
        )

    def html(self) -> str:
        """What stands at the end of the page; empty without figures and films."""
        if not self.figures and not self.films:
            return ""
        blocks = [_block("kvw-plotly", "text/plain", plotly_script())]
        if self.shell:
            blocks.append(_block("kvw-shell", "application/json", _harmless(self.shell)))
        blocks += [_block(f"kvw-figure-{i}", "application/json", text) for i, text in enumerate(self.figures)]
        blocks += [_block(f"kvw-film-{i}", "application/json", text) for i, text in enumerate(self.films)]
        return "\n".join([*blocks, f"<script>{(_STATIC / 'edition.js').read_text(encoding='utf-8')}</script>"])


Neighbour = tuple[str, str] | None


def lesson_page(title: str, body: str, before: Neighbour, after: Neighbour, assets: Assets) -> str:
    """The page of a lesson; ``before`` and ``after`` are (name, title) of its neighbours."""
    links = ['<a href="index.html">The course</a>']
    if before:
        links.insert(0, f'<a rel="prev" href="{before[0]}.html">← {html.escape(before[1])}</a>')
    if after:
        links.append(f'<a rel="next" href="{after[0]}.html">{html.escape(after[1])} →</a>')
    top, bottom = (f'<nav aria-label="{label}">{"".join(links)}</nav>' for label in ("Lessons", "Lessons, again"))
    return _page(title, f"{top}<main>{body}</main>{bottom}", assets.html())


def plain_page(title: str, body: str) -> str:
    return _page(title, f"<main>{body}</main>", "")


def source_page(place: str, text: str) -> str:
    """A file of the project with line numbers; line 7 has the anchor ``L-7``."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import get_lexer_for_filename
    from pygments.lexers.special import TextLexer
    from pygments.util import ClassNotFound

    try:
        lexer = get_lexer_for_filename(place)
    except ClassNotFound:
        lexer = TextLexer()
    formatter = HtmlFormatter(cssclass="code", linenos="inline", lineanchors="L", anchorlinenos=True)
    return _page(place, f"<main><h1>{html.escape(place)}</h1>{highlight(text, lexer, formatter)}</main>", "")


def _page(title: str, body: str, scripts: str) -> str:
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{html.escape(_POLICY)}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{html.escape(title)}</title>\n'
        f"<style>\n{(_STATIC / 'edition.css').read_text(encoding='utf-8')}\n{_code_styles()}\n</style>\n</head>\n"
        f"<body>\n{body}\n{scripts}\n</body>\n</html>\n"
    )


def _code_styles() -> str:
    from pygments.formatters import HtmlFormatter

    light = HtmlFormatter(style="default", cssclass="code").get_style_defs(".code")
    dark = HtmlFormatter(style="github-dark", cssclass="code").get_style_defs(".code")
    return f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}"


def _block(name: str, kind: str, text: str) -> str:
    return f'<script type="{kind}" id="{name}">{text}</script>'


def _harmless(value: Any) -> str:
    """JSON that can't end the script element that it stands in."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
