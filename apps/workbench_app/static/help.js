/* Help texts: a short explanation for what is shown, on hover, on focus and on a tap, and the glossary of the tab "Learn".

   The texts come from window.KVW_LEARN.help: {key, select, text, says, term, mark, label}. With `mark`, a small "?" button
   is put behind the selected element; without, the element itself gets a dotted line and can be focused. Nothing is put
   inside elements whose text changes. */
window.KVW = window.KVW || {};
(function (KVW) {
  "use strict";
  const entries = (window.KVW_LEARN || {}).help || [];
  const byKey = new Map(entries.map((entry) => [entry.key, entry]));
  const words = (node) => node.textContent.trim();
  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text) node.textContent = text;
    return node;
  };

  /* -- tabs, which tour.js needs as well -- */
  const tabButtons = (name) => [...document.querySelectorAll("[role=tab], .overflow-dropdown button")].filter((b) => words(b) === name);
  KVW.visible = (node) => Boolean(node && node.getClientRects().length && getComputedStyle(node).visibility !== "hidden");
  KVW.tabButton = (name) => {
    const found = tabButtons(name);
    return found.find((b) => KVW.visible(b) && !b.closest(".visually-hidden")) || found[0] || null;
  };
  KVW.tabIsOpen = (name) => tabButtons(name).some((b) => b.getAttribute("aria-selected") === "true");
  KVW.openTab = (name) => {
    const button = KVW.tabButton(name);
    if (button && !KVW.tabIsOpen(name)) button.click();
    return Boolean(button);
  };

  /* -- one popover for all -- */
  const pop = make("div", "kvw-help-pop");
  pop.id = "kvw-help-pop";
  pop.hidden = true;
  const says = pop.appendChild(make("p"));
  const more = pop.appendChild(make("a", "", ""));
  let owner = null;
  let timer = null;

  function place() {
    const at = owner.getBoundingClientRect();
    const width = Math.min(320, window.innerWidth - 16);
    pop.style.width = width + "px";
    const left = Math.max(8, Math.min(at.left, window.innerWidth - width - 8));
    const below = at.bottom + 6 + pop.offsetHeight <= window.innerHeight;
    pop.style.left = left + "px";
    pop.style.top = Math.max(8, below ? at.bottom + 6 : at.top - 6 - pop.offsetHeight) + "px";
  }
  function show(node) {
    clearTimeout(timer);
    const entry = byKey.get(node.dataset.helpKey);
    if (!entry) return;
    owner = node;
    says.textContent = entry.says;
    more.hidden = !entry.term || !KVW.tabButton("Learn");
    more.textContent = entry.term ? "Glossary: " + entry.term : "";
    more.href = "#" + (entry.anchor || "");
    pop.hidden = false;
    place();
  }
  function hide() {
    clearTimeout(timer);
    pop.hidden = true;
    owner = null;
  }
  const later = () => {
    clearTimeout(timer);
    timer = setTimeout(hide, 250);
  };

  /** Buttons and fields of the page have something to do of their own: their help waits a moment, and a press ends it. */
  const busy = (node) => node.matches("button:not(.kvw-help-mark), select, input");
  const holder = (event) => event.target.closest && event.target.closest("[data-help-key]");
  let under = null;
  document.addEventListener("pointermove", (event) => {
    // Fingers tap. And what slides under a pointer that rests is not pointed at.
    if (event.pointerType === "touch" || (!event.movementX && !event.movementY) || event.target === under) return;
    under = event.target;
    const node = holder(event);
    if (node && busy(node)) {
      clearTimeout(timer);
      if (owner !== node) timer = setTimeout(show, 600, node);
    } else if (node) show(node);
    else if (pop.contains(event.target)) clearTimeout(timer);
    else if (!owner) clearTimeout(timer);
    else if (document.activeElement !== owner && !pop.contains(document.activeElement)) later();
  });
  document.addEventListener("focusin", (event) => {
    const node = holder(event);
    if (node && node.matches(":focus-visible")) show(node);
    else if (!pop.contains(event.target)) hide();
  });
  document.addEventListener("click", (event) => {
    const node = holder(event);
    if (node && busy(node)) hide();
    else if (node && (node.matches("button") || !event.target.closest("button, a, input, select, summary"))) {
      show(node);
      if (event.detail === 0 && !more.hidden) more.focus();
    } else if (!pop.contains(event.target)) hide();
  });
  window.addEventListener("scroll", () => owner && hide(), { passive: true, capture: true });
  document.addEventListener(
    "keydown",
    (event) => {
      if (event.key === "Escape" && owner) {
        const back = pop.contains(document.activeElement) ? owner : null;
        hide();
        if (back) back.focus({ preventScroll: true });
        hide();
        event.preventDefault();
        event.stopPropagation();
      } else if (event.key === "Enter" && holder(event) && !event.target.matches("button, a, summary, input, select")) {
        show(holder(event));
        if (!more.hidden) more.focus();
      }
    },
    true,
  );

  /* -- attaching -- */
  function describe(node, key) {
    if (node.dataset.helpKey === key) return;
    const old = node.dataset.helpKey;
    const ids = (node.getAttribute("aria-describedby") || "").split(" ").filter((id) => id && id !== "kvw-help-" + old);
    node.dataset.helpKey = key;
    node.setAttribute("aria-describedby", [...ids, "kvw-help-" + key].join(" "));
    if (!node.matches("button, a, input, select, summary")) {
      node.classList.add("kvw-has-help");
      node.tabIndex = 0;
    }
    node.removeAttribute("title");
    const item = node.closest("li[title]");
    if (item) item.removeAttribute("title");
  }
  function mark(node, entry) {
    if (node.dataset.helpMarked) return;
    node.dataset.helpMarked = entry.key;
    const button = make("button", "kvw-help-mark", "?");
    button.type = "button";
    button.setAttribute("aria-label", "Help: " + entry.label);
    describe(button, entry.key);
    if (entry.mark === "inside") node.append(button);
    else node.after(button);
  }
  function attach() {
    for (const entry of entries) {
      if (!entry.select) continue;
      for (const node of document.querySelectorAll(entry.select)) {
        if (entry.text && words(node) !== entry.text) continue;
        if (entry.mark) mark(node, entry);
        else describe(node, entry.key);
      }
    }
    for (const node of document.querySelectorAll("[data-help]:not([data-help-key])"))
      if (byKey.has(node.dataset.help)) describe(node, node.dataset.help);
  }

  /* -- the glossary -- */
  function openTerm(anchor) {
    if (!KVW.openTab("Learn")) return;
    hide();
    let tries = 0;
    (function look() {
      const entry = document.getElementById(anchor);
      if (!KVW.visible(entry)) {
        if (entry && entry.hidden) search("");
        if ((tries += 1) < 40) setTimeout(look, 50);
        return;
      }
      entry.open = true;
      entry.scrollIntoView({ block: "center" });
      entry.querySelector("summary").focus({ preventScroll: true });
    })();
  }
  KVW.openTerm = openTerm;
  function search(text) {
    const field = document.getElementById("kvw-glossary-search");
    if (field && field.value !== text) field.value = text;
    const wanted = text.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const entry of document.querySelectorAll(".kvw-term")) {
      const hit = wanted.every((word) => entry.dataset.search.includes(word));
      entry.hidden = !hit;
      count += hit;
    }
    const line = document.getElementById("kvw-glossary-count");
    if (line) line.textContent = count === 1 ? "1 term" : count + " terms";
  }
  document.addEventListener("input", (event) => {
    if (event.target.id === "kvw-glossary-search") search(event.target.value);
  });
  document.addEventListener("click", (event) => {
    const link = event.target.closest && event.target.closest('a[href^="#term-"]');
    if (!link) return;
    event.preventDefault();
    openTerm(link.getAttribute("href").slice(1));
  });
  const fromHash = () => location.hash.startsWith("#term-") && openTerm(location.hash.slice(1));
  window.addEventListener("hashchange", fromHash);

  function begin() {
    const texts = make("div");
    texts.hidden = true;
    for (const entry of entries) texts.appendChild(make("span", "", entry.says)).id = "kvw-help-" + entry.key;
    document.body.append(texts, pop);
    attach();
    // Parts of the page appear when their tab is opened for the first time, or with the first frame.
    setInterval(() => document.hidden || attach(), 1000);
    setTimeout(fromHash, 1000);
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
  else begin();
})(window.KVW);
