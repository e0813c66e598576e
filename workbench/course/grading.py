"""What must be true of a lesson that was run: with the key all checks pass, without it each says what is missing."""

from __future__ import annotations

from pathlib import Path

from workbench.course import registry
from workbench.course.build import Version, notebook_path
from workbench.course.execute import Kernel, Run


def run_version(python: Kernel, folder: Path, name: str, version: Version) -> Run:
    """Runs a lesson's notebook as it lies in ``folder``, which is not changed.

    Raises:
        OSError: there is no such notebook.
        RuntimeError: see `Kernel.run`.
    """
    import nbformat

    path = notebook_path(folder, name, version)
    return python.run(nbformat.read(path, as_version=4), name, path.parent)


def faults(run: Run, version: Version) -> list[str]:
    """What is wrong with a run, one sentence each; none: all as it should be.

    A student's version must run to its end, and each exercise must say that it is not written yet. In the key all
    exercises must pass, and no question of a quiz may be answered wrongly.
    """
    found = [
        f"cell {error.index} raises {error.name}: {error.message}" for error in run.errors if not error.is_intended
    ]
    wanted = registry.lesson(int(run.name[:2])).EXERCISES
    for number, task in wanted.items():
        outcome = run.verdicts.get(number)
        if outcome is None:
            found.append(f"exercise {number} is never checked")
        elif version == "key" and not outcome.passed:
            found.append(f"exercise {number} fails with the key: {outcome.text}")
        elif version == "student" and not outcome.is_missing:
            found.append(f"exercise {number} should say that it is not written yet, but says: {outcome.text}")
        elif version == "student" and task.hints and task.hints[0] not in outcome.message:
            found.append(f"exercise {number} does not give its first hint: {outcome.text}")
    if version == "key":
        for name, outcome in run.verdicts.items():
            if name not in wanted and not outcome.passed and not outcome.is_missing:
                found.append(f"{name} is not answered rightly with the key: {outcome.text}")
    return found
