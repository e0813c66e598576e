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
  watch("value", show);
  show();
})();
