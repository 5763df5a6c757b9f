// The layout of a text's cells: each has the width and the line that it has at the end of the run.

import { reducedMotion } from "./dom.js";

const HAIR = 0.5; // pixels below which a cell shows nothing
const LEAST = 0.5; // of its size, for a text that is wider than its slot
const MOVES = 400; // cells whose moves are animated
const MOVE = { duration: 160, easing: "ease-out" };

/**
 * Before the end is known, cells are as wide as their texts and masks as the mean of the given ones.
 * `cells` are objects with `node`, `lead`, `inner`, and with `text` and `kind` once they are filled.
 */
export class Pins {
  constructor(node, cells) {
    this.node = node;
    this.cells = cells;
    this.on = false;
    this.places = null; // of cells before a change of layout
    this.gliding = [];
  }

  /** Make masks as wide as the mean of the given tokens. */
  open(given) {
    const words = given.filter((text) => text.trim() !== "");
    if (words.length < 3) return;
    const mean = words.reduce((sum, text) => sum + this.width(text), 0) / words.length;
    this.node.style.setProperty("--mean", `${Math.round(mean)}px`);
  }

  /** Draw the last frame with `draw`, and keep the widths and lines that the browser gives it; `glide` moves cells there. */
  measure(draw, glide) {
    for (const one of this.gliding.splice(0)) one.cancel();
    const before = this.cells.map(({ inner }) => inner.getBoundingClientRect());
    draw();
    const line = Number.parseFloat(getComputedStyle(this.node).lineHeight);
    const middle = ({ top, height }) => top + height / 2;
    let last = null; // the box before
    for (const cell of this.cells) {
      const boxes = [...cell.inner.getClientRects()].filter(({ width }) => width > HAIR);
      cell.final = { text: cell.text, kind: cell.kind, lead: cell.lead.data, breaks: cell.breaks };
      cell.wide = [0, boxes[0]?.width][boxes.length] ?? null; // null: it stands on several lines
      cell.turn = boxes.length > 0 && last !== null && middle(boxes[0]) - middle(last) > line / 2;
      if (cell.breaks) last = null;
      else if (boxes.length) last = boxes.at(-1);
    }
    this.on = true;
    this.node.classList.add("pinned");
    for (const cell of this.cells) {
      if (cell.turn) cell.inner.before(document.createElement("br"));
      this.write(cell);
    }
    if (glide && this.cells.length <= MOVES && !reducedMotion()) this.places = before;
  }

  /** Back to widths by text. */
  off() {
    this.on = false;
    this.node.classList.remove("pinned");
    for (const cell of this.cells) {
      for (const turn of cell.node.querySelectorAll("br")) turn.remove();
      cell.breaks = 0;
      this.write(cell);
    }
  }

  /** Put the text of a cell in its place. */
  write(cell) {
    const { text = "", kind = "" } = cell;
    const blank = text.startsWith(" ") && text.length > 1;
    const lead = this.on ? cell.final.lead : blank || kind === "mask" || kind === "end" ? " " : "";
    const body = lead && blank ? text.slice(1) : text;
    if (cell.lead.data !== lead) cell.lead.data = lead;
    if (cell.body !== body) cell.inner.textContent = cell.body = body;
    this.breaks(cell, this.on ? cell.final.breaks : text.split("\n").length - 1);
    const slot = this.on && cell.wide !== null && (text !== cell.final.text || kind !== cell.final.kind);
    cell.look = slot ? `slot ${cell.wide ? "" : "none"}` : "";
    cell.inner.className = `${cell.key} ${cell.look}`;
    cell.inner.style.width = slot ? `${cell.wide}px` : "";
    const share = slot && body && cell.wide ? cell.wide / this.width(body) : 1;
    cell.inner.style.fontSize = share < 1 ? `${Math.max(LEAST, share).toFixed(3)}em` : "";
  }

  /** Line breaks of the text after a cell. */
  breaks(cell, count) {
    for (; cell.breaks < count; cell.breaks += 1) cell.node.append(document.createElement("br"));
    for (; cell.breaks > count; cell.breaks -= 1) cell.node.lastChild.remove();
  }

  /** Width of a text in the font of the canvas. */
  width(text) {
    this.pen ??= new OffscreenCanvas(1, 1).getContext("2d");
    this.pen.font = this.font ??= getComputedStyle(this.node).font;
    return this.pen.measureText(text).width;
  }

  /** Let cells glide from where they were before the layout changed. */
  settle() {
    const before = this.places;
    this.places = null;
    before?.forEach((from, i) => {
      const { inner } = this.cells[i];
      const to = inner.getBoundingClientRect();
      const [x, y] = [from.left - to.left, from.top - to.top];
      if (!to.width || !from.width || Math.abs(x) + Math.abs(y) < 1) return;
      this.gliding.push(inner.animate([{ left: `${x}px`, top: `${y}px` }, { left: 0, top: 0 }], MOVE));
    });
  }
}
