"""`workbench learn`: the course's notebooks in a folder of one's own, opened in JupyterLab."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

#: Parts of the course that are copied only for teachers, and never.
_FOR_TEACHERS, _FOR_NOBODY = {"key", "INSTRUCTOR.md"}, {"source"}
_PORT = 8888


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", type=Path, default=Path("kv-course"), help="where to (default: kv-course)")
    parser.add_argument("--no-browser", action="store_true", help="start JupyterLab, but open no browser")
    parser.add_argument("--port", type=int, default=_PORT, help=f"port on this machine (default: {_PORT})")
    parser.add_argument("--copy-only", action="store_true", help="copy the notebooks and start nothing")
    parser.add_argument("--key", action="store_true", help="copy the answer key and the instructors' guide, too")
    parser.add_argument(
        "--force",
        action="store_true",
        help="replace files that were changed; yours are kept as *.mine.ipynb",
    )


def main(args: argparse.Namespace) -> int:
    from workbench.course.folders import course_folder, lesson_names

    if not 1 <= args.port <= 65_535:
        raise ValueError(f"port={args.port}: allowed are 1 to 65535")
    course = course_folder()
    names = lesson_names(course)
    if not names:
        raise ValueError(f"there are no notebooks in {course}; make them with: workbench course build")
    copied = copy_course(course, args.folder, args.key, args.force)
    print(f"{len(copied.new)} new files in {args.folder}, {len(copied.same)} up to date")
    for path in copied.kept:
        print(f"kept as you have it: {path} (--force gets the original back)")
    for path, old in copied.replaced:
        print(f"replaced: {path}; yours is now {old.name}")
    if args.copy_only:
        return 0
    from workbench.course.execute import require

    require("jupyterlab", "ipykernel")
    return _open(args.folder, names[0], args.port, args.no_browser)


@dataclass
class Copied:
    """Files of the folder: new ones, those already as in the course, those changed and kept, (file, its old form)."""

    new: list[Path] = field(default_factory=list)
    same: list[Path] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)
    replaced: list[tuple[Path, Path]] = field(default_factory=list)


def copy_course(course: Path, folder: Path, key: bool = False, force: bool = False) -> Copied:
    """Copies the course into ``folder``. A file that is there and differs is a student's work, and stays.

    Args:
        key: what is for teachers, too: the answer key into ``folder/key``, and the guide.
        force: files that differ are replaced; what they were is kept beside them.

    Raises:
        ValueError: ``folder`` is a file, or the course itself.
        OSError: something can't be written.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"folder={str(folder)!r}: is a file; name a folder")
    if folder.resolve().is_relative_to(course.resolve()):
        raise ValueError(f"folder={str(folder)!r}: lies in the course itself; name another folder")
    copied = Copied()
    for path in sorted(course.rglob("*")):
        place = path.relative_to(course)
        if not path.is_file() or not _is_for(place, key):
            continue
        target = folder / place
        if not target.exists():
            copied.new.append(target)
        elif target.read_bytes() == path.read_bytes():
            copied.same.append(target)
            continue
        elif not force:
            copied.kept.append(target)
            continue
        else:
            old = _free_name(target)
            target.rename(old)
            copied.replaced.append((target, old))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return copied


def _is_for(place: Path, key: bool) -> bool:
    first = place.parts[0]
    if any(part.startswith((".", "__")) for part in place.parts) or first in _FOR_NOBODY:
        return False
    return key or first not in _FOR_TEACHERS


def _free_name(path: Path) -> Path:
    names = (path.with_name(f"{path.stem}.mine{'' if n == 1 else n}{path.suffix}") for n in range(1, 10_000))
    return next(name for name in names if not name.exists())


def jupyter_command(folder: Path, first: str, port: int, no_browser: bool) -> list[str]:
    """What starts JupyterLab: for this machine only, and asking nobody in the network for news or updates."""
    return [
        *(sys.executable, "-m", "jupyterlab"),
        f"--ServerApp.root_dir={folder.resolve()}",
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}",
        f"--LabApp.default_url=/lab/tree/{first}.ipynb",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.news_url=None",
        "--LabApp.extension_manager=readonly",
        *(["--no-browser"] if no_browser else []),
        # In a container there is often nobody else; otherwise JupyterLab would refuse to start.
        *(["--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []),
    ]


def _open(folder: Path, first: str, port: int, no_browser: bool) -> int:
    server = subprocess.Popen(jupyter_command(folder, first, port, no_browser))
    while True:
        try:
            return server.wait()
        except KeyboardInterrupt:
            # JupyterLab has got it as well, and asks whether to stop.
            continue
