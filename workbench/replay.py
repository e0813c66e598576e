"""`workbench replay f.kvtrace`: steps through a recording in a terminal, forwards and backwards.

Reads commands line by line, so that it can be piped: `printf 'last\nb\nq\n' | workbench replay f.kvtrace`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TextIO

from workbench.events.history import History
from workbench.events.recording import Recording
from workbench.events.waste import measure_waste
from workbench.replay_screen import Style, event_lines, render, waste_report_lines, wrapped

HELP = """\
  n, next, Enter   one step on (Enter repeats the last move)
  b, back          one step back
  17, g 17         go to step 17
  +10, -10         ten steps on, ten back
  first, last      to the beginning, to the end
  e, events        show all events of a step, or only the first
  r, requests      show all requests, or only the first
  w, waste         where memory went in the whole run, in the categories of the PagedAttention paper
  q, quit          leave"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what `main` reads."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "commands while it runs:\n" + HELP
    parser.add_argument("recording", metavar="FILE", help="a .kvtrace file")
    parser.add_argument("--step", type=int, metavar="N", help="print the state after step N and leave")
    parser.add_argument(
        "--events", action="store_true", help="print all events in words and leave (with --step: those of the step)"
    )
    parser.add_argument("--waste", action="store_true", help="print where memory went in the whole run and leave")
    parser.add_argument("--width", type=int, metavar="COLUMNS", help="width of the text (default: the terminal's)")


def main(args: argparse.Namespace) -> int:
    """Runs the command; 0 on success.

    Raises:
        OSError: the file can't be read.
        ValueError: it is not a recording, or an argument is out of range.
    """
    if args.width is not None and args.width < 20:
        raise ValueError(f"--width={args.width}: must be at least 20")
    with Recording.open(args.recording) as recording:
        if args.step is not None and not recording.first_step <= args.step <= recording.last_step:
            allowed = f"{recording.first_step} to {recording.last_step}"
            raise ValueError(f"--step={args.step}: the recording has steps {allowed}")
        if not recording.is_complete:
            print(f"note: the recording is not complete: {recording.damage}", file=sys.stderr)
        viewer = Viewer(recording, _style(sys.stdout, args.width))
        if args.step is not None:
            viewer.step, viewer.all_events = args.step, args.events
            print(viewer.screen())
        elif args.events:
            for line in all_event_lines(recording):
                print(line)
        if args.waste:
            print("\n".join(viewer.waste_lines()))
        if args.step is None and not args.events and not args.waste:
            interact(viewer, sys.stdin, sys.stdout)
    return 0


def _style(out: TextIO, width: int | None) -> Style:
    try:
        "█▁…“".encode(out.encoding or "ascii")
        plain = False
    except (UnicodeEncodeError, LookupError):
        plain = True
    colour = out.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    return Style(width or max(20, shutil.get_terminal_size().columns), plain, colour)


def all_event_lines(history: History) -> Iterator[str]:
    """All events of a history in words, each with the step it belongs to."""
    for event, state in history.walk():
        yield f"{event.step:>6}{event_lines([event], state, 0)[0]}"


@dataclass
class Viewer:
    """A position in a history, and what to show of it."""

    history: History
    style: Style
    step: int = -1
    all_events: bool = False
    all_requests: bool = False
    _last_move: int = 1

    def __post_init__(self) -> None:
        if self.step < 0:
            empty = self.history.initial.run is None
            self.step = min(self.history.first_step + empty, self.history.last_step)

    def screen(self) -> str:
        """The step as text."""
        first, last = self.history.first_step, self.history.last_step
        state, events = self.history.state_at(self.step), self.history.events(self.step)
        return render(state, events, (self.step, first, last), self.style, self.all_requests, self.all_events)

    def waste_lines(self) -> list[str]:
        """The waste of the whole run, over all steps and over those under load."""
        lines = ["whole run, " + line for line in waste_report_lines(measure_waste(self.history))]
        loaded = measure_waste(self.history, saturated_only=True)
        lines += ["while requests waited, " + line for line in waste_report_lines(loaded)]
        return [part for line in lines for part in wrapped(line, self.style.width)]

    def move(self, target: int) -> str:
        """Goes to a step; past an end it stops there and says so."""
        first, last = self.history.first_step, self.history.last_step
        self.step = max(first, min(last, target))
        if self.step == target:
            return ""
        return f"step {last} is the last" if target > last else f"step {first} is the first"

    def command(self, text: str) -> str | None:
        """Carries out one command; returns what to say about it, or None to leave."""
        words = text.strip().lower().split()
        word = words[0] if words else "repeat"
        if word in ("g", "go") and len(words) == 2 and words[1].isdecimal():
            return self.move(int(words[1]))
        if len(words) > 1:
            return f"unknown command {text.strip()!r}; h lists all"
        if word in ("n", "next", "b", "back", "repeat"):
            if word != "repeat":
                self._last_move = 1 if word in ("n", "next") else -1
            return self.move(self.step + self._last_move)
        if word.isdecimal():
            return self.move(int(word))
        if word[0] in "+-" and word[1:].isdecimal():
            return self.move(self.step + int(word))
        match word:
            case "first" | "f":
                return self.move(self.history.first_step)
            case "last" | "l":
                return self.move(self.history.last_step)
            case "e" | "events":
                self.all_events = not self.all_events
                return ""
            case "r" | "requests":
                self.all_requests = not self.all_requests
                return ""
            case "w" | "waste":
                return "\n".join(self.waste_lines())
            case "h" | "help" | "?":
                return HELP
            case "q" | "quit" | "exit":
                return None
        return f"unknown command {text.strip()!r}; h lists all"


def interact(viewer: Viewer, source: TextIO, out: TextIO) -> None:
    """Shows a step, reads a command, and so on until there are no more. On a terminal every step clears the screen."""
    live = source.isatty() and out.isatty()
    said = ""
    while True:
        if live:
            out.write("\x1b[H\x1b[2J")
        out.write(viewer.screen() + "\n" + (said + "\n" if said else ""))
        out.write("n next, b back, 17, +10, -10, first, last, e, r, w, h help, q quit > " if live else "\n")
        out.flush()
        line = source.readline()
        answer = viewer.command(line) if line else None
        if answer is None:
            return
        said = answer
