/* The stage: everything that moves. One JSON frame comes in, all views are redrawn from it; nothing is ever remounted. */
(function (KVW) {
  "use strict";
  const role = KVW.role;

  KVW.mountStage = function (element, props, watch, sendStep) {
    KVW.stats.mounts += 1;
    KVW.causes = props.causes || [];
    const root = role(element, "stage");
    const sides = [...root.querySelectorAll(".kvw-side")].map((side) => new KVW.SideView(side));
    KVW.sides = sides;
    const history = new KVW.HistoryView(role(root, "history"), role(root, "history-words"));
    const texts = new KVW.TextsView(role(root, "texts"));
    const scrub = role(root, "scrub");
    let frame = null;
    let dragging = false;

    function draw() {
      const began = performance.now();
      KVW.setText(role(root, "badge"), frame.badge.words);
      role(root, "badge").dataset.state = frame.badge.state;
      KVW.setText(role(root, "state"), frame.state);
      role(root, "state").dataset.running = frame.running;
      const note = role(root, "note");
      note.hidden = !frame.note;
      KVW.setText(note, frame.note);
      scrub.max = frame.last;
      scrub.disabled = frame.last === 0;
      if (!dragging) scrub.value = frame.step;
      const words = "Step " + KVW.number(frame.step) + " of " + KVW.number(frame.last);
      KVW.setText(role(root, "step-words"), words);
      scrub.setAttribute("aria-valuetext", words);
      sides[0].draw(frame.left, frame.run);
      sides[1].draw(frame.right, frame.run);
      KVW.setText(role(root, "history-title"), frame.history.title);
      history.draw(frame);
      texts.draw(frame);
      KVW.stats.frameMs += performance.now() - began;
    }

    function receive() {
      if (!props.value) return;
      try {
        frame = JSON.parse(props.value);
      } catch (error) {
        console.error("KV Workbench: a frame could not be read", error);
        return;
      }
      KVW.stats.frames += 1;
      KVW.stats.bytes += props.value.length;
      KVW.frame = frame;
      draw();
    }

    // While the handle is dragged, at most one request to the server is under way at a time.
    let wanted = null;
    let timer = null;
    scrub.addEventListener("input", () => {
      dragging = true;
      wanted = Number(scrub.value);
      if (timer === null)
        timer = setTimeout(() => {
          timer = null;
          sendStep(wanted);
        }, 90);
    });
    scrub.addEventListener("change", () => {
      dragging = false;
    });

    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey || event.defaultPrevented) return;
      const target = event.target;
      const typing = "input, textarea, select, summary, a, [contenteditable], [role=radio], [role=option], [role=slider]";
      if (target.closest && target.closest(event.key === " " ? typing + ", button" : typing)) return;
      const ids = { " ": frame && frame.running ? "kvw-pause" : "kvw-run", ArrowRight: "kvw-step", ArrowLeft: "kvw-back" };
      const button = ids[event.key] && document.getElementById(ids[event.key]);
      if (!button) return;
      event.preventDefault();
      (button.querySelector("button") || button).click();
    });

    // After a click the space bar should run and pause, not press the same button again. Tab still reaches the buttons.
    document.addEventListener("pointerup", (event) => {
      const button = event.target.closest && event.target.closest("#kvw-buttons button");
      if (button) button.blur();
    });

    // On a small screen the settings would push everything else out of sight: they begin closed there.
    const settings = document.querySelector("#kvw-settings button.label-wrap");
    if (settings && settings.classList.contains("open") && window.matchMedia("(max-width: 1180px)").matches) settings.click();

    KVW.onThemeChange(() => frame && draw());
    watch("value", receive);
    receive();
  };
})(window.KVW);
