/* One page map: a Plotly heatmap of slots that lives as long as the page, and a canvas above it for what a heatmap
   can't draw (hatching, edges of pages, letters). Redrawing costs a few milliseconds for thousands of slots. */
(function (KVW) {
  "use strict";
  const TARGET_HEIGHT = 340;
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

  const CACHED = -2; // owner of a page that nobody uses, but that is kept for its content

  /** Runs of equal use, in slots: [start, length, "tokens" | "reserved" | "rounding" | "free" | "cached", request]. */
  function spans(p) {
    const out = [];
    if (p.kind === "paged") {
      for (let i = 0; i < p.blocks; i++) {
        const start = i * p.block_size;
        if (p.owner[i] < 0) out.push([start, p.block_size, p.owner[i] === CACHED ? "cached" : "free", -1]);
        else {
          if (p.filled[i]) out.push([start, p.filled[i], "tokens", p.owner[i]]);
          if (p.filled[i] < p.block_size) out.push([start + p.filled[i], p.block_size - p.filled[i], "reserved", p.owner[i]]);
        }
      }
      return out;
    }
    let at = 0;
    const put = (length, use, request) => {
      if (length > 0) out.push([at, length, use, request]);
      at += length;
    };
    for (const [request, start, size, requested, filled] of p.regions.slice().sort((a, b) => a[1] - b[1])) {
      put(start - at, "free", -1);
      put(filled, "tokens", request);
      put(requested - filled, "reserved", request);
      put(size - requested, "rounding", request);
    }
    put(p.blocks * p.block_size - at, "free", -1);
    return out;
  }

  class PageMapView {
    /** `noun`: what a page of this tier is called. */
    constructor(container, detail, name, noun = "Page") {
      this.name = name;
      this.noun = noun;
      this.shared = new Map();
      this.detail = detail;
      this.highlight = -1;
      this.plot = KVW.make("div", "kvw-plot");
      this.canvas = KVW.make("canvas", "kvw-overlay");
      this.tip = KVW.make("div", "kvw-tip");
      this.tip.hidden = true;
      container.setAttribute("role", "img");
      container.append(this.plot, this.canvas, this.tip);
      this.container = container;
      this.payload = null;
      this.wired = false;
      // The width is remembered: asking for it between two changes of text makes the browser lay out the page again.
      this.width = container.clientWidth;
      new ResizeObserver((entries) => {
        this.width = Math.floor(entries[0].contentRect.width);
        if (this.payload) this.draw(this.payload);
      }).observe(container);
      container.addEventListener("pointerleave", () => this.hover(null));
    }

    /** Draws a payload; the same step of the same run again costs nothing. */
    draw(p, key) {
      this.payload = p;
      const state = [key, this.width, KVW.isDark(), window.devicePixelRatio].join();
      if (key !== undefined && state === this.drawn) return;
      this.drawn = state;
      this.shared = new Map((p.shared || []).map(([block, refs, requests]) => [block, { refs, requests }]));
      if (p.kind === "none" || !this.width) return;
      const began = performance.now();
      const perRow = p.columns * p.block_size;
      const rows = Math.ceil(p.blocks / p.columns);
      const width = this.width;
      const height = rows * clamp(Math.floor(TARGET_HEIGHT / rows), 11, 34);
      const pieces = spans(p);
      const z = Array.from({ length: rows }, () => new Array(perRow).fill(null));
      for (const [start, length, use, request] of pieces) {
        let code = 2 * KVW.count + { rounding: 0, free: 1, cached: 2 }[use];
        if (use === "tokens") code = request % KVW.count;
        else if (use === "reserved") code = KVW.count + (request % KVW.count);
        for (let slot = start; slot < start + length; slot++) z[Math.floor(slot / perRow)][slot % perRow] = code;
      }
      const colors = KVW.codeColors();
      const axis = { visible: false, fixedrange: true };
      const trace = {
        type: "heatmap", z, x0: 0.5, dx: 1, y0: 0.5, dy: 1, zmin: -0.5, zmax: colors.length - 0.5, zsmooth: false,
        colorscale: KVW.colorscale(colors), showscale: false, hoverinfo: "none",
      };
      const layout = {
        width, height, margin: { l: 0, r: 0, t: 0, b: 0 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
        xaxis: { ...axis, range: [0, perRow] }, yaxis: { ...axis, range: [rows, 0] }, hovermode: "closest", dragmode: false, uirevision: 1,
      };
      Plotly.react(this.plot, [trace], layout, { displayModeBar: false, scrollZoom: false, doubleClick: false });
      this.wire();
      this.geometry = { perRow, rows, width, height, pieces };
      this.overlay();
      if (this.last) this.hover(this.last);
      KVW.stats.draws += 1;
      KVW.stats.drawMs += performance.now() - began;
    }

    wire() {
      if (this.wired) return;
      this.wired = true;
      const at = (event) => ({ slot: Math.floor(event.points[0].y) * this.geometry.perRow + Math.floor(event.points[0].x), event: event.event });
      this.plot.on("plotly_hover", (event) => this.hover(at(event)));
      this.plot.on("plotly_unhover", () => this.hover(null));
      this.plot.on("plotly_click", (event) => KVW.setText(this.detail, this.describe(at(event).slot).join(" ")));
    }

    /** What is drawn above the heatmap. Lengths are in pixels; sx and sy turn slots and rows into them. */
    overlay() {
      const p = this.payload;
      const { perRow, rows, width, height, pieces } = this.geometry;
      const ratio = window.devicePixelRatio || 1;
      const canvas = this.canvas;
      if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
        canvas.width = Math.round(width * ratio);
        canvas.height = Math.round(height * ratio);
        canvas.style.width = width + "px";
        canvas.style.height = height + "px";
      }
      const draw = canvas.getContext("2d");
      draw.setTransform(ratio, 0, 0, ratio, 0, 0);
      draw.clearRect(0, 0, width, height);
      const theme = KVW.theme();
      const [sx, sy] = [width / perRow, height / rows];
      const each = (start, length, paint) => {
        for (let at = start; at < start + length; ) {
          const row = Math.floor(at / perRow);
          const stop = Math.min(start + length, (row + 1) * perRow);
          paint((at % perRow) * sx, row * sy, (stop - at) * sx, sy);
          at = stop;
        }
      };
      this.hatch(draw, pieces, each, theme, p.starved);
      this.edges(draw, pieces, theme, sx, sy, height);
      this.letters(draw, pieces, each, sx * p.block_size, sy);
      if (this.highlight >= 0) {
        draw.strokeStyle = theme.text;
        draw.lineWidth = 2;
        const mark = (start, length) => each(start, length, (x, y, w, h) => draw.strokeRect(x + 1, y + 1, w - 2, h - 2));
        const uses = (owner, i) => owner === this.highlight || (this.shared.get(i)?.requests || []).includes(this.highlight);
        if (p.kind === "paged") p.owner.forEach((owner, i) => uses(owner, i) && mark(i * p.block_size, p.block_size));
        else for (const [request, start, size] of p.regions) if (request === this.highlight) mark(start, size);
      }
    }

    hatch(draw, pieces, each, theme, starved) {
      draw.strokeStyle = theme.hatch;
      draw.fillStyle = theme.hatch;
      draw.lineWidth = 1;
      for (const [start, length, use] of pieces) {
        if (use === "tokens" || (use === "free" && !starved)) continue;
        each(start, length, (x, y, w, h) => {
          draw.save();
          draw.beginPath();
          draw.rect(x, y, w, h);
          draw.clip();
          draw.beginPath();
          if (use === "cached") for (let at = 3.5; at < h; at += 5) {
            draw.moveTo(x, Math.round(y) + at);
            draw.lineTo(x + w, Math.round(y) + at);
          }
          else for (let d = -h + ((((y + h - x) % 7) + 7) % 7) - 7; d < w + h; d += 7) {
            if (use === "free") draw.rect(x + d, y + h / 2 - 1, 2, 2);
            else {
              draw.moveTo(x + d, y + h);
              draw.lineTo(x + d + h, y);
              if (use === "rounding") {
                draw.moveTo(x + d, y);
                draw.lineTo(x + d + h, y + h);
              }
            }
          }
          if (use === "free") draw.fill();
          else draw.stroke();
          draw.restore();
        });
      }
    }

    edges(draw, pieces, theme, sx, sy, height) {
      const p = this.payload;
      const { perRow, rows, width } = this.geometry;
      draw.strokeStyle = theme.line;
      draw.lineWidth = sy < 12 ? 1 : 2;
      draw.beginPath();
      const cut = (slot) => {
        const row = Math.floor(slot / perRow);
        const x = Math.round((slot % perRow) * sx);
        draw.moveTo(x, row * sy);
        draw.lineTo(x, (row + 1) * sy);
      };
      for (let row = 0; row <= rows; row++) {
        draw.moveTo(0, Math.round(row * sy));
        draw.lineTo(width, Math.round(row * sy));
      }
      if (p.kind === "paged") for (let i = 0; i < p.blocks; i++) cut(i * p.block_size);
      else {
        for (const [start, length, use] of pieces)
          if (use === "free") for (let slot = start; slot < start + length; slot += p.block_size) cut(slot);
        for (const region of p.regions) cut(region[1]);
      }
      draw.stroke();
    }

    /** Paged: a letter in every page that is large enough, with the number of sequences that share it, as in A×3.
        Contiguous: one per row of a region. */
    letters(draw, pieces, each, cellWidth, cellHeight) {
      const p = this.payload;
      const size = clamp(Math.min(cellHeight - 3, cellWidth * 0.62), 0, 14);
      if (size < 7) {
        // No room for "×3": a frame says that a page is shared.
        draw.strokeStyle = KVW.theme().text;
        draw.lineWidth = 1;
        for (const block of this.shared.keys())
          draw.strokeRect((block % p.columns) * cellWidth + 1.5, Math.floor(block / p.columns) * cellHeight + 1.5, cellWidth - 4, cellHeight - 4);
        return;
      }
      draw.font = "700 " + size + "px system-ui, sans-serif";
      draw.textBaseline = "middle";
      draw.textAlign = "left";
      const put = (request, x, y, refs = 1) => {
        let label = KVW.label(request) + (refs > 1 ? "×" + refs : "");
        if (refs > 1 && draw.measureText(label).width + 6 > cellWidth) label = "×" + refs; // the colour names the request
        const wide = draw.measureText(label).width + 5;
        draw.fillStyle = KVW.color(request);
        draw.fillRect(x + 1, y + (cellHeight - size - 1) / 2, wide, size + 1);
        draw.fillStyle = KVW.textOn(KVW.color(request));
        draw.fillText(label, x + 3.5, y + cellHeight / 2 + 0.5);
      };
      if (p.kind === "paged") {
        for (let i = 0; i < p.blocks; i++)
          if (p.owner[i] >= 0)
            put(p.owner[i], (i % p.columns) * cellWidth, Math.floor(i / p.columns) * cellHeight, this.shared.get(i)?.refs);
      } else for (const [request, start, size] of p.regions) each(start, size, (x, y) => put(request, x, y));
    }

    hover(at) {
      this.last = at;
      const lines = at && this.payload.kind !== "none" ? this.describe(at.slot) : null;
      const owner = at ? this.ownerOf(at.slot) : -1;
      if (owner !== this.highlight) {
        this.highlight = owner;
        if (this.geometry) this.overlay();
      }
      this.tip.hidden = !lines;
      if (!lines) return;
      const text = lines.join("\n");
      KVW.setText(this.tip, text);
      const box = this.container.getBoundingClientRect();
      const x = clamp(at.event.clientX - box.left + 14, 0, Math.max(0, box.width - this.tip.offsetWidth));
      const y = at.event.clientY - box.top;
      const below = y + 18 + this.tip.offsetHeight <= box.height + 60;
      this.tip.style.transform = "translate(" + x + "px," + (below ? y + 18 : y - this.tip.offsetHeight - 8) + "px)";
    }

    region(slot) {
      return this.payload.regions.find((r) => slot >= r[1] && slot < r[1] + r[2]);
    }

    ownerOf(slot) {
      const p = this.payload;
      if (p.kind === "paged") return p.owner[Math.floor(slot / p.block_size)] ?? -1;
      const region = p.kind === "contiguous" ? this.region(slot) : null;
      return region ? region[0] : -1;
    }

    /** Hover text, made here from the small arrays. */
    describe(slot) {
      const p = this.payload;
      const block = Math.floor(slot / p.block_size);
      if (block >= p.blocks) return ["Outside the pool."];
      if (p.kind === "paged") {
        const since = p.since[block] > 0 ? " since step " + p.since[block] : "";
        const why = KVW.causes[p.cause[block]];
        const name = this.noun + " " + block;
        if (p.owner[block] === CACHED) return [name + ": nobody uses it" + since + ", kept for reuse (cached).", "Why nobody: " + why + "."];
        if (p.owner[block] < 0) return [name + ": free" + since + ".", since ? "Why: " + why + "." : "Never used."];
        const first = p.logical[block] * p.block_size;
        const shared = this.shared.get(block);
        const others = shared && shared.requests.length > 1 ? " of requests " + shared.requests.map(KVW.label).join(", ") : "";
        return [
          name + ": request " + KVW.label(p.owner[block]) + ", its page " + p.logical[block] + " (tokens " + first + " to " + (first + p.block_size - 1) + ").",
          "Filled " + p.filled[block] + "/" + p.block_size + ".",
          shared ? "Shared by " + shared.refs + " sequences" + others + "." : "",
          "Held" + since + ": " + why + ".",
        ].filter(Boolean);
      }
      const region = this.region(slot);
      if (!region) return ["Slot " + slot + ": free.", p.starved ? "No free piece is large enough for the request at the head of the queue." : ""];
      const [request, start, size, requested, filled, since] = region;
      return [
        "Slots " + start + " to " + (start + size - 1) + ": one region of request " + KVW.label(request) + ".",
        "Filled " + filled + "/" + requested + "; " + KVW.plural(requested - filled, "slot") + " reserved and empty.",
        size > requested ? KVW.plural(size - requested, "slot") + " lost to rounding up." : "",
        "Held since step " + since + ": the request was let in.",
      ].filter(Boolean);
    }
  }
  KVW.PageMapView = PageMapView;
})(window.KVW);
