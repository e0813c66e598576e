/* A run that others may watch: its code, how many watch, and when it is not shared any more. */
(function (KVW) {
  "use strict";
  const POLL_MS = 3000;

  class SharedNote {
    constructor(root) {
      this.root = root;
      this.box = KVW.role(root, "shared");
      this.code = "";
      this.watching = null;
      this.timer = null;
    }

    /** `code`: under which the run that is shown can be watched; empty if it can't. */
    follow(code) {
      if (code && code !== this.code) this.show(code);
      else if (!code && this.code) this.end();
    }

    /** From now on this says how to watch, and asks the server how many do. */
    show(code) {
      this.code = code;
      const link = KVW.make("a", "", "this link");
      link.href = "?tab=class&code=" + encodeURIComponent(code);
      this.watching = KVW.make("span", "", "Nobody watches");
      this.box.replaceChildren(
        "Others can watch this run on their tab Class, with the code ", KVW.make("strong", "", code), ", or by ", link,
        " (copy its address). They see what you see, and can't change it. ", this.watching, " now."
      );
      this.box.hidden = false;
      KVW.say(this.root, "Shared with the code " + code + ".");
      this.ask();
      clearInterval(this.timer);
      this.timer = setInterval(() => document.hidden || this.ask(), POLL_MS);
    }

    async ask() {
      const code = this.code;
      if (!code) return;
      const answer = await fetch("kvw/watchers/" + encodeURIComponent(code)).catch(() => null);
      const body = answer && answer.ok ? await answer.json().catch(() => null) : null;
      if (!body || code !== this.code) return; // no connection: the page has its own words for that
      const { watching } = body;
      if (watching === null) return this.end();
      KVW.setText(this.watching, watching === 0 ? "Nobody watches" : KVW.plural(watching, "visitor") + (watching === 1 ? " watches" : " watch"));
    }

    end() {
      this.code = "";
      clearInterval(this.timer);
      const words = "The run is not shared any more, because it has ended. Share the next one when it is there.";
      KVW.setText(this.box, words);
      KVW.say(this.root, words);
    }
  }
  KVW.SharedNote = SharedNote;
})(window.KVW);
