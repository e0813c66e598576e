/* One page map: a Plotly heatmap that lives as long as the page, and a canvas above it for what a heatmap can't draw.
   Slots are drawn one by one where there are few, else pages, else rectangles of pages that open up on zoom. */
(function (KVW) {
  "use strict";
  const TARGET_HEIGHT = 340;
  const MOST_HEIGHT = 720;
  const MOST_SLOTS = 65536; // drawn one by one
  const MOST_CELLS = 20000;
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

  class PageMapView {
    /** `noun`: what a page of this tier is called. `options.onSelect(page)` makes the map one to be worked with: pages
        are selected by click or key, and a part of it can be zoomed into. */
    constructor(container, detail, name, noun = "Page", options = {}) {
      Object.assign(this, { name, noun, detail, container, onSelect: options.onSelect, mode: "request", order: "" });
      this.shared = new Map();
      this.highlight = -1;
      this.marks = { selected: -1, pages: [], changed: [] };
      this.payload = null;
      this.window = null;
      this.plot = KVW.make("div", "kvw-plot");
      this.overlay = new KVW.MapOverlay(KVW.make("canvas", "kvw-overlay"));
      this.tip = KVW.make("div", "kvw-tip");
      this.tip.hidden = true;
      container.append(this.plot, this.overlay.canvas, this.tip);
      // The width is remembered: asking for it between two changes of text makes the browser lay out the page again.
      this.width = container.clientWidth;
      new ResizeObserver((entries) => {
        this.width = Math.floor(entries[0].contentRect.width);
        if (this.payload) this.draw(this.payload);
      }).observe(container);
      container.addEventListener("pointermove", (event) => this.hover(event));
      container.addEventListener("pointerleave", () => this.hover(null));
      if (this.onSelect) KVW.makeMapInteractive(this);
      else {
        container.setAttribute("role", "img");
        container.addEventListener("click", (event) => {
          const slot = this.slotAt(event);
          if (slot !== null) KVW.setText(this.detail, this.describe(slot).join(" "));
        });
      }
    }

    /** Draws a payload; the same step of the same run again costs nothing. */
    draw(p, key) {
      const fresh = !this.payload || this.payload.blocks !== p.blocks || this.payload.columns !== p.columns;
      this.payload = p;
      if (p.kind === "none") return;
      const rows = Math.ceil(p.blocks / p.columns);
      if (fresh || !this.window) this.window = { c0: 0, c1: p.columns, r0: 0, r1: rows };
      const w = this.window;
      const state = [key, this.width, KVW.isDark(), window.devicePixelRatio, this.mode, w.c0, w.c1, w.r0, w.r1].join();
      if (key !== undefined && state === this.drawn) return this.redraw();
      this.drawn = state;
      this.shared = new Map((p.shared || []).map(([block, refs, requests]) => [block, { refs, requests }]));
      p.refs = (i) => this.shared.get(i)?.refs ?? 1;
      if (!this.width) return undefined;
      const began = performance.now();
      const height = Math.min(MOST_HEIGHT, rows * clamp(Math.floor(TARGET_HEIGHT / rows), 11, 34));
      const mode = p.kind === "paged" ? KVW.mapModes[this.mode] : KVW.mapModes.request;
      const visible = (w.c1 - w.c0) * (w.r1 - w.r0);
      const bySlot = mode === KVW.mapModes.request && visible * p.block_size <= MOST_SLOTS;
      const tile = bySlot ? 1 : Math.max(1, Math.ceil(Math.sqrt(visible / MOST_CELLS)));
      const pieces = bySlot || p.kind !== "paged" ? KVW.spans(p) : [];
      const codes = bySlot ? KVW.slotCodes(p, pieces) : KVW.pageCodes(p, mode, pieces);
      const colors = mode.colors();
      const perRow = p.columns * p.block_size;
      const cellWidth = this.width / (w.c1 - w.c0);
      this.geometry = {
        perRow, rows, width: this.width, height, pieces, window: w, blockSize: p.block_size, bySlot, tile, mode, colors, codes,
        cellWidth, sx: cellWidth / p.block_size, sy: height / (w.r1 - w.r0),
      };
      this.heatmap();
      this.redraw();
      if (this.last) this.hover(this.last);
      KVW.stats.draws += 1;
      KVW.stats.drawMs += performance.now() - began;
      return undefined;
    }

    /** The cells in sight, row by row: slots, pages, or rectangles of pages. */
    cells() {
      const p = this.payload;
      const { bySlot, tile, codes, perRow, window: w, mode } = this.geometry;
      const z = [];
      const [left, right, stride, total] = bySlot ? [w.c0 * p.block_size, w.c1 * p.block_size, perRow, codes.length] : [w.c0, w.c1, p.columns, p.blocks];
      if (tile > 1) {
        const free = p.kind === "paged" ? mode.code({ owner: [KVW.FREE_PAGE], cause: [-1], since: [0] }, 0) : KVW.slotCode("free");
        for (let r = w.r0; r < w.r1; r += tile) {
          const row = [];
          for (let c = w.c0; c < w.c1; c += tile)
            row.push(KVW.tileCode(codes, p, c, Math.min(c + tile, w.c1), r, Math.min(r + tile, w.r1), free));
          z.push(row);
        }
        return z;
      }
      for (let r = w.r0; r < w.r1; r++) {
        const row = new Array(right - left).fill(null);
        for (let c = left; c < right && r * stride + c < total; c++) row[c - left] = codes[r * stride + c];
        z.push(row);
      }
      return z;
    }

    heatmap() {
      const { window: w, bySlot, tile, colors, blockSize, width, height } = this.geometry;
      const wide = bySlot ? 1 : blockSize * tile;
      const axis = { visible: false, fixedrange: true };
      const trace = {
        type: "heatmap", z: this.cells(), x0: w.c0 * blockSize + wide / 2, dx: wide, y0: w.r0 + tile / 2, dy: tile,
        zmin: -0.5, zmax: colors.length - 0.5, zsmooth: false, colorscale: KVW.colorscale(colors), showscale: false, hoverinfo: "skip",
      };
      const layout = {
        width, height, margin: { l: 0, r: 0, t: 0, b: 0 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
        xaxis: { ...axis, range: [w.c0 * blockSize, w.c1 * blockSize] }, yaxis: { ...axis, range: [w.r1, w.r0] },
        hovermode: false, dragmode: false, uirevision: 1,
      };
      Plotly.react(this.plot, [trace], layout, { displayModeBar: false, scrollZoom: false, doubleClick: false, staticPlot: true });
    }

    /** Draws all that is above the heatmap again: hatching, letters, marks. */
    redraw() {
      const g = this.geometry;
      if (!g) return;
      const [p, o] = [this.payload, this.overlay];
      o.begin(g);
      const roomy = Math.min(g.cellWidth, g.sy) >= 5;
      if (roomy || p.kind !== "paged") o.hatch(g.pieces, p.starved);
      o.edges(p, g.pieces);
      const isRequest = g.mode === KVW.mapModes.request;
      if (roomy && isRequest) o.letters(p, this.shared);
      else if (roomy) o.texts(p, g.mode, g.colors, g.codes);
      if (this.order && p[this.order]) o.order(p, p[this.order]);
      this.drawMarks(p, o);
    }

    drawMarks(p, o) {
      if (this.highlight >= 0) {
        o.draw.strokeStyle = KVW.theme().text;
        o.draw.lineWidth = 2;
        if (p.kind !== "paged") {
          for (const [request, start, size] of p.regions)
            if (request === this.highlight) o.each(start, size, (x, y, w, h) => o.draw.strokeRect(x + 1, y + 1, w - 2, h - 2));
        } else
          o.pages(p, (i) => {
            const used = p.owner[i] === this.highlight || (this.shared.get(i)?.requests || []).includes(this.highlight);
            if (used) o.mark(p, i, 1);
          });
      }
      o.corners(p, this.marks.changed);
      o.frame(p, this.marks.pages, KVW.theme().text, 2);
      if (this.cursor >= 0) o.frame(p, [this.cursor], "#56B4E9", 3);
      if (this.marks.selected >= 0) o.frame(p, [this.marks.selected], "#D55E00", 4);
    }

    /** Marks pages: the selected one, those that belong to what is selected, those that changed in this step. */
    mark(marks) {
      Object.assign(this.marks, marks);
      this.redraw();
    }

    setMode(mode) {
      this.mode = mode;
      if (this.payload) this.draw(this.payload);
    }

    /** The slot under a pointer, or null. */
    slotAt(event) {
      const g = this.geometry;
      if (!g) return null;
      const box = this.plot.getBoundingClientRect();
      const [x, y] = [event.clientX - box.left, event.clientY - box.top];
      if (x < 0 || y < 0 || x >= g.width || y >= g.height) return null;
      return (g.window.r0 + Math.floor(y / g.sy)) * g.perRow + g.window.c0 * g.blockSize + Math.floor(x / g.sx);
    }

    hover(event) {
      this.last = event;
      const slot = event && this.payload && this.payload.kind !== "none" ? this.slotAt(event) : null;
      const owner = slot === null ? -1 : KVW.ownerOf(this.payload, slot);
      if (owner !== this.highlight) {
        this.highlight = owner;
        this.redraw();
      }
      this.tip.hidden = slot === null;
      if (slot === null) return;
      KVW.setText(this.tip, this.describe(slot).join("\n"));
      const box = this.container.getBoundingClientRect();
      const x = clamp(event.clientX - box.left + 14, 0, Math.max(0, box.width - this.tip.offsetWidth));
      const y = event.clientY - box.top;
      const below = y + 18 + this.tip.offsetHeight <= box.height + 60;
      this.tip.style.transform = "translate(" + x + "px," + (below ? y + 18 : y - this.tip.offsetHeight - 8) + "px)";
    }

    /** Text about a slot, or about all pages that are drawn as one cell with it. */
    describe(slot) {
      const g = this.geometry;
      const p = this.payload;
      if (g.tile === 1 || p.kind !== "paged") return KVW.describeSlot(p, slot, this.noun, this.shared);
      const page = Math.floor(slot / p.block_size);
      const snap = (value, low, high) => {
        const from = low + Math.floor((value - low) / g.tile) * g.tile;
        return [from, Math.min(from + g.tile, high)];
      };
      const [c0, c1] = snap(page % p.columns, g.window.c0, g.window.c1);
      const [r0, r1] = snap(Math.floor(page / p.columns), g.window.r0, g.window.r1);
      return KVW.describeTile(p, this.noun, c0, c1, r0, r1);
    }
  }
  KVW.PageMapView = PageMapView;
})(window.KVW);
