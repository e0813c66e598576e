"""The engine: configuration, scheduler, sampler, model runner, and the `LLM` that ties them together."""

from workbench.engine.config import ConfigError, EngineConfig
from workbench.engine.llm import LLM
from workbench.engine.outputs import CompletionOutput, RequestOutput
from workbench.engine.sampling_params import SamplingParams

__all__ = ["LLM", "CompletionOutput", "ConfigError", "EngineConfig", "RequestOutput", "SamplingParams"]
