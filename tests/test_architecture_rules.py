"""The import directions of the design, read from the source: a view in the engine would show up here."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: package: what it may import of this project
ALLOWED = {
    "kernels/paged_kernels": {"paged_kernels"},
    "workbench/events": {"workbench.events"},
    "workbench/memory": {"workbench.events", "workbench.memory", "paged_kernels"},
    "workbench/models": {"workbench.events", "workbench.models", "paged_kernels"},
    "workbench/engine": {
        "workbench.events",
        "workbench.memory",
        "workbench.models",
        "workbench.engine",
        "paged_kernels",
    },
    "workbench/views": {"workbench.events", "workbench.views"},
    "workbench/widgets": {"workbench.events", "workbench.views", "workbench.engine", "workbench.widgets"},
}
#: packages that draw
DRAWING = {"workbench/views", "workbench/widgets", "workbench/course"}
FRONT_ENDS = {"plotly", "gradio", "ipywidgets", "anywidget"}


def imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names if node.module == "workbench"}
    return names


@pytest.mark.parametrize("package", ALLOWED)
def test_import_direction(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        for name in imports(path):
            if name.split(".")[0] in ("workbench", "paged_kernels", "workbench_app") and name != "workbench":
                home = ".".join(name.split(".")[:2]) if name.startswith("workbench.") else name.split(".")[0]
                assert home in ALLOWED[package], f"{path.relative_to(ROOT)} imports {name}"
            if package not in DRAWING:
                assert name.split(".")[0] not in FRONT_ENDS, f"{path.relative_to(ROOT)} imports {name}"


def test_the_engine_loads_no_front_end_and_events_load_no_torch() -> None:
    code = (
        "import sys, workbench.events, workbench.replay; assert 'torch' not in sys.modules, 'torch'; "
        "import workbench.engine, workbench.memory; "
        f"found = {FRONT_ENDS!r} & set(sys.modules); assert not found, found"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_course_knows_nothing_of_the_app_and_is_built_without_torch() -> None:
    for path in [*ROOT.glob("workbench/course/**/*.py"), *ROOT.glob("workbench/widgets/**/*.py")]:
        assert not any(name.split(".")[0] == "workbench_app" for name in imports(path)), path
    code = (
        "import sys, workbench.course.build, workbench.commands.learn, workbench.course.checking; "
        f"found = {FRONT_ENDS | {'torch'}!r} & set(sys.modules); assert not found, found"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_nothing_unpickles_or_trusts_remote_code() -> None:
    for path in [*ROOT.glob("workbench/**/*.py"), *ROOT.glob("apps/**/*.py"), *ROOT.glob("kernels/**/*.py")]:
        source = path.read_text(encoding="utf-8")
        assert not {"pickle", "dill", "cloudpickle", "joblib"} & {n.split(".")[0] for n in imports(path)}, path
        assert "trust_remote_code" not in source, path
        assert "torch.load" not in source, path
