"""Stepper: a run, step by step, in a notebook."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import ipywidgets as iw
import plotly.graph_objects as go
from IPython import get_ipython

from workbench.events import EventBatch, History, Recording, Timeline
from workbench.events.jumps import KINDS, JumpIndex
from workbench.events.kvtrace import RecordingError
from workbench.views.page_map_modes import COLOR_MODES
from workbench.widgets import panels
from workbench.widgets.controls import STEP_MS, Controls
from workbench.widgets.figures import FigureSlot
from workbench.widgets.keys import JUMP_KEYS, Keys
from workbench.widgets.rendered import VIEWS, Rendered, check_views, render
from workbench.widgets.selection import Selection, page_under, parse_selection

if TYPE_CHECKING:
    from workbench.engine import LLM


class Stepper:
    """A page map with its buttons, and beside it a block table, tokens, a page's life and the step's events.

        Stepper(llm)                      # a live engine: "Run one step" goes on
        Stepper(timeline, step=12)        # any history
        Stepper("run.kvtrace", color_by="fill")

    Last in a cell it shows itself. A click on a page, or its number under "Look at", shows the block table in which it
    is, its tokens and its life. Keys work once the stepper was clicked into; ``?`` lists them.

    Playing happens in the browser: cells can be run meanwhile, and steps for which the kernel is too slow are left out.
    The picture is one `plotly.graph_objs.FigureWidget` that stays. What it needs:

    - JupyterLab 4 and Notebook 7: ipywidgets and anywidget, which come with this package, where Jupyter itself is
      installed (if that is another environment: ``pip install jupyterlab_widgets anywidget`` there);
    - VS Code: its Jupyter extension; at the first widget it may ask where to load widgets from;
    - Colab: first ``from google.colab import output; output.enable_custom_widget_manager()``.

    Where no widget can be shown (a terminal, a page made from the notebook), it is a figure with words; in any
    notebook, ``stepper.figure(step)`` and ``stepper.render(step)`` are plain cells of that kind. Widgets are not stored
    in the notebook but for one figure; execute notebooks with ``store_widget_state=False`` to keep it so.

    Without a browser, set ``stepper.slider.value``, ``stepper.color_by.value`` or ``stepper.page.value``, call
    ``click()`` of a button, and read ``stepper.rendered``.

    Args:
        source: a `History` (a `Timeline`, a `Recording`), an `LLM`, or a path to a .kvtrace file.
        step: where to begin; None: an LLM's last step, and of anything else the first in which there is memory.
        views: which of `VIEWS` to show.
        color_by: see `workbench.views.page_map_view`.
        selection: a page of the device, or a `Selection`.
        dark: None: as the page around it.

    Attributes:
        history: what is shown; of an LLM, a `Timeline` that begins now.
        rendered: what is shown now.
        slider, play, color_by, speed, page: widgets.

    Raises:
        TypeError: the source is none of those.
        IndexError: there is no such step.
        ValueError: there is no such view, colour or page.
        OSError, RecordingError: the file can't be opened.
    """

    def __init__(
        self,
        source: History | LLM | str | os.PathLike[str],
        step: int | None = None,
        views: Sequence[str] = VIEWS,
        color_by: str = "request",
        selection: Selection | int | None = None,
        dark: bool | None = None,
    ) -> None:
        check_views(views)
        if color_by not in COLOR_MODES:
            raise ValueError(f"color_by={color_by!r}: must be one of {', '.join(COLOR_MODES)}")
        self.views = tuple(views)
        self.llm: LLM | None = None
        self.history = self._open(source)
        if step is None:
            step = self.history.last_step if self.llm is not None else self._beginning()
        self.selection = Selection(selection) if isinstance(selection, int) else selection
        self._jumps = JumpIndex(self.history)
        self._keys = Keys(dark=bool(dark))
        self._dark = dark
        self.rendered: Rendered = self.render(step, color_by=color_by)
        first, last = self.history.first_step, self.history.last_step
        self.controls = Controls(first, last, step, color_by, self.llm is not None)
        self.slider, self.play, self.speed = self.controls.slider, self.controls.play, self.controls.speed
        self.color_by, self.page = self.controls.color_by, self.controls.page
        self._map = FigureSlot(self.rendered.figure, self._on_click) if "page_map" in self.views else None
        self._table: FigureSlot | None = None
        self._table_box = iw.Box([])
        self._words, self._tokens, self._life, self._events = (iw.HTML() for _ in range(4))
        self.widget = self._arrange()
        self._connect()
        self._show()

    def _beginning(self) -> int:
        """The first step in which there is a pool: a recording may begin before its run."""
        first, last = self.history.first_step, self.history.last_step
        return min(first + 1, last) if self.history.state_at(first).run is None else first

    def _open(self, source: History | LLM | str | os.PathLike[str]) -> History:
        if isinstance(source, History):
            return source
        if isinstance(source, str | os.PathLike):
            return Recording.open(source)
        from workbench.engine import LLM

        if not isinstance(source, LLM):
            raise TypeError(f"source={source!r}: must be a History, an LLM, or a path to a .kvtrace file")
        self.llm = source
        source.bus.flush()  # what happened since the last step, the beginning of the run above all
        timeline = Timeline(source.bus)
        self._subscription = source.bus.subscribe(self._on_batch)
        return timeline

    def _arrange(self) -> iw.VBox:
        self._words.add_class("kvw-words")
        parts: list[iw.Widget] = [*self.controls.rows(), self._words]
        if self._map is not None:
            box = iw.Box([self._map.widget], layout=iw.Layout(width="100%"))
            self._name(box, "kvw-map")
            parts.append(box)
        beside: list[iw.Widget] = []
        if "block_table" in self.views:
            self._name(self._table_box, "")
            beside.append(self._table_box)
        if "tokens" in self.views or "block_table" in self.views:
            beside.append(iw.VBox([self._tokens, self._life]))
        for part in beside:
            part.add_class("kvw-part")
        if beside:
            parts.append(iw.HBox(beside, layout=iw.Layout(flex_flow="row wrap", align_items="flex-start")))
        if "events" in self.views:
            parts.append(self._events)
        stepper = iw.VBox([*parts, self._keys], layout=iw.Layout(padding="4px", width="100%"))
        stepper.add_class("kvw-stepper")
        return stepper

    @staticmethod
    def _name(box: iw.Box, name: str) -> None:
        for each in ("kvw-figure", name):
            if each:
                box.add_class(each)

    def _connect(self) -> None:
        controls = self.controls
        self.slider.observe(lambda change: self._on_step(), "value")
        self.color_by.observe(lambda change: self._show(), "value")
        self.speed.observe(self._on_speed, "value")
        self.page.observe(lambda change: self._on_page(), "value")
        self._keys.observe(lambda change: self._show(), "dark")
        self._keys.on_key(self.press)
        controls.first.on_click(lambda button: self.go(self.history.first_step))
        controls.back.on_click(lambda button: self.move(-1))
        controls.forward.on_click(lambda button: self.move(1))
        controls.last.on_click(lambda button: self.go(self.history.last_step))
        controls.run.on_click(lambda button: self.run_one_step())
        controls.help.on_click(lambda button: self.press("?"))
        controls.backwards.observe(lambda change: self._update_jumps(), "value")
        for kind, button in controls.jumps.items():
            button.on_click(lambda button, kind=kind: self.jump(kind, controls.backwards.value))

    # -- reading ---------------------------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """The step that is shown."""
        return self.rendered.step

    @property
    def dark(self) -> bool:
        """Whether it is drawn for a dark page."""
        return self._dark if self._dark is not None else self._keys.dark

    def render(self, step: int | None = None, color_by: str | None = None) -> Rendered:
        """A step with what is selected, as figures and words.

        Args:
            step: None: the one that is shown.

        Raises:
            IndexError: there is no such step.
        """
        step = self.rendered.step if step is None else step
        color_by = color_by or self.color_by.value
        return render(self.history, step, self.selection, color_by, self.dark, self.views)

    def figure(self, step: int | None = None) -> go.Figure:
        """The page map after a step, as a plain figure."""
        return self.render(step).figure

    # -- going somewhere -------------------------------------------------------------------------------------------

    def go(self, step: int) -> None:
        """Shows a step; before the first or after the last one, that one."""
        self.slider.value = max(self.history.first_step, min(self.history.last_step, step))

    def move(self, steps: int) -> None:
        """So many steps forward, or back if negative."""
        self.go(self.slider.value + steps)

    def jump(self, kind: str, back: bool = False) -> bool:
        """To the next step of a kind (see `workbench.events.jumps`), or to the one before; False: there is none.

        Raises:
            ValueError: there is no such kind.
        """
        step = self._jumps.previous(self.step, kind) if back else self._jumps.next(self.step, kind)
        if step is not None:
            self.go(step)
        else:
            self._say(f"There is none {'before' if back else 'after'} this step: {KINDS[kind]}.")
        return step is not None

    def select(self, selection: Selection | int | None) -> None:
        """Looks at a page, at a sequence, or (None) at nothing in particular.

        Raises:
            ValueError: there is no such page.
        """
        before, self.selection = self.selection, Selection(selection) if isinstance(selection, int) else selection
        try:
            self._show()
        except ValueError:
            self.selection = before
            raise
        named = self.selection.name.removeprefix("page ").replace("host page", "host") if self.selection else ""
        if named or self.selection is None:
            self.page.value = named

    def run_one_step(self) -> bool:
        """Lets the engine take a step, and shows it; False: it has nothing to do.

        Raises:
            ValueError: this is no live run.
        """
        if self.llm is None:
            raise ValueError("this Stepper shows a history that has ended: there is no engine to run")
        has_work = self.llm.has_unfinished
        button = self.controls.run
        button.disabled = True
        try:
            self.llm.step()
        except Exception as error:
            self._say(f"The engine says: {type(error).__name__}: {error}")
            return False
        finally:
            button.disabled = False
        self.go(self.history.last_step)
        if not has_work:
            self._say("The engine has nothing to do: add a request first.")
        return has_work

    def press(self, key: str, shift: bool = False) -> None:
        """Does what a key does."""
        if key in ("ArrowLeft", "ArrowRight"):
            self.move((10 if shift else 1) * (1 if key == "ArrowRight" else -1))
        elif key in ("Home", "End"):
            self.go(self.history.first_step if key == "Home" else self.history.last_step)
        elif key == " ":
            self._toggle_play()
        elif key == "?":
            shown = self.controls.keys_list.layout
            shown.display = "none" if shown.display is None else None
        elif key.lower() in JUMP_KEYS:
            self.jump(JUMP_KEYS[key.lower()], back=shift)

    def close(self) -> None:
        """Takes the widgets away, and leaves the engine's bus."""
        if self.llm is not None:
            self._subscription.close()
            if isinstance(self.history, Timeline):
                self.history.close()
        self.widget.close()

    # -- what happens ----------------------------------------------------------------------------------------------

    def _toggle_play(self) -> None:
        if not self.play.playing and self.slider.value >= self.history.last_step:
            self.go(self.history.first_step)
        self.play.playing = not self.play.playing

    def _on_batch(self, batch: EventBatch) -> None:
        """The engine has taken a step, whoever asked it to."""
        if batch.events:
            self._update_range()

    def _on_step(self) -> None:
        wanted = max(self.history.first_step, min(self.history.last_step, self.slider.value))
        if wanted != self.slider.value:
            self.slider.value = wanted
            return
        self._show()

    def _on_speed(self, change: Any) -> None:
        self.play.interval = round(STEP_MS / self.speed.value)

    def _on_click(self, x: float, y: float) -> None:
        """A click into the page map; a second one on the same page deselects it."""
        found = page_under(self.rendered.figure.layout.meta, x, y)
        if found is not None:
            same = self.selection is not None and (self.selection.page, self.selection.tier) == (found.page, found.tier)
            self.select(None if same else found)

    def _on_page(self) -> None:
        try:
            selection = parse_selection(self.page.value, self.history.state_at(self.step))
        except ValueError as error:
            self._say(str(error))
            return
        if selection != self.selection:
            self.selection = selection
            self._show()

    def _update_range(self) -> None:
        self.controls.set_range(self.history.first_step, self.history.last_step)
        self._jumps.update(self.history)
        self._update_jumps()

    def _update_jumps(self) -> None:
        controls, step = self.controls, self.step
        back = controls.backwards.value
        for kind, button in controls.jumps.items():
            found = self._jumps.previous(step, kind) if back else self._jumps.next(step, kind)
            button.disabled = found is None
        controls.first.disabled = controls.back.disabled = step <= self.history.first_step
        controls.last.disabled = controls.forward.disabled = step >= self.history.last_step

    def _say(self, words: str) -> None:
        self._words.value = f"<b>{html.escape(words)}</b>"
        self._keys.said = words

    def _show(self) -> None:
        try:
            shown = self.rendered = self.render(self.slider.value)
        except (IndexError, RecordingError) as error:
            self._say(str(error))
            return
        if self._map is not None:
            self._map.show(shown.figure)
        if "block_table" in self.views:
            self._show_table(shown)
        nobody = "Nobody has this page now." if self.selection is not None else "No sequence has memory now."
        if "tokens" in self.views:
            self._tokens.value = panels.tokens_html(shown.sequence, shown.tokens, nobody)
        self._life.value = panels.life_html(shown)
        if "events" in self.views:
            self._events.value = panels.events_html(shown.step, shown.events)
        place = f"Step {shown.step} of {self.history.last_step}. "
        self._words.value = f"<div>{html.escape(place + shown.caption)}</div>"
        if not self.play.playing:  # nobody could listen as fast as that
            self._keys.said = place + shown.caption
        self._update_jumps()

    def _show_table(self, shown: Rendered) -> None:
        if shown.block_table is None:
            self._table_box.layout.display = "none"
            return
        if self._table is None:
            self._table = FigureSlot(shown.block_table.figure)
            self._table_box.children = (self._table.widget,)
        else:
            self._table.show(shown.block_table.figure)
        self._table_box.layout.display = None

    def _repr_mimebundle_(self, *args: Any, **kwargs: Any) -> Any:
        """The widget in a notebook, with a figure for where no widget can be shown; else figure and words."""
        words: dict[str, Any] = {"text/plain": str(self.rendered)}
        shell = get_ipython()
        if not hasattr(shell, "kernel"):
            return {**self.rendered._repr_mimebundle_(*args, **kwargs), **words}
        bundle = self.widget._repr_mimebundle_(*args, **kwargs)
        data = dict(bundle[0] if isinstance(bundle, tuple) else bundle)
        figure = self.rendered.page_map.to_json()
        return {
            **data,
            "application/vnd.plotly.v1+json": {"data": figure["data"], "layout": figure["layout"]},
            **words,
        }
