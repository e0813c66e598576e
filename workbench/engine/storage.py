"""The tensors of both tiers, and which layer uses which."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from workbench.models.layer_groups import LayerGroups


@dataclass(frozen=True)
class Storage:
    """The tensors of both tiers.

    Attributes:
        caches: K and V per layer of a page; ``host``: rows of the host tier, if there is one.
        groups: which of them a layer uses.
    """

    caches: list[tuple[Tensor, Tensor]]
    host: Tensor | None
    groups: LayerGroups

    @property
    def by_layer(self) -> list[tuple[Tensor, Tensor]]:
        """K and V of every layer; layers of different groups may have the same tensors, but never the same page."""
        return [self.caches[place] for place in self.groups.place_of]
