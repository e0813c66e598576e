/* Moving through a run: buttons, scrub bar with marks, jumps, speed, keys, help. */
(function (KVW) {
  "use strict";
  const h = KVW.h;
  const KINDS = [
    ["preemption", "p", "Preemption", "#D55E00"],
    ["swap", "s", "Swap", "#0072B2"],
    ["copy", "c", "Copy-on-write", "#CC79A7"],
    ["eviction", "e", "Eviction", "#E69F00"],
    ["oom", "o", "Out of memory", "#56B4E9"],
    ["finish", "f", "Finish", "#009E73"],
  ];
  const SPEEDS = [0.25, 0.5, 1, 2, 4, 8];
  const STEPS_PER_SECOND = 4; // at 1x
  const KEYS = [
    ["← →", "one step back, forward"],
    ["Shift + ← →", "ten steps"],
    ["Space", "play, pause"],
    ["Home End", "first step, last step"],
    ...KINDS.map(([, key, name]) => [key, "next: " + name.toLowerCase() + " (Shift: previous)"]),
    ["Arrows on the page map", "move from page to page; Enter selects"],
    ["?", "this help"],
  ];

  class Transport {
    constructor(viewer, root, meta) {
      this.viewer = viewer;
      this.timer = null;
      const button = (name, text, label, action) => h("button", { type: "button", class: "kvw-tool", "data-role": name, text, "aria-label": label, title: label, onclick: action });
      this.play = button("play", "Play", "Play (space)", () => this.toggle());
      this.speed = h("select", { "aria-label": "Speed", "data-role": "speed", onchange: () => this.playing && this.start() }, ...SPEEDS.map((s) => h("option", { value: s, text: s + "×" })));
      this.speed.value = "1";
      this.number = h("input", { type: "number", class: "kvw-step", "aria-label": "Step", "data-role": "step", onchange: () => viewer.go(Number(this.number.value)) });
      this.of = h("span", { class: "kvw-quiet" });
      this.live = button("live", "● Live", "Follow the run as it goes on", () => viewer.follow());
      this.scrub = h("input", { type: "range", step: 1, "aria-label": "Step of the run", "data-role": "scrub", oninput: () => viewer.go(Number(this.scrub.value)) });
      this.marks = h("canvas", { class: "kvw-marks", "aria-hidden": "true" });
      this.jumps = h("div", { class: "kvw-jumps", role: "group", "aria-label": "Jumps" });
      root.append(
        h("div", { class: "kvw-buttons", role: "group", "aria-label": "Position in the run" },
          button("first", "|◀", "First step (Home)", () => viewer.go(viewer.meta.first)),
          button("back", "◀", "Back one step (←)", () => this.step(-1)),
          this.play,
          button("forward", "▶", "Forward one step (→)", () => this.step(1)),
          button("last", "▶|", "Last step (End)", () => viewer.follow()),
          this.speed, h("label", { class: "kvw-number" }, h("span", { text: "Step " }), this.number, this.of), this.live,
          button("help", "?", "Keys (?)", () => this.help())),
        h("div", { class: "kvw-bar" }, this.scrub, this.marks), this.jumps);
      this.dialog = this.makeDialog(root);
      this.listening = new AbortController();
      document.addEventListener("keydown", (event) => this.key(event), { capture: true, signal: this.listening.signal });
      new ResizeObserver(() => this.drawMarks()).observe(this.marks.parentNode);
      this.update(meta);
    }

    /** Takes over a new last step and new jumps of a run that goes on. */
    update(meta) {
      this.meta = meta;
      for (const input of [this.scrub, this.number]) Object.assign(input, { min: meta.first, max: meta.last });
      KVW.setText(this.of, " of " + KVW.number(meta.last));
      this.live.hidden = !meta.live;
      const kinds = KINDS.filter(([kind]) => (meta.jumps[kind] || []).length);
      const shown = kinds.map(([kind]) => kind + meta.jumps[kind].length).join();
      if (shown !== this.shown) this.jumps.replaceChildren(...kinds.map((kind) => this.jumpButtons(kind)));
      this.shown = shown;
      this.jumps.hidden = !kinds.length;
      this.drawMarks();
    }

    jumpButtons([kind, key, name, color]) {
      const jump = (direction, text, label) => h("button", { type: "button", class: "kvw-tool", text, "aria-label": label, title: label + " (" + (direction < 0 ? "Shift+" : "") + key + ")", "data-jump": kind, "data-direction": direction, onclick: () => this.jump(kind, direction) });
      const swatch = h("span", { class: "kvw-swatch" });
      swatch.style.background = color;
      return h("span", { class: "kvw-jump" }, jump(-1, "‹", "Previous: " + name), h("span", {}, swatch, " " + name + " ", h("small", { text: KVW.plural(this.meta.jumps[kind].length, "step") })), jump(1, "›", "Next: " + name));
    }

    jump(kind, direction) {
      const steps = (this.meta.jumps[kind] || []).filter((step) => step >= this.meta.first && step <= this.meta.last);
      const here = this.viewer.step;
      const there = direction > 0 ? steps.find((step) => step > here) : steps.filter((step) => step < here).pop();
      const name = KINDS.find((row) => row[0] === kind)[2];
      if (there === undefined) this.viewer.say("No " + (direction > 0 ? "later" : "earlier") + " step with: " + name.toLowerCase() + ".");
      else this.viewer.go(there);
    }

    drawMarks() {
      const [canvas, meta] = [this.marks, this.meta];
      const [width, height, ratio] = [canvas.clientWidth, canvas.clientHeight, window.devicePixelRatio || 1];
      if (!meta || !width) return;
      Object.assign(canvas, { width: width * ratio, height: height * ratio });
      const draw = canvas.getContext("2d");
      draw.scale(ratio, ratio);
      const present = KINDS.filter(([kind]) => (meta.jumps[kind] || []).length);
      const span = Math.max(1, meta.last - meta.first);
      present.forEach(([kind, , , color], row) => {
        draw.fillStyle = color;
        const tall = height / present.length;
        for (const step of meta.jumps[kind]) draw.fillRect(8 + ((step - meta.first) / span) * (width - 16) - 1, row * tall, 2, Math.max(2, tall - 1));
      });
    }

    draw(step) {
      if (document.activeElement !== this.number) this.number.value = step;
      this.scrub.value = step;
      this.scrub.setAttribute("aria-valuetext", "Step " + step + " of " + this.meta.last);
      this.live.setAttribute("aria-pressed", String(this.viewer.following));
    }

    step(by) {
      this.stop();
      this.viewer.go(this.viewer.step + by);
    }

    toggle() {
      if (this.playing) this.stop();
      else this.start();
    }

    start() {
      clearTimeout(this.timer);
      if (this.viewer.state.step >= this.meta.last && !this.meta.live) this.viewer.go(this.meta.first);
      this.playing = true;
      this.label();
      this.next();
    }

    /** One step after the other: the next begins when the last one is drawn, so slow pictures slow the film, not more. */
    next() {
      const wait = 1000 / STEPS_PER_SECOND / Number(this.speed.value);
      this.timer = setTimeout(async () => {
        if (!this.playing) return undefined;
        if (!this.viewer.root.getClientRects().length) return this.stop(); // nobody sees it: another tab is shown
        const { step } = this.viewer.state;
        if (step >= this.meta.last && !this.meta.live) return this.stop();
        if (step < this.meta.last) await this.viewer.go(step + 1);
        if (this.playing) this.next();
        return undefined;
      }, wait);
    }

    stop() {
      clearTimeout(this.timer);
      this.playing = false;
      this.label();
    }

    /** Listens to no key any more. */
    close() {
      this.stop();
      this.listening.abort();
    }

    label() {
      KVW.setText(this.play, this.playing ? "Pause" : "Play");
      this.play.setAttribute("aria-label", this.playing ? "Pause (space)" : "Play (space)");
      this.viewer.quiet(this.playing);
    }

    key(event) {
      if (event.ctrlKey || event.altKey || event.metaKey || event.defaultPrevented) return;
      const root = this.viewer.root;
      if (!root.offsetParent && !root.getClientRects().length) return; // another tab of the page is shown
      const target = event.target;
      if (target.closest && target.closest("dialog[open], textarea, select, [contenteditable], [role=application], [role=tab]")) {
        if (!target.closest("[role=application], [role=tab]") || event.key.startsWith("Arrow") || event.key === "Enter" || event.key === " ") return;
      }
      if (target.tagName === "INPUT" && (target.type !== "range" || !/^[a-z?]$/i.test(event.key))) return;
      if (event.key === " " && target.closest && target.closest("button, a, summary")) return;
      if (this.act(event)) event.preventDefault();
    }

    act(event) {
      const { viewer, meta } = this;
      const far = event.shiftKey ? 10 : 1;
      const kind = KINDS.find((row) => row[1] === event.key.toLowerCase());
      if (event.key === "ArrowLeft") this.step(-far);
      else if (event.key === "ArrowRight") this.step(far);
      else if (event.key === " ") this.toggle();
      else if (event.key === "Home") viewer.go(meta.first);
      else if (event.key === "End") viewer.follow();
      else if (event.key === "?") this.help();
      else if (kind) this.jump(kind[0], event.shiftKey ? -1 : 1);
      else return false;
      return true;
    }

    makeDialog(root) {
      const rows = KEYS.map(([keys, what]) => h("tr", {}, h("th", { scope: "row" }, h("kbd", { text: keys })), h("td", { text: what })));
      const dialog = h("dialog", { class: "kvw-help", "aria-label": "Keys" }, h("h3", { text: "Keys" }), h("table", {}, h("tbody", {}, ...rows)),
        h("p", { text: "Everything is linked: select a page, a request or a step anywhere, and all parts show it. Keys rest while you type." }),
        h("button", { type: "button", class: "kvw-tool", text: "Close", onclick: () => dialog.close() }));
      root.append(dialog);
      return dialog;
    }

    help() {
      if (!this.dialog.open) this.dialog.showModal();
    }
  }
  KVW.ViewerTransport = Transport;
})(window.KVW);
