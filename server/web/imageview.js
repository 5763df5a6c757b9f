// The canvas of an image: its pixels, and outlines of changed positions.

import { colourOf, h } from "./dom.js";
import { OPS } from "./reducer.js";

export const MASKED = [108, 117, 141]; // slate: differs from all grey levels and from the colours of changes
const SIDE = 420; // approximate pixels of the longer side

/** RGBA of a grid, masks in a colour of their own; codes of a decoder are shown as shades. */
export function pixelsOf(state, grid, mask) {
  const { width, height } = cells(grid, state.ids.length);
  const planes = grid.tokens === "bytes" ? grid.channels : 1;
  const pixels = new Uint8ClampedArray(width * height * 4);
  const masked = new Uint8Array(width * height);
  for (let at = 0; at < width * height; at += 1) {
    let rgb = [];
    for (let plane = 0; plane < planes; plane += 1) {
      const id = state.ids[plane * width * height + at];
      if (id >= grid.levels || id === mask) masked[at] = 1;
      rgb.push(grid.tokens === "bytes" ? id : Math.round((id * 255) / (grid.levels - 1)));
    }
    if (rgb.length === 1) rgb = [rgb[0], rgb[0], rgb[0]];
    pixels.set([...(masked[at] ? MASKED : rgb), 255], at * 4);
  }
  return { width, height, pixels, masked };
}

/** The grid of positions; for codes of a decoder it is coarser than the image. */
export function cells(grid, positions) {
  const planes = grid.tokens === "bytes" ? grid.channels : 1;
  const scale = Math.sqrt((grid.width * grid.height * planes) / positions);
  return { width: Math.round(grid.width / scale), height: Math.round(grid.height / scale) };
}

/** Paint a frame of one image; the longer side has about the given number of pixels. */
export function paint(canvas, track, frame, grid, colours, side) {
  const state = track.state(frame);
  const { width, height, pixels, masked } = pixelsOf(state, grid, track.mask);
  const size = Math.max(1, Math.round(side / Math.max(width, height)));
  if (canvas.width !== width * size || canvas.height !== height * size) {
    canvas.width = width * size;
    canvas.height = height * size;
  }
  const pen = canvas.getContext("2d");
  const small = new OffscreenCanvas(width, height);
  small.getContext("2d").putImageData(new ImageData(pixels, width, height), 0, 0);
  pen.imageSmoothingEnabled = false;
  pen.drawImage(small, 0, 0, width * size, height * size);
  const known = {}; // each is requested once
  const colour = (name) => (known[name] ??= `rgb(${colourOf(canvas, name)})`);
  const planes = state.ids.length / (width * height);
  for (let at = 0; at < width * height; at += 1) {
    const x = (at % width) * size;
    const y = Math.floor(at / width) * size;
    if (colours === "confidence" && !masked[at]) {
      pen.fillStyle = colour(`--h${Math.min(9, Math.floor(state.confs[at] * 10))}`);
      pen.fillRect(x, y, size, size);
    }
    if (masked[at] && size >= 6) hatch(pen, x, y, size);
    if (colours !== "changes") continue;
    for (let plane = 0; plane < planes; plane += 1) {
      const position = plane * width * height + at;
      const op = frame && state.wrote[position] === frame ? OPS[state.ops[position]] : "";
      if (op) mark(pen, op, x, y, size, colour(`--${op}`));
    }
  }
}

function hatch(pen, x, y, size) {
  pen.strokeStyle = "rgba(255,255,255,.35)";
  pen.lineWidth = Math.max(1, size / 12);
  pen.beginPath();
  pen.moveTo(x + size * 0.2, y + size * 0.8);
  pen.lineTo(x + size * 0.8, y + size * 0.2);
  pen.stroke();
}

/** Outline a change; kinds differ in shape as well as colour: one line, two lines, a cross. */
function mark(pen, op, x, y, size, colour) {
  const line = Math.max(1, Math.round(size / 7));
  pen.strokeStyle = colour;
  pen.fillStyle = colour;
  pen.lineWidth = line;
  if (size < 5) {
    pen.fillRect(x, y, size, size);
    return;
  }
  pen.strokeRect(x + line / 2, y + line / 2, size - line, size - line);
  if (op === "refine") pen.fillRect(x, y + size - 3 * line, size, line);
  if (op === "remask") {
    pen.beginPath();
    pen.moveTo(x + line, y + line);
    pen.lineTo(x + size - line, y + size - line);
    pen.stroke();
  }
}

/** Draws states of a track of an image. */
export class ImageView {
  constructor(track, run, onpoint) {
    this.track = track;
    this.run = run;
    const { class_label: one, class_labels: labels, n = 1 } = run.created.request ?? {};
    const label = labels ? labels[Math.floor(track.index / n)] : one;
    this.canvas = h("canvas", {
      class: "image",
      role: "img",
      tabindex: 0,
      "aria-label": `Image ${track.index + 1}${label === undefined ? "" : ` of class ${label}`}`,
    });
    this.node = h("figure", { class: "picture" }, this.canvas);
    this.final = null;
    const point = (pinned) => (event) => {
      const { width, height } = cells(run.image, track.positions);
      const box = this.canvas.getBoundingClientRect();
      const x = Math.floor(((event.clientX - box.left) / box.width) * width);
      const y = Math.floor(((event.clientY - box.top) / box.height) * height);
      if (x < 0 || y < 0 || x >= width || y >= height) return;
      const cell = box.width / width;
      const spot = new DOMRect(box.left + x * cell, box.top + y * cell, cell, cell);
      onpoint(y * width + x, { getBoundingClientRect: () => spot }, pinned);
    };
    this.canvas.addEventListener("pointermove", point(false));
    this.canvas.addEventListener("click", point(true));
    this.canvas.addEventListener("pointerleave", () => onpoint(null));
  }

  show(frame, colours, many) {
    const { image, completed } = this.run;
    const side = many > 4 ? SIDE / 2 : SIDE;
    this.canvas.classList.toggle("one", many === 1);
    const done = completed && frame >= this.track.length - 1;
    if (image.tokens === "vq" && done && colours === "plain") {
      this.finished(completed.choices[this.track.index].b64_json);
      return;
    }
    paint(this.canvas, this.track, frame, image, colours, side);
  }

  /** The image that the server decoded from the codes. */
  finished(base64) {
    const picture = new Image();
    picture.addEventListener("load", () => {
      this.canvas.width = picture.width;
      this.canvas.height = picture.height;
      this.canvas.getContext("2d").drawImage(picture, 0, 0);
    });
    picture.src = `data:image/png;base64,${base64}`;
  }
}
