"""`workbench`: the console command. Subcommands are imported when they are used, so that `--help` is quick."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

import workbench

#: name: (module with ``add_arguments`` and ``main``, what it does)
_COMMANDS = {
    "app": ("workbench_app.main", "open the live comparison of paged and contiguous memory in the browser"),
    "gallery": ("workbench_app.gallery", "make the bundled recordings of the app again"),
    "run": ("workbench.commands.run", "generate text, and record what happened to KV memory"),
    "replay": ("workbench.replay", "step through a recording, forwards and backwards"),
    "export": ("workbench.commands.export", "write a recording, or a part of it, in another format"),
    "bench": ("workbench.benchmarks", "measure the engine on this machine"),
    "learn": ("workbench.commands.learn", "copy the course's notebooks into a folder and open them in JupyterLab"),
    "course": ("workbench.commands.course", "make, run and render the course's notebooks (for those who write them)"),
    "doctor": ("workbench.commands.doctor", "say what is installed and what will be used"),
}


def build_parser(command: str | None = None) -> argparse.ArgumentParser:
    """The parser; only ``command``'s own arguments are filled in (all of them for None)."""
    parser = argparse.ArgumentParser(prog="workbench", description="Watch a language model's KV memory work.")
    parser.add_argument("--version", action="version", version=f"workbench {workbench.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, summary) in _COMMANDS.items():
        subparser = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
        if command in (name, None):
            importlib.import_module(module).add_arguments(subparser)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one subcommand; errors that a user can mend are one line on stderr."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = next((argument for argument in arguments if argument in _COMMANDS), "")
    args = build_parser(command).parse_args(arguments)
    try:
        return int(importlib.import_module(_COMMANDS[args.command][0]).main(args))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (such as `head`) has had enough; nothing more can be said to it, not even at exit.
        os._exit(1)
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        print(f"workbench {args.command}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
