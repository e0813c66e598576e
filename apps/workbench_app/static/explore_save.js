/* Saving what is seen: files that the server makes, and pictures that Plotly makes here. */
(function (KVW) {
  "use strict";
  const PICTURES = [
    ["map-png", "Picture of the page map (PNG)"],
    ["map-svg", "Picture of the page map (SVG)"],
    ["chart-png", "Picture of the chart that is shown (PNG)"],
    ["chart-svg", "Picture of the chart that is shown (SVG)"],
  ];

  KVW.fillFormats = function (select, meta) {
    const option = (value, text) => Object.assign(document.createElement("option"), { value, textContent: text });
    select.replaceChildren(...Object.entries(meta.exports).map(([name, kind]) => option(name, kind.words)), ...PICTURES.map(([name, words]) => option(name, words)));
  };

  /** Offers a blob or a data URL as a file. */
  KVW.download = function (content, name) {
    const link = document.createElement("a");
    const address = typeof content === "string" ? content : URL.createObjectURL(content);
    Object.assign(link, { href: address, download: name });
    document.body.append(link);
    link.click();
    link.remove();
    if (typeof content !== "string") setTimeout(() => URL.revokeObjectURL(address), 60000);
  };

  /** Saves in a format. `tell(words, share)`: what is being done; share is null where nobody knows how long it takes. */
  KVW.saveAs = async function (format, source, viewer, tell) {
    const [what, ending] = format.split("-");
    if (what === "map" || what === "chart") return picture(what, ending, source, viewer, tell);
    const { words, file } = source.raw.exports[format];
    tell("Making the file: " + words + " …", null);
    const response = await fetch(KVW.route(source.key + "/export/" + format), { headers: { "X-KVW-Visitor": KVW.visitor() } });
    if (!response.ok) throw new Error((await response.json()).error);
    const size = Number(response.headers.get("Content-Length"));
    const parts = [];
    let got = 0;
    for (const reader = response.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      parts.push(value);
      got += value.length;
      tell("Receiving " + file + " …", size ? got / size : null);
    }
    KVW.download(new Blob(parts, { type: response.headers.get("Content-Type") }), file);
    tell("Saved " + file + " (" + KVW.number(Math.ceil(got / 1024)) + " KiB).");
    return undefined;
  };

  async function picture(what, ending, source, viewer, tell) {
    const state = viewer.state;
    const chart = document.querySelector(".kvw-viewer [data-chart][aria-selected=true]");
    if (what === "chart" && !chart) throw new Error("No chart is shown yet: scroll to “The whole run”.");
    const name = what === "map" ? "page_map" : chart.dataset.chart;
    tell("Drawing the picture …", null);
    const params = { step: state.step, dark: KVW.isDark() };
    if (what === "map") Object.assign(params, { color: state.color, order: state.order });
    else if (state.page >= 0) Object.assign(params, { page: state.page, tier: state.host ? "host" : "device" });
    if (what === "chart" && state.request >= 0) params.request = state.request;
    const view = await source.view(name, params);
    const theme = KVW.isDark() ? "#12151C" : "#FFFFFF";
    const layout = { ...view.layout, paper_bgcolor: theme };
    const height = layout.height || 600;
    const url = await Plotly.toImage({ data: view.data, layout }, { format: ending, width: 1200, height, scale: ending === "png" ? 2 : 1 });
    const file = Object.values(source.raw.exports)[0].file.replace(/\.\w+$/, "") + "-" + name.replace(/_/g, "-") + "-step-" + state.step + "." + ending;
    KVW.download(url, file);
    tell("Saved " + file + ".");
  }
})(window.KVW);
