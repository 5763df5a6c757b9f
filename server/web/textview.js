// The canvas of a text: one cell for each position; only changed cells are updated.

import { h } from "./dom.js";
import { cellTexts } from "./pieces.js";
import { Pins } from "./pins.js";
import { OPS } from "./reducer.js";

const TRAIL = 3; // frames for which a change stays visible
const MASK_SIGN = "░"; // of a mask in copied text
const BROKEN = "\ufffd"; // in the text of a token that is only part of a character
const SPECIAL = /^<[^>]*>$/;

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
    this.run = run;
    this.ends = new Set(run.ends);
    this.onpoint = onpoint;
    this.shown = [];
    this.frame = 0;
    this.begun = false;
    this.node = h("div", {
      class: "canvas",
      role: "group",
      dir: "auto",
      "aria-label": `Canvas of ${track.positions} positions`,
      "data-many": track.positions > 512,
    });
    for (let at = 0; at < track.positions; at += 1) {
      const lead = document.createTextNode("");
      const inner = h("span", { class: "tok", tabindex: at ? -1 : 0, role: "button", "data-at": at });
      const node = h("span", { class: "cell" }, lead, inner);
      this.shown.push({ node, lead, inner, key: "tok", look: "", body: null, breaks: 0, guess: null });
      this.node.append(node);
    }
    this.pins = new Pins(this.node, this.shown);
    this.wide = 0;
    new ResizeObserver(() => this.hold()).observe(this.node);
    this.listen();
  }

  listen() {
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
    this.node.addEventListener("copy", (event) => this.copy(event));
  }

  /** Keep the largest height while widths are open, so that content below does not move. */
  hold() {
    const { offsetWidth: wide, offsetHeight: high } = this.node;
    if (wide !== this.wide) this.relax();
    else if (high > this.high) this.node.style.minHeight = `${high}px`;
    this.wide = wide;
    this.high = Math.max(this.high, high);
  }

  /** Forget measured sizes after a change of layout. */
  relax() {
    this.high = 0;
    this.node.style.minHeight = "";
    if (!this.pins.on) return;
    this.pins.off();
    this.show(this.frame, this.colours);
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
    this.frame = frame;
    this.colours = colours;
    const tiles = this.node.closest(".tiles") !== null;
    if (this.run.ended && !this.pins.on && !tiles && this.track.length && this.node.clientWidth > 0) {
      this.pins.measure(() => this.draw(this.track.length - 1, "plain"), this.begun);
    }
    if (!this.begun && this.track.length) this.begin();
    this.draw(frame, colours);
    this.pins.settle();
  }

  begin() {
    this.begun = true;
    this.pins.open(this.cells(0).filter(({ kind }) => kind === "given").map(({ text }) => text));
  }

  draw(frame, colours) {
    for (const [at, cell] of this.cells(frame).entries()) {
      const { op, heat } = this.marks(cell, at, frame, colours);
      const key = `tok ${cell.kind} ${op} ${heat} ${cell.beyond ? "beyond" : ""} ${cell.text.includes("\n") ? "brk" : ""}`;
      this.fill(this.shown[at], key, cell);
      this.ghost(this.shown[at], colours === "plain" || op ? null : cell.guess);
    }
  }

  /** Show in a mask what it would become now, the fainter the less sure; null for nothing. */
  ghost(shown, guess) {
    if (shown.guess === (guess ?? null)) return;
    shown.guess = guess ?? null;
    const { inner } = shown;
    const end = guess && this.ends.has(guess.id);
    const word = end ? "∎" : guess && !guess.text.includes(BROKEN) ? guess.text.trim() : "";
    if (word) inner.dataset.guess = word;
    else delete inner.dataset.guess;
    if (word) inner.style.setProperty("--sure", guess.conf.toFixed(2));
  }

  /** For each position of a frame its kind, text and state. */
  cells(frame) {
    const state = this.track.state(frame);
    const { texts, joined } = cellTexts(state.texts, state.parts);
    let ended = false;
    return Array.from(texts, (text, at) => {
      const free = this.track.editable[at];
      const masked = state.ids[at] === this.track.mask;
      const end = free && !masked && this.ends.has(state.ids[at]);
      const part = ["", " joined", " part"][masked ? 0 : joined[at]];
      const special = !free && !masked && SPECIAL.test(text);
      const kind = masked ? "mask" : free ? (end ? "end" : "set") : special ? "given special" : "given";
      const cell = { state, kind: kind + part, text: masked || end || special ? "" : text, beyond: ended, name: text, guess: masked && !ended ? state.guesses.get(at) : undefined };
      if (end) ended = true;
      return cell;
    });
  }

  marks({ state, kind }, at, frame, colours) {
    const op = colours === "changes" ? changed(state, at, frame) : "";
    const coloured = colours === "confidence" && this.track.editable[at] && kind !== "mask";
    return { op, heat: coloured ? `h${Math.min(9, Math.floor(state.confs[at] * 10))}` : "" };
  }

  fill(shown, key, { kind, text, name }) {
    if (shown.key === key && shown.text === text) return;
    shown.key = key;
    if (shown.text !== text || shown.kind !== kind) {
      shown.text = text;
      shown.kind = kind;
      const word = kind === "mask" ? "mask" : kind.includes("special") || kind === "end" ? name : "";
      if (word) shown.inner.setAttribute("aria-label", word);
      else if (text.trim() === "") shown.inner.setAttribute("aria-label", "blank");
      else shown.inner.removeAttribute("aria-label");
      this.pins.write(shown);
    }
    shown.inner.className = `${key} ${shown.look}`;
  }

  /** The text of the shown frame, or of positions `first` to `last`: up to its end, signs left out. */
  text(first = 0, last = this.shown.length - 1, beyond = false) {
    return this.cells(this.frame)
      .filter((cell, at) => at >= first && at <= last && (beyond || !cell.beyond))
      .map(({ kind, text }) => (kind === "mask" ? MASK_SIGN : text))
      .join("");
  }

  /** Selected cells are copied as their text: without signs, line breaks of the layout, or gaps. */
  copy(event) {
    const range = getSelection().rangeCount ? getSelection().getRangeAt(0) : null;
    const inside = this.shown.map((_, at) => at).filter((at) => range?.intersectsNode(this.shown[at].inner));
    if (inside.length < 2) return;
    event.preventDefault();
    event.clipboardData.setData("text/plain", this.text(inside[0], inside.at(-1)));
  }
}

/** Style of the last change of a position: strong at its frame, faint for a few after it. */
function changed(state, at, frame) {
  const age = frame - state.wrote[at];
  if (!state.ops[at] || age > TRAIL) return "";
  return age === 0 ? OPS[state.ops[at]] : `was-${OPS[state.ops[at]]}`;
}
