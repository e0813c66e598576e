"""The app's page in a real Chromium: what it draws, what it gets, what it keeps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from workbench.benchmarks.app_host import renderers_mb

#: When a frame was painted that the one before did not show, and when pages were drawn.
_WATCH_PAINTS = """() => {
  window.paints = [];
  let seen = KVW.stats.frames;
  (function look(now) {
    if (KVW.stats.frames !== seen) { seen = KVW.stats.frames; paints.push(now); }
    requestAnimationFrame(look);
  })(performance.now());
}"""
#: Presses Reset and Run whenever a run has ended. Counts the runs.
_AGAIN = """() => {
  window.again = { runs: 0, on: true };
  let pressed = 0;
  (function look() {
    const f = KVW.frame, now = performance.now();
    const press = (id) => { pressed = now; document.querySelector(id).click(); };
    if (again.on && f && now - pressed > 1500 && !f.running) {
      if (f.run) press("#kvw-reset");
      else { again.runs += 1; press("#kvw-run"); }
    }
    if (again.on) setTimeout(look, 250);
  })();
}"""
_STEP = """async ([steps, gap]) => {
  const viewer = KVW.explore.viewer, times = [];
  for (const step of steps) {
    const began = performance.now();
    await viewer.go(step);
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)));
    times.push(performance.now() - began);
    await new Promise((done) => setTimeout(done, gap));
  }
  return times;
}"""


@dataclass(frozen=True)
class Counters:
    """The page's own counters, and when they were read (seconds)."""

    at: float
    frames: int
    draws: int
    characters: int
    resyncs: int
    frame_ms: float


@dataclass(frozen=True)
class Memory:
    """What a tab holds after a forced garbage collection. ``private_mb``: of the tab's process, if it is known."""

    heap_mb: float
    nodes: int
    listeners: int
    private_mb: float | None


class Page:
    """A tab of its own.

    Attributes:
        wire: bytes that Gradio's stream brought, its own words included; only with ``listens``, for which Chromium
            keeps what the page gets in the memory of the tab.
    """

    def __init__(self, browser: Any, listens: bool = False) -> None:
        self._context = browser.new_context(viewport={"width": 1440, "height": 900})
        self.tab = self._context.new_page()
        self._cdp = self._context.new_cdp_session(self.tab)
        self.wire = 0
        self._streams: set[str] = set()
        self._cdp.on("Network.requestWillBeSent", self._requested)
        self._cdp.on("Network.dataReceived", self._received)
        if listens:
            self._cdp.send("Network.enable")
        self._cdp.send("Performance.enable")

    def _requested(self, event: dict[str, Any]) -> None:
        if "queue/data" in event["request"]["url"]:
            self._streams.add(event["requestId"])

    def _received(self, event: dict[str, Any]) -> None:
        if event["requestId"] in self._streams:
            self.wire += event["dataLength"]

    def open(
        self, url: str, until: str = "window.KVW && KVW.frame && KVW.stats.draws > 0", seconds: float = 90
    ) -> float:
        """Opens an address; seconds from then (by the page's clock) until a condition holds."""
        self.tab.goto(url, wait_until="commit")
        return self.passed(until, seconds)

    def ready(self, url: str, pages: int, seconds: float = 180) -> None:
        """Opens an address of the tab Compare, and waits until all that it asks for is filled in: so many pages."""
        self.open(url, seconds=seconds)
        self.tab.wait_for_function(
            "words => (document.querySelector('#kvw-pool-words') || {}).innerText?.includes(words)",
            arg=f"= {pages:,} pages",
            timeout=1000 * seconds,
        )

    def passed(self, condition: str, seconds: float = 180) -> float:
        """Waits for a condition; seconds since the page was opened."""
        return float(
            self.tab.wait_for_function(
                f"() => {{ const f = window.KVW && KVW.frame; return ({condition}) && performance.now() / 1000; }}",
                timeout=1000 * seconds,
                polling=20,
            ).json_value()
        )

    def press(self, button: str) -> None:
        """Presses a button of the tab Compare by its id."""
        self.tab.evaluate("id => document.querySelector(id).click()", f"#kvw-{button}")

    def unlimited(self) -> None:
        """As fast as possible."""
        self.tab.get_by_label("As fast as possible").check()

    def counters(self) -> Counters:
        stats = self.tab.evaluate("({...KVW.stats, now: performance.now() / 1000})")
        return Counters(
            stats["now"], stats["frames"], stats["draws"], stats["bytes"], stats.get("resyncs", 0), stats["frameMs"]
        )

    def watch_paints(self) -> None:
        self.tab.evaluate(_WATCH_PAINTS)

    def paints(self) -> list[float]:
        """Seconds at which a new frame was painted; counts from the call of `watch_paints`."""
        return [at / 1000 for at in self.tab.evaluate("paints")]

    def run_again_and_again(self) -> None:
        self.tab.evaluate(_AGAIN)

    def stop_running(self) -> int:
        """Ends that; how many runs it were."""
        runs = int(self.tab.evaluate("() => { again.on = false; return again.runs; }"))
        self.press("pause")
        return runs

    def memory(self) -> Memory:
        self._cdp.send("HeapProfiler.collectGarbage")
        metrics = {m["name"]: m["value"] for m in self._cdp.send("Performance.getMetrics")["metrics"]}
        return Memory(
            metrics["JSHeapUsedSize"] / 1e6, int(metrics["Nodes"]), int(metrics["JSEventListeners"]), renderers_mb()
        )

    def rest(self, seconds: float) -> None:
        """Lets the browser go on, with its messages heard."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.tab.wait_for_timeout(1000 * min(left, 1.0))

    def explore_times(self, steps: list[int], gap_ms: int = 0) -> list[float]:
        """Milliseconds from asking for each step in the tab Explore until it is painted."""
        return [float(ms) for ms in self.tab.evaluate(_STEP, [steps, gap_ms])]

    def close(self) -> None:
        self._context.close()


@contextmanager
def opened(browser: Any, listens: bool = False) -> Iterator[Page]:
    """A page that is closed afterwards."""
    page = Page(browser, listens)
    try:
        yield page
    finally:
        page.close()
