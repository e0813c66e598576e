"""The tab "Learn": guided tours, how to read the page map, the glossary, and where to go on.

`learn_tab` builds its content. `learn_head` gives what has to be in the page's head: the tours and the help texts as
data, and the scripts that show them, on all tabs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html import escape
from pathlib import Path

import gradio as gr

from workbench.glossary import GLOSSARY, PAPER, Term, anchor
from workbench_app.learn_help import PAGE_HELP
from workbench_app.learn_reading import reading_html
from workbench_app.learn_tours import TOURS, Tour

_STATIC = Path(__file__).with_name("static")
LEARN_SCRIPTS = (_STATIC / "help.js", _STATIC / "tour.js")
LEARN_CSS = _STATIC / "learn.css"
TUTORIALS = Path(__file__).resolve().parents[2] / "tutorials"


def learn_head(url: Callable[[Path], str]) -> str:
    """Script elements for the page's head. ``url`` says under which address a file is served."""
    data = {"help": [entry.to_json() for entry in PAGE_HELP], "tours": [tour.to_json() for tour in TOURS]}
    # "</" would end the script element.
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
    scripts = "".join(f'<script src="{url(path)}"></script>' for path in LEARN_SCRIPTS)
    return f"<script>window.KVW_LEARN = {text};</script>{scripts}"


def learn_tab(tutorials: Path = TUTORIALS) -> gr.HTML:
    """Builds the content inside an open `gr.Tab`.

    Args:
        tutorials: the folder of notebooks; it need not exist.
    """
    return gr.HTML(learn_html(tutorials), elem_id="kvw-learn", apply_default_css=False)


def learn_html(tutorials: Path = TUTORIALS) -> str:
    """The tab's content."""
    parts = (_tours_html(), reading_html(), _glossary_html(), _course_html(tutorials))
    return f'<div class="kvw-learn">{"".join(parts)}</div>'


def _tours_html() -> str:
    cards = "".join(_tour_card(tour) for tour in TOURS)
    return (
        '<section aria-labelledby="kvw-tours-title"><h2 id="kvw-tours-title">Guided tours</h2><p>A tour puts a '
        "ring around a part of the page, says what to look at, and waits until you have done it. Escape "
        f'leaves it; it goes on where you left.</p><div class="kvw-tours">{cards}</div></section>'
    )


def _tour_card(tour: Tour) -> str:
    title, about = escape(tour.title), escape(tour.about)
    return (
        f'<article><h3>{title}</h3><p>{about} <span class="kvw-quiet">{len(tour.steps)} steps.</span></p>'
        f'<p><button type="button" class="kvw-button" data-tour="{tour.id}"><span data-role="tour-label">Start</span>'
        f'<span class="kvw-unseen">: {title}</span></button> '
        f'<button type="button" class="kvw-button kvw-button-quiet" data-tour="{tour.id}" data-from-start hidden>'
        f'From the beginning<span class="kvw-unseen">: {title}</span></button></p></article>'
    )


def _glossary_html() -> str:
    entries = "".join(_term_html(term) for term in GLOSSARY)
    return (
        '<section aria-labelledby="kvw-glossary-title"><h2 id="kvw-glossary-title">Glossary</h2>'
        f'<p>“The paper” is {escape(PAPER)}.</p><p class="kvw-search"><label for="kvw-glossary-search">Search</label>'
        '<input type="search" id="kvw-glossary-search" autocomplete="off" spellcheck="false">'
        f'<span id="kvw-glossary-count" role="status">{len(GLOSSARY)} terms</span></p>'
        f'<div class="kvw-terms">{entries}</div></section>'
    )


def _term_html(term: Term) -> str:
    # Searching "ref count" finds "ref_count", too.
    names = [term.name, *term.also]
    search = escape(" ".join((*names, *(name.replace("_", " ") for name in names), term.meaning)).lower(), quote=True)
    lines = [f"<p>{escape(term.explanation)}</p>"]
    if term.also:
        lines.append(f"<p>Also: {', '.join(f'<code>{escape(name)}</code>' for name in term.also)}</p>")
    if term.see:
        links = ", ".join(f'<a href="#{anchor(name)}">{escape(name)}</a>' for name in term.see)
        lines.append(f"<p>See {links}</p>")
    if term.source:
        lines.append(f'<p class="kvw-quiet">Source: {escape(term.source)}</p>')
    return (
        f'<details class="kvw-term" id="{term.anchor}" data-search="{search}"><summary><b>{escape(term.name)}</b> '
        f"<span>{escape(term.meaning)}</span></summary>{''.join(lines)}</details>"
    )


def notebooks(folder: Path) -> list[tuple[str, str]]:
    """``(file name, first heading)`` of the notebooks in a folder, in the order of their names.

    One that can't be read, or has no heading, is listed by its name.
    """
    found = []
    for path in sorted(folder.glob("*.ipynb")):
        heading = path.stem.replace("_", " ")
        try:
            cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
            lines = (
                line
                for cell in cells
                if cell["cell_type"] == "markdown"
                for line in "".join(cell["source"]).split("\n")
            )
            heading = next((line.lstrip("# ").strip() for line in lines if line.startswith("#")), heading)
        except (OSError, ValueError, KeyError, TypeError):
            pass
        found.append((path.name, heading))
    return found


_TERMINAL = (
    ("workbench run &quot;Once upon a time&quot; --record run.kvtrace", "writes text, and every event into a file"),
    ("workbench replay run.kvtrace", "steps through that file in the terminal, forward and back"),
)


def _notebook_html(name: str, heading: str) -> str:
    """A notebook in the list, with the number that its heading begins with, if it does."""
    number, title = re.fullmatch(r"(?:(\d{1,4})\. +)?(.*)", heading, re.DOTALL).groups()  # type: ignore[union-attr]
    value = f' value="{number}"' if number else ""
    return f"<li{value}>{escape(title)} <code>tutorials/{escape(name)}</code></li>"


def _course_html(tutorials: Path) -> str:
    listed = notebooks(tutorials)
    if listed:
        items = "".join(_notebook_html(name, heading) for name, heading in listed)
        course = (
            f"<p>Notebooks, in reading order; open them with <code>jupyter lab tutorials</code>.</p><ol>{items}</ol>"
        )
    else:
        course = (
            "<p>The course of notebooks is not part of this version. In a terminal, the same engine can be used:</p>"
        )
    commands = "".join(f"<li><code>{command}</code> {words}</li>" for command, words in _TERMINAL)
    return (
        '<section aria-labelledby="kvw-course-title"><h2 id="kvw-course-title">Going on</h2>'
        f"{course}<ul>{commands}</ul></section>"
    )
