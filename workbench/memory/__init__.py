"""KV memory: the pool of pages, the contiguous baselines, and one protocol for both."""

from workbench.memory.contiguous import ContiguousMemory, Reservation
from workbench.memory.kv_cache import allocate_kv_cache
from workbench.memory.paged import PagedMemory
from workbench.memory.protocol import MemoryManager, MemoryTables, Shortfall

__all__ = [
    "ContiguousMemory",
    "MemoryManager",
    "MemoryTables",
    "PagedMemory",
    "Reservation",
    "Shortfall",
    "allocate_kv_cache",
]
