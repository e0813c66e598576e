"""Models: loading, the hook into transformers' attention, and the bundled model.

The names are imported on first use, so that the training script needs nothing of the engine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.models.loading import LoadedModel, UnsupportedModelError, load_model, prepare_model

__all__ = ["LoadedModel", "UnsupportedModelError", "load_model", "prepare_model"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from workbench.models import loading

    return getattr(loading, name)
