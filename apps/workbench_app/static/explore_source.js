/* A run on the server as the viewer's source: whole frames first, then what changed since a frame that is here. */
(function (KVW) {
  "use strict";
  const BASES = 12; // frames that changes may be asked against
  const CHARTS = ["timeline", "flow", "page_life", "request_life", "sharing_tree"];

  /** The address of a route, wherever the app is mounted. */
  KVW.route = (path) => new URL("kvw/" + path, document.baseURI.split(/[?#]/)[0]).href;

  /** A random name of this browser tab, so that limits are those of one visitor. */
  KVW.visitor = function () {
    if (!KVW.visitorName) {
      const letters = [...crypto.getRandomValues(new Uint8Array(16))].map((n) => n.toString(16).padStart(2, "0")).join("");
      try {
        KVW.visitorName = sessionStorage.getItem("kvw-visitor") || letters;
        sessionStorage.setItem("kvw-visitor", KVW.visitorName);
      } catch {
        KVW.visitorName = letters; // a private window may not keep anything
      }
    }
    return KVW.visitorName;
  };

  /** JSON from a route; an error has the server's words. */
  KVW.ask = async function (path, options = {}) {
    let response;
    try {
      response = await fetch(KVW.route(path), { ...options, headers: { "X-KVW-Visitor": KVW.visitor() } });
    } catch {
      throw new Error("The server can't be reached.");
    }
    if (response.status === 204) return null;
    const text = await response.text();
    KVW.stats.bytes += text.length;
    let value = null;
    try {
      value = JSON.parse(text);
    } catch {
      throw new Error("The server's answer can't be read (" + response.status + ").");
    }
    if (!response.ok) throw Object.assign(new Error(value.error || "The server says " + response.status + "."), { status: response.status });
    return value;
  };

  class RemoteSource {
    constructor(key, meta) {
      this.key = key;
      this.bases = new Map();
      this.take(meta);
    }

    take(meta) {
      this.raw = meta;
      this.described = {
        first: meta.first,
        last: meta.last,
        live: meta.running,
        title: meta.title,
        memory: meta.memory,
        note: meta.damage ? "The file is damaged: " + meta.damage + "." : "",
        jumps: meta.jumps,
        views: CHARTS.filter((name) => meta.views.includes(name)),
        constants: window.KVW_CONSTANTS,
      };
    }

    meta() {
      return this.described;
    }

    /** Asks how far a live run is. */
    async refresh() {
      this.take(await KVW.ask(this.key + "/meta"));
    }

    nearest(step, sequence) {
      let best = null;
      for (const base of this.bases.values())
        if (base.sequence === sequence && (!best || Math.abs(base.step - step) < Math.abs(best.step - step))) best = base;
      return best;
    }

    async frame(step, sequence) {
      const base = this.nearest(step, sequence);
      const query = new URLSearchParams({ step });
      if (sequence !== undefined) query.set("sequence", sequence);
      if (base) {
        query.set("base", base.step);
        query.set("base_seq", base.seq);
      }
      const answer = await KVW.ask(this.key + "/frame?" + query);
      const frame = answer.frame || KVW.patch(base.frame, answer.patch);
      const name = step + "/" + sequence;
      this.bases.delete(name);
      this.bases.set(name, { step, sequence, seq: answer.seq, frame });
      if (this.bases.size > BASES) this.bases.delete(this.bases.keys().next().value);
      return frame;
    }

    view(name, params) {
      const query = new URLSearchParams();
      for (const [key, value] of Object.entries(params))
        if (value !== undefined && value !== null && value !== "") query.set(key, typeof value === "boolean" ? Number(value) : value);
      return KVW.ask(this.key + "/view/" + name + "?" + query);
    }
  }
  KVW.remoteSource = (key, meta) => new RemoteSource(key, meta);
})(window.KVW);
