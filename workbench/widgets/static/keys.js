// Keys, theme and spoken words of a Stepper: what ipywidgets has no widget for. Draws nothing that is seen.

const KEYS = new Set([
  "ArrowLeft", "ArrowRight", "Home", "End", " ", "?",
  "p", "s", "c", "e", "o", "f", "P", "S", "C", "E", "O", "F",
]);
const EDITABLE = "input, textarea, select, [contenteditable=true]";
const FOCUSABLE = `${EDITABLE}, button, a[href], [tabindex]`;

function isDark(element) {
  for (let at = element; at; at = at.parentElement || (at.getRootNode() && at.getRootNode().host)) {
    const channels = (getComputedStyle(at).backgroundColor.match(/[\d.]+/g) || []).map(Number);
    if (channels.length >= 3 && (channels.length === 3 || channels[3] > 0.5)) {
      return 0.299 * channels[0] + 0.587 * channels[1] + 0.114 * channels[2] < 128;
    }
  }
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

/** Names for what ipywidgets leaves without one. */
function label(box) {
  for (const handle of box.querySelectorAll(".kvw-step .noUi-handle")) handle.setAttribute("aria-label", "Step");
  for (const button of box.querySelectorAll("button[title]")) {
    if (!button.textContent.trim()) button.setAttribute("aria-label", button.title);
  }
  for (const part of box.querySelectorAll(".kvw-figure")) {
    part.setAttribute("role", "img");
    part.setAttribute("aria-label", part.classList.contains("kvw-map") ? "Page map; its words are above" : "Block table");
  }
}

function render({ model, el }) {
  const stops = [];
  const listen = (target, type, heard, options) => {
    target.addEventListener(type, heard, options);
    stops.push(() => target.removeEventListener(type, heard, options));
  };
  const said = document.createElement("div");
  said.className = "kvw-said";
  said.setAttribute("aria-live", "polite");
  const say = () => { said.textContent = model.get("said"); };
  model.on("change:said", say);
  stops.push(() => model.off("change:said", say));
  say();
  el.append(said);

  const attach = (box) => {
    box.tabIndex = 0;
    box.setAttribute("role", "group");
    box.setAttribute("aria-label", "Stepper: a run, step by step. Press ? for its keys.");
    box.setAttribute("data-lm-suppress-shortcuts", "true"); // Jupyter's own keys stay out of it

    listen(box, "keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey || !KEYS.has(event.key)) return;
      if (event.target.closest(EDITABLE)) return;
      if (event.key === " " && event.target.closest("button")) return;
      event.preventDefault();
      event.stopPropagation();
      model.send({ key: event.key, shift: event.shiftKey });
    }, true);
    listen(box, "pointerdown", (event) => {
      const inner = event.target.closest(FOCUSABLE);
      if (!inner || inner === box) box.focus({ preventScroll: true });
    });

    // Plotly measures its place when it is made, and when the window changes: here, other things change it, too.
    const known = new WeakSet();
    let asked = 0;
    const resized = () => {
      clearTimeout(asked);
      asked = setTimeout(() => window.dispatchEvent(new Event("resize")), 60);
    };
    const sizes = new ResizeObserver(resized);
    stops.push(() => { clearTimeout(asked); sizes.disconnect(); });
    const measure = () => {
      for (const part of box.querySelectorAll(".kvw-figure, .kvw-figure .js-plotly-plot")) {
        if (known.has(part)) continue;
        known.add(part);
        if (part.classList.contains("kvw-figure")) sizes.observe(part);
        resized();
      }
    };
    const tidy = () => { label(box); measure(); };
    tidy();
    const changes = new MutationObserver(tidy);
    changes.observe(box, { childList: true, subtree: true });
    stops.push(() => changes.disconnect());

    const look = () => {
      const dark = isDark(box);
      if (model.get("dark") !== dark) {
        model.set("dark", dark);
        model.save_changes();
      }
    };
    const later = () => { look(); setTimeout(look, 400); }; // a theme's style sheet comes after its name
    const theme = new MutationObserver(later);
    const seen = { attributes: true, attributeFilter: ["class", "data-jp-theme-light", "data-jp-theme-name", "theme"] };
    for (const root of [document.body, document.documentElement]) theme.observe(root, seen);
    stops.push(() => theme.disconnect());
    listen(matchMedia("(prefers-color-scheme: dark)"), "change", later);
    later();
  };

  let tries = 0;
  const find = () => {
    const box = el.closest(".kvw-stepper");
    if (box) attach(box);
    else if (tries++ < 200) waiting = setTimeout(find, 25); // not yet in the page
  };
  let waiting = setTimeout(find, 0);
  return () => {
    clearTimeout(waiting);
    for (const stop of stops) stop();
  };
}

export default { render };
