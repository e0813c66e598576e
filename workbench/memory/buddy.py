"""Buddy allocator: regions whose sizes are powers of two, split in halves and merged again (Knuth, TAOCP 1, 2.5).

The paper's contiguous baselines (Orca) place their reservations with one (Kwon et al., SOSP 2023, section 6.1).
"""

from __future__ import annotations

import bisect


class BuddyAllocator:
    """Hands out regions of ``2**order`` units from ``num_units``, lowest address first.

    ``num_units`` need not be a power of two: the arena is cut into the powers of two of its binary form, largest first,
    and buddies merge only within these.
    """

    def __init__(self, num_units: int) -> None:
        if num_units < 1:
            raise ValueError(f"num_units={num_units}: must be at least 1")
        self.num_units = num_units
        self.max_order = num_units.bit_length() - 1
        self._free: list[list[int]] = [[] for _ in range(self.max_order + 1)]
        self._used: dict[int, int] = {}
        start = 0
        for order in range(self.max_order, -1, -1):
            if num_units >> order & 1:
                self._free[order].append(start)
                start += 1 << order

    @staticmethod
    def order_for(units: int) -> int:
        """The smallest order whose regions hold ``units`` units."""
        return max(0, (units - 1).bit_length())

    @property
    def largest_free(self) -> int:
        """Units in the largest free region; 0 if nothing is free."""
        return max((1 << order for order, starts in enumerate(self._free) if starts), default=0)

    @property
    def num_free(self) -> int:
        """Free units, in whatever pieces."""
        return sum(len(starts) << order for order, starts in enumerate(self._free))

    def allocate(self, order: int) -> int | None:
        """Start of a region of ``2**order`` units; None if no free region is large enough."""
        source = next((o for o in range(order, self.max_order + 1) if self._free[o]), None)
        if source is None:
            return None
        start = self._free[source].pop(0)
        for smaller in range(source - 1, order - 1, -1):
            bisect.insort(self._free[smaller], start + (1 << smaller))
        self._used[start] = order
        return start

    def free(self, start: int) -> None:
        """Gives a region back and merges it with its buddy as long as that is free too.

        Raises:
            ValueError: no region starts there.
        """
        if start not in self._used:
            raise ValueError(f"no region starts at unit {start}")
        order = self._used.pop(start)
        while order < self.max_order:
            buddy = start ^ (1 << order)
            index = bisect.bisect_left(self._free[order], buddy)
            if index == len(self._free[order]) or self._free[order][index] != buddy:
                break
            del self._free[order][index]
            start = min(start, buddy)
            order += 1
        bisect.insort(self._free[order], start)
