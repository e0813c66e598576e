/* Shared helpers: request colours and letters (as in workbench/views/palette.py), theme, small DOM tools. */
window.KVW = window.KVW || {};
(function (KVW) {
  "use strict";
  const REQUESTS = ["#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"];
  const THEMES = {
    light: { free: "#EEF0F3", rounding: "#B9BEC7", cached: "#D3D7DE", line: "#FFFFFF", text: "#1F2937", hatch: "rgba(31,41,55,.45)", grid: "#D1D5DB" },
    dark: { free: "#2A2F3A", rounding: "#5B6270", cached: "#454C5A", line: "#12151C", text: "#E5E7EB", hatch: "rgba(229,231,235,.45)", grid: "#374151" },
  };
  const TINT = 0.32;
  KVW.TINT = TINT;

  KVW.count = REQUESTS.length;
  KVW.stats = { mounts: 0, draws: 0, frames: 0, bytes: 0, drawMs: 0, historyDraws: 0, frameMs: 0 };
  KVW.isDark = () => document.body.classList.contains("dark");
  KVW.theme = () => (KVW.isDark() ? THEMES.dark : THEMES.light);
  KVW.color = (request) => REQUESTS[request % REQUESTS.length];

  KVW.label = function (request) {
    let label = "";
    for (let n = request + 1; n > 0; n = Math.floor((n - 1) / 26)) label = String.fromCharCode(65 + ((n - 1) % 26)) + label;
    return label;
  };

  const channels = (color) => [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16));
  KVW.mix = function (color, background, share) {
    const [a, b] = [channels(color), channels(background)];
    return "#" + a.map((v, i) => Math.round(share * v + (1 - share) * b[i]).toString(16).padStart(2, "0")).join("");
  };
  KVW.textOn = function (color) {
    const linear = channels(color).map((c) => (c <= 10 ? c / 3294.6 : ((c / 255 + 0.055) / 1.055) ** 2.4));
    const light = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
    return (light + 0.05) / 0.05 >= 1.05 / (light + 0.05) ? "#000" : "#fff";
  };
  /** Colours by code: per request full, per request tinted, rounding, free, kept for reuse. */
  KVW.codeColors = function () {
    const theme = KVW.theme();
    return [...REQUESTS, ...REQUESTS.map((c) => KVW.mix(c, theme.free, TINT)), theme.rounding, theme.free, theme.cached];
  };
  KVW.colorscale = function (colors) {
    return colors.flatMap((color, i) => [[i / colors.length, color], [(i + 1) / colors.length, color]]);
  };

  /** Takes over what `map_constants` in payload.py gives: causes in words, their families, colour modes and orders. */
  KVW.setConstants = function ({ causes, families, family_of: familyOf, modes, orders }) {
    Object.assign(KVW, { causes, families, familyOf, modes, orders });
  };

  const inWords = new Intl.NumberFormat("en-US"); // one for all: making it takes longer than using it
  KVW.number = (value) => inWords.format(value);
  KVW.plural = (count, noun) => KVW.number(count) + " " + noun + (count === 1 ? "" : "s");
  KVW.percent = function (part, whole) {
    if (whole <= 0 || part <= 0) return "0 %";
    if (part >= whole) return "100 %";
    return Math.min(99, Math.max(1, Math.round((100 * part) / whole))) + " %";
  };

  KVW.role = (root, name) => root.querySelector('[data-role="' + name + '"]');
  KVW.setText = function (node, text) {
    if (node.textContent !== text) node.textContent = text;
  };
  KVW.make = function (tag, className, text) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  /** Makes the container have exactly `count` children, without touching those that may stay. */
  KVW.resizeChildren = function (container, count, make) {
    while (container.children.length > count) container.lastChild.remove();
    while (container.children.length < count) container.appendChild(make(container.children.length));
  };
  KVW.chip = function (request) {
    const chip = KVW.make("span", "kvw-chip");
    KVW.setChip(chip, request);
    return chip;
  };
  KVW.setChip = function (chip, request) {
    if (chip.dataset.request === String(request)) return;
    chip.dataset.request = request;
    chip.textContent = KVW.label(request);
    chip.style.background = KVW.color(request);
    chip.style.color = KVW.textOn(KVW.color(request));
  };
  KVW.onThemeChange = function (callback) {
    const observer = new MutationObserver(callback);
    observer.observe(document.body, { attributes: true, attributeFilter: ["class"] });
    return observer;
  };
})(window.KVW);
