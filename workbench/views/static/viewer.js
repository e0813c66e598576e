/* The viewer: a run at any step, with all views linked.

   KVW.mountViewer(root, source, options) where source = {
     meta() -> {first, last, live, title, memory, note, jumps: {kind: [steps]}, views: [names], constants},
     frame(step, sequence) -> Promise of a frame (see explore_frame in frames.py),
     view(name, params) -> Promise of a view's JSON or null; params: step, dark, page, tier, request, sequence,
     exports: [{name, label, run(viewer)}] (optional),
   }
   options: state (to begin with), onState(state). Gives {setState, state, frame, go, refresh, pause, close, ready}.
   Mounting another run in the same element closes the one before. */
(function (KVW) {
  "use strict";
  const h = KVW.h;
  const KEEP = 160; // frames
  const AHEAD = 3;
  const EMPTY = { step: 0, page: -1, host: false, request: -1, sequence: -1, color: "request", order: "" };

  /** Kinds of events that the caption speaks of, and how. */
  const TOLD = new Map([["queued", "arrival"], ["admitted", "admission"], ["preemption", "preemption"], ["resumed", "resumption"], ["finish", "finish"], ["complete", "complete sequence"], ["dropped", "dropped beam"], ["rejected", "rejection"], ["fork", "fork"], ["copy", "copy-on-write"], ["shared", "page shared"], ["hit", "prefix hit"], ["cached", "page kept for reuse"], ["eviction", "eviction"], ["swap", "swap"]]);

  class Viewer {
    constructor(root, source, options) {
      Object.assign(this, { root, source, options, frames: new Map(), state: { ...EMPTY }, following: false });
      this.meta = source.meta();
      if (this.meta.constants) KVW.setConstants(this.meta.constants);
      root.classList.add("kvw-viewer"); // its looks are its own: not "kvw", which is the stage of the app
      this.caption = h("p", { class: "kvw-caption", role: "status", "aria-live": "polite", "data-role": "caption" });
      const transport = h("section", { class: "kvw-panel kvw-viewer-transport", "aria-label": "Time" });
      const panels = { map: ["Pages", KVW.MapPanel], page: ["Selected page", KVW.PagePanel], sequence: ["Block table", KVW.SequencePanel], requests: ["Requests", KVW.RequestPanel], events: ["In this step", KVW.EventPanel] };
      const columns = { left: h("div", { class: "kvw-column" }), right: h("div", { class: "kvw-column" }) };
      const grid = h("div", { class: "kvw-grid" }, columns.left, columns.right);
      const place = { map: "left", requests: "left" };
      this.title = h("h2", { text: this.meta.title });
      this.memory = h("p", { class: "kvw-quiet", text: [this.meta.memory, this.meta.note].filter(Boolean).join(" ") });
      root.replaceChildren(h("header", {}, this.title, this.memory, this.exports()), transport, this.caption, grid);
      this.panels = Object.entries(panels).map(([name, [title, Panel]]) => new Panel(this, columns[place[name] || "right"].appendChild(KVW.panel(title, name))));
      const views = this.meta.views || [];
      if (views.length) this.panels.push(new KVW.ChartPanel(this, grid.appendChild(KVW.panel("The whole run", "charts")), views));
      this.transport = new KVW.ViewerTransport(this, transport, this.meta);
      this.theme = KVW.onThemeChange(() => this.draw());
      KVW.stats.mounts += 1;
    }

    exports() {
      const list = this.source.exports || [];
      if (!list.length) return null;
      return h("div", { class: "kvw-exports", role: "group", "aria-label": "Save as" }, ...list.map(({ name, label, run }) => h("button", { type: "button", class: "kvw-tool", "data-export": name, text: label, onclick: () => run(this) })));
    }

    clamp(step) {
      return Math.min(this.meta.last, Math.max(this.meta.first, Math.round(step) || 0));
    }

    /** Frames are asked for once; the oldest are forgotten. */
    fetch(step) {
      const key = step + "/" + (this.needsSequence ? this.state.sequence : "");
      let frame = this.frames.get(key);
      if (!frame) {
        frame = Promise.resolve(this.source.frame(step, this.state.sequence >= 0 ? this.state.sequence : undefined));
        this.frames.set(key, frame);
        frame.catch(() => this.frames.delete(key));
        if (this.frames.size > KEEP) this.frames.delete(this.frames.keys().next().value);
      }
      return frame;
    }

    /** Shows a step. While frames are on their way only the last one that was asked for is drawn. */
    go(step, follow = false) {
      this.following = follow;
      this.wanted = this.clamp(step);
      if (!this.loading) this.loading = this.load().finally(() => (this.loading = null));
      return this.loading;
    }

    async load() {
      let shown = null;
      while (shown !== this.wanted) {
        shown = this.wanted;
        const began = performance.now();
        let frame;
        try {
          frame = await this.fetch(shown);
        } catch (error) {
          this.say("Step " + shown + " could not be read: " + error.message);
          return;
        }
        if (shown !== this.wanted) continue;
        this.direction = shown < this.state.step ? -1 : 1;
        this.frame = frame;
        this.state.step = shown;
        this.keepSequence();
        this.draw();
        KVW.stats.lastStepMs = performance.now() - began;
        this.tell();
        this.prefetch(shown);
      }
    }

    /** Where the viewer is, or is about to be: keys may come faster than frames. */
    get step() {
      return this.loading ? this.wanted : this.state.step;
    }

    /** Shows the newest step, and goes on with a run that does. */
    follow() {
      this.transport.stop();
      return this.go(this.meta.last, this.meta.live);
    }

    /** Takes over how far a run has got. What was its last step may have been shown before it was complete. */
    update(meta) {
      if (this.meta.live) for (const key of this.frames.keys()) if (parseInt(key, 10) >= this.meta.last) this.frames.delete(key);
      this.meta = meta;
      KVW.setText(this.title, meta.title);
      this.transport.update(meta);
    }

    prefetch(step) {
      for (let ahead = 1; ahead <= AHEAD; ahead++) {
        const next = step + ahead * this.direction;
        if (next >= this.meta.first && next <= this.meta.last) this.fetch(next).catch(() => {});
      }
    }

    /** Selects a page, a request, a sequence, a colour or an order; what belongs to it is selected, too. */
    select(change) {
      const next = Object.fromEntries(Object.entries(change).filter(([, value]) => value !== undefined));
      Object.assign(this.state, next);
      if (next.page >= 0 && this.frame && next.request === undefined && next.sequence === undefined) {
        const users = KVW.usersOf(this.frame, next.page, Boolean(this.state.host));
        const user = users.find((u) => u.sequence === this.state.sequence) || users[0];
        if (user) Object.assign(this.state, { request: user.request, sequence: user.sequence });
      } else if (next.sequence >= 0 && next.request === undefined && this.frame?.sequences[next.sequence]) this.state.request = this.frame.sequences[next.sequence].request;
      else if (next.request !== undefined && next.sequence === undefined) this.state.sequence = this.sequenceOf(next.request);
      if (next.page === undefined && (next.request >= 0 || next.sequence >= 0)) this.leavePage();
      this.needsSequence = this.frame && this.frame.omitted[1] > 0;
      if (this.needsSequence && this.state.sequence >= 0 && !this.frame.sequences[this.state.sequence]) this.go(this.state.step);
      this.draw();
      this.tell();
    }

    sequenceOf(request) {
      const found = Object.entries(this.frame?.sequences || {}).find(([, held]) => held.request === request);
      return found ? Number(found[0]) : -1;
    }

    /** A page that has nothing to do with what was selected now is selected no more. */
    leavePage() {
      if (this.state.page < 0 || !this.frame) return;
      const users = KVW.usersOf(this.frame, this.state.page, Boolean(this.state.host));
      if (!users.some((user) => user.request === this.state.request)) Object.assign(this.state, { page: -1, host: false });
    }

    /** When a selected request gets memory, its first sequence is shown. */
    keepSequence() {
      const { request, sequence } = this.state;
      if (request >= 0 && !this.frame.sequences[sequence]) {
        const other = this.sequenceOf(request);
        if (other >= 0) this.state.sequence = other;
      }
    }

    /** Pages of the selected sequence or request, on the device and on the host. */
    pages() {
      const [device, host] = [new Set(), new Set()];
      const chosen = this.frame.sequences[this.state.sequence];
      const held = chosen ? [chosen] : Object.values(this.frame.sequences).filter((s) => s.request === this.state.request);
      for (const { tables } of this.state.request < 0 && !chosen ? [] : held)
        for (const [blocks, there] of tables) {
          blocks.forEach((block) => block >= 0 && device.add(block));
          there.forEach((pair) => host.add(pair[1]));
        }
      return { device: [...device], host: [...host] };
    }

    draw() {
      if (!this.frame) return;
      const began = performance.now();
      const { frame, state } = this;
      this.transport.draw(state.step);
      const pages = this.pages();
      for (const panel of this.panels) panel.draw(frame, state, pages);
      this.say(frame.map.words + this.happened(frame));
      KVW.stats.frames += 1;
      KVW.stats.frameMs += performance.now() - began;
    }

    /** What was out of the ordinary in the step: how often, and the first preemption in full. */
    happened(frame) {
      const counts = new Map();
      const ended = new Set(frame.events.filter(([kind]) => kind === "finish").map((row) => row[4][0]));
      for (const [kind, , , , [request]] of frame.events)
        if (TOLD.has(kind) && !(kind === "complete" && ended.has(request))) counts.set(kind, (counts.get(kind) || 0) + 1);
      if (!counts.size) return "";
      const listed = [...counts].map(([kind, count]) => (count > 1 ? count + "× " : "") + TOLD.get(kind)).join(", ");
      const preempted = frame.events.find((row) => row[0] === "preemption");
      return " In this step: " + listed + "." + (preempted ? " First, " + preempted[1] + "." : "");
    }

    say(words) {
      KVW.setText(this.caption, words);
    }

    /** While a film plays, nobody wants every step read out. */
    quiet(playing) {
      this.caption.setAttribute("aria-live", playing ? "off" : "polite");
    }

    async view(name, params) {
      try {
        return await this.source.view(name, params);
      } catch (error) {
        return { data: null, layout: {}, caption: "Could not be read: " + error.message, table: null };
      }
    }

    tell() {
      if (this.options.onState) this.options.onState({ ...this.state });
    }
  }

  KVW.mountViewer = function (root, source, options = {}) {
    if (root.kvwViewer) root.kvwViewer.close();
    const viewer = new Viewer(root, source, options);
    const api = {
      get state() {
        return { ...viewer.state };
      },
      get frame() {
        return viewer.frame;
      },
      go: (step) => viewer.go(step),
      pause: () => viewer.transport.stop(),
      close() {
        viewer.transport.close();
        viewer.theme.disconnect();
        root.replaceChildren();
      },
      setState(state) {
        Object.assign(viewer.state, Object.fromEntries(Object.entries(state).filter(([key, value]) => key in EMPTY && key !== "step" && value !== undefined)));
        if (!KVW.mapModes[viewer.state.color]) viewer.state.color = "request";
        if (!KVW.orders.some(([name]) => name === viewer.state.order)) viewer.state.order = "";
        return viewer.go(state.step ?? viewer.state.step);
      },
      /** Call it when source.meta() has changed: a run that goes on has more steps. */
      refresh() {
        viewer.update(source.meta());
        return viewer.following ? viewer.go(viewer.meta.last, true) : Promise.resolve();
      },
    };
    const start = { step: viewer.meta.live ? viewer.meta.last : Math.max(viewer.meta.first, Math.min(1, viewer.meta.last)), ...(options.state || {}) };
    api.ready = api.setState(start);
    viewer.following = viewer.meta.live && options.state?.step === undefined;
    KVW.viewer = root.kvwViewer = api;
    return api;
  };
})(window.KVW);
