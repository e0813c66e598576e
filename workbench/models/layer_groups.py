"""Layers that need the same tokens share a block table; layers with a sliding window need fewer than the others.

A hybrid model (Gemma 3, GPT-OSS) has layers that look at everything and layers that look at the last few tokens. With
one block table for all, pages would have to stay for the former although the latter no longer need their share of them.
So each kind has its own tables, and pages behind a window are freed.

All pages come from one pool, so a page must be of use to either kind: it holds the keys and values of the same number
of layers, whichever they are. A kind with more layers than that has several groups, each with its own tables.
(vLLM's hybrid KV cache manager solves it in the same way.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from workbench.models.geometry import LayerGeometry

#: More groups than that, and the last page of each, half empty, costs more than pages behind windows give back.
_MOST_GROUPS = 16


@dataclass(frozen=True)
class LayerGroups:
    """Which block table, and which of the pool's tensors, a layer uses.

    Attributes:
        windows: per group, its sliding window or None.
        group_of: per layer, its group; ``place_of``: per layer, which of the tensors of a page it uses.
        layers_per_page: how many layers' keys and values a page holds.
    """

    windows: tuple[int | None, ...]
    group_of: tuple[int, ...]
    place_of: tuple[int, ...]
    layers_per_page: int


def group_layers(layers: Sequence[LayerGeometry], frees: bool, max_model_len: int) -> LayerGroups:
    """Puts layers into groups.

    Args:
        frees: whether pages behind windows are to be freed; if not, there is one group, of all layers.
        max_model_len: a window that is at least as long as the longest sequence is none.
    """
    count = len(layers)
    windows = [w if w is not None and w < max_model_len else None for w in (layer.window for layer in layers)]
    kinds = list(dict.fromkeys(windows))
    is_uniform = len({replace(layer, window=None) for layer in layers}) == 1
    if not frees or (len(kinds) > 1 and not is_uniform):
        kinds = [None]
    if len(kinds) == 1:
        return LayerGroups((kinds[0],), (0,) * count, tuple(range(count)), count)
    members = {kind: [i for i, window in enumerate(windows) if window == kind] for kind in kinds}
    sizes = [len(layers_) for layers_ in members.values()]
    unit = math.gcd(*sizes)
    if count // unit > _MOST_GROUPS:
        unit = min(sizes)  # the last group of a kind may then have fewer layers than a page has room for
    group_of, place_of = [0] * count, [0] * count
    group_windows: list[int | None] = []
    for kind, layers_ in members.items():
        for start in range(0, len(layers_), unit):
            for place, layer in enumerate(layers_[start : start + unit]):
                group_of[layer], place_of[layer] = len(group_windows), place
            group_windows.append(kind)
    return LayerGroups(tuple(group_windows), tuple(group_of), tuple(place_of), unit)
