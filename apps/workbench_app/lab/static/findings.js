/* Charts, sentences and table of a run. Plotly comes from this machine; charts follow the theme and the width. */
(function () {
  "use strict";
  const part = (name) => element.querySelector('[data-role="' + name + '"]');
  const CONFIG = { displayModeBar: false, responsive: false, scrollZoom: false };
  let found = null;

  function make(tag, text, name) {
    const node = document.createElement(tag);
    if (text !== undefined) node.textContent = text;
    if (name) node.className = name;
    return node;
  }

  /* The page may bring Plotly by another element's script: then that one is waited for. */
  function withPlotly() {
    if (window.Plotly) return Promise.resolve();
    if (!window.kvwPlotly) {
      window.kvwPlotly = new Promise((resolve, reject) => {
        let script = document.querySelector('script[src*="plotly.min.js"]');
        if (!script) {
          script = document.createElement("script");
          script.src = props.plotly_url;
          document.head.appendChild(script);
        }
        const timer = setInterval(() => {
          if (!window.Plotly) return;
          clearInterval(timer);
          resolve();
        }, 30);
        script.addEventListener("error", () => { clearInterval(timer); reject(new Error("Plotly could not be loaded")); });
      });
    }
    return window.kvwPlotly;
  }

  const isDark = () => document.body.classList.contains("dark");

  function drawChart(box) {
    if (!box.clientWidth) return;
    const chart = box.kvwChart;
    const look = isDark() ? chart.dark : chart.light;
    const layout = { ...look.layout, width: box.clientWidth, autosize: false };
    box.dataset.width = String(box.clientWidth);
    box.dataset.dark = String(isDark());
    window.Plotly.react(box, look.data, layout, CONFIG);
  }

  function drawCharts() {
    element.querySelectorAll(".kvw-lab-plot").forEach((box) => {
      if (Number(box.dataset.width) !== box.clientWidth || box.dataset.dark !== String(isDark())) drawChart(box);
    });
  }

  function showChart(figure, chart) {
    const heading = make("h4", chart.title);
    heading.append(" ", make("span", chart.kind, "kvw-lab-kind"));
    heading.lastChild.dataset.kind = chart.kind;
    if (chart.better) heading.append(" ", make("small", chart.better + " is better"));
    const box = figure.querySelector(".kvw-lab-plot") || make("div", undefined, "kvw-lab-plot");
    box.kvwChart = chart;
    box.dataset.width = "";
    box.setAttribute("role", "img");
    box.setAttribute("aria-label", chart.caption);
    figure.replaceChildren(heading, box);
  }

  function showBlock(block) {
    const section = make("section");
    section.append(make("h3", block.title), make("p", block.question, "kvw-lab-dim"));
    if (block.note) section.append(make("p", block.note, "kvw-lab-note"));
    const list = make("ul");
    block.sentences.forEach((sentence) => list.append(make("li", sentence)));
    const badge = make("p", block.equality.words, "kvw-lab-equal");
    badge.dataset.state = block.equality.state;
    section.append(list, badge, make("p", "The same in every variant: " + block.fixed + ".", "kvw-lab-dim"));
    return section;
  }

  function showTable(table) {
    const head = make("tr");
    table.columns.forEach((name) => { const cell = make("th", name); cell.scope = "col"; head.append(cell); });
    element.querySelector("thead").replaceChildren(head);
    element.querySelector("tbody").replaceChildren(...table.rows.map((row) => {
      const line = make("tr");
      row.forEach((value, i) => {
        const cell = make(i === 1 ? "th" : "td", value);
        if (i === 1) cell.scope = "row";
        line.append(cell);
      });
      return line;
    }));
  }

  function show() {
    found = props.value ? JSON.parse(props.value) : null;
    part("empty").hidden = Boolean(found);
    part("body").hidden = !found;
    if (!found) return;
    part("copied").textContent = "";
    part("blocks").replaceChildren(...found.blocks.map(showBlock));
    const charts = part("charts");
    while (charts.children.length > found.charts.length) {
      const gone = charts.lastChild.querySelector(".kvw-lab-plot");
      if (gone && window.Plotly) window.Plotly.purge(gone);
      charts.lastChild.remove();
    }
    while (charts.children.length < found.charts.length) charts.append(make("figure"));
    found.charts.forEach((chart, i) => showChart(charts.children[i], chart));
    showTable(found.table);
    withPlotly().then(drawCharts).catch((error) => console.error("KV Workbench, Lab:", error));
  }

  function copied(text) { part("copied").textContent = text; }

  function copyByHand(text) {
    const area = make("textarea", text);
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    copied(done ? "Copied." : "Could not copy: use Download CSV.");
  }

  part("copy").addEventListener("click", () => {
    if (!navigator.clipboard) return copyByHand(found.csv); // only pages from https or from this machine have it
    navigator.clipboard.writeText(found.csv).then(() => copied("Copied."), () => copyByHand(found.csv));
  });
  part("download").addEventListener("click", () => {
    const link = make("a");
    link.href = URL.createObjectURL(new Blob([found.csv], { type: "text/csv" }));
    link.download = found.file;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    copied("Saved as " + found.file + ".");
  });

  new ResizeObserver(() => { if (window.Plotly) drawCharts(); }).observe(part("charts"));
  new MutationObserver(() => { if (window.Plotly) drawCharts(); }).observe(document.body, { attributes: true, attributeFilter: ["class"] });
  watch("value", show);
  show();
})();
