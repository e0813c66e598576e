"""`workbench doctor`: what is installed, what will be used, and why."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import shutil
import time

_PACKAGES = (
    "torch",
    "triton",
    "transformers",
    "tokenizers",
    "msgspec",
    "numpy",
    "gradio",
    "plotly",
    "ipywidgets",
    "jupyterlab",
)

#: Triton is for GPUs, and for the tests of its kernels; the course's notebooks need the others.
_OPTIONAL = ("triton", "ipywidgets", "jupyterlab")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Says what is installed, which device and attention path will be used and why, and whether the bundled model "
        "works. The exit code is 1 if something essential does not."
    )


def installed_versions() -> dict[str, str | None]:
    """Version of every package that matters; None if it is missing."""
    versions: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions


def describe_machine() -> str:
    """Processor, cores and system, on one line."""
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            name = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    return f"{name}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"


def find_browser() -> str | None:
    """A Chromium that the browser tests can drive."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    return next((path for path in map(shutil.which, names) if path), None)


def _device_lines() -> list[str]:
    import torch

    from workbench.models.device import pick_device, pick_dtype
    from workbench.models.packed_linear import can_pack

    device = pick_device("auto")
    if device.type == "cuda":
        why = f"CUDA device found: {torch.cuda.get_device_name()}"
    elif torch.version.cuda is None:
        why = "this torch build has no CUDA support" + (", MPS is there" if device.type == "mps" else "")
    else:
        why = "torch finds no CUDA device"
    dtype = str(pick_dtype("auto", device)).removeprefix("torch.")
    packing = "oneDNN layout" if can_pack() and device.type == "cpu" else "as stored"
    return [
        f"device      {device.type} ({why})",
        f"dtype       {dtype}",
        f"weights     {packing}",
        f"threads     {torch.get_num_threads()}",
    ]


def _model_lines() -> tuple[list[str], bool]:
    from workbench.engine import LLM, SamplingParams

    try:
        started = time.perf_counter()
        llm = LLM("tiny")
        loaded = time.perf_counter() - started
        output = llm.generate("Once upon a time", SamplingParams(max_tokens=12, seed=0))[0].outputs[0]
    except Exception as error:
        return [f"tiny        FAILED: {error}"], False
    geometry = llm.model.geometry
    speed = len(output.token_ids) / (llm.page_map.totals.busy_ns / 1e9)
    return [
        f"tiny        {geometry.architecture}, {geometry.num_layers} layers, loaded in {loaded:.1f} s, "
        f"{geometry.kv_bytes_per_token} bytes of KV per token",
        f"            says {output.text!r} at {speed:,.0f} tokens/s (one request)",
        f"attention   {llm.describe_runner()} ({llm.attention.why})",
    ], True


def main(args: argparse.Namespace) -> int:
    versions = installed_versions()
    print(f"machine     {describe_machine()}")
    for package, version in versions.items():
        print(f"{package:<12}{version or 'missing'}")
    missing = [p for p, v in versions.items() if v is None and p not in _OPTIONAL]
    ok = not missing
    if "torch" not in missing and "transformers" not in missing:
        print("\n".join(_device_lines()))
        lines, model_ok = _model_lines()
        print("\n".join(lines))
        ok = ok and model_ok
    print(f"browser     {find_browser() or 'none found (only the browser tests need one)'}")
    if missing:
        print(f"\nMissing: {', '.join(missing)}. Install the project again: pip install -e .")
    print("\nAll is well." if ok else "\nSomething essential does not work, see above.")
    return 0 if ok else 1
