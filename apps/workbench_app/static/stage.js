/* The stage: everything that moves. Frames come in, all views are redrawn from them; nothing is ever remounted. */
(function (KVW) {
  "use strict";
  const role = KVW.role;
  const SILENT_MS = 8000;

  class Stage {
    constructor(root, send) {
      this.root = root;
      this.send = send;
      this.frame = null;
      this.id = "";
      this.asked = 0;
      this.heard = performance.now();
      if (send.owns) setInterval(() => this.watchdog(), 2000);
      const template = role(root, "side-template");
      for (const side of root.querySelectorAll(".kvw-side")) side.append(template.content.cloneNode(true));
      this.sides = [...root.querySelectorAll(".kvw-side")].map((side) => new KVW.SideView(side));
      this.growing = null;
      this.history = new KVW.HistoryView(role(root, "history"), role(root, "history-words"));
      this.texts = new KVW.TextsView(role(root, "texts"));
      this.transport = new KVW.Transport(root, send);
      this.shared = new KVW.SharedNote(root);
      const mode = role(root, "mode");
      for (const [key, { name }] of Object.entries(KVW.mapModes)) mode.add(new Option(name, key));
      mode.addEventListener("change", () => this.sides.forEach((side) => side.setMode(mode.value)));
      KVW.onThemeChange(() => this.frame && this.draw());
    }

    draw() {
      const { frame, root } = this;
      const began = performance.now();
      KVW.setText(role(root, "badge"), frame.badge.words);
      role(root, "badge").dataset.state = frame.badge.state;
      KVW.setText(role(root, "state"), frame.state);
      role(root, "state").dataset.running = frame.running;
      for (const name of ["note", "ahead"]) {
        role(root, name).hidden = !frame[name];
        KVW.setText(role(root, name), frame[name]);
      }
      this.transport.draw(frame);
      this.sides[0].draw(frame.left, frame.run);
      this.sides[1].draw(frame.right, frame.run);
      this.sides.forEach((side, i) => side.save((frame.sources || [])[i]));
      this.lane(frame.growing);
      KVW.setText(role(root, "history-title"), frame.history.title);
      this.history.draw(frame);
      this.texts.draw(frame);
      KVW.stats.frameMs += performance.now() - began;
    }

    lane(payload) {
      const box = role(this.root, "growing");
      box.hidden = !payload;
      if (!payload) return;
      if (!this.growing) this.growing = new KVW.LaneView(box);
      this.growing.draw(payload);
    }

    /** A message is a whole frame, or what has changed since another one. */
    receive(text) {
      let message;
      try {
        message = JSON.parse(text);
      } catch (error) {
        console.error("KV Workbench: a frame could not be read", error);
        return;
      }
      KVW.stats.bytes += text.length;
      this.heard = performance.now();
      const { id, base, patch } = message;
      let next = message.frame;
      if (next && !next.run && !next.reset && !next.film && this.frame && this.frame.run) return; // late: a run has begun since
      if (!next && base === this.id) next = KVW.patch(this.frame, patch);
      if (!next) return this.resync();
      this.id = id;
      if (patch === 0) return;
      this.show(next);
    }

    show(frame) {
      KVW.stats.frames += 1;
      this.frame = frame;
      if (this.send.owns) this.shared.follow(frame.shared || "");
      if (this.send.owns) KVW.frame = frame;
      this.draw();
    }

    /** Nothing more will come: what is shown does not run any more. */
    ended() {
      KVW.setText(role(this.root, "state"), "Not shared any more");
      role(this.root, "state").dataset.running = false;
    }

    /** A stream can break without a word. If a run goes on and nothing is heard of it, asks; and watches it again. */
    watchdog() {
      if (!this.frame || !this.frame.running || document.hidden || performance.now() - this.heard < SILENT_MS) return;
      this.heard = performance.now();
      KVW.stats.silences = (KVW.stats.silences || 0) + 1;
      if (this.frame.live) this.transport.press("kvw-run");
      else this.send("act", { what: "resync" });
    }

    /** A change to a frame that did not arrive: asks for a whole one, once a second at most. */
    resync() {
      KVW.stats.resyncs = (KVW.stats.resyncs || 0) + 1;
      const now = performance.now();
      if (now - this.asked < 1000) return;
      this.asked = now;
      this.send("act", { what: "resync" });
    }
  }
  KVW.Stage = Stage;

  KVW.mountStage = function (element, props, watch, trigger) {
    KVW.stats.mounts += 1;
    KVW.setConstants(props.constants);
    const send = (what, data) => trigger(what, data);
    send.owns = true;
    const stage = new Stage(role(element, "stage"), send);
    KVW.stage = stage;
    KVW.sides = stage.sides;

    // After a click the space bar should run and pause, not press the same button again. Tab still reaches the buttons.
    document.addEventListener("pointerup", (event) => {
      const button = event.target.closest && event.target.closest("#kvw-buttons button");
      if (button) button.blur();
    });

    // On a small screen the settings would push everything else out of sight: they begin closed there.
    const settings = document.querySelector("#kvw-settings button.label-wrap");
    if (settings && settings.classList.contains("open") && window.matchMedia("(max-width: 1180px)").matches) settings.click();

    // There the presets are one line to be moved sideways: the chosen one should be in sight.
    const chosen = document.querySelector("#kvw-preset label.selected");
    if (chosen) chosen.parentElement.scrollLeft = chosen.offsetLeft - chosen.parentElement.offsetLeft - 30;

    watch("value", () => props.value && stage.receive(props.value));
    if (props.value) stage.receive(props.value);
    else if (props.film) KVW.playFilm(stage, props.film);
  };
})(window.KVW);
