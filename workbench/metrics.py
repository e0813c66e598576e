"""Prometheus metrics of engines, from their events alone.

    from workbench import metrics
    metrics.attach(llm)                                    # on prometheus_client's own registry
    prometheus_client.start_http_server(9400, "127.0.0.1")

Names are vLLM's, under the prefix ``kv_workbench:``, where the meaning is the same (``finished_reason="abort"`` is a
cancelled request, as there). What theirs lack is the truth by slots and pages: ``kv_slots``, ``kv_pages`` and so on.

Every sample has two labels: ``engine``, a name that the caller chooses from few, and ``memory``, paged or contiguous.
Engines with the same labels are added up. Nothing of a request or of a visitor becomes a label. Counters keep what
engines that are gone have counted.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Protocol

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import REGISTRY, CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from workbench.events import EventBus, PageMap
from workbench.events.bus import Subscription
from workbench.metrics_counts import BUCKETS, COUNTERS, HISTOGRAMS, Counts
from workbench.metrics_gauges import GAUGES, Gauges

PREFIX = "kv_workbench:"
_LABELS = ("engine", "memory")
_Key = tuple[str, str]


class HasBus(Protocol):
    """An engine, such as `workbench.LLM`."""

    @property
    def bus(self) -> EventBus: ...


class Watch:
    """One engine's place in a collector; `close` it when the engine is closed. What it counted stays."""

    def __init__(self, collector: EngineCollector, bus: EventBus, engine: str) -> None:
        self._collector = collector
        self._bus = bus
        self.engine = engine
        self.counts = Counts()
        self._subscription: Subscription = bus.subscribe(self.counts.on_batch, self.counts.begin, deferred=True)

    def snapshot(self) -> PageMap:
        """A copy of the engine's state between two steps."""
        kept: list[PageMap] = []
        self._bus.subscribe(lambda _: None, kept.append).close()
        return kept[0]

    def close(self) -> None:
        """Stops counting. Calling it again does nothing."""
        self._subscription.close()
        self._collector._retire(self)

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class EngineCollector(Collector):
    """Adds up any number of engines for Prometheus. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watches: list[Watch] = []
        self._retired: dict[_Key, Counts] = {}

    def watch(self, source: HasBus | EventBus, engine: str = "0") -> Watch:
        """Counts what an engine does from now on. ``engine`` is a label: choose it from few names."""
        watch = Watch(self, source if isinstance(source, EventBus) else source.bus, engine)
        with self._lock:
            self._watches.append(watch)
        return watch

    def _retire(self, watch: Watch) -> None:
        with self._lock:
            if watch not in self._watches:
                return
            self._watches.remove(watch)
            if watch.counts.memory:
                self._retired.setdefault((watch.engine, watch.counts.memory), Counts()).add(watch.counts)

    def collect(self) -> Iterator[Metric]:
        """All metrics now. Called by a registry."""
        with self._lock:
            keyed = [((watch.engine, watch.counts.memory), watch) for watch in self._watches]
            keyed = [(key, watch) for key, watch in keyed if key[1]]  # others have not begun to run
            counts: dict[_Key, Counts] = {}
            for key, retired in self._retired.items():
                counts.setdefault(key, Counts()).add(retired)
            for key, watch in keyed:
                counts.setdefault(key, Counts()).add(watch.counts)
        gauges = {key: Gauges() for key in counts}
        for key, watch in keyed:
            gauges[key].add(watch.snapshot())
        yield from _gauge_families(gauges)
        yield from _counter_families(counts)
        yield from _histogram_families(counts)

    def exposition(self) -> bytes:
        """All metrics in Prometheus' text format."""
        registry = CollectorRegistry()
        registry.register(self)
        return generate_latest(registry)

    def describe(self) -> Iterator[Metric]:
        """Nothing is collected when this is registered."""
        return iter(())


def _gauge_families(gauges: dict[_Key, Gauges]) -> Iterator[Metric]:
    for name, (words, labels) in GAUGES.items():
        family = GaugeMetricFamily(PREFIX + name, words, labels=[*_LABELS, *labels])
        for key, gauge in gauges.items():
            for values, number in gauge.values(name).items():
                family.add_metric([*key, *values], number)
        yield family


def _counter_families(counts: dict[_Key, Counts]) -> Iterator[Metric]:
    for name, (words, labels) in COUNTERS.items():
        family = CounterMetricFamily(PREFIX + name, words, labels=[*_LABELS, *labels])
        for key, count in counts.items():
            for values, number in count.counters[name].items():
                family.add_metric([*key, *values], number)
        yield family


def _histogram_families(counts: dict[_Key, Counts]) -> Iterator[Metric]:
    for name, words in HISTOGRAMS.items():
        family = HistogramMetricFamily(PREFIX + name, words, labels=_LABELS)
        for key, count in counts.items():
            histogram = count.histograms[name]
            family.add_metric(list(key), buckets=histogram.cumulative(BUCKETS), sum_value=histogram.sum)
        yield family


_default: EngineCollector | None = None
_default_lock = threading.Lock()


def attach(source: HasBus | EventBus, engine: str = "0", registry: CollectorRegistry | None = None) -> Watch:
    """Exports an engine's metrics.

    Args:
        source: an `LLM`, or an event bus.
        engine: value of the label ``engine``; engines with the same are added up.
        registry: where to; None is prometheus_client's own, on which all attached engines share one collector.

    Returns:
        A handle; close it with the engine.
    """
    global _default
    if registry is not None:
        collector = EngineCollector()
        registry.register(collector)
        return collector.watch(source, engine)
    with _default_lock:
        if _default is None:
            _default = EngineCollector()
            REGISTRY.register(_default)
    return _default.watch(source, engine)
