"""How many pages fit into the memory of a CUDA device."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

import torch

from workbench.engine.config import EngineConfig
from workbench.engine.gpu.graphs import graph_sizes
from workbench.engine.gpu.mover import STAGING
from workbench.engine.gpu.runner import TritonRunner
from workbench.engine.storage import Storage
from workbench.memory import PagedMemory, allocate_kv_cache
from workbench.models.geometry import LayerGeometry
from workbench.models.layer_groups import LayerGroups
from workbench.models.loading import LoadedModel

log = logging.getLogger(__name__)


def blocks_that_fit(
    model: LoadedModel,
    config: EngineConfig,
    max_model_len: int,
    groups: LayerGroups,
    stored: Sequence[LayerGeometry],
    dtype: torch.dtype,
    bytes_per_block: int,
) -> int:
    """Pages for ``gpu_memory_utilization``, no more than ``max_num_seqs`` of the longest sequences can use.

    The largest step is run once on a pool of a single page, to see what else than the pool needs memory. As much is
    kept for the graphs of decode steps, and their logits.

    Args:
        stored: the layers whose keys and values a page holds, in ``dtype``, ``bytes_per_block`` in all.

    Raises:
        MemoryError: not even one page fits.
    """
    device = model.device
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    runner = TritonRunner(
        model,
        Storage(allocate_kv_cache(stored, 1, config.block_size, dtype, device), None, groups),
        PagedMemory(1, config.block_size, 0.0, None, windows=groups.windows),
        dataclasses.replace(
            config, compile=False, cuda_graphs=False, num_host_blocks=0, attention_pages=None, measure_selection=False
        ),
        max_model_len,
    )
    runner.run_padding(config.max_num_batched_tokens)
    torch.cuda.synchronize(device)
    step = torch.cuda.max_memory_allocated(device) - before
    runner.release()
    del runner
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    graphs = 0
    if config.cuda_graphs:
        logits = sum(graph_sizes(config.max_num_seqs)) * model.geometry.vocab_size * model.dtype.itemsize
        graphs = step + logits
    others, bounds = 0, 0
    if config.attention_pages is not None:  # smallest and largest keys of every page, in float32
        bounds = sum(2 * 4 * layer.num_kv_heads * layer.head_dim for layer in model.layers)
        others += bounds * config.num_host_blocks
    if config.num_host_blocks:
        others += 2 * min(STAGING, bytes_per_block * config.num_host_blocks) + bytes_per_block * config.staging_blocks
    room = int(total * config.gpu_memory_utilization) - (total - free) - step - graphs - others
    needed = config.max_num_seqs * -(-max_model_len // config.block_size) * len(groups.windows)
    blocks = min(room // (bytes_per_block + bounds), needed, 1 << 22)
    log.info("%d pages of %d bytes: %.1f of %.1f GB free, a step needs %.2f", blocks, bytes_per_block, free / 1e9,
             total / 1e9, step / 1e9)  # fmt: skip
    if blocks < 1:
        raise MemoryError(
            f"gpu_memory_utilization={config.gpu_memory_utilization}: of {total / 2**20:,.0f} MiB, "
            f"{(total - free) / 2**20:,.0f} are in use and a step needs {(step + graphs) / 2**20:,.0f}; "
            "no page is left for the pool"
        )
    return blocks
