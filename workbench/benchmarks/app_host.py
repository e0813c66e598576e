"""What the app's benchmark stands on: the app in a process of its own, a real Chromium, and what processes use."""

from __future__ import annotations

import os
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_PROC = Path("/proc")


class Server:
    """`workbench app` on a free port of 127.0.0.1.

    Attributes:
        url: ends with a slash.
        loaded_at: when the model was there, by ``time.monotonic``, or None.
    """

    def __init__(self, options: Sequence[str] = (), seconds: float = 120.0) -> None:
        for attempt in range(3):  # on a busy machine Gradio's own look at its address may come too late
            try:
                self._start(options, seconds)
                break
            except RuntimeError:
                if attempt == 2:
                    raise

    def _start(self, options: Sequence[str], seconds: float) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "workbench.cli", "app", "--port", str(port), "--no-browser", *options]
        self.url = f"http://127.0.0.1:{port}/"
        self.lines: list[str] = []
        self.loaded_at: float | None = None
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        threading.Thread(target=self._read, daemon=True).start()
        deadline = time.monotonic() + seconds
        while not _listens(port):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.close()
                raise RuntimeError("the app did not start: " + " / ".join(self.lines[-5:]))
            time.sleep(0.02)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if "bytes of KV cache per token" in line:
                self.loaded_at = time.monotonic()
            self.lines.append(line.rstrip())

    def wait_for_model(self, seconds: float = 120.0) -> None:
        """Returns when the model is loaded."""
        deadline = time.monotonic() + seconds
        while self.loaded_at is None:
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the model was not loaded: " + " / ".join(self.lines[-5:]))
            time.sleep(0.05)

    @property
    def pid(self) -> int:
        return self._process.pid

    def close(self) -> None:
        """Ends the process."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser, driven by playwright.

    Raises:
        RuntimeError: playwright or a browser is missing; says what to do.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise RuntimeError("this benchmark needs playwright: pip install playwright") from error
    with sync_playwright() as playwright:
        found = os.environ.get("CHROMIUM") or next((path for name in _NAMES if (path := shutil.which(name))), None)
        path = found or playwright.chromium.executable_path
        if not Path(path).is_file():
            raise RuntimeError("no Chromium found: install one, or name it in the environment variable CHROMIUM")
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


# -- processes (Linux; elsewhere nothing is known) ---------------------------------------------------------------------


def resident_mb(pid: int) -> float | None:
    """Resident memory of a process, in 10^6 bytes."""
    return _kilobytes(_PROC / str(pid) / "status", ("VmRSS",))


def cpu_seconds(pid: int) -> float | None:
    """Processor time that a process has used so far."""
    try:
        fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def renderers_mb() -> float | None:
    """Private memory of the tabs' processes of browsers that this process has started, in 10^6 bytes."""
    parents, kinds = {}, {}
    if not _PROC.is_dir():
        return None
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                kinds[int(entry.name)] = (entry / "cmdline").read_bytes()
            except (OSError, IndexError):
                continue
    total = None
    for pid, command in kinds.items():
        if b"--type=renderer" in command and _descends(pid, os.getpid(), parents):
            used = _kilobytes(_PROC / str(pid) / "smaps_rollup", ("Private_Clean", "Private_Dirty"))
            if used is not None:
                total = (total or 0.0) + used
    return total


def _descends(pid: int, ancestor: int, parents: dict[int, int]) -> bool:
    while pid > 1:
        if pid == ancestor:
            return True
        pid = parents.get(pid, 0)
    return False


def _kilobytes(path: Path, names: tuple[str, ...]) -> float | None:
    """The sum of lines like ``VmRSS: 1 kB``, in 10^6 bytes."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) for line in lines if line.split(":")[0] in names]
    return sum(found) * 1024 / 1e6 if found else None


# -- words -------------------------------------------------------------------------------------------------------------


def load_words() -> str:
    """How busy the machine is, for all its processes."""
    return " / ".join(f"{load:.1f}" for load in os.getloadavg()) if hasattr(os, "getloadavg") else "not known"


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def middle(values: Sequence[float]) -> float:
    """The median; not a number for none."""
    return statistics.median(values) if values else float("nan")


def high(values: Sequence[float], percent: int = 95) -> float:
    """A high percentile; not a number for none."""
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)] if values else float("nan")


def megabytes(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}"


def verdict(is_reached: bool) -> str:
    return "reached" if is_reached else "**not reached**"
