"""A run as one HTML file that opens from disk, without a network, and steps both ways."""

from __future__ import annotations

import base64
import functools
import gzip
import html
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import plotly

from workbench.events import History, PageMap
from workbench.events.jumps import KINDS, JumpIndex
from workbench.views.film import Film, Progress, make_film, pack
from workbench.views.flow import flow_view
from workbench.views.payload import map_constants
from workbench.views.scripts import STATIC, VIEWER_SCRIPTS, VIEWER_STYLES
from workbench.views.series import RunSeries
from workbench.views.timeline import timeline_view
from workbench.views.view import View
from workbench.views.words import plural

PLOTLY_JS = Path(plotly.__file__).with_name("package_data") / "plotly.min.js"

#: The file asks nobody for anything, and says so to the browser.
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:; "
    "base-uri 'none'; form-action 'none'"
)
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{styles}</style>
</head>
<body class="kvw-alone">
<main id="kvw-root"><p>{title}: opening …</p></main>
<noscript><p>This file needs JavaScript, which is switched off here.</p></noscript>
<script type="text/plain" id="kvw-plotly">{plotly}</script>
<script type="application/json" id="kvw-film">{film}</script>
<script>{scripts}</script>
<script>
KVW.openFilm(document.getElementById("kvw-root")).catch((error) => {{
  document.getElementById("kvw-root").textContent = "This file could not be opened: " + error.message +
    " It needs a browser of 2023 or later.";
  throw error;
}});
</script>
</body>
</html>
"""


@dataclass(frozen=True)
class ReplayFile:
    """A replay that was written: steps ``first`` to ``last``. ``note`` says what was left out, if anything was."""

    path: Path
    num_bytes: int
    first: int
    last: int
    is_cut: bool
    note: str


def write_replay_html(
    history: History,
    target: str | os.PathLike[str],
    first: int | None = None,
    last: int | None = None,
    title: str | None = None,
    max_bytes: int = 8_000_000,
    progress: Progress | None = None,
) -> ReplayFile:
    """Writes a run as one HTML file that holds the viewer and every step.

    Args:
        target: a path; an existing file is replaced.
        first, last: steps to include; None: all.
        title: heading; None: the kind of memory and the model.
        max_bytes: if all steps would take more, the file holds as many as there is room for, those before ``last``,
            or from ``first`` on if that is given, and says so.
        progress: called with the number of steps done, and of all.

    Raises:
        ValueError: ``first`` or ``last`` is not a step of the history, or there is no room for even a few steps.
        OSError: the file can't be written.
    """
    text, film, note = _build(history, first, last, title, max_bytes, progress)
    data = text.encode("utf-8", "replace")
    path = Path(target)
    path.write_bytes(data)
    return ReplayFile(path, len(data), film.first, film.last, film.is_cut, note)


def replay_html(
    history: History,
    first: int | None = None,
    last: int | None = None,
    title: str | None = None,
    max_bytes: int = 8_000_000,
) -> str:
    """The same as text, for `show_replay` and for servers.

    Raises:
        ValueError: as for `write_replay_html`.
    """
    return replay_and_note(history, first, last, title, max_bytes)[0]


def replay_and_note(
    history: History,
    first: int | None = None,
    last: int | None = None,
    title: str | None = None,
    max_bytes: int = 8_000_000,
    progress: Progress | None = None,
) -> tuple[str, str]:
    """The text of the file, and what was left out, in words; empty if nothing was.

    Raises:
        ValueError: as for `write_replay_html`.
    """
    text, _, note = _build(history, first, last, title, max_bytes, progress)
    return text, note


def _build(
    history: History,
    first: int | None,
    last: int | None,
    title: str | None,
    max_bytes: int,
    progress: Progress | None,
) -> tuple[str, Film, str]:
    state = history.initial if history.initial.run is not None else history.state_at(history.last_step)
    heading = title if title is not None else _title(state)
    shell = len(_page(heading, "", ""))
    whole = (history.first_step, history.last_step)  # a live run goes on meanwhile
    window = (whole[0] if first is None else first, whole[1] if last is None else last)
    series = RunSeries.of(history)
    views = _views(series, window)
    room = max_bytes - shell - len(json.dumps(views)) - 4_000 - 30 * (window[1] - window[0] + 1) // 64
    if room < 1_000:
        raise ValueError(f"max_bytes={max_bytes}: the viewer alone takes {max_bytes - room:,} bytes")
    index = JumpIndex(history)
    jumps = {kind: index.steps(kind) for kind in KINDS}
    room -= len(json.dumps(jumps))
    film = make_film(history, first, window[1], room, progress)
    if film.size > room:
        raise ValueError(
            f"max_bytes={max_bytes}: the viewer and the first {plural(film.chunks[0].count, 'step')} take "
            f"{max_bytes - room + film.size:,} bytes"
        )
    if film.is_cut:
        views = _views(series, (film.first, film.last))
    note = _note(film, whole, window, max_bytes)
    meta = {
        "first": film.first,
        "last": film.last,
        "live": False,
        "title": heading,
        "memory": _memory_words(state),
        "note": note,
        "jumps": {kind: [s for s in steps if film.first <= s <= film.last] for kind, steps in jumps.items()},
        "views": [*views, "request_life"],
        "constants": map_constants(),
    }
    chunks = [{"first": chunk.first, "count": chunk.count, "data": chunk.data} for chunk in film.chunks]
    data = json.dumps({"meta": meta, "chunks": chunks, "views": views}, ensure_ascii=False, separators=(",", ":"))
    return _page(heading, data, plotly_script()), film, note


def _views(series: RunSeries, window: tuple[int, int]) -> dict[str, Any]:
    def packed(make: Callable[[bool], View]) -> dict[str, str]:
        return {name: pack(_plain(make(dark).to_json())) for name, dark in (("light", False), ("dark", True))}

    return {
        "timeline": packed(lambda dark: timeline_view(series, window[1], dark, window)),
        "flow": packed(lambda dark: flow_view(series, window[1], dark)),
    }


def _plain(view: dict[str, Any]) -> dict[str, Any]:
    """Without a caption of one step: these charts stand for the whole run."""
    return {**view, "caption": "Up to the last step: " + view["caption"]}


def _page(title: str, film: str, plotly_js: str) -> str:
    return _PAGE.format(
        policy=html.escape(_POLICY),
        title=html.escape(title),
        styles="\n".join(_static(name) for name in VIEWER_STYLES),
        scripts="\n".join(_static(name) for name in VIEWER_SCRIPTS),
        plotly=plotly_js or plotly_script(),
        film=_harmless(film),
    )


def _harmless(text: str) -> str:
    """JSON within HTML: no text of a prompt can end the element that it stands in, or begin a comment."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _static(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")


