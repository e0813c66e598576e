"""Notebooks run without a front end and without a network; what their checks said is collected."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import workbench

#: Run before a notebook in its kernel, and not part of it.
_PREPARE = """
import os, sys
os.chdir({folder!r})
sys.path[:0] = [path for path in {paths!r} if path not in sys.path]
from workbench.course.offline import refuse_network
refuse_network()
from workbench.course.session import start_again
start_again()
del os, sys, refuse_network, start_again
"""
_CPU = "import time as _time\nprint(_time.process_time())"
_COLLECT = "from workbench.course.session import progress as _progress\nprint(_progress().to_json())"
_ROOT = Path(workbench.__file__).parent.parent


@dataclass(frozen=True)
class CellError:
    """An exception that ended a cell: ``index`` counts the notebook's cells from 1.

    ``is_intended``: the cell has the tag "raises-exception".
    """

    index: int
    is_intended: bool
    name: str
    message: str
    traceback: str


@dataclass(frozen=True)
class Outcome:
    """What the last check of an exercise said."""

    passed: bool
    is_missing: bool
    message: str
    first_wrong: str | None
    text: str


@dataclass(frozen=True)
class Run:
    """One notebook that was run to its end.

    Attributes:
        notebook: with outputs (nbformat 4.5).
        seconds: from the first cell's start to the last one's end.
        cpu_seconds: what the kernel computed meanwhile: the same on a busy machine as on an idle one.
        slowest: (index from 1, seconds) of the slowest code cells, slowest first.
        errors: cells that raised; the others ran nevertheless.
        verdicts: by exercise ("3.1") or question ("quiz 3, seed 7").
    """

    name: str
    notebook: Any
    seconds: float
    cpu_seconds: float
    slowest: list[tuple[int, float]]
    errors: list[CellError]
    verdicts: dict[str, Outcome]


class Kernel:
    """One Python process that runs notebooks one after another, each in an empty namespace. Use as a context."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def run(self, notebook: Any, name: str, folder: Path, before: str = "") -> Run:
        """Runs a notebook (it gets its outputs) with ``folder`` as the working directory, after the code ``before``.

        Raises:
            RuntimeError: the kernel died, or a cell took longer than the kernel's limit.
        """
        self.ask("get_ipython().run_line_magic('reset', '-f')")
        self.ask(_PREPARE.format(folder=str(folder), paths=_paths()) + before)
        used = float(self.ask(_CPU))
        began = time.perf_counter()
        errors: list[CellError] = []
        times: list[tuple[int, float]] = []
        self._client.nb = notebook
        self._client.reset_execution_trackers()
        for index, cell in enumerate(notebook.cells):
            if cell.cell_type != "code":
                continue
            start = time.perf_counter()
            self._execute(cell, index, name)
            times.append((index + 1, time.perf_counter() - start))
            cell.metadata.pop("execution", None)
            errors += [
                CellError(index + 1, _is_intended(cell), out.ename, out.evalue, "\n".join(out.traceback))
                for out in cell.outputs
                if out.output_type == "error"
            ]
        seconds = time.perf_counter() - began
        used = float(self.ask(_CPU)) - used
        # The notebook's own `progress` may be anything by now.
        verdicts = {key: Outcome(**value) for key, value in json.loads(self.ask(_COLLECT)).items()}
        return Run(name, notebook, seconds, used, sorted(times, key=lambda t: -t[1]), errors, verdicts)

    def _execute(self, cell: Any, index: int, name: str) -> None:
        from nbclient.exceptions import CellTimeoutError, DeadKernelError

        try:
            self._client.execute_cell(cell, index)
        except (CellTimeoutError, DeadKernelError) as error:
            raise RuntimeError(f"{name}, cell {index + 1}: {error}") from error

    def ask(self, code: str) -> str:
        """Runs code that belongs to no notebook; what it printed.

        Raises:
            RuntimeError: it raised, or took longer than the kernel's limit.
        """
        import nbformat.v4

        self._client.nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
        self._client.reset_execution_trackers()
        cell = self._client.nb.cells[0]
        self._execute(cell, 0, "preparation")
        for out in cell.outputs:
            if out.output_type == "error":
                raise RuntimeError(f"the course's own code failed in the kernel: {out.ename}: {out.evalue}")
        return "".join(out.text for out in cell.outputs if out.output_type == "stream" and out.name == "stdout")


@contextmanager
def kernel(timeout: int = 120, variables: Mapping[str, str] | None = None) -> Iterator[Kernel]:
    """A kernel of this very Python, without network, that ends with the context.

    Args:
        timeout: seconds that one cell may take.
        variables: more of its environment.

    Raises:
        RuntimeError: nbclient or ipykernel is missing.
    """
    require("nbclient", "ipykernel")
    import nbformat.v4
    from jupyter_client.kernelspec import KernelSpecManager
    from jupyter_client.manager import AsyncKernelManager
    from nbclient import NotebookClient

    environment = (
        os.environ
        | {
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "GRADIO_ANALYTICS_ENABLED": "False",
            # Otherwise another busy process makes every step much slower.
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
            "PYTHONPATH": os.pathsep.join([*_paths(), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
        }
        | dict(variables or {})
    )
    # No folder of kernels is looked into: a "python3" that the user has installed may be another Python.
    manager = AsyncKernelManager(kernel_name="python3", kernel_spec_manager=KernelSpecManager(kernel_dirs=[]))
    client = NotebookClient(
        nbformat.v4.new_notebook(), km=manager, timeout=timeout, allow_errors=True, store_widget_state=False
    )
    with tempfile.TemporaryDirectory() as folder:
        environment["IPYTHONDIR"] = folder
        manager.connection_file = str(Path(folder) / "kernel.json")
        if os.name == "posix":
            manager.transport = "ipc"
        with client.setup_kernel(env=environment, cleanup_kc=True):
            yield Kernel(client)


def require(*modules: str) -> None:
    """Checks that optional packages are there.

    Raises:
        RuntimeError: one is not; says how to install it.
    """
    import importlib.util

    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise RuntimeError(f"{', '.join(missing)} is not installed; the course needs it: {install_command()}")


def install_command() -> str:
    """The command that installs what the course needs, for this Python."""
    target = "-e '.[course]'" if (_ROOT / "pyproject.toml").is_file() else "'kv-workbench[course]'"
    return f"{os.path.relpath(sys.executable) if _is_near(sys.executable) else sys.executable} -m pip install {target}"


def _is_intended(cell: Any) -> bool:
    return "raises-exception" in cell.metadata.get("tags", [])


def _is_near(path: str) -> bool:
    return Path(path).is_relative_to(Path.cwd())


def _paths() -> list[str]:
    """Where this project's packages lie, as the kernel must find the same ones."""
    places = [_ROOT, _ROOT / "kernels", _ROOT / "apps"]
    return [str(place) for place in places if (place / "pyproject.toml").is_file() or place.is_dir()]
