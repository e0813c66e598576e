"""KV memory: the pool of pages, the contiguous baselines, and one protocol for both."""

from workbench.memory.contiguous import ContiguousMemory, Reservation
from workbench.memory.kv_cache import allocate_host_tier, allocate_kv_cache, bytes_per_block
from workbench.memory.paged import PagedMemory
from workbench.memory.protocol import MemoryManager, MemoryTables, SharingError, Shortfall
from workbench.memory.tiered import TieredMemory

__all__ = [
    "ContiguousMemory",
    "MemoryManager",
    "MemoryTables",
    "PagedMemory",
    "Reservation",
    "SharingError",
    "Shortfall",
    "TieredMemory",
    "allocate_host_tier",
    "allocate_kv_cache",
    "bytes_per_block",
]
