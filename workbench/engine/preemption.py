"""Who gives way when memory runs out, and how: victim policies, and the choice between swapping and recomputing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from workbench.events.types import PreemptionEstimate, PreemptionMode
from workbench.memory.eviction import Key
from workbench.memory.protocol import Footprint, Shortfall


@dataclass(frozen=True, slots=True)
class Candidate:
    """A running request that could give way.

    Attributes:
        request: its number; a later one has a larger one.
        footprint: what it holds.
        remaining_tokens: the most that it may still generate.
    """

    request: int
    footprint: Footprint
    remaining_tokens: int


class VictimPolicy(Protocol):
    """The candidate with the smallest key gives way; of equal ones the last to arrive.

    The oldest running request is never a candidate, whatever the policy: it always goes on, so every request gets its
    turn. Nor is one that has been given its place in this step.
    """

    @property
    def name(self) -> str: ...
    def key(self, candidate: Candidate) -> Key: ...


class LastCome:
    """The last to arrive, as in the paper."""

    name = "last_come"

    def key(self, candidate: Candidate) -> Key:
        return (-candidate.request,)


class FewestBlocks:
    """Who loses the fewest blocks: the cheapest to bring back, but it makes little room."""

    name = "fewest_blocks"

    def key(self, candidate: Candidate) -> Key:
        return (candidate.footprint.lost,)


class LongestRemaining:
    """Who has the most left to generate: those that are nearly done finish and make room by themselves."""

    name = "longest_remaining"

    def key(self, candidate: Candidate) -> Key:
        return (-candidate.remaining_tokens,)


class MostSharedLast:
    """Who shares the least of its pages: pages that others use stay where they are, so taking them makes no room."""

    name = "most_shared_last"

    def key(self, candidate: Candidate) -> Key:
        return (candidate.footprint.shared / max(1, candidate.footprint.blocks),)


VICTIM_POLICIES: dict[str, type[LastCome] | type[FewestBlocks] | type[LongestRemaining] | type[MostSharedLast]] = {
    policy.name: policy for policy in (LastCome, FewestBlocks, LongestRemaining, MostSharedLast)
}


class PreemptionPolicy(StrEnum):
    """How a victim's memory is taken: always the same way, or decided for each victim."""

    RECOMPUTE = "recompute"
    SWAP = "swap"
    ADAPTIVE = "adaptive"


class Speeds:
    """How fast pages move between the tiers, and prompts are computed: given, or measured as the engine runs.

    Measured speeds are running means, in which a new measurement weighs a quarter. Decisions made from them may differ
    from run to run; give both numbers to have them repeated.

    Args:
        transfer_bandwidth: bytes per second one way; prefill_speed: tokens per second. None: measure.
    """

    def __init__(self, transfer_bandwidth: float | None, prefill_speed: float | None) -> None:
        self._fixed_transfer, self._fixed_prefill = transfer_bandwidth is not None, prefill_speed is not None
        self.ns_per_byte = 1e9 / transfer_bandwidth if transfer_bandwidth else None
        self.ns_per_token = 1e9 / prefill_speed if prefill_speed else None

    def note_transfer(self, num_bytes: int, ns: int) -> None:
        if not self._fixed_transfer and num_bytes:
            self.ns_per_byte = _blend(self.ns_per_byte, ns / num_bytes)

    def note_prefill(self, tokens: int, ns: int) -> None:
        if not self._fixed_prefill and tokens:
            self.ns_per_token = _blend(self.ns_per_token, ns / tokens)

    def estimate(self, footprint: Footprint, shortfall: Shortfall | None) -> PreemptionEstimate:
        """What getting a victim back will cost, either way. ``shortfall``: why it can't be swapped out."""
        swap = -1
        if shortfall is None and self.ns_per_byte is not None:
            swap = round(2 * footprint.bytes * self.ns_per_byte)
        recompute = -1 if self.ns_per_token is None else round(footprint.tokens * self.ns_per_token)
        return PreemptionEstimate(swap, recompute, footprint.tokens, footprint.tokens_kept, footprint.bytes)


def _blend(old: float | None, new: float) -> float:
    return new if old is None else 0.75 * old + 0.25 * new


def decide(
    policy: PreemptionPolicy, estimate: PreemptionEstimate, shortfall: Shortfall | None
) -> tuple[PreemptionMode, str]:
    """How a victim is preempted, and why, in words."""
    if policy is PreemptionPolicy.RECOMPUTE:
        return PreemptionMode.RECOMPUTE, "as configured"
    if shortfall is not None:
        reason = f"it can't be swapped out: needs {shortfall.needed} {shortfall.unit}, {shortfall.available} are free"
        if not shortfall.needed:
            reason = "it can't be swapped out: it is larger than the device's pool"
        return PreemptionMode.RECOMPUTE, reason
    if policy is PreemptionPolicy.SWAP:
        return PreemptionMode.SWAP, "as configured"
    if estimate.swap_ns < 0 or estimate.recompute_ns < 0:
        return PreemptionMode.SWAP, "speeds are not known yet"
    swap, recompute = estimate.swap_ns / 1e6, estimate.recompute_ns / 1e6
    if swap <= recompute:
        return PreemptionMode.SWAP, f"swapping is expected to take {swap:.2f} ms, recomputing {recompute:.2f} ms"
    return PreemptionMode.RECOMPUTE, f"recomputing is expected to take {recompute:.2f} ms, swapping {swap:.2f} ms"
