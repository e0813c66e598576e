"""Puts an engine together: which attention, how many pages, which memory, which runner."""

from __future__ import annotations

from dataclasses import dataclass

from workbench.engine.attention import AttentionChoice, choose_attention
from workbench.engine.config import ConfigError, EngineConfig
from workbench.engine.launched import Runner
from workbench.engine.runner import ModelRunner
from workbench.events.bus import EventBus
from workbench.events.types import SCHEMA_VERSION, RunStarted
from workbench.memory import ContiguousMemory, MemoryManager, PagedMemory, Reservation, allocate_kv_cache
from workbench.models.loading import LoadedModel


@dataclass(frozen=True)
class Parts:
    """What an engine is made of, and the settings that were left to it."""

    max_model_len: int
    attention: AttentionChoice
    memory: MemoryManager
    runner: Runner

    def run_started(self, config: EngineConfig, model: LoadedModel) -> RunStarted:
        """The first event of a run."""
        decided: dict[str, str | int | float | bool | None] = {
            "max_model_len": self.max_model_len,
            "num_blocks": self.memory.num_blocks,
            "attention": self.attention.name,
        }
        return RunStarted(
            schema_version=SCHEMA_VERSION,
            memory=config.memory,
            block_size=config.block_size,
            num_blocks=self.memory.num_blocks,
            bytes_per_block=config.block_size * model.geometry.kv_bytes_per_token,
            seed=config.seed,
            model=model.geometry,
            config=config.as_dict() | decided,
        )


def assemble(config: EngineConfig, model: LoadedModel, bus: EventBus | None) -> Parts:
    """Chooses and makes the parts.

    Raises:
        ConfigError: a setting does not suit the model.
        MemoryError: the KV pool does not fit.
    """
    max_model_len = _max_model_len(config, model)
    attention = choose_attention(config.attention, model, config.block_size)
    num_blocks = _num_blocks(config, model, attention, max_model_len)
    memory: MemoryManager
    if config.memory == "paged":
        memory = PagedMemory(num_blocks, config.block_size, config.watermark, bus)
    else:
        memory = ContiguousMemory(num_blocks, config.block_size, Reservation(config.reservation), max_model_len, bus)
    caches = allocate_kv_cache(model.layers, num_blocks, config.block_size, model.dtype, model.device)
    if attention.name == "torch":
        return Parts(max_model_len, attention, memory, ModelRunner(model, caches, memory))
    from workbench.engine.gpu.runner import TritonRunner

    return Parts(max_model_len, attention, memory, TritonRunner(model, caches, memory, config, max_model_len))


def _max_model_len(config: EngineConfig, model: LoadedModel) -> int:
    asked, possible = config.max_model_len, model.max_positions
    if asked is None:
        return possible or 2048
    if possible is not None and asked > possible:
        raise ConfigError(f"max_model_len={asked}: {model.name} was made for at most {possible} positions")
    return asked


def _num_blocks(config: EngineConfig, model: LoadedModel, attention: AttentionChoice, max_model_len: int) -> int:
    if config.num_blocks is not None:
        return config.num_blocks
    if model.device.type != "cuda" or attention.name != "triton":
        raise ConfigError(
            "num_blocks=None: the pool's size can be taken from free memory only on a CUDA device with Triton "
            f"attention (here: {model.device.type}, {attention.name}); give a number"
        )
    from workbench.engine.gpu.pool import blocks_that_fit

    return blocks_that_fit(model, config, max_model_len)
