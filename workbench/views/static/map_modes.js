/* What a page's colour can say: whose it is, how many use it, how full it is, how long ago it changed, how much
   attention it gets, why it changed last. Each mode has a list of colours, a code (position in it) per page, and a
   short text for the cell, so that colour is never the only cue. */
(function (KVW) {
  "use strict";
  const FREE = -1;
  const CACHED = -2; // owner of a page that nobody uses, but that is kept for its content
  const SCALE = 10;
  const seq = (share) => Math.min(SCALE - 1, Math.max(0, Math.floor(share * SCALE)));
  const log2 = (n) => Math.min(SCALE - 1, Math.floor(Math.log2(n + 1)));

  /** Codes 0 to 9 are the scale; then free, kept for reuse, and "not known". */
  const scaled = (code, text, legend) => ({
    colors: () => [...KVW.sequential, KVW.theme().free, KVW.theme().cached, KVW.theme().rounding],
    code: (p, i) => (p.owner[i] === FREE ? SCALE : p.owner[i] === CACHED ? SCALE + 1 : code(p, i)),
    text: (p, i) => (p.owner[i] < 0 ? "" : text(p, i)),
    legend,
  });

  const MODES = {
    request: {
      name: "request",
      colors: () => KVW.codeColors(),
      code: (p, i) => (p.owner[i] >= 0 ? p.owner[i] % KVW.count : 2 * KVW.count + (p.owner[i] === CACHED ? 2 : 1)),
      text: (p, i, shared) => (p.owner[i] < 0 ? "" : KVW.label(p.owner[i]) + (shared ? "×" + shared.refs : "")),
      legend: () => [],
    },
    refs: {
      name: "sequences that use it",
      ...scaled(
        (p, i, refs) => [1, 4, 6, 8, 9][Math.min(5, p.refs(i)) - 1],
        (p, i) => String(p.refs(i)),
        () => [[1, "1"], [4, "2"], [6, "3"], [8, "4"], [9, "5 or more"]].map(([c, words]) => [KVW.sequential[c], words]),
      ),
    },
    fill: {
      name: "fill",
      ...scaled(
        (p, i) => seq(p.filled[i] / p.block_size),
        (p, i) => Math.round((100 * p.filled[i]) / p.block_size) + "%",
        () => [[0, "empty"], [5, "half full"], [9, "full"]].map(([c, words]) => [KVW.sequential[c], words]),
      ),
    },
    age: {
      name: "steps since the last change",
      ...scaled(
        (p, i) => SCALE - 1 - log2(Math.max(0, p.step - p.since[i])),
        (p, i) => String(Math.max(0, p.step - p.since[i])),
        () => [[0, "this step"], [3, "7 steps ago"], [6, "63"], [9, "511 or more"]].map(([c, words]) => [KVW.sequential[SCALE - 1 - c], words]),
      ),
    },
    mass: {
      name: "attention it got",
      ...scaled(
        (p, i) => (!p.mass || p.mass[i] < 0 ? SCALE + 2 : seq(Math.sqrt(p.mass[i] / 1000))),
        (p, i) => (!p.mass || p.mass[i] < 0 ? "?" : Math.round(p.mass[i] / 10) + "%"),
        () => [[0, "0 %"], [3, "9 %"], [5, "25 %"], [9, "81 % or more"]].map(([c, words]) => [KVW.sequential[c], words]).concat([[KVW.theme().rounding, "? not sampled"]]),
      ),
    },
    cause: {
      name: "cause of its last change",
      colors: () => {
        const own = KVW.families.map((family) => family[2]);
        return [...own, ...own.map((c) => KVW.mix(c, KVW.theme().free, KVW.TINT)), KVW.theme().free, KVW.theme().rounding];
      },
      code: (p, i) => {
        const [family, count] = [KVW.familyOf[p.cause[i]] ?? -1, KVW.families.length];
        if (family < 0) return p.owner[i] < 0 ? 2 * count : 2 * count + 1;
        return p.owner[i] < 0 ? count + family : family;
      },
      text: (p, i) => (KVW.families[KVW.familyOf[p.cause[i]]] || ["", ""])[1],
      legend: () => KVW.families.map(([name, letter, color]) => [color, letter + " " + name]),
    },
  };

  KVW.mapModes = MODES;
  KVW.FREE_PAGE = FREE;
  KVW.CACHED_PAGE = CACHED;

  /** Runs of equal use, in slots: [start, length, "tokens" | "reserved" | "rounding" | "free" | "cached", request]. */
  KVW.spans = function (p) {
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
  };

  KVW.slotCode = function (use, request) {
    if (use === "tokens") return request % KVW.count;
    if (use === "reserved") return KVW.count + (request % KVW.count);
    return 2 * KVW.count + { rounding: 0, free: 1, cached: 2 }[use];
  };

  /** One code per slot of the pool; contiguous memory has no other colours than those of requests. */
  KVW.slotCodes = function (p, pieces) {
    const codes = new Uint8Array(p.blocks * p.block_size);
    for (const [start, length, use, request] of pieces) codes.fill(KVW.slotCode(use, request), start, start + length);
    return codes;
  };
  /** One code per page; in contiguous memory that of its first slot in use. */
  KVW.pageCodes = function (p, mode, pieces) {
    const codes = new Uint8Array(p.blocks);
    if (p.kind === "paged") {
      for (let i = 0; i < p.blocks; i++) codes[i] = mode.code(p, i);
      return codes;
    }
    codes.fill(KVW.slotCode("free"));
    for (const [start, length, use, request] of pieces)
      if (use !== "free") codes.fill(KVW.slotCode(use, request), Math.floor(start / p.block_size), Math.ceil((start + length) / p.block_size));
    return codes;
  };

  /** The code that most pages of a rectangle have; `free` counts only where there is nothing else. */
  KVW.tileCode = function (codes, p, c0, c1, r0, r1, free) {
    const counts = new Uint32Array(64);
    for (let r = r0; r < r1; r++)
      for (let i = r * p.columns + c0; i < Math.min(r * p.columns + c1, p.blocks); i++) counts[codes[i]] += 1;
    let best = free;
    counts[free] = 0;
    for (let code = 0; code < counts.length; code++) if (counts[code] > counts[best]) best = code;
    return best;
  };
})(window.KVW);
