// The canvas of a text: one cell for each position; only changed cells are updated.

import { h } from "./dom.js";
import { OPS } from "./reducer.js";

const TRAIL = 3; // frames for which a change stays visible
const END_SIGN = "∎";

/** Whether the mouse has moved: text that comes to lie under a resting one is not pointed at. */
const mouse = { at: "", moved: false };
const follow = (event) => {
  const at = `${event.screenX} ${event.screenY}`;
  mouse.moved = at !== mouse.at;
  mouse.at = at;
};
document.addEventListener("pointermove", follow, true);

/** Shows states of a track; calls `onpoint(position, cell, pinned)` on hover, focus and click. */
export class TextView {
  constructor(track, run, onpoint) {
    this.track = track;
    this.ends = new Set(run.ends);
    this.onpoint = onpoint;
    this.shown = [];
    this.node = h("div", {
      class: "canvas",
      role: "group",
      "aria-label": `Canvas of ${track.positions} positions`,
      "data-many": track.positions > 512,
    });
    for (let at = 0; at < track.positions; at += 1) {
      const lead = document.createTextNode("");
      const inner = h("span", { class: "tok", tabindex: at ? -1 : 0, role: "button", "data-at": at });
      const cell = h("span", { class: "cell" }, lead, inner);
      this.shown.push({ lead, inner, key: "" });
      this.node.append(cell);
    }
    this.wide = 0;
    new ResizeObserver(() => this.hold()).observe(this.node);
    const at = (event) => event.target.closest?.(".tok")?.dataset.at;
    const point = (pinned) => (event) => {
      const found = at(event);
      if (found !== undefined) this.onpoint(Number(found), event.target.closest(".tok"), pinned);
    };
    this.node.addEventListener("pointermove", (event) => {
      if (mouse.moved) point(false)(event);
    });
    this.node.addEventListener("focusin", point(false));
    this.node.addEventListener("click", point(true));
    this.node.addEventListener("pointerleave", () => this.onpoint(null));
    this.node.addEventListener("focusout", () => this.onpoint(null));
    this.node.addEventListener("keydown", (event) => this.move(event));
  }

  /** Keep the largest height, so that content below does not move. */
  hold() {
    const { offsetWidth: wide, offsetHeight: high } = this.node;
    if (wide !== this.wide) this.relax();
    else if (high > this.high) this.node.style.minHeight = `${high}px`;
    this.wide = wide;
    this.high = Math.max(this.high, high);
  }

  relax() {
    this.high = 0;
    this.node.style.minHeight = "";
  }

  /** Arrow keys move the focus between cells. */
  move(event) {
    const from = Number(event.target.dataset.at);
    const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -8, ArrowDown: 8 };
    if (!(event.key in steps)) return;
    event.preventDefault();
    event.stopPropagation();
    const to = Math.max(0, Math.min(this.shown.length - 1, from + steps[event.key]));
    this.shown[from].inner.tabIndex = -1;
    this.shown[to].inner.tabIndex = 0;
    this.shown[to].inner.focus();
  }

  show(frame, colours) {
    const state = this.track.state(frame);
    let ended = false;
    for (let at = 0; at < this.shown.length; at += 1) {
      const free = this.track.editable[at];
      const masked = state.ids[at] === this.track.mask;
      const end = free && !masked && this.ends.has(state.ids[at]);
      const op = colours === "changes" ? changed(state, at, frame) : "";
      const heat =
        colours === "confidence" && free && !masked
          ? `h${Math.min(9, Math.floor(state.confs[at] * 10))}`
          : "";
      const kind = masked ? "mask" : free ? (end ? "end" : "set") : "given";
      const key = `tok ${kind} ${op} ${heat} ${ended ? "beyond" : ""}`;
      this.fill(this.shown[at], key, kind, state.texts[at]);
      if (end) ended = true;
    }
  }

  fill(cell, key, kind, text) {
    if (cell.key === key && cell.text === text) return;
    if (cell.text !== text || cell.kind !== kind) {
      const [lead, body] = written(kind, text);
      if (cell.lead.data !== lead) cell.lead.data = lead;
      cell.inner.textContent = body;
      if (kind === "mask") cell.inner.setAttribute("aria-label", "mask");
      else if (body.trim() === "") cell.inner.setAttribute("aria-label", "blank");
      else cell.inner.removeAttribute("aria-label");
      cell.text = text;
      cell.kind = kind;
    }
    cell.inner.className = key;
    cell.key = key;
  }
}

/** Style of the last change of a position: strong at its frame, faint for a few after it. */
function changed(state, at, frame) {
  const age = frame - state.wrote[at];
  if (!state.ops[at] || age > TRAIL) return "";
  return age === 0 ? OPS[state.ops[at]] : `was-${OPS[state.ops[at]]}`;
}

/** Text before the coloured part of a cell, and the text in it. */
function written(kind, text) {
  if (kind === "mask") return [" ", ""];
  if (kind === "end") return [" ", END_SIGN];
  if (kind === "given" && /^<[^>]*>$/.test(text)) return ["", "▸"];
  if (text.startsWith(" ") && text.length > 1) return [" ", text.slice(1)];
  if (text.includes("\n")) return ["", text.replaceAll("\n", "↵\n")];
  return ["", text];
}
