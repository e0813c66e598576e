"""What `workbench.metrics` reads off engines' states at the moment it is asked."""

from __future__ import annotations

from collections import defaultdict

from workbench.events import PageMap
from workbench.events.state import RequestStatus

#: name: (help, labels beside ``engine`` and ``memory``)
GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "num_requests_running": ("Requests that run.", ()),
    "num_requests_waiting": ("Requests that wait: new ones, preempted ones and swapped ones.", ()),
    "num_requests_swapped": ("Those of the waiting ones whose pages are in the host tier.", ()),
    "kv_cache_usage_perc": (
        "Share of the device pool that requests hold, from 0 to 1. Cached pages count as not used, as in vLLM.",
        (),
    ),
    "kv_slots": (
        "Slots of the device pool by use: token_states, reserved (held and empty), external (no request can get them), "
        "cached, free. They add up to the pool.",
        ("use",),
    ),
    "kv_pages": ("Pages by tier and state: allocated, cached, free. Paged memory only.", ("tier", "state")),
    "kv_pages_shared": ("Pages that several sequences use, by tier.", ("tier",)),
    "kv_page_references": (
        "Entries of block tables, by tier; what exceeds allocated pages is saved by sharing.",
        ("tier",),
    ),
    "kv_pool_bytes": ("Size of the pools, by tier.", ("tier",)),
    "admission_blocked": ("Engines whose first waiting request is held up, by cause.", ("cause",)),
    "engines": ("Engines that are added up here.", ()),
}

_Values = dict[tuple[str, ...], float]


class Gauges:
    """The gauges of one engine, or of several added up."""

    def __init__(self) -> None:
        self._sums: dict[str, _Values] = {
            name: defaultdict(float, {} if labels else {(): 0.0}) for name, (_, labels) in GAUGES.items()
        }

    def values(self, name: str) -> _Values:
        """Values by labels."""
        if name != "kv_cache_usage_perc":
            return self._sums[name]
        slots = self._sums["kv_slots"]
        total = sum(slots.values())
        held = total - slots.get(("free",), 0.0) - slots.get(("cached",), 0.0) - slots.get(("external",), 0.0)
        return {(): held / total if total else 0.0}

    def add(self, state: PageMap) -> None:
        """Adds an engine's state."""
        sums = self._sums
        sums["engines"][()] += 1
        sums["num_requests_running"][()] += len(state.running)
        sums["num_requests_waiting"][()] += len(state.waiting)
        statuses = [state.requests[request].status for request in state.waiting]
        sums["num_requests_swapped"][()] += statuses.count(RequestStatus.SWAPPED)
        if state.blocked is not None:
            sums["admission_blocked"][(state.blocked.cause.value,)] += 1
        if state.run is None:
            return
        waste = state.waste()
        for use in ("token_states", "reserved", "external", "cached", "free"):
            sums["kv_slots"][(use,)] += getattr(waste, use)
        sums["kv_pool_bytes"][("device",)] += state.run.num_blocks * state.run.bytes_per_block
        sums["kv_pool_bytes"][("host",)] += state.run.num_host_blocks * state.run.bytes_per_block
        if not state.is_paged:
            return
        for tier, pages in (("device", state.pages), ("host", state.host_pages)):
            allocated = sum(page.ref_count > 0 for page in pages)
            cached = sum(page.is_cached for page in pages)
            sums["kv_pages"][tier, "allocated"] += allocated
            sums["kv_pages"][tier, "cached"] += cached
            sums["kv_pages"][tier, "free"] += len(pages) - allocated - cached
            sums["kv_pages_shared"][(tier,)] += sum(page.ref_count > 1 for page in pages)
            sums["kv_page_references"][(tier,)] += sum(page.ref_count for page in pages)
