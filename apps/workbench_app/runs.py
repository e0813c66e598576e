"""What a new run is made known to: the tab Explore, which can look at both of its sides, and the metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from workbench import LLM
from workbench.metrics import EngineCollector, Watch
from workbench_app.duel import Duel
from workbench_app.explore import ExploreStore

#: Ends what `Registry.begin` began.
End = Callable[[], None]


class Registry:
    """Makes runs known, and forgets them when they are gone."""

    def __init__(self, explore: ExploreStore, collector: EngineCollector) -> None:
        self._explore = explore
        self._collector = collector

    def watch(self, llm: LLM) -> Watch:
        """Counts what an engine does. To be called before it tells of its requests, whose waits are measured."""
        return self._collector.watch(llm, "app")

    def begin(self, duel: Duel) -> tuple[dict[str, Any], End]:
        """What frames say of a run besides (``sources``: keys of both sides), and what to call when it is gone."""
        names = ("Live run, paged", "Live run, contiguous")
        keys = [
            self._explore.register_live(side.history, name, "") for side, name in zip(duel.sides, names, strict=True)
        ]

        def end() -> None:
            for key in keys:
                self._explore.drop(key)

        return {"sources": keys}, end
