// A run as a video, made in the browser: frames are drawn on a canvas and recorded.

import { colourOf } from "./dom.js";
import { cellTexts } from "./pieces.js";
import { OPS } from "./reducer.js";

const MARGIN = 72;
const FOOT = 96;
const REST = 2500; // milliseconds that the last frame stays
const KINDS = ["video/mp4;codecs=avc1.42E01E", "video/webm;codecs=vp9", "video/webm;codecs=vp8", "video/webm"];

/** The first format that this browser records; null if it records none. */
export const videoKind = () => (globalThis.MediaRecorder ? KINDS.find((kind) => MediaRecorder.isTypeSupported(kind)) ?? null : null);

/** Draws frames of a text run in a picture of the given size. */
export class Film {
  constructor(run, node, [width, height]) {
    Object.assign(this, { run, node, width, height, track: run.tracks[0] });
    this.canvas = new OffscreenCanvas(width, height);
    this.pen = this.canvas.getContext("2d");
    const names = ["paper", "ink", "soft", "mask", "unmask", "unmask-bg", "refine", "refine-bg", "remask", "remask-bg", "panel"];
    this.colours = Object.fromEntries(names.map((name) => [name, `rgb(${colourOf(node, `--${name}`)})`]));
    this.face = getComputedStyle(node).getPropertyValue("--text");
    this.layOut();
  }

  /** The largest type in which the last frame fits, and the place of each position. */
  layOut() {
    for (this.size = 64; this.size > 14; this.size -= 2) {
      this.pen.font = `${this.size}px ${this.face}`;
      this.places = this.lines();
      const last = this.places.findLast((place) => place !== null);
      if (!last || last.y + this.size * 0.6 < this.height - FOOT - MARGIN / 2) return;
    }
  }

  words(frame) {
    const state = this.track.state(frame);
    const { texts } = cellTexts(state.texts, state.parts);
    const ends = new Set(this.run.ends);
    let ended = false;
    return texts.map((text, at) => {
      const free = this.track.editable[at] === 1;
      const masked = state.ids[at] === this.track.mask;
      const beyond = ended || (!free && /^<[^>]*>$/.test(text));
      if (free && !masked && ends.has(state.ids[at])) ended = true;
      const op = frame > 0 && state.wrote[at] === frame ? OPS[state.ops[at]] : "";
      return beyond || ended ? null : { text: masked ? "" : text, masked, free, op };
    });
  }

  lines() {
    const places = [];
    const [line, most] = [this.size * 1.6, this.width - MARGIN];
    let [x, y] = [MARGIN, MARGIN + this.size];
    const words = this.words(this.track.length - 1);
    words.forEach((word, at) => {
      if (word === null) {
        places.push(null);
        return;
      }
      const blank = word.masked || word.text.startsWith(" ") ? this.size * 0.28 : 0;
      const wide = word.masked ? this.size * 1.6 : this.pen.measureText(word.text.trim()).width;
      let whole = wide; // of the word that begins here
      for (let next = at + 1; words[next] && !words[next].masked && !/^\s/.test(words[next].text); next += 1) whole += this.pen.measureText(words[next].text).width;
      if (word.text.includes("\n") || (x > MARGIN && x + blank + (blank ? whole : wide) > most)) [x, y] = [MARGIN, y + line];
      else if (x > MARGIN) x += blank;
      places.push({ x, y, wide });
      x += wide;
    });
    return places;
  }

