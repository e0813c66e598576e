/* Guided tours: a ring around a part of the page, and a card beside it that says what to look at, waits until the visitor
   has done it, and goes on. Nothing is covered but what lies under the card; the page can be used all the time.

   Tours come from window.KVW_LEARN.tours: {id, title, steps: [{tab, target, reveal, title, text, task, done}]}. */
window.KVW = window.KVW || {};
(function (KVW) {
  "use strict";
  const STORE = "kvw-tours";
  const NARROW = 760;
  const tours = (window.KVW_LEARN || {}).tours || [];
  const make = (tag, className, text) => {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text) node.textContent = text;
    return node;
  };

  /* -- what a step points at -- */
  /** "label:Block size" is a Gradio control, "tab:Explore" a tab's button, "button:Run" a button; else a CSS selector. */
  function find(target) {
    if (!target) return null;
    const [, kind, text] = /^(?:(label|tab|button):)?(.*)$/s.exec(target);
    if (kind === "tab") return KVW.tabButton(text);
    const starts = (node) => node.textContent.trim().startsWith(text);
    let found;
    if (kind === "button") found = [...document.querySelectorAll("button")].filter(starts);
    else if (kind === "label")
      found = [...document.querySelectorAll("[data-testid=block-info], label > span")].filter(starts).map((n) => n.closest(".block") || n);
    else found = [...document.querySelectorAll(text)];
    return found.find(KVW.visible) || found[0] || null;
  }

  /* -- whether it was done -- */
  const field = (frame, path) => path.split(".").reduce((at, key) => (at === undefined || at === null ? at : at[key]), frame);
  const COMPARE = {
    eq: (now, then, value) => now === value,
    min: (now, then, value) => now >= value,
    more: (now, then) => now > then,
    less: (now, then) => now < then,
    changed: (now, then) => now !== then,
  };
  /** Whether a condition holds: {frame, is, value}, {viewer, is, value}, {tab}, {shown}, {chosen, within}, {text, on}, or {any: [...]}. Events are noted apart. */
  function holds(done, begun) {
    if (done.any) return done.any.some((one) => holds(one, begun));
    if (done.all) return done.all.every((one) => holds(one, begun));
    // The film that plays before the first frame is nobody's doing.
    if (done.frame) return Boolean(KVW.frame) && !KVW.frame.film && COMPARE[done.is](field(KVW.frame, done.frame), begun.values[done.frame], done.value);
    if (done.viewer) return Boolean(KVW.viewer) && COMPARE[done.is](KVW.viewer.state[done.viewer], begun.values[done.viewer], done.value);
    if (done.chosen) {
      const checked = [...document.querySelectorAll(done.within + " input:checked")];
      return checked.some((input) => input.closest("label").textContent.trim() === done.chosen);
    }
    if (done.tab) return KVW.tabIsOpen(done.tab);
    if (done.shown) return KVW.visible(find(done.shown));
    if (done.text) {
      const node = find(done.on);
      const now = node ? node.textContent : "";
      return done.text === "changed" ? now !== begun.texts[done.on] : now.includes(done.text);
    }
    return false;
  }
  const flat = (done) => (done ? [done, ...(done.any || done.all || []).flatMap(flat)] : []);
  const EVENTS = { click: ["click"], hover: ["pointermove", "focusin", "click"], input: ["input", "change"], key: ["keydown"] };

  /* -- the card -- */
  const ring = make("div", "kvw-tour-ring");
  ring.hidden = true;
  const live = make("div", "kvw-tour-live");
  live.setAttribute("role", "status");
  live.setAttribute("aria-live", "polite");
  const card = make("section", "kvw-tour-card");
  card.hidden = true;
  card.id = "kvw-tour";
  card.tabIndex = -1;
  card.setAttribute("role", "dialog");
  card.setAttribute("aria-labelledby", "kvw-tour-title");
  card.setAttribute("aria-describedby", "kvw-tour-text kvw-tour-task");
  const count = card.appendChild(make("p", "kvw-tour-count"));
  const title = card.appendChild(make("h2"));
  const text = card.appendChild(make("p", "kvw-tour-text"));
  const task = card.appendChild(make("p", "kvw-tour-task"));
  const state = card.appendChild(make("p", "kvw-tour-state"));
  title.id = "kvw-tour-title";
  text.id = "kvw-tour-text";
  task.id = "kvw-tour-task";
  const buttons = card.appendChild(make("div", "kvw-tour-buttons"));
  const button = (label, act, name) => {
    const node = buttons.appendChild(make("button", "", label));
    node.type = "button";
    node.dataset.tourButton = name;
    node.addEventListener("click", act);
    return node;
  };

  let tour = null;
  let steps = [];
  let at = 0;
  let begun = null;
  let finished = null;
  let ticker = null;

  const back = button("Back", () => go(at - 1, true), "back");
  const reach = button("Go to it", () => focusTarget(), "reach");
  const next = button("Skip", () => go(at + 1, true), "next");
  button("Leave", () => leave(), "leave");

  function remembered() {
    try {
      return JSON.parse(localStorage.getItem(STORE)) || {};
    } catch {
      return {};
    }
  }
  function remember(id, value) {
    try {
      localStorage.setItem(STORE, JSON.stringify({ ...remembered(), [id]: value }));
    } catch {
      /* A browser that stores nothing: tours begin at their beginning. */
    }
    label();
  }

  function start(id, step) {
    const chosen = tours.find((one) => one.id === id);
    if (!chosen) return;
    if (tour) leave();
    tour = chosen;
    // A tab that this version of the page doesn't have is left out.
    steps = chosen.steps.filter((one) => !one.tab || KVW.tabButton(one.tab));
    document.addEventListener("keydown", onKey);
    for (const name of new Set(Object.values(EVENTS).flat())) document.addEventListener(name, onEvent, true);
    window.addEventListener("scroll", place, { passive: true, capture: true });
    window.addEventListener("resize", place);
    go(step === undefined ? (remembered()[id] || {}).step || 0 : step, true);
    ticker = setInterval(tick, 150);
  }

  function leave(ended) {
    if (!tour) return;
    remember(tour.id, ended ? { step: 0, done: true } : { step: at, done: false, of: steps.length });
    live.textContent = ended ? "The tour has ended." : "You have left the tour. The tab Learn brings you back to this step.";
    tour = null;
    clearInterval(ticker);
    clearTimeout(finished);
    finished = null;
    document.removeEventListener("keydown", onKey);
    for (const name of new Set(Object.values(EVENTS).flat())) document.removeEventListener(name, onEvent, true);
    window.removeEventListener("scroll", place, { capture: true });
    window.removeEventListener("resize", place);
    const focused = card.contains(document.activeElement);
    const target = begun && begun.target;
    card.hidden = ring.hidden = true;
    document.body.style.removeProperty("padding-bottom");
    if (focused && target && target.isConnected) focusIn(target);
  }

  /** Goes to a step. `byCard`: the visitor used the card, so the focus stays with it. */
  function go(number, byCard) {
    clearTimeout(finished);
    finished = null;
    if (number >= steps.length) return leave(true);
    at = Math.max(0, number);
    const step = steps[at];
    // A step that asks for a tab to be opened shows the way; all others bring their tab with them.
    if (step.tab && step.target !== "tab:" + step.tab) KVW.openTab(step.tab);
    const typing = document.activeElement && document.activeElement.closest("input, textarea, select, [contenteditable]");
    const [texts, values] = [{}, {}];
    for (const one of flat(step.done)) {
      if (one.on) texts[one.on] = (find(one.on) || { textContent: "" }).textContent;
      if (one.viewer && KVW.viewer) values[one.viewer] = KVW.viewer.state[one.viewer];
      if (one.frame && KVW.frame) values[one.frame] = field(KVW.frame, one.frame);
    }
    begun = { values, texts, noted: false, target: null, scrolled: false, revealed: false, reached: false };
    count.textContent = "Step " + (at + 1) + " of " + steps.length + " · " + tour.title;
    title.textContent = step.title;
    text.textContent = step.text;
    task.textContent = step.task;
    task.hidden = !step.task;
    state.textContent = "";
    card.dataset.done = "false";
    back.disabled = at === 0;
    next.textContent = step.done ? "Skip" : at + 1 === steps.length ? "Finish" : "Next";
    card.hidden = false;
    remember(tour.id, { step: at, done: false, of: steps.length });
    live.textContent = [count.textContent, step.title, step.text, step.task].filter(Boolean).join(". ");
    if (byCard || !typing) card.focus({ preventScroll: true });
    place();
    tick();
  }

  function tick() {
    if (!tour) return;
    const step = steps[at];
    const target = find(step.target);
    if (!KVW.visible(target) && step.reveal && !begun.revealed) {
      const opener = find(step.reveal);
      if (KVW.visible(opener)) {
        begun.revealed = true;
        opener.click();
      }
    }
    begun.target = KVW.visible(target) ? target : null;
    reach.hidden = !begun.target;
    if (begun.target && !begun.scrolled) {
      begun.scrolled = true;
      bringIntoView(begun.target);
    }
    place();
    if (step.done && finished === null && (begun.noted || holds(step.done, begun))) {
      card.dataset.done = "true";
      state.textContent = "✓ Done";
      next.textContent = at + 1 === steps.length ? "Finish" : "Next";
      finished = setTimeout(() => go(at + 1, false), KVW.tour.pause);
    } else if (!begun.target && step.target) {
      state.textContent = card.dataset.done === "true" ? "✓ Done" : "This part of the page is not shown at the moment.";
    } else if (card.dataset.done !== "true") state.textContent = "";
  }

  function onEvent(event) {
    if (!tour || !steps[at].done) return;
    if (card.contains(event.target) && event.type !== "keydown") return; // its own buttons; keys count wherever the focus is
    for (const one of flat(steps[at].done))
      for (const [kind, names] of Object.entries(EVENTS)) {
        if (!(kind in one) || !names.includes(event.type)) continue;
        // A page that scrolls under a resting pointer is not pointing.
        if (event.type === "pointermove" && !event.movementX && !event.movementY) continue;
        if (kind === "key" ? one.key.includes(event.key) : (find(one[kind]) || card).contains(event.target)) begun.noted = true;
      }
  }
  function onKey(event) {
    if (event.key !== "Escape" || event.defaultPrevented) return;
    if (event.target.closest && event.target.closest("[role=listbox], [role=combobox], dialog")) return;
    event.preventDefault();
    leave();
  }

  const FOCUSABLE = "button:not([disabled]), [href], input:not([disabled]), select, textarea, [tabindex='0']";
  function focusIn(target) {
    const inside = target.matches(FOCUSABLE) ? target : [...target.querySelectorAll(FOCUSABLE)].find(KVW.visible);
    if (inside) inside.focus({ preventScroll: true });
  }
  function focusTarget() {
    if (!begun.target) return;
    bringIntoView(begun.target);
    focusIn(begun.target);
  }

  /* -- where things go -- */
  const docked = () => window.innerWidth < NARROW;
  function bringIntoView(target) {
    const box = target.getBoundingClientRect();
    const room = window.innerHeight - (docked() ? card.offsetHeight + 16 : 0);
    if (box.top >= 8 && box.bottom <= room - 8) return;
    const top = box.height > room - 24 ? box.top - 12 : box.top - (room - box.height) / 2;
    const calm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
    window.scrollBy({ top, behavior: calm ? "auto" : "smooth" });
  }
  /** What the card should not lie on. */
  const BUSY = "#kvw-buttons, .kvw-transport, .kvw-tools, .kvw-stats, .kvw-map, .kvw-history, .kvw-viewer-transport, .kvw-panel-sequence, .kvw-lab-charts";
  const overlap = (x, y, width, height, box) =>
    Math.max(0, Math.min(x + width, box.right) - Math.max(x, box.left)) * Math.max(0, Math.min(y + height, box.bottom) - Math.max(y, box.top));
  // Who points at the card is about to press one of its buttons, and should find it where it was.
  card.addEventListener("pointermove", (event) => {
    if (begun && (event.movementX || event.movementY)) begun.reached = true;
  });
  card.addEventListener("pointerdown", () => begun && (begun.reached = true));
  card.addEventListener("pointerleave", () => begun && (begun.reached = false));
  /** Where the card covers least and is near. A place is kept while the target stays where it is, or the card is pointed at. */
  function choose(box, width, height, right, bottom) {
    const key = [at, width, height, right, bottom, box && Math.round(box.left), box && Math.round(box.top)].join();
    if (begun.spot && begun.spotKey === key) return begun.spot;
    const fit = (x, y) => [Math.max(8, Math.min(x, right - width - 8)), Math.max(8, Math.min(y, bottom - height - 8))];
    if (begun.spot && begun.reached) return fit(...begun.spot);
    const corners = [fit(right, bottom), fit(0, bottom), fit(right, 0), fit(0, 0)];
    let spots = corners;
    if (box) {
      const beside = [[box.right + 16, box.top], [box.left - width - 16, box.top], [box.left, box.bottom + 16], [box.left, box.top - height - 16]];
      spots = [...beside.map(([x, y]) => fit(x, y)), fit(0, box.top), fit(right, box.top), ...corners];
    }
    const busy = [...document.querySelectorAll(BUSY)].filter(KVW.visible).map((node) => node.getBoundingClientRect());
    const cost = ([x, y]) => {
      let sum = 0;
      for (const one of busy) sum += overlap(x, y, width, height, one);
      if (!box) return sum;
      const apart = Math.hypot(Math.max(box.left - x - width, x - box.right, 0), Math.max(box.top - y - height, y - box.bottom, 0));
      return sum + 20 * overlap(x, y, width, height, box) + 40 * apart;
    };
    begun.spotKey = key;
    begun.spot = spots.map((one) => [cost(one), one]).reduce((a, b) => (b[0] < a[0] ? b : a))[1];
    return begun.spot;
  }
  function place() {
    if (!tour) return;
    const target = begun.target;
    const box = target && target.getBoundingClientRect();
    ring.hidden = !box;
    if (box)
      Object.assign(ring.style, { left: box.left - 6 + "px", top: box.top - 6 + "px", width: box.width + 12 + "px", height: box.height + 12 + "px" });
    const [width, height] = [card.offsetWidth, card.offsetHeight];
    const [right, bottom] = [window.innerWidth, window.innerHeight];
    card.classList.toggle("kvw-tour-docked", docked());
    if (docked()) {
      card.style.left = card.style.top = "";
      const room = height + 12 + "px";
      if (document.body.style.paddingBottom !== room) document.body.style.paddingBottom = room;
      return;
    }
    document.body.style.removeProperty("padding-bottom");
    const spot = choose(box, width, height, right, bottom);
    card.style.left = Math.round(spot[0]) + "px";
    card.style.top = Math.round(spot[1]) + "px";
  }

  /* -- buttons that start a tour, wherever they are -- */
  function label() {
    const known = remembered();
    for (const node of document.querySelectorAll("[data-tour]")) {
      const { step = 0, done = false, of = 0 } = known[node.dataset.tour] || {};
      const begins = node.hasAttribute("data-from-start");
      if (begins) node.hidden = !step;
      else {
        const words = step ? "Go on at step " + (step + 1) + (of ? " of " + of : "") : done ? "Take it again" : "Start";
        const shown = node.querySelector("[data-role=tour-label]") || node;
        if (shown.textContent !== words) shown.textContent = words;
      }
    }
  }
  document.addEventListener("click", (event) => {
    const node = event.target.closest && event.target.closest("[data-tour]");
    if (node) start(node.dataset.tour, node.hasAttribute("data-from-start") ? 0 : undefined);
  });

  function begin() {
    document.body.append(ring, card, live);
    setInterval(() => document.hidden || label(), 1000);
  }
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin);
  else begin();
  /** `pause`: milliseconds for which "Done" is shown. */
  KVW.tour = { pause: 1300, start, leave: () => leave(false), tours, find, state: () => tour && { id: tour.id, step: at, of: steps.length } };
})(window.KVW);
