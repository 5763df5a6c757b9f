// Map of changes: steps across, positions down. A click moves to that step.

import { colourOf, h } from "./dom.js";
import { OPS } from "./reducer.js";

/** One pixel for each frame and position, stretched to the width of its pane. */
export class Strip {
  constructor(track, run, onseek) {
    this.track = track;
    this.run = run;
    this.drawn = 0;
    this.wide = 0;
    this.canvas = h("canvas", { class: "strip-map" });
    this.head = h("div", { class: "strip-head" });
    this.row = h("div", { class: "strip-row", hidden: true });
    this.node = h(
      "div",
      { class: "strip", role: "img", "aria-label": "Steps across, positions down: what changed when" },
      this.canvas,
      this.row,
      this.head,
    );
    this.last = h("span");
    this.figure = h(
      "figure",
      { class: "strip-figure" },
      h("p", { class: "axis down", "aria-hidden": "true" }, h("span", {}, "0"), h("span", {}, "position"), h("span", {}, String(track.positions - 1))),
      this.node,
      h("p", { class: "axis", "aria-hidden": "true" }, h("span", {}, "0"), h("span", {}, "step"), this.last),
    );
    const seek = (event) => {
      if (event.type === "pointermove" && !event.buttons) return;
      const box = this.node.getBoundingClientRect();
      const share = (event.clientX - box.left) / box.width;
      onseek(Math.floor(Math.max(0, Math.min(0.9999, share)) * this.wide));
    };
    this.node.addEventListener("pointerdown", seek);
    this.node.addEventListener("pointermove", seek);
  }

  /** Repaint after a change of theme. */
  redraw() {
    this.drawn = 0;
  }

  show(frame) {
    const wide = this.run.expected;
    if (wide !== this.wide || this.drawn === 0) {
      this.wide = this.canvas.width = wide;
      this.canvas.height = this.track.positions;
      this.last.textContent = String(this.track.frames[0]?.steps ?? wide - 1);
      this.drawn = 0;
    }
    if (this.drawn < this.track.length) this.paint();
    this.head.style.left = `${(frame / this.wide) * 100}%`;
    this.head.style.width = `${100 / this.wide}%`;
  }

  /** Highlight the row of a position; null for none. */
  point(position) {
    this.row.hidden = position === null;
    if (position !== null) this.row.style.top = `${((position + 0.5) / this.track.positions) * 100}%`;
  }

  paint() {
    const colour = (name) => colourOf(this.node, name);
    const plain = { mask: colour("--strip-mask"), set: colour("--strip-set") };
    plain.given = colour("--strip-given");
    const ops = OPS.map((op) => (op ? colour(`--${op}`) : null));
    const pen = this.canvas.getContext("2d");
    const { positions, editable, mask } = this.track;
    const from = this.drawn;
    const wide = this.track.length - from;
    const column = pen.createImageData(wide, positions);
    const state = this.track.state(from);
    for (let frame = from; frame < this.track.length; frame += 1) {
      if (frame > from) {
        for (const change of this.track.frames[frame].changes) state.ids[change.pos] = change.id;
      }
      for (let at = 0; at < positions; at += 1) {
        const kind = state.ids[at] === mask ? "mask" : editable[at] ? "set" : "given";
        column.data.set([...plain[kind], 255], (at * wide + frame - from) * 4);
      }
      for (const { pos, op } of this.track.frames[frame].changes) {
        column.data.set([...ops[OPS.indexOf(op)], 255], (pos * wide + frame - from) * 4);
      }
    }
    pen.putImageData(column, from, 0);
    this.drawn = this.track.length;
  }
}
