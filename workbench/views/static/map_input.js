/* Working with a page map: selecting pages by click and by key, zooming in by dragging, out by double click. */
(function (KVW) {
  "use strict";
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
  const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

  /** Shows columns c0 to c1 and rows r0 to r1 (the ends excluded), at least two of each where there are. */
  function show(view, c0, c1, r0, r1) {
    const p = view.payload;
    const rows = Math.ceil(p.blocks / p.columns);
    const fit = (from, to, all) => {
      const count = clamp(to - from, Math.min(2, all), all);
      const start = clamp(from, 0, all - count);
      return [start, start + count];
    };
    const [a, b] = fit(c0, c1, p.columns);
    const [c, d] = fit(r0, r1, rows);
    view.window = { c0: a, c1: b, r0: c, r1: d };
    view.draw(p);
  }

  /** Twice as near (0.5) or as far (2), around the selected page or the middle. */
  KVW.zoomMap = function (view, factor) {
    const p = view.payload;
    if (!p || p.kind === "none") return;
    const w = view.window;
    const page = view.cursor >= 0 ? view.cursor : view.marks.selected;
    const middle = page >= 0 ? [page % p.columns, Math.floor(page / p.columns)] : [(w.c0 + w.c1) / 2, (w.r0 + w.r1) / 2];
    const [wide, high] = [Math.round((w.c1 - w.c0) * factor), Math.round((w.r1 - w.r0) * factor)];
    const [c, r] = [Math.round(middle[0] - wide / 2), Math.round(middle[1] - high / 2)];
    show(view, c, c + wide, r, r + high);
  };
  KVW.wholeMap = function (view) {
    if (view.payload) show(view, 0, view.payload.columns, 0, view.payload.blocks);
  };

  /** Brings a page into sight. */
  function reveal(view, page) {
    const p = view.payload;
    const w = view.window;
    const [c, r] = [page % p.columns, Math.floor(page / p.columns)];
    if (c >= w.c0 && c < w.c1 && r >= w.r0 && r < w.r1) return false;
    const [wide, high] = [w.c1 - w.c0, w.r1 - w.r0];
    const [left, top] = [c < w.c0 ? c : c >= w.c1 ? c - wide + 1 : w.c0, r < w.r0 ? r : r >= w.r1 ? r - high + 1 : w.r0];
    show(view, left, left + wide, top, top + high);
    return true;
  }
  KVW.revealPage = reveal;

  function moveCursor(view, event) {
    const p = view.payload;
    const step = STEPS[event.key];
    if (!p || p.kind === "none" || (!step && event.key !== "Enter")) return;
    if (event.ctrlKey || event.altKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    event.stopPropagation();
    if (!(view.cursor >= 0)) view.cursor = Math.max(0, view.marks.selected);
    else if (step) view.cursor = clamp(view.cursor + step[0] + step[1] * p.columns, 0, p.blocks - 1);
    if (event.key === "Enter") view.onSelect(view.cursor);
    if (!reveal(view, view.cursor)) view.redraw();
    KVW.setText(view.detail, KVW.describeSlot(p, view.cursor * p.block_size, view.noun, view.shared).join(" "));
  }

  KVW.makeMapInteractive = function (view) {
    const box = view.container;
    box.tabIndex = 0;
    box.setAttribute("role", "application");
    box.setAttribute("aria-roledescription", "page map");
    box.addEventListener("keydown", (event) => moveCursor(view, event));
    box.addEventListener("blur", () => {
      view.cursor = -1;
      view.redraw();
    });
    const band = box.appendChild(KVW.make("div", "kvw-band"));
    band.hidden = true;
    let from = null;
    const place = (event) => {
      const area = box.getBoundingClientRect();
      return [clamp(event.clientX - area.left, 0, area.width), clamp(event.clientY - area.top, 0, view.geometry.height)];
    };
    box.addEventListener("pointerdown", (event) => {
      if (event.button === 0 && view.geometry) from = { at: place(event), drag: event.pointerType === "mouse" };
    });
    box.addEventListener("pointermove", (event) => {
      if (!from || !from.drag || !(event.buttons & 1)) return;
      const to = place(event);
      const [w, h] = [Math.abs(to[0] - from.at[0]), Math.abs(to[1] - from.at[1])];
      if (band.hidden && w + h < 12) return;
      if (band.hidden) box.setPointerCapture(event.pointerId);
      band.hidden = false;
      Object.assign(band.style, { left: Math.min(to[0], from.at[0]) + "px", top: Math.min(to[1], from.at[1]) + "px", width: w + "px", height: h + "px" });
    });
    box.addEventListener("pointerup", (event) => {
      if (!from) return;
      const [start, to, g] = [from.at, place(event), view.geometry];
      from = null;
      if (band.hidden) {
        const slot = view.slotAt(event);
        const page = slot === null ? -1 : Math.floor(slot / view.payload.block_size);
        if (page >= 0 && page < view.payload.blocks) view.onSelect(page);
        return;
      }
      band.hidden = true;
      const cell = (value, size, origin, up) => origin + (up ? Math.ceil(value / size) : Math.floor(value / size));
      const [x0, x1] = [Math.min(start[0], to[0]), Math.max(start[0], to[0])];
      const [y0, y1] = [Math.min(start[1], to[1]), Math.max(start[1], to[1])];
      show(view, cell(x0, g.cellWidth, g.window.c0), cell(x1, g.cellWidth, g.window.c0, true), cell(y0, g.sy, g.window.r0), cell(y1, g.sy, g.window.r0, true));
    });
    box.addEventListener("pointercancel", () => {
      from = null;
      band.hidden = true;
    });
    box.addEventListener("dblclick", () => KVW.zoomMap(view, 4));
  };
})(window.KVW);
