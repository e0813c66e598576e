/* A film as the viewer's source: frames in compressed chunks, lives of pages and requests from the frames' events. */
(function (KVW) {
  "use strict";
  const KEEP = 6; // chunks with their frames

  /** gzip in base64 -> text. */
  KVW.inflate = function (data) {
    const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  };

  class FilmSource {
    /** data: {meta, chunks: [{first, count, data}], views: {name: {light, dark}}}. */
    constructor(data) {
      this.data = data;
      this.open = new Map();
    }

    meta() {
      return this.data.meta;
    }

    chunkOf(step) {
      let [low, high] = [0, this.data.chunks.length - 1];
      while (low < high) {
        const middle = (low + high + 1) >> 1;
        if (this.data.chunks[middle].first <= step) low = middle;
        else high = middle - 1;
      }
      return low;
    }

    /** All frames of a chunk; unchanged parts are shared between them, so that they cost little. */
    async read(index) {
      const parts = JSON.parse(await KVW.inflate(this.data.chunks[index].data));
      let frame = null;
      return parts.map((part) => (frame = frame === null ? part : KVW.patch(frame, part)));
    }

    frames(index) {
      let frames = this.open.get(index);
      this.open.delete(index);
      frames = frames || this.read(index);
      this.open.set(index, frames);
      if (this.open.size > KEEP) this.open.delete(this.open.keys().next().value);
      return frames;
    }

    async frame(step) {
      const index = this.chunkOf(step);
      const frames = await this.frames(index);
      return frames[step - this.data.chunks[index].first];
    }

    /** What happened to every page and request, collected in one pass when it is first asked for. */
    lives() {
      this.collected = this.collected || this.collect();
      return this.collected;
    }

    async collect() {
      const lives = new Map();
      const put = (key, row) => (lives.get(key) || lives.set(key, []).get(key)).push(row);
      for (let index = 0; index < this.data.chunks.length; index++)
        for (const { step, events } of await this.read(index))
          for (const [kind, words, pages, host, requests] of events) {
            for (const page of pages) put("device" + page, [step, words]);
            for (const page of host) put("host" + page, [step, words]);
            if (kind !== "token" && kind !== "written") for (const request of requests) put("request" + request, [step, words]);
          }
      return lives;
    }

    async view(name, params) {
      const stored = this.data.views[name];
      if (stored) return JSON.parse(await KVW.inflate(params.dark ? stored.dark : stored.light));
      const lives = await this.lives();
      if (name === "page_life") return this.life(lives.get(params.tier + params.page), (params.tier === "host" ? "Host page " : "Page ") + params.page);
      if (name === "request_life") return this.life(lives.get("request" + params.request), "Request " + KVW.label(params.request));
      return null;
    }

    life(rows, who) {
      const { first, last } = this.data.meta;
      const words = rows ? who + ": " + KVW.plural(rows.length, "event") + " from step " + first + " to " + last + "." : "Nothing happened to it from step " + first + " to " + last + ".";
      return { data: null, layout: {}, caption: words, table: { title: words, columns: ["step", "what happened"], rows: rows || [] } };
    }
  }
  KVW.filmSource = (data) => new FilmSource(data);

  /** Starts a file that holds everything: Plotly, the scripts, the film. */
  KVW.openFilm = async function (root) {
    const text = (id) => document.getElementById(id).textContent;
    const dark = window.matchMedia("(prefers-color-scheme: dark)");
    const theme = () => document.body.classList.toggle("dark", dark.matches);
    theme();
    dark.addEventListener("change", theme);
    const script = document.createElement("script");
    script.textContent = await KVW.inflate(text("kvw-plotly"));
    document.head.append(script);
    const viewer = KVW.mountViewer(root, KVW.filmSource(JSON.parse(text("kvw-film"))));
    await viewer.ready;
    return viewer;
  };
})(window.KVW);
