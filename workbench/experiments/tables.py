"""Tables as Markdown, and where and with what they were made."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import torch

from workbench.commands.doctor import describe_machine, installed_versions
from workbench.models import LoadedModel

_PACKAGES = ("torch", "triton", "transformers", "numpy")


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; every cell is shown as `str` shows it."""
    lines = [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}"]
    lines += [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join(lines)


def heading(command: str, model: LoadedModel) -> str:
    """The command, the day, the machine, the versions and the model, as one paragraph."""
    known = installed_versions()
    versions = ", ".join(f"{package} {known[package]}" for package in _PACKAGES if known.get(package))
    device = f"{torch.cuda.get_device_name(model.device)}; " if model.device.type == "cuda" else "no GPU; "
    threads = f", {torch.get_num_threads()} threads" if model.device.type == "cpu" else ""
    geometry = model.geometry
    return (
        f"`{command}`, {date.today().isoformat()}. {device}{describe_machine()}{threads}. {versions}. Model: "
        f"{geometry.name} ({geometry.architecture}, {geometry.num_layers} layers, {geometry.num_heads}/"
        f"{geometry.num_kv_heads} heads, {geometry.dtype}), {geometry.kv_bytes_per_token:,} bytes of KV per token."
    )


def percent(share: float, digits: int = 1) -> str:
    return f"{share:.{digits}%}"