  draw(frame) {
    const { pen, size, colours, width, height } = this;
    pen.fillStyle = colours.paper;
    pen.fillRect(0, 0, width, height);
    pen.textBaseline = "alphabetic";
    this.words(frame).forEach((word, at) => {
      const place = this.places[at];
      if (word && place && place.wide > 0) this.word(word, place);
    });
    const { step, steps, final, elapsed } = this.track.frames[frame];
    pen.font = `${Math.round(width / 44)}px ${getComputedStyle(this.node).getPropertyValue("--ui")}`;
    pen.fillStyle = colours.soft;
    pen.fillText(`${final ? "done" : `step ${step} of ${steps}`} · ${(elapsed / 1000).toFixed(2)} s`, MARGIN, height - FOOT / 2);
    pen.fillStyle = colours.ink;
    pen.textAlign = "right";
    pen.fillText("xdlm-serve", width - MARGIN, height - FOOT / 2);
    pen.textAlign = "left";
    pen.fillStyle = colours.mask;
    pen.fillRect(MARGIN, height - FOOT, width - 2 * MARGIN, 4);
    pen.fillStyle = colours.unmask;
    pen.fillRect(MARGIN, height - FOOT, ((width - 2 * MARGIN) * frame) / Math.max(1, this.track.length - 1), 4);
    pen.font = `${size}px ${this.face}`;
  }

  /** The sign of a position that is masked again. */
  cross(x, y, wide) {
    const { pen, size } = this;
    const [half, middle] = [Math.min(size * 0.22, wide / 3), { x: x + wide / 2, y: y - size * 0.3 }];
    pen.strokeStyle = this.colours.remask;
    pen.lineWidth = size / 12;
    pen.beginPath();
    for (const side of [-1, 1]) {
      pen.moveTo(middle.x - half, middle.y - side * half);
      pen.lineTo(middle.x + half, middle.y + side * half);
    }
    pen.stroke();
  }

  word({ text, masked, free, op }, { x, y, wide }) {
    const { pen, size, colours } = this;
    if (masked || op) {
      pen.fillStyle = masked && !op ? colours.mask : colours[`${op}-bg`];
      pen.beginPath();
      pen.roundRect(x, y - size * 0.85, Math.max(2, wide - (masked ? 3 : 0)), size * 1.1, Math.min(6, wide / 2));
      pen.fill();
    }
    if (masked && op) this.cross(x, y, wide);
    if (masked) return;
    const body = text.trim();
    pen.font = `${size}px ${this.face}`;
    const own = pen.measureText(body).width;
    if (own > wide + 1) pen.font = `${Math.max(size / 2, (size * wide) / own)}px ${this.face}`;
    pen.fillStyle = op ? colours[op] : free ? colours.ink : colours.soft;
    pen.fillText(body, x, y, wide + size);
    for (let line = 0; line < { unmask: 1, refine: 2 }[op]; line += 1) pen.fillRect(x, y + size * (0.13 + 0.09 * line), wide, size / 24);
    pen.font = `${size}px ${this.face}`;
  }
}

/** Record a film at `pace` milliseconds a frame; resolves to a Blob. `onframe(share)` tells how far it is. */
export async function recorded(film, shown, pace, onframe) {
  const kind = videoKind();
  if (kind === null) throw new Error("this browser records no video; a GIF does the same");
  shown.width = film.width;
  shown.height = film.height;
  const pen = shown.getContext("2d");
  const put = (frame) => {
    film.draw(frame);
    pen.drawImage(film.canvas, 0, 0);
  };
  put(0);
  const stream = shown.captureStream(30);
  const recorder = new MediaRecorder(stream, { mimeType: kind, videoBitsPerSecond: 6_000_000 });
  const parts = [];
  recorder.addEventListener("dataavailable", ({ data }) => parts.push(data));
  const stopped = new Promise((resolve) => recorder.addEventListener("stop", resolve, { once: true }));
  recorder.start();
  const { length } = film.track;
  for (let frame = 0; frame < length; frame += 1) {
    put(frame);
    onframe((frame + 1) / length);
    await new Promise((resolve) => setTimeout(resolve, frame === length - 1 ? REST : pace));
  }
  put(length - 1);
  recorder.stop();
  await stopped;
  for (const track of stream.getTracks()) track.stop();
  return new Blob(parts, { type: kind.split(";")[0] });
}
