/* Progress of a run: the words change with every step, what is read aloud only when something new begins. */
(function () {
  "use strict";
  const part = (name) => element.querySelector('[data-role="' + name + '"]');
  function show() {
    if (!props.value) return;
    const told = JSON.parse(props.value);
    const box = part("progress");
    box.hidden = told.state === "idle";
    box.dataset.state = told.state;
    part("bar").value = told.share;
    part("words").textContent = told.words;
    if (part("live").textContent !== told.live) part("live").textContent = told.live;
  }
  // On a small screen the settings would push the button and the charts out of sight: they begin closed there.
  const settings = document.querySelector("#kvw-lab button.label-wrap.open");
  if (settings && window.matchMedia("(max-width: 1180px)").matches) settings.click();

  watch("value", show);
  show();
})();
