(() => {
  "use strict";
  const text = (id) => document.getElementById(id).textContent;
  const json = (id) => JSON.parse(text(id));

  async function inflate(packed) {
    const bytes = Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Response(stream).text();
  }

  let loading = null;
  function plotly() {
    loading = loading || inflate(text("kvw-plotly")).then((code) => {
      const script = document.createElement("script");
      script.textContent = code;
      document.head.append(script);
      return window.Plotly;
    });
    return loading;
  }

  async function drawFigure(place) {
    const { data, layout, frames, config } = json("kvw-figure-" + place.dataset.figure);
    const library = await plotly();
    await library.newPlot(place, { data, layout, frames, config: { responsive: true, displaylogo: false, ...config } });
    place.style.minHeight = "";
  }

  function openReplay(frame) {
    // The film is data within a script element there, too; functions keep `$` in it as it is.
    frame.srcdoc = json("kvw-shell")
      .replace("@@plotly@@", () => text("kvw-plotly"))
      .replace("@@film@@", () => text("kvw-film-" + frame.dataset.film));
  }

  async function show(place) {
    try {
      if (place.dataset.figure !== undefined) await drawFigure(place);
      else openReplay(place);
    } catch (error) {
      const words = document.createElement("p");
      words.textContent = "This could not be drawn: " + error.message + ". It needs a browser of 2023 or later.";
      place.replaceWith(words);
    }
  }

  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      seen.unobserve(entry.target);
      show(entry.target);
    }
  }, { rootMargin: "400px" });
  document.querySelectorAll("[data-figure], [data-film]").forEach((place) => seen.observe(place));
})();
