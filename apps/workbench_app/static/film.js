/* A recording that plays on the stage until a run of the visitor's own begins. Loaded as one file of changes. */
(function (KVW) {
  "use strict";
  const REST_MS = 2500; // at the end, before it starts again

  KVW.playFilm = async function (stage, address) {
    let film;
    try {
      const answer = await fetch(address);
      if (!answer.ok) return;
      film = await answer.json();
    } catch (error) {
      console.warn("KV Workbench: the recording could not be loaded", error);
      return;
    }
    let at = 0;
    let frame = film.first;
    const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
    (function next() {
      if (stage.frame && !stage.frame.film) return; // something else is shown now
      if (stage.root.offsetParent !== null && !document.hidden) {
        stage.show(frame);
        const over = at >= film.patches.length;
        if (still && at > 40) return; // a picture from the middle, for those who want no motion
        if (!over) frame = KVW.patch(frame, film.patches[at]);
        else frame = film.first;
        at = over ? 0 : at + 1;
        if (over) return void setTimeout(next, REST_MS);
      }
      setTimeout(next, still ? 0 : 1000 / film.pace);
    })();
  };
})(window.KVW);
