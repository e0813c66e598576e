/* Where in the run the page is: the bar, jumps to what happened, "back to now", the link, and the keys. */
(function (KVW) {
  "use strict";
  const role = KVW.role;
  const JUMPS = [
    ["preemption", "p", "preemption"],
    ["swap", "s", "swap"],
    ["copy", "c", "copy"],
    ["eviction", "e", "eviction"],
    ["oom", "o", "out of memory"],
    ["finish", "f", "finish"],
  ];
  const TYPING = "input, textarea, select, summary, a, [contenteditable], [role=radio], [role=option], [role=slider], [role=tab], dialog";

  class Transport {
    /** `send(what, data)` asks the server for something; null where one only watches. */
    constructor(root, send) {
      this.root = root;
      root.classList.toggle("kvw-watching", !send.owns);
      this.send = send;
      this.frame = null;
      this.dragging = false;
      this.timer = null;
      this.scrub = role(root, "scrub");
      this.jumps = new Map();
      const box = role(root, "jumps");
      for (const [kind, key, name] of JUMPS) {
        const group = KVW.make("span", "kvw-jump");
        const button = (direction, text, words) => {
          const node = group.appendChild(KVW.make("button", "", text));
          node.type = "button";
          node.setAttribute("aria-label", words + " " + name + " (key " + (direction < 0 ? "shift " : "") + key + ")");
          node.addEventListener("click", () => this.send("act", { what: "jump", kind, direction }));
          return node;
        };
        const before = button(-1, "‹", "Previous");
        const label = group.appendChild(KVW.make("span"));
        const after = button(+1, "›", "Next");
        group.hidden = true;
        box.appendChild(group);
        this.jumps.set(kind, { group, before, label, after, name });
      }
      this.nothing = box.appendChild(KVW.make("em", "", "nothing yet (preemptions, swaps, copies and the like appear here)"));
      // While the handle is dragged, at most one request to the server is under way at a time.
      this.scrub.addEventListener("input", () => {
        this.dragging = true;
        if (this.timer === null)
          this.timer = setTimeout(() => {
            this.timer = null;
            this.go(Number(this.scrub.value));
          }, 90);
      });
      this.scrub.addEventListener("change", () => (this.dragging = false));
      role(root, "live").addEventListener("click", () => this.send("act", { what: "live" }));
      role(root, "copy-link").addEventListener("click", () => this.copyLink());
      const keys = role(root, "keys");
      role(root, "help").addEventListener("click", () => keys.showModal());
      document.addEventListener("keydown", (event) => this.key(event));
    }

    go(step) {
      this.send("scrub", { step });
    }

    draw(frame) {
      this.frame = frame;
      const { scrub } = this;
      scrub.max = frame.last;
      scrub.disabled = frame.last === 0 || !this.send.owns;
      if (!this.dragging) scrub.value = frame.step;
      this.root.dataset.film = Boolean(frame.film);
      const words = "Step " + KVW.number(frame.step) + " of " + KVW.number(frame.last);
      KVW.setText(role(this.root, "step-words"), words);
      scrub.setAttribute("aria-valuetext", words);
      role(this.root, "live").hidden = !(frame.running && !frame.live);
      role(this.root, "copy-link").disabled = !frame.run;
      for (const [kind, { group, before, label, after, name }] of this.jumps) {
        const steps = (frame.jumps || {})[kind] || [];
        group.hidden = steps.length === 0;
        if (!steps.length) continue;
        before.disabled = !(steps[0] < frame.step);
        after.disabled = !(steps[steps.length - 1] > frame.step);
        KVW.setText(label, name + " (" + KVW.plural(steps.length, "step") + ")");
      }
      this.nothing.hidden = Object.values(frame.jumps || {}).some((steps) => steps.length);
    }

    copyLink() {
      if (!this.frame.link) return KVW.say(this.root, "The prompts are too long for a link. Save the recording instead: below a page map, at “Save or explore”.");
      const address = location.origin + location.pathname + "?" + this.frame.link;
      const say = (text) => KVW.say(this.root, text);
      const shown = () => window.prompt("Copy this link:", address);
      if (!navigator.clipboard) return shown();
      return navigator.clipboard.writeText(address).then(() => say("Link copied: " + address), shown);
    }

    press(id) {
      const button = document.getElementById(id);
      if (button) (button.querySelector("button") || button).click();
    }

    key(event) {
      if (event.ctrlKey || event.altKey || event.metaKey || event.defaultPrevented || !this.frame || !this.send.owns) return;
      if (this.root.offsetParent === null || role(this.root, "keys").open) return; // another tab is shown
      const target = event.target;
      if (target.closest && target.closest(event.key === " " ? TYPING + ", button" : TYPING)) return;
      const far = event.shiftKey ? 10 : 1;
      const jump = JUMPS.find(([, key]) => key === event.key.toLowerCase());
      if (event.key === "?") role(this.root, "keys").showModal();
      else if (event.key === " ") this.press(this.frame.running ? "kvw-pause" : "kvw-run");
      else if (event.key === "ArrowRight" && far === 1) this.press("kvw-step");
      else if (event.key === "ArrowLeft" && far === 1) this.press("kvw-back");
      else if (event.key === "ArrowRight") this.go(this.frame.step + far);
      else if (event.key === "ArrowLeft") this.go(this.frame.step - far);
      else if (event.key === "Home") this.go(0);
      else if (event.key === "End") this.send("act", { what: "live" });
      else if (jump && event.key.length === 1) this.send("act", { what: "jump", kind: jump[0], direction: event.shiftKey ? -1 : 1 });
      else return;
      event.preventDefault();
    }
  }
  KVW.Transport = Transport;

  /** Says something beside the buttons, for eyes and for screen readers. */
  KVW.say = function (root, text) {
    KVW.setText(role(root, "said"), text);
  };
})(window.KVW);
