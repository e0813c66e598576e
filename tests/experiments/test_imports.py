"""Workloads and experiments stand above the engine, and below everything that draws."""

from __future__ import annotations

import pytest

from tests.test_architecture_rules import FRONT_ENDS, ROOT, imports

ENGINE = {"workbench.events", "workbench.memory", "workbench.models", "workbench.engine"}
ALLOWED = {
    "workloads": ENGINE | {"workbench.workloads"},
    # `doctor` names machine and versions; the benchmarks make random models.
    "experiments": ENGINE
    | {"workbench.workloads", "workbench.experiments", "workbench.commands", "workbench.benchmarks"},
}


@pytest.mark.parametrize("package", ALLOWED)
def test_import_direction(package: str) -> None:
    files = sorted((ROOT / "workbench" / package).glob("*.py"))
    assert files
    for path in files:
        for name in imports(path):
            assert name.split(".")[0] not in FRONT_ENDS | {"workbench_app"}, f"{path.name} imports {name}"
            if name.startswith("workbench."):
                assert ".".join(name.split(".")[:2]) in ALLOWED[package], f"{path.name} imports {name}"