@functools.cache
def plotly_script() -> str:
    """Plotly's script as gzip in base64."""
    return base64.b64encode(gzip.compress(PLOTLY_JS.read_bytes(), 9, mtime=0)).decode("ascii")


def _title(state: PageMap) -> str:
    if state.run is None:
        return "KV Workbench: no run"
    kind = "Paged" if state.is_paged else "Contiguous"
    return f"{kind} KV cache, model {state.run.model.name}, seed {state.run.seed}"


def _memory_words(state: PageMap) -> str:
    run = state.run
    if run is None:
        return ""
    words = f"{plural(run.num_blocks, 'page')} (blocks) of {plural(run.block_size, 'slot')}"
    if run.num_host_blocks:
        words += f", {plural(run.num_host_blocks, 'page')} in the host tier"
    return words + "."


def _note(film: Film, whole: tuple[int, int], asked: tuple[int, int], max_bytes: int) -> str:
    if film.is_cut:
        return (
            f"This file has the steps {film.first:,} to {film.last:,} of {asked[0]:,} to {asked[1]:,}: "
            f"all would be larger than {max_bytes / 1e6:g} MB."
        )
    if asked != whole:
        steps = f"{whole[0]:,} to {whole[1]:,}"
        return f"This file has the steps {film.first:,} to {film.last:,} of a run with the steps {steps}."
    return ""


def show_replay(history: History, height: int = 900, title: str | None = None, max_bytes: int = 8_000_000) -> Any:
    """The replay in a notebook, as a frame of its own. Without a notebook, a line that says what it would show.

    Args:
        height: of the frame, in pixels.
    """
    if type(height) is not int or not 200 <= height <= 10_000:
        raise ValueError(f"height={height!r}: must be a number of pixels from 200 to 10000")
    words = f"Replay of the steps {history.first_step:,} to {history.last_step:,}; see it in a notebook, or save it"
    words += " with write_replay_html."
    if not _in_notebook():
        return words
    from IPython.display import HTML

    inner = html.escape(replay_html(history, title=title, max_bytes=max_bytes), quote=True)
    label = "Replay of a run, step by step"
    return HTML(
        f'<div><iframe title="{label}" style="width:100%;height:{height}px;border:0" srcdoc="{inner}"></iframe></div>'
    )


def _in_notebook() -> bool:
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    return getattr(get_ipython(), "kernel", None) is not None
