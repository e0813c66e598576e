"""`workbench course`: makes the notebooks from their sources, runs them, renders them. For those who write lessons."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--folder", type=Path, help="the course (default: tutorials/)")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    build = actions.add_parser("build", help="make both versions of every notebook from tutorials/source")
    build.add_argument("--check", action="store_true", help="write nothing; exit code 1 if one is out of date")
    run = actions.add_parser("run", help="run notebooks headless, both versions, and say what their checks said")
    run.add_argument("--timeout", type=int, default=120, metavar="SECONDS", help="limit of one cell (default: 120)")
    html = actions.add_parser("html", help="render the course with its outputs as pages that need no network")
    html.add_argument("--output", type=Path, default=Path("build/course"), help="folder (default: build/course)")
    html.add_argument("--timeout", type=int, default=120, metavar="SECONDS", help="limit of one cell (default: 120)")
    for action in (build, run, html):
        action.add_argument("lessons", nargs="*", metavar="LESSON", help='such as "03"; none: all')


def main(args: argparse.Namespace) -> int:
    from workbench.course.folders import course_folder

    folder = args.folder or course_folder()
    if args.action == "build":
        return _build(folder, args.lessons, args.check)
    if args.action == "run":
        return _run(folder, args.lessons, args.timeout)
    from workbench.course.edition import render_course

    pages = render_course(folder, args.output, args.lessons, args.timeout, print)
    print(f"{len(pages)} pages in {args.output}: open {args.output / 'index.html'}")
    return 0


def _build(folder: Path, lessons: list[str], check: bool) -> int:
    from workbench.course.build import build
    from workbench.course.execute import require

    require("jupytext", "nbformat")
    built = build(folder, lessons, check)
    for path in built.written:
        print(f"{'not up to date' if check else 'written'}: {path}")
    for path in built.strays:
        print(f"no source makes this: {path}")
    print(f"{built.unchanged} notebooks up to date")
    for error in built.errors:
        print(error, file=sys.stderr)
    return 1 if built.errors or (check and not built.is_clean) else 0


def _run(folder: Path, lessons: list[str], timeout: int) -> int:
    from workbench.course.execute import kernel
    from workbench.course.folders import pick_lessons
    from workbench.course.grading import faults, run_version

    total, wrong = 0.0, 0
    for name in pick_lessons(folder, lessons):
        with kernel(timeout) as python:
            for version in ("student", "key"):
                run = run_version(python, folder, name, version)
                passed = sum(outcome.passed for outcome in run.verdicts.values())
                slowest = ", ".join(f"cell {index} {seconds:.1f} s" for index, seconds in run.slowest[:2])
                print(
                    f"{name} {version}: {run.seconds:.1f} s, {run.cpu_seconds:.1f} s of CPU (slowest: {slowest}), "
                    f"{passed} of {len(run.verdicts)} checks passed"
                )
                total += run.seconds
                for fault in faults(run, version):
                    wrong += 1
                    print(f"  {fault}")
    print(f"{total:.1f} s in all, {wrong} faults")
    return 1 if wrong else 0
