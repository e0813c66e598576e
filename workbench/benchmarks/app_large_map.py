"""The page map of a pool of a hundred thousand pages: how long a browser takes to draw it."""

from __future__ import annotations

from typing import Any

from workbench.events import Cause, EventBus, PageMap
from workbench.events.types import (
    SCHEMA_VERSION,
    BlockAllocated,
    ModelGeometry,
    RequestAdmitted,
    RequestQueued,
    RunStarted,
    SlotsWritten,
    Tier,
)

MODES = ("request", "refs", "fill", "age", "cause")
_GEOMETRY = ModelGeometry("bench", "LlamaForCausalLM", 2, 4, 2, 8, 100, "float32", 256)
_BLOCK_SIZE = 16
_HOLDER = '<div class="kvw-viewer"><div id="map" class="kvw-map" style="width: 900px"></div><p id="detail"></p></div>'
_PAINTED = "new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)))"
_DRAW = f"""async ([payload, modes]) => {{
  const [box, detail] = ["map", "detail"].map((id) => document.getElementById(id));
  const view = new KVW.PageMapView(box, detail, "map", "Page", {{}});
  await new Promise((done) => setTimeout(done, 100));
  const times = {{}};
  for (const mode of modes) {{
    view.mode = mode;
    const began = performance.now();
    view.draw(payload);
    await {_PAINTED};
    (times[mode] = times[mode] || []).push(performance.now() - began);
  }}
  return times;
}}"""
_PLOT = f"""async (text) => {{
  const box = document.body.appendChild(document.createElement("div"));
  box.style.width = "900px";
  const began = performance.now();
  const figure = JSON.parse(text);
  await Plotly.newPlot(box, figure.data, figure.layout);
  await {_PAINTED};
  const passed = performance.now() - began;
  Plotly.purge(box);
  box.remove();
  return passed;
}}"""


def large_pool(pages: int) -> PageMap:
    """40 requests that hold three quarters of the pool, with gaps between them."""
    bus = EventBus()
    bus.emit(
        RunStarted(
            schema_version=SCHEMA_VERSION,
            memory="paged",
            block_size=_BLOCK_SIZE,
            num_blocks=pages,
            bytes_per_block=_BLOCK_SIZE * _GEOMETRY.kv_bytes_per_token,
            seed=0,
            model=_GEOMETRY,
            config={},
        )
    )
    apart = pages // 40
    held = apart * 3 // 4
    for request in range(40):
        bus.emit(
            RequestQueued(request=request, sequence=request, prompt=f"prompt {request}", prompt_tokens=16, max_tokens=8)
        )
        bus.emit(RequestAdmitted(request=request, waited_steps=0))
        for index in range(held):
            block, count = request * apart + index, _BLOCK_SIZE if index < held - 1 else 5
            bus.emit(
                BlockAllocated(
                    tier=Tier.DEVICE, block=block, sequence=request, logical_index=index, cause=Cause.ADMISSION
                )
            )
            bus.emit(SlotsWritten(sequence=request, block=block, first=0, count=count, cause=Cause.PREFILL))
    bus.flush()
    return bus.page_map


def draw_times(browser: Any, pages: int, repetitions: int = 5) -> dict[str, list[float]]:
    """Milliseconds until painted, by what was drawn: the live map in each colour mode, and the Plotly figure."""
    from workbench.views import page_map_view
    from workbench.views.payload import map_constants, map_payload
    from workbench.views.replay_html import PLOTLY_JS
    from workbench.views.scripts import MAP_SCRIPTS, STATIC

    pool = large_pool(pages)
    figure = page_map_view(pool).figure.to_json()
    tab = browser.new_page(viewport={"width": 1000, "height": 900})
    try:
        tab.set_content(_HOLDER)
        tab.add_style_tag(path=str(STATIC / "viewer.css"))
        for script in (PLOTLY_JS, *(STATIC / name for name in MAP_SCRIPTS)):
            tab.add_script_tag(path=str(script))
        tab.evaluate("constants => KVW.setConstants(constants)", map_constants())
        times: dict[str, list[float]] = tab.evaluate(_DRAW, [map_payload(pool), [*MODES] * repetitions])
        times = {f"live map, {mode}": values for mode, values in times.items()}
        times[f"figure of `page_map_view` ({len(figure) / 1024:,.0f} KiB)"] = [
            tab.evaluate(_PLOT, figure) for _ in range(repetitions)
        ]
        return times
    finally:
        tab.close()
