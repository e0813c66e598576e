/* One side of the comparison: numbers, page map, waste bar, queue. */
(function (KVW) {
  "use strict";
  const USES = [
    ["tokens", "Tokens", "Slots that hold the keys and values of a token"],
    ["reserved", "Reserved, empty", "Slots that belong to a running request and hold nothing yet"],
    ["external", "External fragmentation", "Slots that nobody can get: rounding of regions, and free pieces too small for the next request"],
    ["free", "Free", "Slots that could be given to a request"],
    ["cached", "Kept for reuse (cached)", "Slots of pages that nobody uses, kept because their content may be wanted again"],
  ];
  const role = KVW.role;
  KVW.EXPORTS = [
    ["kvtrace", "Recording (.kvtrace): every event"],
    ["html", "HTML replay: one file that opens offline"],
    ["perfetto", "Perfetto or Chrome trace (.json)"],
    ["csv", "Events as a table (.csv)"],
    ["parquet", "Events as a table (.parquet)"],
  ];

  class SideView {
    constructor(root) {
      this.root = root;
      this.name = root.dataset.side;
      this.map = new KVW.PageMapView(role(root, "map"), role(root, "detail"), this.name);
      this.host = null;
      this.keyShown = "";
      const waste = role(root, "waste");
      const legend = role(root, "legend");
      for (const [use, label, meaning] of USES) {
        waste.appendChild(KVW.make("span", "kvw-use kvw-use-" + use));
        const item = legend.appendChild(KVW.make("li"));
        item.title = meaning;
        item.append(KVW.make("span", "kvw-swatch kvw-use-" + use), KVW.make("span", "", label), KVW.make("b"));
      }
    }

    setMode(mode) {
      this.map.setMode(mode);
      if (this.host) this.host.setMode(mode);
      if (this.drawn) this.mapKey(this.drawn);
    }

    /** What the colours of the map mean, if they are not the requests': those are named by their letters. */
    mapKey(map) {
      this.drawn = map;
      const mode = KVW.mapModes[this.map.mode];
      const shown = [this.map.mode, map.kind, KVW.isDark()].join();
      if (shown === this.keyShown) return;
      this.keyShown = shown;
      const list = role(this.root, "map-key");
      const own = this.map.mode === "request";
      KVW.setText(role(this.root, "detail"), (own ? "Letter: request. Hatched: reserved, empty. " : "") + "Point or tap for more.");
      const rows = own ? [] : map.kind === "paged" ? mode.legend() : [["", "A region has no pages: its colour is always the request's."]];
      list.replaceChildren(...rows.map(([color, words]) => {
        const item = KVW.make("li");
        if (color) item.appendChild(KVW.make("span", "kvw-swatch")).style.backgroundColor = color;
        item.append(KVW.make("span", "", words));
        return item;
      }));
      list.hidden = !rows.length;
    }

    draw(side, run) {
      KVW.setText(role(this.root, "title"), side.title);
      KVW.setText(role(this.root, "subtitle"), side.subtitle);
      this.stats(side.stats);
      KVW.setText(role(this.root, "pool"), side.pool);
      const key = run + ":" + side.map.step + ":" + side.map.blocks + ":" + side.map.block_size;
      this.map.draw(side.map, key);
      this.mapKey(side.map);
      this.hostTier(side.map, key);
      role(this.root, "map").setAttribute("aria-label", side.title + " page map. " + side.map.words);
      KVW.setText(role(this.root, "words"), side.map.words);
      if (side.map.waste) this.waste(side.map.waste);
      this.queue(side);
      this.extra(side.extra || []);
    }

    /** What a run can be saved as, and the way to the tab "Explore". `source`: its key on the server, if it has one. */
    save(source) {
      const box = role(this.root, "save");
      box.hidden = !source;
      if (!source || box.dataset.source === source) return;
      box.dataset.source = source;
      const list = role(this.root, "save-links");
      list.replaceChildren();
      const link = (text, href, download) => {
        const node = list.appendChild(KVW.make("li")).appendChild(KVW.make("a", "", text));
        node.href = href;
        if (download) node.setAttribute("download", "");
        else node.addEventListener("click", (event) => KVW.openInExplore && KVW.openInExplore(source) && event.preventDefault());
      };
      link("Open in the tab Explore, all views linked", "?tab=explore&source=" + source, false);
      for (const [kind, text] of KVW.EXPORTS) link(text, "kvw/" + source + "/export/" + kind, true);
    }

    /** The host tier's pages, as a second map below the first. It is made when there first is such a tier. */
    hostTier(map, key) {
      const box = role(this.root, "host");
      box.hidden = !map.host;
      if (!map.host) return;
      if (!this.host) {
        box.append(KVW.make("p", "kvw-host-words"), KVW.make("div", "kvw-map"));
        this.host = new KVW.PageMapView(box.lastChild, role(this.root, "detail"), this.name, "Host page");
        this.host.setMode(this.map.mode);
      }
      const used = map.host.owner.filter((owner) => owner >= 0).length;
      const words = "Host tier: " + KVW.number(used) + " of " + KVW.plural(map.host.blocks, "page") + " in use";
      KVW.setText(box.firstChild, words);
      box.lastChild.setAttribute("aria-label", words);
      this.host.draw({ kind: "paged", step: map.step, block_size: map.block_size, ...map.host }, "host:" + key);
    }

    /** What else there is to say: what sharing saves, what was refused. */
    extra(lines) {
      const list = role(this.root, "extra");
      KVW.resizeChildren(list, lines.length, () => KVW.make("p"));
      lines.forEach((line, i) => KVW.setText(list.children[i], line));
    }

    stats(rows) {
      const list = role(this.root, "stats");
      KVW.resizeChildren(list, rows.length, () => {
        const box = KVW.make("div");
        box.append(KVW.make("dt"), KVW.make("dd"), KVW.make("dd", "kvw-more"));
        return box;
      });
      rows.forEach(([label, value, small], i) => {
        const [dt, dd, more] = list.children[i].children;
        KVW.setText(dt, label);
        KVW.setText(dd, value);
        KVW.setText(more, small);
      });
    }

    waste(counts) {
      const total = counts.reduce((a, b) => a + b, 0);
      const bar = role(this.root, "waste");
      const items = role(this.root, "legend").children;
      counts.forEach((count, i) => {
        bar.children[i].style.flexGrow = count;
        bar.children[i].hidden = count === 0;
        if (USES[i][0] === "cached") items[i].hidden = count === 0;
        KVW.setText(items[i].lastChild, KVW.number(count) + " (" + KVW.percent(count, total) + ")");
      });
      bar.setAttribute("aria-label", "Use of " + KVW.plural(total, "slot") + ": " +
        USES.map(([use, label], i) => (use === "cached" && !counts[i] ? "" : label + " " + KVW.number(counts[i]))).filter(Boolean).join(", "));
    }

    queue(side) {
      const line = role(this.root, "queue");
      if (!line.children.length)
        line.append(KVW.make("span", "", "Waiting: "), KVW.make("span", "kvw-chips"), KVW.make("span", "kvw-why"));
      const [, chips, why] = line.children;
      KVW.resizeChildren(chips, Math.min(side.waiting.length, 40), () => KVW.make("span", "kvw-chip"));
      side.waiting.slice(0, 40).forEach((request, i) => KVW.setChip(chips.children[i], request));
      KVW.setText(why, side.waiting.length ? side.why : "nobody.");
    }
  }
  KVW.SideView = SideView;
})(window.KVW);
