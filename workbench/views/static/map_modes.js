/* What a page's colour can say: whose it is, how many use it, how full it is, how long ago it was taken, moved or given
   back, and why, how much attention it gets. Each mode has a list of colours, a code (position in it) per page, and a
   short text for the cell, so that colour is never the only cue. */
(function (KVW) {
  "use strict";
  const FREE = -1;
  const CACHED = -2; // owner of a page that nobody uses, but that is kept for its content

  /** Names, classes and their colours come from `mode_constants` in page_map_modes.py, as for the figures made there. */
  const told = (name) => KVW.modes[name];
  const percent = (share) => (share > 0 && share < 0.01 ? "<1" : share < 1 ? Math.min(99, Math.round(100 * share)) : 100) + "%";
  const family = (p, i) => KVW.familyOf[p.cause[i]] ?? -1;
  const everChanged = (p, i) => p.owner[i] !== FREE || family(p, i) >= 0 || p.since[i] > 0;
  const tinted = (colors) => colors.map((color) => KVW.mix(color, KVW.theme().free, KVW.TINT));
  const legendOf = (name, rows) => [...rows, ...(told(name).of_idle ? [["", told(name).of_idle]] : [])];

  /** A scale of classes. Codes: full colours, tinted ones, free, kept for reuse, not known.
      `number(p, i)` of a page; undefined where it has none. */
  const scale = (name, number, words, unknown = "") => {
    const colors = () => told(name).colors[KVW.isDark() ? "dark" : "light"];
    const numberOf = (p, i) => (p.owner[i] >= 0 || told(name).of_idle ? number(p, i) : undefined);
    return {
      get name() {
        return told(name).name;
      },
      colors: () => [...colors(), ...tinted(colors()), KVW.theme().free, KVW.theme().cached, KVW.theme().rounding],
      code(p, i) {
        const [value, count] = [numberOf(p, i), told(name).names.length];
        if (value === undefined) return 2 * count + (p.owner[i] === FREE ? 0 : p.owner[i] === CACHED ? 1 : 2);
        const place = told(name).edges.filter((edge) => edge <= value).length;
        return p.owner[i] >= 0 && p.filled[i] ? place : count + place;
      },
      text(p, i) {
        const value = numberOf(p, i);
        return value === undefined ? (p.owner[i] >= 0 ? unknown : "") : words(value);
      },
      legend: () => legendOf(name, [...told(name).names.map((words, i) => [colors()[i], words]), ...(unknown ? [[KVW.theme().rounding, unknown + " " + told(name).unknown]] : [])]),
    };
  };

  const MODES = {
    request: {
      get name() {
        return told("request").name;
      },
      colors: () => KVW.codeColors(),
      code: (p, i) => (p.owner[i] >= 0 ? p.owner[i] % KVW.count : 2 * KVW.count + (p.owner[i] === CACHED ? 2 : 1)),
      text: (p, i, shared) => (p.owner[i] < 0 ? "" : KVW.label(p.owner[i]) + (shared ? "×" + shared.refs : "")),
      legend: () => [],
    },
    refs: scale("refs", (p, i) => p.refs(i), KVW.number),
    fill: scale("fill", (p, i) => p.filled[i] / p.block_size, percent),
    age: scale("age", (p, i) => (everChanged(p, i) ? Math.max(0, p.step - p.since[i]) : undefined), KVW.number),
    mass: scale("mass", (p, i) => (!p.mass || p.mass[i] < 0 ? undefined : p.mass[i] / 1000), percent, "?"),
    cause: {
      get name() {
        return told("cause").name;
      },
      colors: () => {
        const own = KVW.families.map((row) => row[2]);
        return [...own, ...tinted(own), KVW.theme().free, KVW.theme().cached, KVW.theme().rounding];
      },
      code: (p, i) => {
        const [place, count] = [family(p, i), KVW.families.length];
        if (place < 0) return 2 * count + (p.owner[i] === FREE ? 0 : p.owner[i] === CACHED ? 1 : 2);
        return p.owner[i] >= 0 && p.filled[i] ? place : count + place;
      },
      text: (p, i) => (KVW.families[family(p, i)] || ["", ""])[1],
      legend: () => legendOf("cause", KVW.families.map(([name, letter, color]) => [color, letter + " " + name])),
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
