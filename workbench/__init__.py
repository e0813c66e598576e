"""KV Workbench: watch a language model's memory work.

    from workbench import LLM, EngineConfig, SamplingParams

    llm = LLM("tiny", EngineConfig(memory="paged", block_size=16, num_blocks=256))
    llm.generate(["Once upon a time"], SamplingParams(max_tokens=64, seed=0))
    llm.page_map

Names are imported on first use: reading a recording does not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.engine import LLM, EngineConfig, SamplingParams
    from workbench.events import EventBus, PageMap, Recorder, Recording

__version__ = "0.1.0"

_HOMES = {
    "LLM": "workbench.engine",
    "EngineConfig": "workbench.engine",
    "SamplingParams": "workbench.engine",
    "EventBus": "workbench.events",
    "PageMap": "workbench.events",
    "Recorder": "workbench.events",
    "Recording": "workbench.events",
}

__all__ = ["LLM", "EngineConfig", "EventBus", "PageMap", "Recorder", "Recording", "SamplingParams"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
