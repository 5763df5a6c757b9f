// Curves of a run under its strip: what was left to write, what changed, how sure the model was.

import { duration, h, short } from "./dom.js";

const [WIDE, HIGH] = [240, 54];
const NS = "http://www.w3.org/2000/svg";

/** Values by frame of each curve: {name, colour, values, told}. Pure. */
export function curves(frames) {
  const count = (op) => frames.map(({ changes }) => changes.filter((one) => one.op === op).length);
  const sure = frames.map(({ changes }) => {
    const written = changes.filter(({ op, conf }) => op !== "remask" && conf > 0);
    return written.length ? written.reduce((sum, { conf }) => sum + conf, 0) / written.length : null;
  });
  const paces = frames.map(({ elapsed }, i) => (i > 1 ? Math.max(0, elapsed - frames[i - 1].elapsed) : null));
  return [
    { name: "masks left", lines: [["mask-edge", frames.map(({ masked }) => masked)]], told: short },
    { name: "changes a step", lines: ["unmask", "refine", "remask"].map((op) => [op, count(op)]), told: short },
    { name: "mean confidence", lines: [["soft", sure]], told: (value) => value.toFixed(2), most: 1 },
    { name: "time of a step", lines: [["soft", paces]], told: duration },
  ];
}

/** Small charts of a track, with a line at the shown frame. */
export class Charts {
  constructor(track) {
    this.track = track;
    this.drawn = 0;
    this.node = h("div", { class: "charts" });
    this.heads = [];
  }

  show(frame) {
    const { length } = this.track;
    if (this.drawn !== length && length > 1) this.draw();
    for (const { head, values, told, value } of this.heads) {
      const x = this.x(Math.min(frame, this.drawn - 1));
      head.setAttribute("x1", x);
      head.setAttribute("x2", x);
      value.textContent = values.map((line) => (line[frame] === null || line[frame] === undefined ? "–" : told(line[frame]))).join(" · ");
    }
  }

  x(frame) {
    return this.drawn > 1 ? (frame / (this.drawn - 1)) * WIDE : 0;
  }

  draw() {
    this.drawn = this.track.length;
    this.heads = [];
    this.node.replaceChildren(...curves(this.track.frames).map((curve) => this.chart(curve)));
  }

  chart({ name, lines, told, most }) {
    const values = lines.map(([, line]) => line);
    const top = most ?? Math.max(1e-9, ...values.flat().filter((one) => one !== null));
    const svg = drawn("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, preserveAspectRatio: "none", role: "img", "aria-label": `${name}, from 0 to ${told(top)}` });
    for (const [colour, line] of lines) {
      const points = line.map((one, i) => (one === null ? null : `${this.x(i).toFixed(1)},${(HIGH - 2 - (one / top) * (HIGH - 6)).toFixed(1)}`));
      svg.append(drawn("polyline", { points: points.filter(Boolean).join(" "), class: `curve ${colour}` }));
    }
    const head = drawn("line", { y1: 0, y2: HIGH, class: "curve-head" });
    svg.append(head);
    const value = h("span", { class: "curve-value" });
    this.heads.push({ head, values, told, value });
    return h("figure", { class: "chart" }, h("figcaption", {}, h("span", {}, name), value), svg, h("p", { class: "axis" }, h("span", {}, "0"), h("span", {}, `to ${told(top)}`)));
  }
}

function drawn(tag, attributes) {
  const node = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}
