/* The requests, and what happened in the step. */
(function (KVW) {
  "use strict";
  const h = KVW.h;
  const FILTERS = [
    ["all", "everything"],
    ["memory", "pages only"],
    ["requests", "requests only"],
    ["selected", "what is selected"],
  ];
  const OF_REQUESTS = new Set(["queued", "admitted", "blocked", "preemption", "resumed", "finish", "complete", "chosen", "dropped", "rejected", "token", "fork"]);

  class RequestPanel {
    constructor(viewer, root) {
      this.viewer = viewer;
      this.waiting = h("p", { class: "kvw-quiet" });
      this.body = h("tbody");
      this.box = KVW.scroller("Requests", h("table", { class: "kvw-table kvw-requests" },
        h("thead", {}, h("tr", {}, ...["request", "state", "tokens", "pages", "preempted", "text"].map((text) => h("th", { scope: "col", text })))), this.body));
      this.more = h("p", { class: "kvw-quiet" });
      root.append(this.waiting, this.box, this.more);
    }

    draw(frame, state) {
      KVW.setText(this.waiting, frame.waiting);
      KVW.setText(this.box.querySelectorAll("th")[3], frame.map.kind === "contiguous" ? "slots" : "pages");
      KVW.resizeChildren(this.body, frame.requests.length, () => h("tr", {}, h("th", { scope: "row" }), ...Array.from({ length: 5 }, () => h("td"))));
      frame.requests.forEach((row, i) => this.fill(this.body.children[i], row, frame, state));
      KVW.setText(this.more, frame.omitted[0] ? frame.omitted[0] + " more are not listed." : "");
    }

    fill(tr, [request, status, , tokens, most, pages, preemptions, text, reason, sample, host], frame, state) {
      const id = request + "/" + sample;
      if (tr.dataset.id !== id) {
        tr.firstChild.replaceChildren(KVW.requestButton(this.viewer, request), sample ? " #" + (sample + 1) : "");
        tr.dataset.id = id;
      }
      tr.classList.toggle("kvw-selected", request === state.request);
      tr.firstChild.firstChild.setAttribute("aria-pressed", String(request === state.request));
      const cells = tr.children;
      KVW.setText(cells[1], KVW.STATUS[status]);
      KVW.setText(cells[2], tokens + "/" + most);
      KVW.setText(cells[3], KVW.number(pages) + (host ? " + " + KVW.number(host) + " host" : ""));
      KVW.setText(cells[4], preemptions ? preemptions + "×" : "");
      KVW.setText(cells[5], reason || text.trimStart().slice(-90) || "(" + (frame.prompts[request] || "").slice(0, 60) + ")");
    }
  }

  class EventPanel {
    constructor(viewer, root) {
      this.viewer = viewer;
      this.filter = h("select", { "data-role": "event-filter", onchange: () => this.frame && this.draw(this.frame, viewer.state) }, ...FILTERS.map(([value, text]) => h("option", { value, text })));
      this.list = h("ol", { class: "kvw-events" });
      this.more = h("p", { class: "kvw-quiet" });
      root.append(h("label", {}, "Show ", this.filter), KVW.scroller("Events of the step", this.list), this.more);
    }

    draw(frame, state) {
      this.frame = frame;
      const wanted = this.filter.value;
      const about = ([, , pages, host, requests, sequences]) =>
        (state.page >= 0 && (state.host ? host : pages).includes(state.page)) || requests.includes(state.request) || sequences.includes(state.sequence);
      const rows = frame.events.filter((row) => wanted === "all" || (wanted === "selected" ? about(row) : OF_REQUESTS.has(row[0]) === (wanted === "requests") && row[0] !== "step"));
      this.list.replaceChildren(...rows.map((row) => this.item(row, about(row))));
      const left = frame.omitted[2] ? frame.omitted[2] + " more events are not listed." : "";
      KVW.setText(this.more, rows.length ? left : frame.events.length ? "Nothing of this kind happened in this step." : "Nothing happened before the first step.");
    }

    item([kind, words, pages, host, requests, sequences], marked) {
      const { viewer } = this;
      const act = () => viewer.select({
        ...(requests.length ? { request: requests[0], sequence: sequences.length ? sequences[0] : undefined } : {}),
        ...(pages.length ? { page: pages[pages.length - 1], host: false } : host.length ? { page: host[0], host: true } : {}),
      });
      const target = pages.length || host.length || requests.length ? h("button", { type: "button", class: "kvw-event", text: words, onclick: act }) : h("span", { text: words });
      return h("li", { class: marked ? "kvw-selected" : "", "data-kind": kind }, h("span", { class: "kvw-kind kvw-kind-" + kind, text: kind }), target);
    }
  }
  KVW.RequestPanel = RequestPanel;
  KVW.EventPanel = EventPanel;
})(window.KVW);
