"""Puts an engine together: which attention, how many pages, which memory, which runner."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from workbench.engine.attention import AttentionChoice, choose_attention
from workbench.engine.config import ConfigError, EngineConfig
from workbench.engine.launched import Runner
from workbench.engine.mover import TorchMover
from workbench.engine.reading import PageReader, TorchOps, needs_reader
from workbench.engine.runner import ModelRunner
from workbench.engine.storage import Storage
from workbench.events.bus import EventBus
from workbench.events.types import SCHEMA_VERSION, RunStarted
from workbench.memory import (
    ContiguousMemory,
    MemoryManager,
    PagedMemory,
    Reservation,
    TieredMemory,
    allocate_host_tier,
    allocate_kv_cache,
    bytes_per_block,
)
from workbench.models.layer_groups import group_layers
from workbench.models.loading import LoadedModel


@dataclass(frozen=True)
class Parts:
    """What an engine is made of, and the settings that were left to it."""

    max_model_len: int
    attention: AttentionChoice
    memory: MemoryManager
    runner: Runner
    bytes_per_block: int
    host_tier: str

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
            bytes_per_block=self.bytes_per_block,
            seed=config.seed,
            model=model.geometry,
            config=config.as_dict() | decided,
            num_host_blocks=self.memory.num_host_blocks,
            group_windows=[window or 0 for window in self.memory.windows],
            host_tier=self.host_tier,
        )


def assemble(config: EngineConfig, model: LoadedModel, bus: EventBus | None) -> Parts:
    """Chooses and makes the parts.

    Raises:
        ConfigError: a setting does not suit the model.
        MemoryError: the KV pool does not fit.
    """
    max_model_len = _max_model_len(config, model)
    attention = choose_attention(config.attention, model, config.block_size)
    dtype = _cache_dtype(config, model, attention)
    frees = config.memory == "paged" and config.free_behind_window and not config.prefix_caching
    groups = group_layers(model.layers, frees, max_model_len)
    stored = [model.layers[groups.place_of.index(place)] for place in range(groups.layers_per_page)]
    size = bytes_per_block(stored, config.block_size, dtype)
    num_blocks = config.num_blocks
    if num_blocks is None:
        _check_pool_can_be_measured(model, attention)
        from workbench.engine.gpu.pool import blocks_that_fit

        num_blocks = blocks_that_fit(model, config, max_model_len, groups, stored, dtype, size)
    memory = make_memory(config, num_blocks, size, groups.windows, max_model_len, bus)
    caches = allocate_kv_cache(stored, num_blocks, config.block_size, dtype, model.device)
    host, is_cuda = None, model.device.type == "cuda"
    if config.num_host_blocks:
        host = allocate_host_tier(config.num_host_blocks, size, pinned=is_cuda)
    tier = "" if host is None else "pinned host memory" if is_cuda else "a second pool in the same memory"
    storage = Storage(caches, host, groups)
    runner: Runner
    if attention.name == "torch":
        mover = TorchMover(caches, host)
        reader = PageReader(config, storage, groups.group_of, TorchOps()) if needs_reader(config) else None
        if reader is not None:
            mover.followers.add(reader.bounds, reader.host_bounds)
        runner = ModelRunner(model, storage.by_layer, memory, mover, groups.group_of, reader)
    else:
        from workbench.engine.gpu.runner import TritonRunner

        runner = TritonRunner(model, storage, memory, config, max_model_len)
    return Parts(max_model_len, attention, memory, runner, size, tier)


def make_memory(
    config: EngineConfig,
    num_blocks: int,
    bytes_per_block: int,
    windows: tuple[int | None, ...],
    max_model_len: int,
    bus: EventBus | None,
) -> MemoryManager:
    """The books that a configuration asks for."""
    block_size = config.block_size
    if config.memory == "contiguous":
        return ContiguousMemory(num_blocks, block_size, Reservation(config.reservation), max_model_len, bus)
    eviction, chunk = config.eviction_policy, config.max_num_batched_tokens
    if not config.num_host_blocks:
        return PagedMemory(
            num_blocks,
            block_size,
            config.watermark,
            bus,
            windows=windows,
            eviction=eviction,
            max_chunk=chunk,
            bytes_per_block=bytes_per_block,
        )
    return TieredMemory(
        num_blocks,
        block_size,
        config.watermark,
        bus,
        config.num_host_blocks,
        windows=windows,
        eviction=eviction,
        max_chunk=chunk,
        bytes_per_block=bytes_per_block,
        placement=config.placement_policy,
    )


def _cache_dtype(config: EngineConfig, model: LoadedModel, attention: AttentionChoice) -> torch.dtype:
    if config.kv_cache_dtype == "auto":
        return model.dtype
    if attention.name != "triton":
        raise ConfigError(
            f"kv_cache_dtype={config.kv_cache_dtype!r}: only the Triton kernels read float8, and here "
            f"attention is {attention.name!r} ({attention.why})"
        )
    return torch.float8_e4m3fn


def _max_model_len(config: EngineConfig, model: LoadedModel) -> int:
    asked, possible = config.max_model_len, model.max_positions
    if asked is None:
        return possible or 2048
    if possible is not None and asked > possible:
        raise ConfigError(f"max_model_len={asked}: {model.name} was made for at most {possible} positions")
    return asked


def _check_pool_can_be_measured(model: LoadedModel, attention: AttentionChoice) -> None:
    if model.device.type != "cuda" or attention.name != "triton":
        raise ConfigError(
            "num_blocks=None: the pool's size can be taken from free memory only on a CUDA device with Triton "
            f"attention (here: {model.device.type}, {attention.name}); give a number"
        )
