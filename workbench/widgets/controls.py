"""The buttons, sliders and lists of a `Stepper`, as plain ipywidgets."""

from __future__ import annotations

import html

import ipywidgets as iw

from workbench.views.page_map_modes import MODE_NAMES
from workbench.widgets.keys import HELP

#: Milliseconds per step at the speed 1.
STEP_MS = 500
SPEEDS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
#: What can be jumped to, and what its button says.
JUMPS = {"preemption": "Preemption", "swap": "Swap", "copy": "Copy", "eviction": "Eviction", "oom": "Out of memory"}


class Controls:
    """All controls of a stepper, and how they are arranged. They do nothing by themselves."""

    def __init__(self, first: int, last: int, step: int, color_by: str, is_live: bool) -> None:
        self.first = _button("First", "The first step (Home)")
        self.back = _button("Back", "One step back (left arrow)")
        self.forward = _button("Forward", "One step forward (right arrow)")
        self.last = _button("Last", "The last step (End)")
        most = max(last, first + 1)  # a slider of one value can't be drawn
        self.play = iw.Play(min=first, max=most, value=step, interval=STEP_MS, show_repeat=False)
        self.play.layout = iw.Layout(width="auto")
        self.slider = iw.IntSlider(min=first, max=most, value=step, description="Step", continuous_update=True)
        self.slider.layout = iw.Layout(flex="1 1 260px", width="auto")
        self.slider.add_class("kvw-step")
        iw.jslink((self.play, "value"), (self.slider, "value"))
        self.speed = iw.Dropdown(options=[(f"{speed:g}×", speed) for speed in SPEEDS], value=1.0, description="Speed")
        self.speed.layout = iw.Layout(width="160px")
        modes = [(words, name) for name, words in MODE_NAMES.items()]
        self.color_by = iw.Dropdown(options=modes, value=color_by, description="Colour by")
        self.color_by.layout = iw.Layout(width="290px")
        self.page = iw.Text(description="Look at", placeholder="5, host 2, B", continuous_update=False)
        self.page.layout = iw.Layout(width="190px")
        self.page.tooltip = "A page (5), a page of the host tier (host 2), or a request (B); empty: none"
        self.jumps = {kind: _button(text, f"To the next ({kind[0].upper()})") for kind, text in JUMPS.items()}
        self.backwards = iw.ToggleButton(description="the one before", tooltip="Jump back instead of forward (Shift)")
        self.backwards.layout = iw.Layout(width="auto")
        self.run = _button("Run one step", "The engine takes one step more")
        self.run.button_style = "primary"
        self.help = _button("Keys (?)", "Which keys there are")
        self.keys_list = iw.HTML(_help(), layout=iw.Layout(display="none"))
        self._is_live = is_live

    def rows(self) -> list[iw.Widget]:
        """The controls, from top to bottom."""
        wrap = iw.Layout(flex_flow="row wrap", align_items="center")
        run = [self.run] if self._is_live else []
        steps = [self.first, self.back, self.play, self.forward, self.last, *run, self.slider]
        jumps = [iw.Label("Jump to the next"), *self.jumps.values(), self.backwards, self.help]
        return [
            iw.HBox(steps, layout=wrap),
            iw.HBox([self.speed, self.color_by, self.page], layout=wrap),
            iw.HBox(jumps, layout=wrap),
            self.keys_list,
        ]

    def set_range(self, first: int, last: int) -> None:
        """The history has grown, or has forgotten its beginning."""
        most = max(last, first + 1)
        for control in (self.slider, self.play):
            control.max = most
            control.min = first


def _button(text: str, tooltip: str) -> iw.Button:
    return iw.Button(description=text, tooltip=tooltip, layout=iw.Layout(width="auto"))


def _help() -> str:
    rows = "".join(f"<li><b>{html.escape(keys)}</b>: {html.escape(what)}</li>" for keys, what in HELP)
    return f"<ul style='margin:0 0 0 1.5em'>{rows}</ul><div>Click into the stepper first.</div>"
