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
      for (const side of ["left", "right", "third"]) {
        const column = card.appendChild(KVW.make("div", "kvw-output"));
        column.dataset.side = side;
        column.append(KVW.make("small"), KVW.make("p"));
        column.lastChild.append(KVW.make("span"));
        column.lastChild.tabIndex = 0;
        column.lastChild.setAttribute("role", "group");
      }
      return card;
    }

    /** A row as `workbench_app.cards.cards` makes it. */
    fill(card, [request, prompt, left, right, other, why, third], names) {
      const [chip, promptNode] = card.firstChild.children;
      KVW.setChip(chip, request);
      KVW.setText(promptNode, prompt);
      const own = other !== null && other !== undefined ? " (refused; separate request " + KVW.label(other) + ")" : "";
      this.column(card.children[1], names[0], left, "", "pages");
      this.column(card.children[2], names[1] + own, right, why, "slots");
      card.children[3].hidden = !third;
      card.classList.toggle("kvw-three", Boolean(third));
      if (third) this.column(card.children[3], names[2], third, "", "positions");
    }

    column(column, name, side, why, unit) {
      const [head, body] = column.children;
      if (!side) {
        delete column.dataset.status;
        KVW.setText(head, name + (why ? ": refused" : ": not started"));
        KVW.setText(body.firstChild, why);
        body.setAttribute("aria-label", head.textContent);
        return;
      }
      const [status, promptTokens, output, most, held, preemptions, text, reason, , host] = side;
      const again = preemptions ? ", preempted " + preemptions + "×" : "";
      KVW.setText(head, name + ": " + STATUS[status] + ", " + output + "/" + most + " tokens" + again);
      column.dataset.status = status;
      column.title = KVW.plural(promptTokens, "prompt token") + "; holds " + KVW.number(held) + " " + unit + (host ? " and " + KVW.plural(host, "host page") : "");
      KVW.setText(body.firstChild, reason || text.trimStart());
      body.setAttribute("aria-label", name + ", text");
    }
  }
  KVW.TextsView = TextsView;
})(window.KVW);
