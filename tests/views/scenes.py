"""Small page maps, made from events alone."""

from __future__ import annotations

from tests.events import scenario
from workbench.events import Cause, EventBus, PageMap
from workbench.events.types import (
    SCHEMA_VERSION,
    AdmissionBlocked,
    BlockAllocated,
    ModelGeometry,
    RegionReserved,
    RequestAdmitted,
    RequestQueued,
    RunStarted,
    SlotsWritten,
    Tier,
    TokenGenerated,
)

GEOMETRY = ModelGeometry("test", "TestForCausalLM", 2, 4, 2, 8, 100, "float32", 256)


def start(memory: str, num_blocks: int = 8, block_size: int = 4) -> EventBus:
    """A bus after its first event."""
    bus = EventBus()
    bus.emit(
        RunStarted(
            schema_version=SCHEMA_VERSION,
            memory=memory,
            block_size=block_size,
            num_blocks=num_blocks,
            bytes_per_block=block_size * GEOMETRY.kv_bytes_per_token,
            seed=0,
            model=GEOMETRY,
            config={},
        )
    )
    return bus


def add(bus: EventBus, request: int, admit: bool = True, prompt_tokens: int = 6) -> None:
    """Queues a request, and lets it in."""
    prompt = f"prompt {request}"
    bus.emit(RequestQueued(request=request, sequence=request, prompt=prompt, prompt_tokens=prompt_tokens, max_tokens=8))
    if admit:
        bus.emit(RequestAdmitted(request=request, waited_steps=0))


def write(bus: EventBus, request: int, count: int, block: int | None, first: int = 0) -> None:
    """Stores tokens."""
    bus.emit(SlotsWritten(sequence=request, block=block, first=first, count=count, cause=Cause.PREFILL))


def page(bus: EventBus, request: int, block: int, index: int) -> None:
    """Hands out a page."""
    bus.emit(
        BlockAllocated(tier=Tier.DEVICE, block=block, sequence=request, logical_index=index, cause=Cause.ADMISSION)
    )


def generate(bus: EventBus, request: int, tokens: list[int], first: int = 0) -> None:
    """Generates tokens, each with its number as its text."""
    for index, token in enumerate(tokens, first):
        text = f"{token} "
        bus.emit(TokenGenerated(request=request, sequence=request, index=index, token_id=token, text=text))


def paged() -> PageMap:
    """8 pages of 4 slots: A holds pages 0 (full) and 5 (half full), B page 3 (full); C waits for 6 pages."""
    bus = start("paged")
    bus.flush()
    bus.begin_step(1)
    add(bus, 0)
    page(bus, 0, 0, 0)
    page(bus, 0, 5, 1)
    write(bus, 0, 4, 0)
    write(bus, 0, 2, 5)
    add(bus, 1, prompt_tokens=4)
    page(bus, 1, 3, 0)
    write(bus, 1, 4, 3)
    add(bus, 2, admit=False, prompt_tokens=24)
    bus.emit(AdmissionBlocked(request=2, cause=Cause.POOL_EXHAUSTED, needed=6, available=5))
    bus.flush()
    return bus.page_map


def contiguous() -> PageMap:
    """32 slots: A has 0 to 15 (14 asked for, 6 filled), B has 24 to 27 (all filled); C waits for 16 in one piece."""
    bus = start("contiguous")
    bus.flush()
    bus.begin_step(1)
    for request, first, size, requested, filled in ((0, 0, 16, 14, 6), (1, 24, 4, 4, 4)):
        add(bus, request, prompt_tokens=filled)
        bus.emit(RegionReserved(sequence=request, start=first, size=size, requested=requested, cause=Cause.ADMISSION))
        write(bus, request, filled, None, first)
    add(bus, 2, admit=False)
    bus.emit(AdmissionBlocked(request=2, cause=Cause.POOL_EXHAUSTED, needed=16, available=8))
    bus.flush()
    return bus.page_map


def tiers(step: int) -> PageMap:
    """The state after a step of `tests.events.scenario`: shared and cached pages, and a host tier."""
    bus = EventBus()
    return next(bus.page_map for batch in scenario.play(bus) if batch.step == step)
