/* What is drawn above a page map's heatmap: hatching, edges of pages, letters and numbers, marks. Lengths are pixels. */
(function (KVW) {
  "use strict";
  const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

  class Overlay {
    constructor(canvas) {
      this.canvas = canvas;
    }

    /** `g`: the geometry of what is shown (see PageMapView.geometry). */
    begin(g) {
      const ratio = window.devicePixelRatio || 1;
      const [width, height] = [Math.round(g.width * ratio), Math.round(g.height * ratio)];
      const canvas = this.canvas;
      if (canvas.width !== width || canvas.height !== height) {
        canvas.width = width;
        canvas.height = height;
        canvas.style.width = g.width + "px";
        canvas.style.height = g.height + "px";
      }
      this.draw = canvas.getContext("2d");
      this.draw.setTransform(ratio, 0, 0, ratio, 0, 0);
      this.draw.clearRect(0, 0, g.width, g.height);
      this.g = g;
    }

    /** Calls paint(x, y, width, height) for each row's part of a run of slots that is in sight. */
    each(start, length, paint) {
      const { perRow, sx, sy, window: w, blockSize } = this.g;
      const [left, right] = [w.c0 * blockSize, w.c1 * blockSize];
      const from = Math.max(start, w.r0 * perRow);
      const end = Math.min(start + length, w.r1 * perRow);
      for (let at = from; at < end; ) {
        const row = Math.floor(at / perRow);
        const stop = Math.min(end, (row + 1) * perRow);
        const [x0, x1] = [Math.max(at - row * perRow, left), Math.min(stop - row * perRow, right)];
        if (x1 > x0) paint((x0 - left) * sx, (row - w.r0) * sy, (x1 - x0) * sx, sy);
        at = stop;
      }
    }

    /** Calls visit(page, x, y) for each page in sight. */
    pages(p, visit) {
      const { window: w, cellWidth, sy } = this.g;
      for (let r = w.r0; r < w.r1; r++)
        for (let c = w.c0; c < w.c1; c++) {
          const i = r * p.columns + c;
          if (i < p.blocks) visit(i, (c - w.c0) * cellWidth, (r - w.r0) * sy);
        }
    }

    hatch(pieces, starved) {
      const draw = this.draw;
      draw.strokeStyle = draw.fillStyle = KVW.theme().hatch;
      draw.lineWidth = 1;
      for (const [start, length, use] of pieces) {
        if (use === "tokens" || (use === "free" && !starved)) continue;
        this.each(start, length, (x, y, w, h) => {
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

    edges(p, pieces) {
      const draw = this.draw;
      const { perRow, window: w, sx, sy, width, blockSize, cellWidth } = this.g;
      if (Math.min(cellWidth, sy) < 4) return;
      draw.strokeStyle = KVW.theme().line;
      draw.lineWidth = sy < 12 || cellWidth < 12 ? 1 : 2;
      draw.beginPath();
      const cut = (slot) => {
        const row = Math.floor(slot / perRow);
        const column = slot % perRow;
        if (row < w.r0 || row >= w.r1 || column < w.c0 * blockSize || column > w.c1 * blockSize) return;
        const x = Math.round((column - w.c0 * blockSize) * sx);
        draw.moveTo(x, (row - w.r0) * sy);
        draw.lineTo(x, (row - w.r0 + 1) * sy);
      };
      for (let row = 0; row <= w.r1 - w.r0; row++) {
        draw.moveTo(0, Math.round(row * sy));
        draw.lineTo(width, Math.round(row * sy));
      }
      if (p.kind === "paged") this.pages(p, (i) => cut(i * blockSize));
      else {
        for (const [start, length, use] of pieces)
          if (use === "free") for (let slot = start; slot < start + length; slot += blockSize) cut(slot);
        for (const region of p.regions) cut(region[1]);
      }
      draw.stroke();
    }

    font(cells) {
      const { cellWidth, sy } = this.g;
      const size = clamp(Math.min(sy - 3, cellWidth * cells), 0, 14);
      this.draw.font = "700 " + size + "px system-ui, sans-serif";
      this.draw.textBaseline = "middle";
      this.draw.textAlign = "left";
      return size;
    }

    tag(label, color, x, y, size) {
      const draw = this.draw;
      const wide = draw.measureText(label).width + 5;
      draw.fillStyle = color;
      draw.fillRect(x + 1, y + (this.g.sy - size - 1) / 2, wide, size + 1);
      draw.fillStyle = KVW.textOn(color);
      draw.fillText(label, x + 3.5, y + this.g.sy / 2 + 0.5);
    }

    /** Paged: a letter in every page that is large enough, with the number of sequences that share it, as in A×3.
        Contiguous: one per row of a region. */
    letters(p, shared) {
      const { cellWidth, sy } = this.g;
      const size = this.font(0.62);
      if (size < 7) return this.frames(p, shared);
      const put = (request, x, y, refs = 1) => {
        let label = KVW.label(request) + (refs > 1 ? "×" + refs : "");
        if (refs > 1 && this.draw.measureText(label).width + 6 > cellWidth) label = "×" + refs; // the colour names the request
        this.tag(label, KVW.color(request), x, y, size);
      };
      if (p.kind === "paged") this.pages(p, (i, x, y) => p.owner[i] >= 0 && put(p.owner[i], x, y, shared.get(i)?.refs));
      else for (const [request, start, length] of p.regions) this.each(start, length, (x, y) => put(request, x, y));
      return undefined;
    }

    /** No room for "×3": a frame says that a page is shared. */
    frames(p, shared) {
      const { cellWidth, sy } = this.g;
      if (p.kind !== "paged" || Math.min(cellWidth, sy) < 5) return;
      this.draw.strokeStyle = KVW.theme().text;
      this.draw.lineWidth = 1;
      for (const block of shared.keys()) this.mark(p, block, 1.5);
    }

    /** The number, share or letter that a mode writes into each page. */
    texts(p, mode, colors, codes) {
      const size = this.font(0.42);
      if (size < 7) return;
      this.pages(p, (i, x, y) => {
        const text = mode.text(p, i);
        if (text && this.draw.measureText(text).width + 5 <= this.g.cellWidth) this.tag(text, colors[codes[i]], x, y, size);
      });
    }

    /** Numbers of the pages that go next, in a corner of each. */
    order(p, list) {
      const size = this.font(0.4);
      if (size < 7 || !list) return;
      const draw = this.draw;
      draw.fillStyle = KVW.theme().text;
      list.forEach((block, position) => this.at(p, block, (x, y) => draw.fillText(String(position + 1), x + 4, y + this.g.sy / 2 + 0.5)));
    }

    at(p, block, paint) {
      const { window: w, cellWidth, sy } = this.g;
      const [row, column] = [Math.floor(block / p.columns), block % p.columns];
      if (row < w.r0 || row >= w.r1 || column < w.c0 || column >= w.c1) return;
      paint((column - w.c0) * cellWidth, (row - w.r0) * sy, cellWidth, sy);
    }

    mark(p, block, inset) {
      this.at(p, block, (x, y, w, h) => this.draw.strokeRect(x + inset, y + inset, Math.max(1, w - 2 * inset - 1), Math.max(1, h - 2 * inset - 1)));
    }

    /** Frames of pages; a wide dark one under a bright one stands out on every colour. */
    frame(p, blocks, bright, width) {
      for (const [color, wide] of [[KVW.isDark() ? "#000" : "#fff", width + 3], [bright, width]]) {
        this.draw.strokeStyle = color;
        this.draw.lineWidth = wide;
        for (const block of blocks) this.mark(p, block, 1.5);
      }
    }

    /** A corner of each page to which something happened in this step. */
    corners(p, blocks) {
      const side = clamp(Math.min(this.g.cellWidth, this.g.sy) * 0.4, 2, 9);
      this.draw.fillStyle = KVW.theme().text;
      for (const block of blocks)
        this.at(p, block, (x, y, w) => {
          this.draw.beginPath();
          this.draw.moveTo(x + w - 1, y + 1);
          this.draw.lineTo(x + w - 1 - side, y + 1);
          this.draw.lineTo(x + w - 1, y + 1 + side);
          this.draw.fill();
        });
    }
  }
  KVW.MapOverlay = Overlay;
})(window.KVW);
