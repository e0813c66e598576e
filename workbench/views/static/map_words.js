/* What lies at a place of the page map, in words, made in the browser from the payload's small arrays. */
(function (KVW) {
  "use strict";

  /** The region of contiguous memory that a slot belongs to. */
  KVW.regionAt = (p, slot) => p.regions.find((r) => slot >= r[1] && slot < r[1] + r[2]);

  KVW.ownerOf = function (p, slot) {
    if (p.kind === "paged") return p.owner[Math.floor(slot / p.block_size)] ?? -1;
    const region = p.kind === "contiguous" ? KVW.regionAt(p, slot) : null;
    return region ? region[0] : -1;
  };

  /** Lines of text about a slot. `noun`: what a page of this tier is called. */
  KVW.describeSlot = function (p, slot, noun, shared) {
    const block = Math.floor(slot / p.block_size);
    if (block >= p.blocks) return ["Outside the pool."];
    if (p.kind === "paged") return describePage(p, block, noun, shared.get(block));
    const region = KVW.regionAt(p, slot);
    if (!region) return ["Slot " + slot + ": free.", p.starved ? "No free piece is large enough for the request at the head of the queue." : ""];
    const [request, start, size, requested, filled, since] = region;
    return [
      "Slots " + start + " to " + (start + size - 1) + ": one region of request " + KVW.label(request) + ".",
      "Filled " + filled + "/" + requested + "; " + KVW.plural(requested - filled, "slot") + " reserved and empty.",
      size > requested ? KVW.plural(size - requested, "slot") + " lost to rounding up." : "",
      "Held since step " + since + ": the request was let in.",
    ].filter(Boolean);
  };

  function describePage(p, block, noun, shared) {
    const since = p.since[block] > 0 ? " since step " + p.since[block] : "";
    const why = KVW.causes[p.cause[block]];
    const name = noun + " " + block;
    const place = (list, words) => {
      const at = list ? list.indexOf(block) : -1;
      return at < 0 ? "" : words + (at ? " after " + KVW.plural(at, "other") + "." : " first.");
    };
    if (p.owner[block] === KVW.CACHED_PAGE)
      return [name + ": nobody uses it" + since + ", kept for reuse (cached).", "Why nobody: " + why + ".", place(p.eviction, "Gives way")].filter(Boolean);
    if (p.owner[block] < 0) return [name + ": free" + since + ".", since ? "Why: " + why + "." : "Never used.", place(p.free, "Handed out")].filter(Boolean);
    const first = p.logical[block] * p.block_size;
    const others = shared && shared.requests.length > 1 ? " of requests " + shared.requests.map(KVW.label).join(", ") : "";
    return [
      name + ": request " + KVW.label(p.owner[block]) + ", its logical page " + p.logical[block] + " (tokens " + first + " to " + (first + p.block_size - 1) + ").",
      "Filled " + p.filled[block] + "/" + p.block_size + ".",
      shared ? "Shared by " + shared.refs + " sequences" + others + "." : "",
      p.group ? "Layer group " + p.group[block] + "." : "",
      p.mass && p.mass[block] >= 0 ? "The newest token paid " + (p.mass[block] / 10).toFixed(1) + " % of its attention to it (sampled)." : "",
      "Held" + since + ": " + why + ".",
    ].filter(Boolean);
  }

  /** Lines about a rectangle of pages that is drawn as one cell. */
  KVW.describeTile = function (p, noun, c0, c1, r0, r1) {
    let [used, cached, total, full] = [0, 0, 0, 0];
    const requests = new Set();
    for (let r = r0; r < r1; r++)
      for (let i = r * p.columns + c0; i < Math.min(r * p.columns + c1, p.blocks); i++) {
        total += 1;
        if (p.owner[i] >= 0) {
          used += 1;
          full += p.filled[i];
          requests.add(p.owner[i]);
        } else if (p.owner[i] === KVW.CACHED_PAGE) cached += 1;
      }
    const who = [...requests].sort((a, b) => a - b);
    const names = who.slice(0, 6).map(KVW.label).join(", ") + (who.length > 6 ? " and " + (who.length - 6) + " more" : "");
    return [
      KVW.plural(total, noun.toLowerCase()) + " from " + KVW.number(r0 * p.columns + c0) + ": " + KVW.number(used) + " in use" + (cached ? ", " + KVW.number(cached) + " kept for reuse" : "") + ", " + KVW.number(total - used - cached) + " free.",
      who.length ? "Requests " + names + "; filled " + KVW.percent(full, used * p.block_size) + "." : "",
      "Drag over it, or press +, to see each page.",
    ].filter(Boolean);
  };
})(window.KVW);
