// A card with the history of one position.

import { h } from "./dom.js";

const SIGNS = { unmask: "+", refine: "~", remask: "×" };

/** The card that is open; Esc and a press elsewhere close it. */
let open = null;
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") open?.hide();
});
document.addEventListener("pointerdown", (event) => {
  const inside = event.target.closest?.(".history, .tok, .image");
  if (!inside) open?.hide();
});

export class HistoryCard {
  constructor() {
    this.node = h("div", { class: "history", role: "tooltip", hidden: true });
    this.pinned = false;
    this.at = null; // the position that it shows, with its track
  }

  /** Whether it shows this position. */
  shows(track, position) {
    return !this.node.hidden && this.at?.track === track && this.at.position === position;
  }

  /** Show the history of a position beside an anchor; the entry of `frame` is highlighted, and `more` follows. */
  show(track, position, anchor, frame, image, more = null) {
    const given = !track.editable[position];
    const head = h("p", { class: "history-head" }, `position ${position}`);
    if (given) head.append(h("span", { class: "tag" }, "given"));
    const first = track.state(0);
    const masked = first.ids[position] === track.mask;
    const rows = [row("0", "", masked ? "mask" : image ? `level ${first.ids[position]}` : first.texts[position], null, frame === 0)];
    for (const one of track.histories[position]) {
      const word = one.op === "remask" ? "mask" : image ? `level ${one.id}` : String(one.text);
      const step = one.final ? "end" : String(one.step);
      rows.push(row(step, one.op, word, one.conf, one.frame === frame));
    }
    const now = track.state(frame);
    const guess = now.ids[position] === track.mask ? now.guesses.get(position) : undefined;
    if (guess) rows.push(row("now?", "", guess.text, guess.conf, false));
    const most = 12; // entries shown: the first and the latest ones
    const cut = rows.length - most;
    if (cut > 0) rows.splice(1, cut, h("li", { class: "more" }, `… ${cut} more`));
    const close = h("button", { type: "button", class: "close", "aria-label": "Close", onclick: () => this.hide() }, "×");
    head.append(close);
    this.node.replaceChildren(head, h("ol", {}, ...(given ? rows.slice(0, 1) : rows)), ...(more ? [more] : []));
    this.node.setAttribute("role", more ? "dialog" : "tooltip");
    this.node.setAttribute("aria-label", `position ${position}`);
    this.node.classList.toggle("pinned", this.pinned);
    this.at = { track, position };
    this.node.hidden = false;
    if (open !== this) open?.hide();
    open = this;
    this.place(anchor.getBoundingClientRect());
  }

  place(box) {
    const own = this.node.getBoundingClientRect();
    const left = Math.max(8, Math.min(box.left, innerWidth - own.width - 8));
    const below = box.bottom + 8;
    const top = below + own.height > innerHeight ? Math.max(8, box.top - own.height - 8) : below;
    this.node.style.left = `${left}px`;
    this.node.style.top = `${top}px`;
  }

  hide() {
    this.pinned = false;
    this.node.hidden = true;
    if (open === this) open = null;
  }
}

function row(step, op, word, conf, now) {
  const bar = h("span", { class: "bar" });
  if (conf === null) bar.classList.add("none");
  else bar.append(lengthOf(conf));
  return h(
    "li",
    { class: now ? "now" : "" },
    h("span", { class: "at" }, step),
    h("span", { class: `sign ${op}`, title: op }, SIGNS[op] ?? "·"),
    h("span", { class: "word" }, word.replaceAll("\n", "↵")),
    bar,
    h("span", { class: "conf" }, conf === null ? "" : conf.toFixed(2)),
  );
}

function lengthOf(conf) {
  const fill = h("i");
  fill.style.width = `${Math.round(conf * 100)}%`;
  return fill;
}
