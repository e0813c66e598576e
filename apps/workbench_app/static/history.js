/* How many requests ran at once, step by step, in every lane: one Plotly chart that lives as long as the page. */
(function (KVW) {
  "use strict";
  class HistoryView {
    constructor(container, words) {
      this.container = container;
      this.words = words;
      this.frame = null;
      this.drawnAt = -1e9;
      this.width = container.clientWidth;
      new ResizeObserver((entries) => {
        this.width = Math.floor(entries[0].contentRect.width);
        this.drawnAt = -1e9;
        if (this.frame) this.draw(this.frame);
      }).observe(container);
    }

    /** While a run goes on, twice a second is enough: this chart changes slowly. */
    draw(frame) {
      this.frame = frame;
      const now = performance.now();
      if (!this.width || (frame.running && now - this.drawnAt < 500)) return;
      this.drawnAt = now;
      const { x, lines } = frame.history;
      const theme = KVW.theme();
      const line = (y, name, color, dash) => ({
        x, y, name, type: "scatter", mode: "lines", line: { color, width: 2, dash, shape: "hv" },
        hovertemplate: name + ": %{y} running at step %{x}<extra></extra>",
      });
      const blue = KVW.isDark() ? "#56B4E9" : "#0072B2";
      const orange = KVW.isDark() ? "#E69F00" : "#D55E00";
      const pink = "#CC79A7";
      const axis = { gridcolor: theme.grid, zeroline: false, fixedrange: true, rangemode: "tozero", color: theme.text };
      Plotly.react(
        this.container,
        lines.map((y, i) => line(y, frame.sides[i], [blue, orange, pink][i], ["solid", "dash", "dot"][i])),
        {
          width: this.width, height: 160, margin: { l: 34, r: 8, t: 22, b: 32 },
          paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", font: { color: theme.text, size: 11 },
          xaxis: { ...axis, title: { text: "step", standoff: 4 }, range: [0, Math.max(10, frame.last)] },
          yaxis: { ...axis, range: [0, 1.15 * Math.max(4, ...lines.flat())], nticks: 5 },
          shapes: [{ type: "line", x0: frame.step, x1: frame.step, yref: "paper", y0: 0, y1: 1, line: { color: theme.text, width: 1, dash: "dot" } }],
          legend: { orientation: "h", x: 1, xanchor: "right", y: 1.0, yanchor: "bottom", bgcolor: "rgba(0,0,0,0)" },
          hovermode: "closest", dragmode: false,
        },
        { displayModeBar: false },
      );
      KVW.setText(this.words, frame.history.words);
      KVW.stats.historyDraws += 1;
    }
  }
  KVW.HistoryView = HistoryView;
})(window.KVW);
