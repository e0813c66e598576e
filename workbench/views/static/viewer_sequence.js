/* The block table of the selected sequence with its tokens; in contiguous memory, the regions. */
(function (KVW) {
  "use strict";
  const h = KVW.h;
  const MOST_ROWS = 120;

  class SequencePanel {
    constructor(viewer, root) {
      this.viewer = viewer;
      this.title = root.querySelector("h3");
      this.choice = h("select", { "data-role": "sequence", onchange: () => this.choose() });
      this.choiceLabel = h("label", {}, "Sequence ", this.choice);
      this.note = h("p", { class: "kvw-quiet" });
      this.body = KVW.scroller("Block table");
      this.body.dataset.role = "block-table";
      root.append(this.choiceLabel, this.note, this.body);
    }

    choose() {
      const sequence = Number(this.choice.value);
      const known = this.frame.sequences[sequence];
      this.viewer.select({ sequence, request: known ? known.request : this.viewer.state.request });
    }

    draw(frame, state) {
      this.frame = frame;
      const all = Object.entries(frame.sequences);
      const key = all.map(([number, { request }]) => number + "/" + request).join();
      if (key !== this.key)
        this.choice.replaceChildren(h("option", { value: -1, text: "choose" }), ...all.map(([number, { request }]) => h("option", { value: number, text: number + " (request " + KVW.label(request) + ")" })));
      this.key = key;
      this.choice.value = frame.sequences[state.sequence] ? state.sequence : -1;
      const paged = frame.map.kind !== "contiguous";
      const title = paged ? "Block table" : "Regions";
      KVW.setText(this.title.firstChild, title); // a help button may follow
      this.body.setAttribute("aria-label", title);
      if (!paged) return this.regions(frame, state);
      const held = frame.sequences[state.sequence];
      if (!held) {
        const gone = state.sequence >= 0 ? "Sequence " + state.sequence + " has no memory at this step." : "Select a request, a sequence or a page in use.";
        KVW.setText(this.note, gone + (frame.omitted[1] ? " " + frame.omitted[1] + " sequences are not listed here." : ""));
        this.body.replaceChildren();
        return undefined;
      }
      const pages = held.tables.map(([blocks]) => blocks.length).reduce((a, b) => Math.max(a, b), 0);
      KVW.setText(this.note, "Request " + KVW.label(held.request) + ", sequence " + state.sequence + ": " + KVW.plural(held.tokens, "token") + " in " + KVW.plural(pages, "page") + ", in logical order. Press a number to select the page.");
      this.body.replaceChildren(...held.tables.map((table, group) => this.table(frame, state, held, table, group)));
      return undefined;
    }

    table(frame, state, held, [blocks, there], group) {
      const size = frame.map.block_size;
      const host = new Map(there);
      const at = state.page >= 0 && !state.host ? blocks.indexOf(state.page) : -1;
      const first = Math.max(0, Math.min(blocks.length - MOST_ROWS, at < 0 ? blocks.length - MOST_ROWS : at - MOST_ROWS / 2));
      const shared = new Map((frame.map.shared || []).map(([block, refs, requests]) => [block, [refs, requests]]));
      const rows = [];
      for (let logical = first; logical < Math.min(blocks.length, first + MOST_ROWS); logical++)
        rows.push(this.row(frame, state, held, { logical, block: blocks[logical], host: host.get(logical), shared, size }));
      const name = held.tables.length > 1 ? "Layer group " + group : "";
      const cut = blocks.length > rows.length ? "Logical pages " + first + " to " + (first + rows.length - 1) + " of " + blocks.length : "";
      const caption = [name, cut].filter(Boolean).join(". ");
      return h("table", { class: "kvw-table kvw-block-table" }, caption ? h("caption", { text: caption }) : null,
        h("thead", {}, h("tr", {}, ...["logical", "page", "filled", "tokens"].map((text) => h("th", { scope: "col", text })))), h("tbody", {}, ...rows));
    }

    row(frame, state, held, { logical, block, host, shared, size }) {
      const where = h("td");
      const lines = [];
      let filled = "";
      if (block >= 0) {
        where.append(KVW.pageButton(this.viewer, block));
        filled = frame.map.filled[block] + "/" + size;
        const [refs, requests] = shared.get(block) || [1, []];
        if (refs > 1) lines.push(h("span", { class: "kvw-badge-small", text: "shared ×" + refs }), ...(requests.length > 1 ? requests.map((r) => KVW.requestButton(this.viewer, r)) : []));
        const copied = frame.copies.find((copy) => copy[1] === block && copy[2] === state.sequence);
        if (copied) lines.push(h("span", { class: "kvw-badge-small kvw-copied" }, "copied from page ", KVW.pageButton(this.viewer, copied[0]), " in this step (copy-on-write)"));
      } else if (host !== undefined) {
        where.append(KVW.pageButton(this.viewer, host, true));
        filled = frame.map.host.filled[host] + "/" + size;
        lines.push(h("span", { class: "kvw-badge-small", text: "on the host" }));
      } else where.append(h("span", { class: "kvw-quiet", text: "gone" }));
      const selected = state.host ? host === state.page && host !== undefined : block >= 0 && block === state.page;
      const changed = block >= 0 && frame.changed.includes(block);
      const texts = held.texts.slice(logical * size, (logical + 1) * size);
      return h("tr", { class: (selected ? "kvw-selected " : "") + (changed ? "kvw-changed" : ""), "aria-current": selected ? "true" : null },
        h("th", { scope: "row", text: String(logical) }), where, h("td", { text: filled }),
        h("td", { class: "kvw-tokens" }, ...texts.map(KVW.token), ...(lines.length ? [h("div", {}, ...lines)] : [])));
    }

    regions(frame, state) {
      const rows = frame.map.regions.slice().sort((a, b) => a[1] - b[1]).map(([request, start, size, requested, filled, since]) =>
        h("tr", { class: request === state.request ? "kvw-selected" : "", "aria-current": request === state.request ? "true" : null },
          h("th", { scope: "row" }, KVW.requestButton(this.viewer, request)), ...[start + " to " + (start + size - 1), filled, requested - filled, size - requested, since].map((text) => h("td", { text: String(text) }))));
      const held = frame.sequences[state.sequence];
      KVW.setText(this.note, frame.map.regions.length ? "One region per request, in slots." : "No region is reserved.");
      this.body.replaceChildren(
        h("table", { class: "kvw-table" }, h("thead", {}, h("tr", {}, ...["request", "slots", "used", "reserved, empty", "lost to rounding", "since step"].map((text) => h("th", { scope: "col", text })))), h("tbody", {}, ...rows)),
        held ? h("p", { class: "kvw-tokens" }, h("span", { class: "kvw-quiet", text: "Tokens of request " + KVW.label(held.request) + ": " }), ...held.texts.slice(-400).map(KVW.token)) : "");
    }
  }
  KVW.SequencePanel = SequencePanel;
})(window.KVW);
