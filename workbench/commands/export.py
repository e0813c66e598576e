"""`workbench export`: a recording, or a part of it, in a format that other programs read."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from workbench.events.history import History
from workbench.events.recording import Recording
from workbench.events.windows import Progress
from workbench.events.words import size

_EXAMPLES = """examples:
  workbench export run.kvtrace --to perfetto                  then open run.perfetto.json in ui.perfetto.dev
  workbench export run.kvtrace --to csv --steps 100:200       events of steps 100 to 200, both included
  workbench export run.kvtrace --to parquet --table steps     one row per step
  workbench export run.kvtrace --steps 100:200 -o part.kvtrace    the format is what the name ends in
"""


@dataclass(frozen=True)
class Choices:
    """What was asked for. Steps that are None: from the beginning, to the end."""

    first: int | None
    last: int | None
    table: str
    progress: Progress | None


@dataclass(frozen=True)
class Kind:
    """A format. ``write`` gets the history, a file open for writing, and the choices."""

    suffix: str
    is_text: bool
    help: str
    write: Callable[[History, Any, Choices], None]


def _perfetto(history: History, file: Any, choices: Choices) -> None:
    from workbench.events.perfetto import write_perfetto

    write_perfetto(history, file, choices.first, choices.last, choices.progress)


def _csv(history: History, file: Any, choices: Choices) -> None:
    from workbench.events.table_files import event_table, step_table, write_csv

    table = event_table if choices.table == "events" else step_table
    write_csv(*table(history, choices.first, choices.last, choices.progress), file)


def _parquet(history: History, file: Any, choices: Choices) -> None:
    from workbench.events.table_files import event_table, step_table, write_parquet

    table = event_table if choices.table == "events" else step_table
    write_parquet(*table(history, choices.first, choices.last, choices.progress), file)


def _kvtrace(history: History, file: Any, choices: Choices) -> None:
    from workbench.events.windows import save_window

    save_window(history, file, choices.first, choices.last, progress=choices.progress)


def _html(history: History, file: Any, choices: Choices) -> None:
    from workbench.views.replay_html import replay_and_note

    tell = choices.progress

    def progress(done: int, of: int) -> None:
        if tell is not None:
            first = history.first_step if choices.first is None else choices.first
            tell(first + min(done, of - 1))  # of frames: a run of 20 steps has 21, with the one before its first step

    text, note = replay_and_note(history, choices.first, choices.last, progress=progress)
    file.write(text)
    if note:
        print(note, file=sys.stderr)


#: By name, for ``--to``.
KINDS: dict[str, Kind] = {
    "perfetto": Kind(".perfetto.json", True, "a trace for ui.perfetto.dev or about:tracing", _perfetto),
    "csv": Kind(".csv", True, "a table as text", _csv),
    "parquet": Kind(".parquet", False, "a table for pandas, DuckDB and others", _parquet),
    "html": Kind(".html", True, "one file for a browser, without a network: the run step by step, both ways", _html),
    "kvtrace": Kind(".kvtrace", False, "a recording of just these steps", _kvtrace),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    kinds = "\n".join(f"  {name:<10}{kind.help}" for name, kind in KINDS.items())
    parser.description = f"Writes a recording, or a part of it, in another format:\n\n{kinds}"
    parser.epilog = _EXAMPLES
    parser.add_argument("recording", type=Path, metavar="FILE.kvtrace", help="what `workbench run --record` wrote")
    parser.add_argument("--to", choices=tuple(KINDS), help="the format [what the ending of --out says]")
    parser.add_argument("-o", "--out", type=Path, metavar="FILE", help="[beside the recording, with the usual ending]")
    parser.add_argument("--steps", default="", metavar="A:B", help="only these steps, both included; A: or :B will do")
    parser.add_argument(
        "--table", default="events", choices=("events", "steps"), help="csv and parquet: a row for each [%(default)s]"
    )
    parser.add_argument("--force", action="store_true", help="replace a file that is there already")


def parse_steps(text: str) -> tuple[int | None, int | None]:
    """``"A:B"`` as numbers; None where there is none.

    Raises:
        ValueError: it is not of that form.
    """
    if not text:
        return None, None
    first, colon, last = text.partition(":")
    parts = [part.strip() for part in (first, last if colon else first)]
    if not all(part == "" or (part.isascii() and part.isdigit()) for part in parts):
        raise ValueError(f"--steps {text!r}: must be A:B, A:, :B or one step, with whole numbers")
    numbers = [int(part) if part else None for part in parts]
    if numbers[0] is not None and numbers[1] is not None and numbers[1] < numbers[0]:
        raise ValueError(f"--steps {text!r}: the last step comes before the first")
    return numbers[0], numbers[1]


def parse_format(to: str | None, out: Path | None) -> str:
    """The name of the format that was asked for, in `KINDS`.

    Raises:
        ValueError: neither `to` nor the ending of `out` names one.
    """
    if to is not None:
        return to
    if out is None:
        raise ValueError(f"--to: needed, unless -o names a file; must be one of {', '.join(KINDS)}")
    for name, kind in KINDS.items():
        if out.name.endswith(kind.suffix):
            return name
    endings = ", ".join(kind.suffix for kind in KINDS.values())
    raise ValueError(f"-o {out}: the ending names no format; give --to, or one of the endings {endings}")


@contextmanager
def whole_file(path: Path, is_text: bool, force: bool = False) -> Iterator[IO[Any]]:
    """A file that appears under its name when it is complete, and never in part.

    Raises:
        FileExistsError: it is there already, and is not to be replaced.
        OSError: it can't be written.
    """
    if path.exists() and not force:
        raise FileExistsError(f"{path} exists; give another name, or --force to replace it")
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a directory; give the name of a file")
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    try:
        mode = {"mode": "w", "encoding": "utf-8", "newline": ""} if is_text else {"mode": "wb"}
        with os.fdopen(handle, **mode) as file:  # type: ignore[call-overload]
            yield file
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # as `open` would have made it
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


class _Meter:
    """Progress on stderr: from time to time, once it takes longer than a moment."""

    def __init__(self, first: int, last: int) -> None:
        self._first, self._last = first, last
        self._next = time.monotonic() + 1
        self._shown = False

    def __call__(self, step: int) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + (0.2 if sys.stderr.isatty() else 5)
        share = (step - self._first) / max(1, self._last - self._first)
        start, end = ("\r", "") if sys.stderr.isatty() else ("", "\n")
        print(f"{start}step {step:,} of {self._last:,} ({share:.0%})", end=end, file=sys.stderr, flush=True)
        self._shown = sys.stderr.isatty()

    def close(self) -> None:
        if self._shown:
            print(file=sys.stderr)


def main(args: argparse.Namespace) -> int:
    to = parse_format(args.to, args.out)
    kind = KINDS[to]
    first, last = parse_steps(args.steps)
    if args.table != "events" and to not in ("csv", "parquet"):
        raise ValueError(f"--table {args.table}: only for --to csv and --to parquet")
    part = "" if not args.steps else f"_{args.steps.replace(':', '-').strip()}"
    table = "" if args.table == "events" else f".{args.table}"
    if args.out is None and to == "kvtrace" and not part:
        raise ValueError("--to kvtrace: give --steps for a part of the recording, or -o for a copy")
    out: Path = args.out or args.recording.with_name(args.recording.stem + part + table + kind.suffix)
    if out.exists() and args.recording.exists() and out.samefile(args.recording):
        raise ValueError(f"-o {out}: that is the recording itself")
    with Recording.open(args.recording) as recording:
        if recording.damage:
            print(f"{args.recording}: {recording.damage}; what is before that is exported", file=sys.stderr)
        for step in (first, last):
            if step is not None and not recording.first_step <= step <= recording.last_step:
                raise ValueError(
                    f"--steps {args.steps}: the recording goes from step {recording.first_step} to step "
                    f"{recording.last_step}"
                )
        meter = _Meter(recording.first_step if first is None else first, recording.last_step if last is None else last)
        with whole_file(out, kind.is_text, args.force) as file:
            kind.write(recording, file, Choices(first, last, args.table, meter))
        meter.close()
    print(f"{out}: {size(out.stat().st_size)}")
    return 0
