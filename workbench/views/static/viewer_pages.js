/* The page maps of both tiers with their choices, and the panel about the selected page. */
(function (KVW) {
  "use strict";
  const h = KVW.h;

  class MapPanel {
    constructor(viewer, root) {
      this.viewer = viewer;
      const choice = (name, label, rows, act) => {
        const select = h("select", { "data-role": name, onchange: () => act(select.value) }, ...rows.map(([value, text]) => h("option", { value, text })));
        return [select, h("label", {}, label + " ", select)];
      };
      const modes = Object.entries(KVW.mapModes).map(([mode, { name }]) => [mode, name]);
      const [color, colorLabel] = choice("color", "Colour by", modes, (mode) => viewer.select({ color: mode }));
      const [order, orderLabel] = choice("order", "Number the pages", [["", "not at all"], ...KVW.orders], (value) => viewer.select({ order: value }));
      Object.assign(this, { color, order, orderLabel });
      const zoom = (text, label, act) => h("button", { type: "button", class: "kvw-tool", text, "aria-label": label, title: label, onclick: () => this.maps().forEach(act) });
      this.detail = h("p", { class: "kvw-detail", role: "status", "aria-live": "polite", text: "Point at a page, select one, or move through the map with the arrow keys." });
      const box = h("div", { class: "kvw-map", "data-role": "map" });
      this.hostBox = h("div", { hidden: true }, h("h4", { text: "Host tier" }), h("p", { class: "kvw-quiet" }), h("div", { class: "kvw-map", "data-role": "host-map" }));
      this.legend = h("ul", { class: "kvw-legend", "aria-label": "Legend" });
      this.words = h("p");
      root.append(
        h("div", { class: "kvw-choices" }, colorLabel, orderLabel,
          h("span", { role: "group", "aria-label": "Zoom" }, zoom("+", "Zoom in", (m) => KVW.zoomMap(m, 0.5)), zoom("−", "Zoom out", (m) => KVW.zoomMap(m, 2)), zoom("▣", "Whole pool", KVW.wholeMap))),
        box, this.hostBox, this.legend, this.detail, h("details", { class: "kvw-words" }, h("summary", { text: "This picture in words" }), this.words));
      this.device = new KVW.PageMapView(box, this.detail, "device", "Page", { onSelect: (page) => this.choose(this.device, page, false) });
      this.host = new KVW.PageMapView(this.hostBox.lastChild, this.detail, "host", "Host page", { onSelect: (page) => this.choose(this.host, page, true) });
    }

    maps() {
      return [this.device];
    }

    choose(map, page, host) {
      const p = map.payload;
      if (p.kind === "paged") return this.viewer.select({ page, host });
      const region = KVW.regionAt(p, page * p.block_size) || p.regions.find((r) => Math.floor(r[1] / p.block_size) === page);
      return this.viewer.select({ page, host: false, request: region ? region[0] : -1 });
    }

    draw(frame, state, pages) {
      const map = frame.map;
      if (map.kind === "none") return KVW.setText(this.detail, "Nothing has happened yet.");
      const key = [frame.step, map.kind, ...(map.waste || [])].join(); // a live step may get late events
      this.color.value = state.color;
      this.color.disabled = map.kind !== "paged";
      this.orderLabel.hidden = !map.free && !map.eviction;
      this.device.mode = this.host.mode = state.color;
      this.device.order = state.order;
      this.order.value = state.order;
      Object.assign(this.device.marks, { selected: state.host ? -1 : state.page, pages: pages.device, changed: frame.changed });
      this.device.draw(map, key);
      this.device.container.setAttribute("aria-label", "Page map. " + map.words);
      KVW.setText(this.words, map.words);
      this.hostBox.hidden = !map.host;
      if (map.host) {
        const used = map.host.owner.filter((owner) => owner >= 0).length;
        KVW.setText(this.hostBox.children[1], KVW.number(used) + " of " + KVW.plural(map.host.blocks, "page") + " in use");
        Object.assign(this.host.marks, { selected: state.host ? state.page : -1, pages: pages.host, changed: frame.host_changed });
        this.host.draw({ kind: "paged", step: map.step, block_size: map.block_size, ...map.host }, "host" + key);
        this.host.container.setAttribute("aria-label", "Page map of the host tier, " + this.hostBox.children[1].textContent);
      }
      return this.drawLegend(map, state.color);
    }

    drawLegend(map, color) {
      const theme = KVW.theme();
      const paged = map.kind === "paged";
      const rows = paged ? KVW.mapModes[color].legend().map(([c, words]) => [c, words]) : [];
      if (!paged || color === "request") rows.push([null, "letter and colour: request"], ["hatch", "hatched: reserved, empty"]);
      rows.push([theme.free, paged && KVW.modes[color].of_idle ? "free, never used" : "free"]);
      if (paged) rows.push(["cached", "level lines: kept for reuse (cached)"], ["corner", "corner: something happened to it in this step"]);
      else rows.push(["lost", "crossed: lost to rounding"]);
      const key = JSON.stringify(rows);
      if (key === this.legendKey) return;
      this.legendKey = key;
      this.legend.replaceChildren(...rows.map(([look, words]) => {
        const named = look && !look.startsWith("#");
        const swatch = h("span", { class: "kvw-swatch" + (named ? " kvw-look-" + look : "") });
        if (look && !named) swatch.style.background = look;
        return h("li", {}, look ? swatch : null, words);
      }));
    }
  }

  class PagePanel {
    constructor(viewer, root) {
      this.viewer = viewer;
      this.head = h("div", { "data-role": "page-head" });
      this.tokens = h("p", { class: "kvw-tokens" });
      this.life = KVW.scroller("Life of the page");
      this.life.dataset.role = "page-life";
      this.lifeTitle = h("h4", { text: "Its life" });
      root.append(this.head, this.tokens, this.lifeTitle, this.life);
    }

    draw(frame, state) {
      const p = state.host ? frame.map.host : frame.map;
      const page = state.page;
      if (page < 0 || !p || frame.map.kind === "none" || page >= p.blocks) {
        this.head.replaceChildren(h("p", { class: "kvw-quiet", text: "Select a page on the map: who uses it, what is in it, and what happened to it will be here." }));
        this.tokens.replaceChildren();
        this.life.hidden = this.lifeTitle.hidden = true;
        this.shown = null;
        return;
      }
      const full = state.host ? { kind: "paged", step: frame.step, block_size: frame.map.block_size, ...p } : p;
      const shared = new Map((p.shared || []).map(([block, refs, requests]) => [block, { refs, requests }]));
      const lines = KVW.describeSlot(full, page * full.block_size, state.host ? "Host page" : "Page", shared);
      const users = KVW.usersOf(frame, page, state.host);
      this.head.replaceChildren(full.kind === "paged" ? h("h4", { text: (state.host ? "Host page " : "Page ") + page }) : "", ...lines.map((text) => h("p", { text })), users.length ? this.usersList(users) : "");
      const [user] = users;
      const texts = user ? frame.sequences[user.sequence].texts.slice(user.logical * full.block_size, user.logical * full.block_size + full.filled[page]) : [];
      this.tokens.replaceChildren(...(texts.length ? [h("span", { class: "kvw-quiet", text: "Tokens in it: " })] : []), ...texts.map(KVW.token));
      this.drawLife(state, full.kind);
    }

    usersList(users) {
      const rows = users.slice(0, 12).map(({ sequence, request, logical }) =>
        h("li", {}, KVW.requestButton(this.viewer, request), " ", h("button", { type: "button", class: "kvw-link", text: "sequence " + sequence, onclick: () => this.viewer.select({ request, sequence }) }), ", its logical page " + logical));
      return h("ul", { class: "kvw-users", "aria-label": "In the block tables of" }, ...rows, users.length > 12 ? h("li", { text: "and " + (users.length - 12) + " more" }) : null);
    }

    async drawLife(state, kind) {
      const id = [state.page, state.host, this.viewer.meta.last].join();
      this.life.hidden = this.lifeTitle.hidden = kind !== "paged";
      if (id === this.shown || kind !== "paged") return;
      this.shown = id;
      const view = await this.viewer.view("page_life", { page: state.page, tier: state.host ? "host" : "device" });
      if (id !== this.shown) return;
      if (view && view.table) this.life.replaceChildren(KVW.table(this.viewer, view.table));
      else this.life.replaceChildren(h("p", { class: "kvw-quiet", text: "Not available here." }));
    }
  }

  /** The sequences whose block tables have a page: [{sequence, request, logical, group}]. */
  KVW.usersOf = function (frame, page, host) {
    const users = [];
    for (const [sequence, { request, tables }] of Object.entries(frame.sequences))
      tables.forEach(([blocks, there], group) => {
        const logical = host ? (there.find((pair) => pair[1] === page) || [-1])[0] : blocks.indexOf(page);
        if (logical >= 0) users.push({ sequence: Number(sequence), request, logical, group });
      });
    return users;
  };

  KVW.MapPanel = MapPanel;
  KVW.PagePanel = PagePanel;
})(window.KVW);
