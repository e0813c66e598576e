/* Which tab is shown, from the address (?tab=...). The tab Explore sees to itself, with all that its links say. */
(function (KVW) {
  "use strict";
  const NAMES = { lab: "Lab", learn: "Learn", class: "Class" };
  const wanted = NAMES[(new URLSearchParams(location.search).get("tab") || "").toLowerCase()];
  if (!wanted) return;
  const began = Date.now(); // the tabs appear a moment after the scripts have run
  const timer = setInterval(() => {
    if (KVW.tabIsOpen(wanted) || Date.now() - began > 30000) clearInterval(timer);
    else KVW.openTab(wanted);
  }, 100);
})(window.KVW);
