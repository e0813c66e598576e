/* The tab Explore: the gallery, files of one's own, the viewer, links and saving. */
(function (KVW) {
  "use strict";
  const STATE = ["step", "page", "host", "request", "sequence", "color", "order"];
  const LIVE_MS = 1000;
  /** Names in the address that differ: Gradio takes "page" for a page of the app. */
  const IN_LINK = { page: "selected_page" };
  /** What older links say. */
  const OLD_NAMES = { evict: "eviction" };
  const inLink = (name) => IN_LINK[name] || name;

  class Explore {
    constructor(element) {
      this.root = element.querySelector(".kvw-explore");
      const part = (name) => this.root.querySelector('[data-role="' + name + '"]');
      this.parts = Object.fromEntries(["open", "gallery", "drop", "file", "limit", "bar", "format", "save", "link", "close", "status", "progress", "viewer"].map((name) => [name, part(name)]));
      this.source = this.viewer = null;
      this.name = ""; // of a gallery item
      this.opening = 0;
      this.listen();
      this.ready = this.begin();
    }

    listen() {
      const { file, drop, save, link, close } = this.parts;
      file.addEventListener("change", () => {
        if (file.files.length) this.upload(file.files[0]);
        file.value = "";
      });
      for (const kind of ["dragenter", "dragover"])
        drop.addEventListener(kind, (event) => {
          event.preventDefault();
          drop.dataset.over = "true";
        });
      drop.addEventListener("dragleave", () => (drop.dataset.over = "false"));
      drop.addEventListener("drop", (event) => {
        event.preventDefault();
        drop.dataset.over = "false";
        if (event.dataTransfer.files.length) this.upload(event.dataTransfer.files[0]);
      });
      save.addEventListener("click", () => this.save());
      link.addEventListener("click", () => this.copyLink());
      close.addEventListener("click", () => this.close());
    }

    async begin() {
      try {
        const { items, limits } = await KVW.ask("gallery");
        this.limits = limits;
        KVW.setText(this.parts.limit, "(at most " + (limits.upload_bytes >> 20) + " MiB)");
        this.parts.gallery.replaceChildren(...items.map((item) => this.card(item)));
      } catch (error) {
        this.fail(error);
      }
      const query = new URLSearchParams(location.search);
      if (query.get("tab") !== "explore") return undefined;
      return this.openQuery(query);
    }

    card(item) {
      const h = KVW.h;
      const size = KVW.number(item.steps) + " steps, " + KVW.number(Math.round(item.bytes / 1024)) + " KiB";
      const button = h("button", { type: "button", class: "kvw-button", text: "Open", "aria-label": "Open: " + item.title, "data-recording": item.name, onclick: () => this.openBundled(item.name, {}) });
      return h("article", { class: "kvw-record", role: "listitem", "data-card": item.name }, h("h3", { text: item.title }), h("p", { text: item.words }), h("p", { class: "kvw-explore-note", text: size }), button);
    }

    /** What a link names: a recording of the gallery, or a key; and what is to be seen of it. */
    openQuery(query) {
      const state = {};
      for (const name of STATE) {
        const text = query.get(inLink(name));
        if (text === null) continue;
        if (name === "host") state.host = text === "1";
        else if (name === "color" || name === "order") state[name] = OLD_NAMES[text] || text;
        else if (/^\d{1,9}$/.test(text)) state[name] = Number(text);
      }
      if (query.get("recording")) return this.openBundled(query.get("recording"), state);
      if (query.get("source")) return this.openKey(query.get("source"), state);
      return undefined;
    }

    openBundled(name, state) {
      return this.doing("Opening …", async () => {
        const { key } = await KVW.ask("gallery/" + encodeURIComponent(name), { method: "POST" });
        await this.show(key, state, name);
      });
    }

    openKey(key, state) {
      return this.doing("Opening …", () => this.show(key, state, ""));
    }

    upload(file) {
      return this.doing("Sending " + file.name + " …", async () => {
        if (this.limits && file.size > this.limits.upload_bytes) throw new Error("File size: " + KVW.number(file.size >> 20) + " MiB is not possible. At most " + (this.limits.upload_bytes >> 20) + " MiB are allowed.");
        const { key } = await this.send(file);
        await this.show(key, {}, "");
        this.own = key;
      });
    }

    /** fetch() does not say how much has been sent. */
    send(file) {
      return new Promise((resolve, reject) => {
        const request = new XMLHttpRequest();
        request.open("POST", KVW.route("upload?name=" + encodeURIComponent(file.name)));
        request.setRequestHeader("X-KVW-Visitor", KVW.visitor());
        request.upload.onprogress = (event) => this.tell("Sending " + file.name + " …", event.loaded / event.total);
        request.onerror = () => reject(new Error("The server can't be reached."));
        request.onload = () => {
          let value = {};
          try {
            value = JSON.parse(request.responseText);
          } catch {
            // the message below says the status
          }
          if (request.status < 300 && value.key) resolve(value);
          else reject(new Error(value.error || "The server says " + request.status + "."));
        };
        request.send(file);
      });
    }

    /** Opens a source in a new viewer; the one before is let go of. */
    async show(key, state, name) {
      const turn = (this.opening += 1);
      const meta = await KVW.ask(key + "/meta");
      if (turn !== this.opening) return;
      this.close(false);
      this.source = KVW.remoteSource(key, meta);
      this.name = name;
      const place = this.parts.viewer.appendChild(document.createElement("div"));
      this.viewer = KVW.mountViewer(place, this.source, { state, onState: () => this.tellLocation() });
      KVW.fillFormats(this.parts.format, meta);
      this.parts.bar.hidden = false;
      this.parts.open.open = false;
      for (const card of this.parts.gallery.children) card.dataset.open = String(card.dataset.card === name);
      await this.viewer.ready;
      this.tell("");
      this.tellLocation();
      if (meta.running) this.timer = setInterval(() => this.follow(), LIVE_MS);
    }

    /** A live run has got further. */
    async follow() {
      if (!KVW.visible(this.root) || this.following) return;
      this.following = true;
      try {
        await this.source.refresh();
        await this.viewer.refresh();
        if (!this.source.raw.running) clearInterval(this.timer);
      } catch (error) {
        clearInterval(this.timer);
        this.fail(error);
      } finally {
        this.following = false;
      }
    }

    close(wanted = true) {
      clearInterval(this.timer);
      if (this.viewer) this.viewer.close();
      if (this.own) KVW.ask(this.own, { method: "DELETE" }).catch(() => {}); // it may have been closed before
      this.own = this.source = this.viewer = null;
      this.name = "";
      this.parts.viewer.replaceChildren();
      this.parts.bar.hidden = true;
      for (const card of this.parts.gallery.children) card.dataset.open = "false";
      if (wanted) {
        this.parts.open.open = true;
        this.tell("");
        this.tellLocation();
        this.parts.open.querySelector("summary").focus();
      }
    }

    query() {
      const query = new URLSearchParams({ tab: "explore" });
      if (!this.source) return query;
      if (this.name) query.set("recording", this.name);
      else query.set("source", this.source.key);
      const state = this.viewer.state;
      for (const name of STATE) {
        const value = state[name];
        if (name === "host" ? value : name === "color" ? value !== "request" : typeof value === "number" ? value >= 0 : value) query.set(inLink(name), name === "host" ? 1 : value);
      }
      return query;
    }

    /** The address says what is seen, so that it can be copied, kept, and loaded again. */
    tellLocation() {
      clearTimeout(this.located);
      this.located = setTimeout(() => {
        if (KVW.visible(this.root)) history.replaceState(history.state, "", "?" + this.query());
      }, 200);
    }

    async copyLink() {
      const link = location.origin + location.pathname + "?" + this.query();
      const lasts = this.name ? "" : " It works as long as this run is open here.";
      try {
        await navigator.clipboard.writeText(link);
        this.tell("The link to just this view was copied." + lasts);
      } catch {
        this.tell("Copy this link: " + link + lasts);
      }
    }

    save() {
      const { format, save } = this.parts;
      save.disabled = true;
      const done = KVW.saveAs(format.value, this.source, this.viewer, (words, share) => this.tell(words, share));
      return done.catch((error) => this.fail(error)).finally(() => (save.disabled = false));
    }

    async doing(words, work) {
      this.tell(words, null);
      try {
        await work();
      } catch (error) {
        this.fail(error);
      }
    }

    /** share: of what is done; null: under way, nobody knows how far; undefined: nothing is. */
    tell(words, share) {
      const { status, progress } = this.parts;
      status.dataset.kind = "";
      KVW.setText(status, words);
      progress.hidden = share === undefined;
      if (typeof share === "number") progress.value = share;
      else progress.removeAttribute("value");
    }

    fail(error) {
      this.tell(error.message);
      this.parts.status.dataset.kind = "error";
      this.parts.open.open = this.parts.open.open || !this.source;
    }
  }

  KVW.mountExplore = function (element) {
    KVW.explore = new Explore(element);
    const next = KVW.exploreNext;
    KVW.exploreNext = null;
    if (next) KVW.explore.ready.then(() => KVW.explore.openKey(...next));
  };

  /** Opens a source of the server in the tab, from anywhere on the page. Gives whether the tab could be shown. */
  KVW.openInExplore = function (key, state = {}) {
    if (KVW.explore && document.contains(KVW.explore.root)) KVW.explore.openKey(key, state);
    else KVW.exploreNext = [key, state]; // the tab's content is made when it is first shown
    return Boolean(KVW.openTab && KVW.openTab("Explore"));
  };

  // A link into this tab shows it, as soon as Gradio has drawn the tabs.
  if (new URLSearchParams(location.search).get("tab") === "explore") {
    const began = Date.now();
    const timer = setInterval(() => {
      const shown = KVW.tabIsOpen && KVW.tabIsOpen("Explore");
      if (shown || Date.now() - began > 30000) clearInterval(timer);
      else if (KVW.openTab) KVW.openTab("Explore");
    }, 100);
  }
})(window.KVW);
