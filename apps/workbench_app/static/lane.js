/* The third lane: a padded batch on transformers' own cache, one bar per row. Elements are made once and stay; those of
   rows that a smaller batch does not need are hidden. */
(function (KVW) {
  "use strict";
  const KEYS = [
    ["needed", "Tokens still needed", "Keys and values of rows that still write"],
    ["padding", "Padding", "Positions before a prompt that is shorter than the longest of the batch"],
    ["ended", "Rows that have ended", "They stay in the batch, and grow, until all rows have ended"],
  ];
  /** The pool's line is drawn as long as it does not shrink the bars below a half. */
  const MOST_SCALE = 2;
  const megabytes = (bytes) => (bytes / 1e6).toFixed(1) + " MB";
  const percent = (part, whole) => (100 * part) / whole + "%";

  class LaneView {
    /** Fills `root`, an element without content. */
    constructor(root) {
      this.root = root;
      root.classList.add("kvw-lane");
      const add = (tag, className, parent = root) => parent.appendChild(KVW.make(tag, className));
      const head = add("header");
      this.title = add("h3", "", head);
      this.pool = add("span", "kvw-pool", head);
      this.subtitle = add("p", "", head);
      this.badge = add("p", "kvw-badge kvw-lane-badge");
      this.badge.hidden = true;
      this.numbers = add("dl", "kvw-stats");
      this.rows = add("div", "kvw-lane-rows");
      this.rows.setAttribute("role", "img");
      this.empty = add("p", "kvw-lane-empty", this.rows);
      this.plot = add("div", "kvw-lane-plot", this.rows);
      this.limit = add("div", "kvw-lane-limit", this.plot);
      this.lines = [];
      this.scale = add("p", "kvw-lane-scale");
      this.bar = add("div", "kvw-waste");
      this.bar.setAttribute("role", "img");
      this.legend = add("ul", "kvw-legend");
      for (const [key, label, meaning] of KEYS) {
        add("span", "kvw-use kvw-lane-key-" + key, this.bar);
        const item = add("li", "", this.legend);
        item.title = meaning;
        item.append(KVW.make("span", "kvw-swatch kvw-lane-key-" + key), KVW.make("span", "", label), KVW.make("b"));
      }
      this.queue = add("p", "kvw-queue");
      this.queue.append(KVW.make("span", "", "Waiting: "), KVW.make("span", "kvw-chips"), KVW.make("span", "kvw-why"));
      this.more = add("div", "kvw-extra");
      const details = add("details", "kvw-words");
      details.append(KVW.make("summary", "", "This picture in words"), KVW.make("p"));
      this.words = details.lastChild;
      // What stands beside the bars has a width of its own, and the pool's line has to know where the bars begin. Asking
      // for that with every frame would make the browser lay out the page twice.
      this.sizes = new ResizeObserver(() => this.place());
    }

    draw(p) {
      KVW.setText(this.title, p.title);
      KVW.setText(this.pool, p.pool);
      KVW.setText(this.subtitle, p.subtitle + (p.attention ? " (attention: " + p.attention + ")" : ""));
      this.same(p.badge);
      this.stats(p.stats);
      this.batch(p);
      this.uses(p.waste);
      const [, chips, why] = this.queue.children;
      KVW.resizeChildren(chips, Math.min(p.waiting.length, 40), () => KVW.make("span", "kvw-chip"));
      p.waiting.slice(0, 40).forEach((request, i) => KVW.setChip(chips.children[i], request));
      KVW.setText(why, p.waiting.length ? p.why : "nobody.");
      KVW.resizeChildren(this.more, p.extra.length, () => KVW.make("p"));
      p.extra.forEach((line, i) => KVW.setText(this.more.children[i], line));
      KVW.setText(this.words, p.words);
      this.rows.setAttribute("aria-label", p.title + ". " + p.words);
    }

    /** Whether the texts are those of paged memory, if somebody has compared them. */
    same(badge) {
      this.badge.hidden = !badge || badge.state === "pending";
      if (!badge) return;
      this.badge.dataset.state = badge.state;
      KVW.setText(this.badge, badge.words + (badge.why ? ". " + badge.why : ""));
    }

    stats(rows) {
      KVW.resizeChildren(this.numbers, rows.length, () => {
        const box = KVW.make("div");
        const value = KVW.make("dd");
        value.append(KVW.make("span"), KVW.make("span", "kvw-more"));
        box.append(KVW.make("dt"), value);
        return box;
      });
      rows.forEach(([label, value, small], i) => {
        const [name, said] = this.numbers.children[i].children;
        KVW.setText(name, label);
        KVW.setText(said.firstChild, value);
        KVW.setText(said.lastChild, small);
      });
    }

    /** One bar per row. The scale is the longest that the batch may get, and the pool's line if that is near. */
    batch(p) {
      const none = p.rows.length === 0;
      // Between two batches there are no rows for one step: what stands below must not jump.
      if (none && this.empty.hidden) this.rows.style.minHeight = this.rows.offsetHeight + "px";
      if (!none) this.rows.style.minHeight = "";
      this.empty.hidden = !none;
      KVW.setText(this.empty, p.whyNot ? p.whyNot + "." : p.words);
      while (this.lines.length < p.rows.length) this.lines.push(this.line());
      const shows = !none && p.limit <= MOST_SCALE * p.longest;
      const most = Math.max(p.longest, p.length, shows ? p.limit * 1.01 : 0, 1);
      this.lines.forEach((line, i) => (line.root.hidden = i >= p.rows.length));
      p.rows.forEach((row, i) => this.fill(this.lines[i], row, p.length, most));
      this.limit.hidden = !shows;
      this.limit.style.left = percent(p.limit, most);
      const rows = KVW.plural(p.rows.length, "row");
      const where = shows ? "Dashed line" : "Beyond this scale";
      const each = p.rows.length === 1 ? "the row" : "all " + rows;
      KVW.setText(this.scale, none ? "" : where + ": " + KVW.plural(p.limit, "position") + ", at which " + each + " would hold as much as the other lanes' pool. Bars end at " + KVW.plural(Math.round(most), "position") + ".");
    }

    line() {
      const root = KVW.make("div", "kvw-lane-row");
      const track = KVW.make("div", "kvw-lane-track");
      for (const part of ["padding", "prompt", "output", "ended"]) track.append(KVW.make("span", "kvw-lane-" + part));
      const count = KVW.make("span", "kvw-lane-count");
      count.append(KVW.make("b"), KVW.make("i"));
      root.append(KVW.make("span", "kvw-chip"), track, count);
      this.rows.insertBefore(root, this.plot);
      if (!this.lines.length) this.sizes.observe(track);
      return { root, track, count };
    }

    fill(line, [request, sample, padding, prompt, output, most, ended], length, scale) {
      const chip = line.root.firstChild;
      KVW.setChip(chip, request);
      KVW.setText(chip, KVW.label(request) + (sample < 0 ? "" : "·" + (sample + 1)));
      const spans = line.track.children;
      const put = (span, from, to, color) => {
        span.hidden = to <= from;
        span.style.left = percent(from, scale);
        span.style.width = percent(Math.max(0, to - from), scale);
        if (color !== undefined) span.style.backgroundColor = color;
      };
      const color = KVW.color(request);
      put(spans[0], 0, ended ? 0 : padding);
      put(spans[1], padding, ended ? 0 : padding + prompt, color);
      put(spans[2], padding + prompt, ended ? 0 : length, color);
      put(spans[3], 0, ended ? length : 0);
      KVW.setText(line.count.firstChild, output + "/" + most);
      KVW.setText(line.count.lastChild, ended ? " ended" : " tokens");
      line.track.title = KVW.label(request) + (sample < 0 ? "" : ", sample " + (sample + 1)) + ": " + (ended ? "has ended, still holds " + KVW.plural(length, "position") : KVW.number(padding) + " padding, " + KVW.number(prompt) + " prompt, " + KVW.number(output) + " of " + KVW.plural(most, "token") + " written");
    }

    /** Lays the pool's line over the bars. */
    place() {
      const track = this.lines[0].track;
      this.plot.style.left = track.offsetLeft + "px";
      this.plot.style.width = track.offsetWidth + "px";
    }

    uses(counts) {
      const total = counts.reduce((a, b) => a + b, 0);
      counts.forEach((count, i) => {
        this.bar.children[i].style.flexGrow = count;
        this.bar.children[i].hidden = count === 0;
        KVW.setText(this.legend.children[i].lastChild, megabytes(count) + " (" + KVW.percent(count, total) + ")");
      });
      this.bar.setAttribute("aria-label", "Use of the " + megabytes(total) + " that are held: " + KEYS.map(([, label], i) => label + " " + megabytes(counts[i])).join(", "));
    }
  }
  KVW.LaneView = LaneView;
})(window.KVW);
