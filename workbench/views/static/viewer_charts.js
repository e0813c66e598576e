/* Run-wide charts: one tab each, fetched when first shown; the cursor moves without fetching anything. */
(function (KVW) {
  "use strict";
  const h = KVW.h;
  const NAMES = { timeline: "Timeline", flow: "Flow of pages", page_life: "Page's life", request_life: "Request's life", sharing_tree: "Sharing", waste: "Waste" };
  /** What a chart depends on, beside the run. */
  const NEEDS = { page_life: ["page", "host"], request_life: ["request"], sharing_tree: ["step"] };
  const ASK = { page: "Select a page first.", request: "Select a request first." };
  const REFETCH_MS = 250;
  /** Captions and tables speak of the step that is shown: they follow when it has stayed the same for so long. */
  const SETTLED_MS = 700;
  let charts = 0;

  class ChartPanel {
    constructor(viewer, root, names) {
      this.viewer = viewer;
      this.names = names;
      this.id = "kvw-charts-" + (charts += 1);
      this.tabs = h("div", { class: "kvw-tabs", role: "tablist", "aria-label": "Charts" }, ...names.map((name) =>
        h("button", { type: "button", role: "tab", id: this.id + name, "data-chart": name, "aria-controls": this.id, text: NAMES[name] || name.replace(/_/g, " "), onclick: () => this.show(name), onkeydown: (event) => this.rove(event) })));
      this.caption = h("p", { class: "kvw-chart-caption" });
      this.plot = h("div", { class: "kvw-chart" });
      this.line = h("div", { class: "kvw-cursor", "aria-hidden": "true", hidden: true });
      this.tableBox = KVW.scroller("Chart as a table");
      this.tableBox.hidden = true;
      this.tableButton = h("button", { type: "button", class: "kvw-tool", "data-role": "chart-table", "aria-pressed": "false", text: "Table", onclick: () => this.toggleTable() });
      this.area = h("div", { role: "tabpanel", id: this.id, tabindex: 0 }, this.caption, this.plot, this.tableBox);
      root.append(h("div", { class: "kvw-choices" }, this.tabs, this.tableButton), this.area);
      // Charts below the fold wait until they come into sight.
      new IntersectionObserver((entries) => {
        if (entries.some((entry) => entry.isIntersecting) && !this.name) this.show(names[0]);
      }).observe(root);
      new ResizeObserver(() => this.drawn && this.plot.getClientRects().length && Plotly.Plots.resize(this.plot)).observe(this.plot);
    }

    rove(event) {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by) return;
      event.preventDefault();
      event.stopPropagation();
      const next = (this.names.indexOf(this.name) + by + this.names.length) % this.names.length;
      this.show(this.names[next]);
      this.tabs.children[next].focus();
    }

    show(name) {
      this.name = name;
      [...this.tabs.children].forEach((tab) => {
        const chosen = tab.dataset.chart === name;
        tab.setAttribute("aria-selected", String(chosen));
        tab.tabIndex = chosen ? 0 : -1;
      });
      this.area.setAttribute("aria-labelledby", this.id + name);
      this.key = null;
      return this.refresh();
    }

    toggleTable() {
      this.tableBox.hidden = !this.tableBox.hidden;
      this.tableButton.setAttribute("aria-pressed", String(!this.tableBox.hidden));
      this.fillTable();
    }

    fillTable() {
      if (!this.tableBox.hidden && this.view && this.view.table) this.tableBox.replaceChildren(KVW.table(this.viewer, this.view.table));
    }

    /** Called for every step and selection. */
    draw(frame, state) {
      if (!this.name) return;
      this.moveCursor(state.step);
      const key = this.keyOf(state);
      if (key === this.key && state.step === this.step) return;
      clearTimeout(this.timer);
      this.timer = setTimeout(() => this.refresh(), key === this.key ? SETTLED_MS : REFETCH_MS);
    }

    keyOf(state) {
      const needs = (NEEDS[this.name] || []).map((name) => state[name]);
      return [this.name, KVW.isDark(), this.viewer.meta.last, ...needs].join();
    }

    async refresh() {
      const state = this.viewer.state;
      const { name } = this;
      const missing = (NEEDS[name] || []).find((need) => ASK[need] && !(state[need] >= 0));
      this.key = this.keyOf(state);
      this.step = state.step;
      const key = this.key;
      if (missing) return this.empty(ASK[missing]);
      const params = { step: state.step, dark: KVW.isDark() };
      if (state.page >= 0) Object.assign(params, { page: state.page, tier: state.host ? "host" : "device" });
      for (const need of ["request", "sequence"]) if (state[need] >= 0) params[need] = state[need];
      const view = await this.viewer.view(name, params);
      if (key !== this.key) return undefined;
      if (!view) return this.empty("Not available here.");
      this.view = view;
      KVW.setText(this.caption, view.caption || "");
      this.fillTable();
      this.plot.hidden = !view.data;
      if (!view.data) return undefined;
      const layout = { ...this.takeCursor(view.layout), autosize: true };
      delete layout.width;
      this.plot.style.height = (layout.height || 420) + "px";
      await Plotly.react(this.plot, view.data, layout, { displaylogo: false, responsive: true });
      if (!this.drawn) {
        this.plot.on("plotly_click", (event) => this.click(event));
        this.plot.on("plotly_afterplot", () => this.moveCursor(this.viewer.state.step)); // after zooming, too
        this.plot.append(this.line);
      }
      this.drawn = true;
      this.moveCursor(this.viewer.state.step);
      return undefined;
    }

    empty(words) {
      this.view = null;
      KVW.setText(this.caption, words);
      this.plot.hidden = true;
      this.tableBox.replaceChildren();
    }

    /** The author's cursor shape says which axis; a line above the chart stands for it. Plotly takes a hundred times
        longer to move a shape than the browser to move a line. */
    takeCursor(layout) {
      const shapes = layout.shapes || [];
      this.cursor = shapes.find((shape) => shape.name === "cursor") || null;
      return { ...layout, shapes: shapes.filter((shape) => shape.name !== "cursor") };
    }

    moveCursor(step) {
      const full = this.plot._fullLayout;
      this.line.hidden = !this.cursor || !this.drawn || this.plot.hidden || !full;
      if (this.line.hidden) return;
      const axis = full[(this.cursor.xref || "x").replace("x", "xaxis")];
      const at = axis ? axis.l2p(step) : -1;
      this.line.hidden = !axis || at < 0 || at > axis._length;
      if (this.line.hidden) return;
      const { y0 = 0, y1 = 1 } = this.cursor; // shares of the plot's height: below may be bars that count something else
      Object.assign(this.line.style, { top: full._size.t + (1 - y1) * full._size.h + "px", height: (y1 - y0) * full._size.h + "px", transform: "translateX(" + (axis._offset + at) + "px)" });
    }

    click(event) {
      const [point] = event.points;
      const data = point.customdata;
      if (Array.isArray(data) && typeof data[0] === "string") {
        const [kind, number] = data;
        if (kind === "step") this.viewer.go(number);
        else if (kind === "page") this.viewer.select({ page: number, host: false });
        else if (kind === "host_page") this.viewer.select({ page: number, host: true });
        else if (kind === "request") this.viewer.select({ request: number });
        else if (kind === "sequence") this.viewer.select({ sequence: number });
        if (kind === "step" || !/timeline|flow|life/.test(this.name)) return;
      }
      const isStep = this.cursor && point.xaxis && point.xaxis._id === (this.cursor.xref || "x");
      if (isStep && /timeline|flow|life/.test(this.name) && Number.isFinite(point.x)) this.viewer.go(Math.round(point.x));
    }
  }
  KVW.ChartPanel = ChartPanel;
})(window.KVW);
