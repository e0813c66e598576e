/* One card per request: its prompt, and what each engine has written so far. */
(function (KVW) {
  "use strict";
  const STATUS = { w: "waiting", r: "running", p: "preempted, waiting again", s: "swapped out, waiting again", f: "finished", c: "cancelled", x: "rejected" };

  class TextsView {
    constructor(container) {
      this.container = container;
    }

    draw(frame) {
      KVW.resizeChildren(this.container, frame.requests.length, () => this.card());
      frame.requests.forEach((row, i) => this.fill(this.container.children[i], row, frame.sides));
    }

    card() {
      const card = KVW.make("article", "kvw-card");
      const head = card.appendChild(KVW.make("header"));
      head.append(KVW.make("span", "kvw-chip"), KVW.make("span", "kvw-prompt"));
      for (const side of [0, 1]) {
        const column = card.appendChild(KVW.make("div", "kvw-output"));
        column.dataset.side = side ? "right" : "left";
        column.append(KVW.make("small"), KVW.make("p"));
        column.lastChild.append(KVW.make("span"));
        column.lastChild.tabIndex = 0;
      }
      return card;
    }

    /** `other`: the number of the right side's request where it has one of its own, because the prompt was refused. */
    fill(card, [request, prompt, left, right, other], names) {
      const [chip, promptNode] = card.firstChild.children;
      KVW.setChip(chip, request);
      KVW.setText(promptNode, prompt);
      [left, right].forEach((side, i) => {
        const column = card.children[i + 1];
        if (!side) {
          delete column.dataset.status;
          KVW.setText(column.firstChild, names[i] + ": not started");
          KVW.setText(column.lastChild.firstChild, "");
          return;
        }
        const [status, promptTokens, output, most, held, preemptions, text, reason, , host] = side;
        const again = preemptions ? ", preempted " + preemptions + "×" : "";
        const own = i && other !== null ? " (refused; separate request " + KVW.label(other) + ")" : "";
        KVW.setText(column.firstChild, names[i] + own + ": " + STATUS[status] + ", " + output + "/" + most + " tokens" + again);
        column.dataset.status = status;
        column.title = KVW.plural(promptTokens, "prompt token") + "; holds " + KVW.number(held) + (i ? " slots" : " pages") + (host ? " and " + KVW.plural(host, "host page") : "");
        KVW.setText(column.lastChild.firstChild, reason || text.trimStart());
      });
    }
  }
  KVW.TextsView = TextsView;
})(window.KVW);
