/* Small tools for the viewer's panels. */
(function (KVW) {
  "use strict";

  /** An element: attributes, `text`, and `on…` handlers from an object, then children. */
  KVW.h = function (tag, options = {}, ...children) {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(options)) {
      if (value === undefined || value === null || value === false) continue;
      if (key === "text") node.textContent = value;
      else if (key === "class") node.className = value;
      else if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
      else node.setAttribute(key, value === true ? "" : value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  };

  KVW.STATUS = { w: "waiting", r: "running", p: "preempted", s: "swapped out", f: "finished", c: "cancelled", x: "rejected" };

  /** A request's letter as a button that selects it. */
  KVW.requestButton = function (viewer, request) {
    const button = KVW.h("button", { class: "kvw-chip", type: "button", onclick: () => viewer.select({ request }) });
    KVW.setChip(button, request);
    button.setAttribute("aria-label", "Request " + KVW.label(request));
    return button;
  };
  KVW.pageButton = function (viewer, page, host = false) {
    const text = (host ? "host " : "") + page;
    const label = host ? "host " + page + ", a page of the host tier" : "Page " + page;
    return KVW.h("button", { class: "kvw-link", type: "button", text, "aria-label": label, onclick: () => viewer.select({ page, host }) });
  };
  KVW.stepButton = (viewer, step) =>
    KVW.h("button", { class: "kvw-link", type: "button", text: String(step), "aria-label": "Go to step " + step, onclick: () => viewer.go(step) });

  /** A box that scrolls, which keys can reach. */
  KVW.scroller = (label, ...children) => KVW.h("div", { class: "kvw-scroll", tabindex: 0, role: "region", "aria-label": label }, ...children);

  /** A table of plain values. A column called "step" gets buttons that go there. */
  KVW.table = function (viewer, table, most = 500) {
    const step = table.columns.findIndex((name) => String(name).toLowerCase() === "step");
    const cell = (value, column) => {
      const node = KVW.h("td");
      if (column === step && Number.isInteger(value)) node.append(KVW.stepButton(viewer, value));
      else node.textContent = value === null ? "" : typeof value === "number" ? KVW.number(value) : String(value);
      return node;
    };
    const rows = table.rows.slice(-most);
    const caption = (table.title || "") + (rows.length < table.rows.length ? " (the last " + KVW.number(most) + " of " + KVW.number(table.rows.length) + " rows)" : "");
    return KVW.h("table", { class: "kvw-table" },
      caption ? KVW.h("caption", { text: caption }) : null,
      KVW.h("thead", {}, KVW.h("tr", {}, ...table.columns.map((name) => KVW.h("th", { scope: "col", text: name })))),
      KVW.h("tbody", {}, ...rows.map((row) => KVW.h("tr", {}, ...row.map(cell)))));
  };

  /** A token's text so that white space can be seen; what is not known is a dot. */
  KVW.token = function (text) {
    if (text === "") return KVW.h("span", { class: "kvw-token kvw-unknown", text: "·", title: "text not known, or part of a character" });
    return KVW.h("span", { class: "kvw-token", text: text.replace(/\n/g, "⏎").replace(/^ /, "␣") });
  };

  /** A segment of a page: heading and body. */
  KVW.panel = (title, name, ...children) =>
    KVW.h("section", { class: "kvw-panel kvw-panel-" + name, "aria-label": title }, KVW.h("h3", { text: title }), ...children);
})(window.KVW);
