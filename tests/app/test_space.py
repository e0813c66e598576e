"""What a Hugging Face Space needs: front matter, requirements, and an entry that works from a checkout."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def _dependencies() -> list[str]:
    dependencies: list[str] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "dependencies"
    ]
    return dependencies


def test_requirements_are_the_project_s() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == _dependencies()


def test_front_matter_names_the_entry_and_a_gradio_that_the_project_takes() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert text.startswith("---\n")
    front = dict(re.findall(r"^(\w+): (.+)$", text.split("---\n")[1], re.M))
    assert front["sdk"] == "gradio"
    assert (ROOT / front["app_file"]).is_file()
    pinned = re.search(r"^gradio==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.M)
    assert pinned is not None
    assert front["sdk_version"] == pinned[1]


def test_the_entry_works_where_nothing_is_installed() -> None:
    """As a Space runs it: a checkout that is no package, and another working directory."""
    root = str(ROOT)
    code = (
        f"import runpy, sys; root = {root!r};"
        "sys.path = [p for p in sys.path if not p.startswith(root) or 'site-packages' in p];"
        f"names = runpy.run_path({str(ROOT / 'apps' / 'app.py')!r}, run_name='app');"
        "print(type(names['demo']).__name__)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip().endswith("Blocks"), done.stderr[-2000:]
